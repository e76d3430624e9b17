"""Folders, links and special files."""

import json
import os
import threading

import pytest

from audit.scan import FileReport, Finding, Kind, Limits, kind_of, scan_file, scan_paths
from audit.scan.report import in_words, printable, quoted, summed
from tests.audit.scan.planted import call, codes, harmless, torch_zip

SYSTEM = call("os.system", "true")


def files(folder, **contents):
    for name, content in contents.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_order_and_names(tmp_path):
    files(tmp_path, b_dot_pt=SYSTEM, a__z_dot_pt=SYSTEM, a__b__c_dot_pt=SYSTEM, c_dot_txt=b"text")
    reports = list(scan_paths([tmp_path]))
    assert [report.path.relative_to(tmp_path).as_posix() for report in reports] == [
        "b.pt",
        "c.txt",
        "a/z.pt",
        "a/b/c.pt",
    ]
    assert reports[3].findings[0].where == "a/b/c.pt"
    assert [r.findings for r in scan_paths([tmp_path])] == [r.findings for r in reports]


def test_a_folder_as_one_report(tmp_path):
    files(tmp_path, b_dot_pt=SYSTEM, c_dot_txt=b"text", config_dot_json=b"{}")
    report = scan_file(tmp_path)
    assert (report.kind, report.worst, report.outcome) == (Kind.HUGGING_FACE, "danger", "refused")
    assert "2 pickles" not in report.looked_at
    assert report.size == len(SYSTEM) + 6


def test_a_hugging_face_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "modeling.Model"}}))
    (tmp_path / "modeling.py").write_text("import os\n")
    (tmp_path / "pytorch_model.bin").write_bytes(torch_zip(SYSTEM))
    index = {"weight_map": {"a": "../other/model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert kind_of(tmp_path) is Kind.HUGGING_FACE
    found = codes(scan_file(tmp_path))
    assert {"json-runs-code", "program", "pickle-dangerous-global", "index-outside"} <= found


def test_links(tmp_path):
    (tmp_path / "secret").write_bytes(b"text")
    folder = tmp_path / "model"
    files(folder, weights_dot_pt=torch_zip(harmless()), sub__x_dot_txt=b"text")
    (folder / "out.pt").symlink_to(tmp_path / "secret")
    (folder / "in.pt").symlink_to("weights.pt")
    (folder / "sub/up").symlink_to("..")
    (folder / "none").symlink_to("nothing")
    (folder / "all").symlink_to("/")
    reports = {report.path.name: report for report in scan_paths([folder])}
    assert codes(reports["out.pt"], "danger") == codes(reports["all"], "danger") == {"symlink-outside"}
    assert codes(reports["in.pt"]) == codes(reports["up"]) == {"symlink"}
    assert reports["in.pt"].outcome == "no known indicator"
    assert reports["none"].outcome == "not examined"
    assert len(reports) == 7


def test_a_link_as_the_path_itself(tmp_path):
    files(tmp_path, a_dot_pt=SYSTEM)
    (tmp_path / "b.pt").symlink_to("a.pt")
    report = scan_file(tmp_path / "b.pt")
    assert {"symlink", "pickle-dangerous-global"} <= codes(report)


def test_the_cache_of_hugging_face_is_links_throughout(tmp_path):
    blob, snapshot = "a" * 64, tmp_path / "models--x/snapshots/main"
    files(tmp_path, **{f"models--x__blobs__{blob}": SYSTEM})
    snapshot.mkdir(parents=True)
    (snapshot / "model.bin").symlink_to(f"../../blobs/{blob}")
    report = next(scan_paths([snapshot]))
    assert codes(report) == {"pickle-dangerous-global", "pickle-dangerous-call"}
    assert report.path.name == "model.bin"


def test_pipes_and_devices_are_never_opened(tmp_path):
    os.mkfifo(tmp_path / "model.pt")
    done = []
    worker = threading.Thread(target=lambda: done.append(scan_file(tmp_path / "model.pt")), daemon=True)
    worker.start()
    worker.join(20)
    assert done, "opening a pipe waits for ever"
    assert (done[0].kind, done[0].outcome) == (Kind.SPECIAL, "not examined")
    assert [report.kind for report in scan_paths([tmp_path])] == [Kind.SPECIAL]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable(tmp_path):
    files(tmp_path, a_dot_pt=SYSTEM)
    (tmp_path / "a.pt").chmod(0)
    assert scan_file(tmp_path / "a.pt").outcome == "not examined"


def test_missing_paths_raise(tmp_path):
    with pytest.raises(FileNotFoundError):
        scan_file(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        list(scan_paths([tmp_path / "nothing"]))
    with pytest.raises(FileNotFoundError):
        kind_of(tmp_path / "nothing")


def test_version_control_is_left_out_and_told(tmp_path):
    files(tmp_path, **{"_dot_git__hooks__pre-commit_dot_sample": b"#!/bin/sh\n", "a_dot_txt": b"text"})
    reports = list(scan_paths([tmp_path]))
    assert [codes(report) for report in reports] == [set(), {"version-control"}]
    assert all(report.outcome == "no known indicator" for report in reports)


def test_too_many_files(tmp_path):
    files(tmp_path, **{f"f{place}": b"text" for place in range(5)})
    reports = list(scan_paths([tmp_path], Limits(files=3)))
    assert [codes(report) for report in reports] == [{"folder-not-examined"}]
    assert reports[0].outcome == "not examined"


def test_names_cannot_write_to_the_terminal(tmp_path):
    name = "a\x1b[31m\n\u202efdp.pt"
    files(tmp_path, **{name: SYSTEM})
    for finding in next(scan_paths([tmp_path])).findings:
        assert (finding.where + finding.text).isprintable()


def test_outcomes():
    def report(*severities, examined=True):
        found = tuple(Finding("x", "c", severity, "t") for severity in severities)
        return FileReport(tmp, Kind.TEXT, 1, (), found, examined)

    tmp = None
    assert report().outcome == report("note").outcome == "no known indicator"
    assert report(examined=False).outcome == report("note", examined=False).outcome == "not examined"
    assert report("code", examined=False).outcome == report("note", "danger").outcome == "refused"
    assert (report().worst, report("note", "code").worst) == (None, "code")


def test_words():
    assert in_words({"pickle": 1, "zip member": 1200}) == ("1 pickle", "1,200 zip members")
    assert summed(["1 pickle", "3 pickles", "1,200 zip members"]) == ("4 pickles", "1,200 zip members")
    assert printable("a\tb\x1b\ud800\u202e") == "a\\tb\\x1b\\ud800\\u202e"
    assert quoted("x" * 10, 3) == "'xxx...'"
