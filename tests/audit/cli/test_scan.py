"""`audit scan`: exit codes, what is said, the JSON, and what is not imported."""

import json
import pickle
import subprocess
import sys

import pytest
import torch

from tests.audit.cli.command import FIXTURE, ROOT, audit

EVIL = b"\x80\x02cos\nsystem\n(S'true'\ntR."
CLASS = b"\x80\x02cargparse\nNamespace\n)\x81."


@pytest.fixture
def scan(monkeypatch, capsys):
    return lambda *words: audit(monkeypatch, capsys, "scan", *words)


def test_an_ordinary_file(scan):
    ended = scan(FIXTURE)
    assert ended.code == 0
    assert ended.out.startswith("no known indicator  ")
    assert "safetensors" in ended.out
    assert "Looked at: 1 safetensors header" in ended.out
    assert "not proof" in ended.out
    assert ended.err == ""


@pytest.mark.parametrize("content", [EVIL, CLASS], ids=["danger", "code"])
def test_refused_files_end_with_4(scan, tmp_path, content):
    (tmp_path / "m.pt").write_bytes(content)
    (tmp_path / "unknown.bin").write_bytes(b"\0\1\2\3")
    ended = scan(tmp_path, FIXTURE)
    assert ended.code == 4
    assert "refused" in ended.out


def test_findings_are_said_with_the_worst_first(scan, tmp_path):
    (tmp_path / "m.pt").write_bytes(CLASS + EVIL + b"more")
    lines = [line.split() for line in scan(tmp_path / "m.pt").out.splitlines() if line.startswith("    ")]
    assert [line[0] for line in lines] == ["danger", "danger", "code", "note"]
    assert lines[0][1] == "m.pt:"


def test_the_way_on_is_said_for_what_was_found_alone(scan, tmp_path):
    (tmp_path / "code.pt").write_bytes(CLASS)
    (tmp_path / "danger.pt").write_bytes(EVIL)
    for paths, said in (([FIXTURE], []), (["code.pt"], ["code"]), (["danger.pt", "code.pt"], ["danger", "code"])):
        lines = scan(*(tmp_path / path for path in paths)).out.splitlines()
        assert [line.split(":")[0] for line in lines if line.startswith(("code: ", "danger: "))] == said


def test_what_could_not_be_examined_ends_with_3(scan, tmp_path):
    (tmp_path / "m.bin").write_bytes(b"\0\1\2\3")
    ended = scan(tmp_path / "m.bin")
    assert ended.code == 3
    assert ended.out.startswith("not examined")


def test_notes_alone_end_with_0(scan, tmp_path):
    (tmp_path / "m.pt").write_bytes(pickle.dumps(1) + b"\0more")
    assert scan(tmp_path / "m.pt").code == 0


def test_missing_paths_are_a_usage_error_all_at_once(scan, tmp_path):
    ended = scan(tmp_path / "a", FIXTURE, tmp_path / "b")
    assert ended.code == 2
    assert ended.out == ""
    assert f"got nothing at {tmp_path / 'a'}, {tmp_path / 'b'}. Check the path." in ended.err


def test_no_path_is_a_usage_error(scan):
    assert scan().code == 2


def test_it_never_says_that_a_file_is_safe(scan, tmp_path):
    (tmp_path / "m.pt").write_bytes(EVIL)
    said = scan(FIXTURE).out + scan(tmp_path).out + scan("--json", FIXTURE).out + scan("--help").out
    words = said.lower().replace("safetensors", "").split()
    assert not {"safe", "clean", "secure", "harmless", "ok", "passed"} & {word.strip(".,:;()\"'") for word in words}


def test_json(scan, tmp_path):
    (tmp_path / "m.pt").write_bytes(EVIL)
    ended = scan("--json", tmp_path / "m.pt", FIXTURE)
    found = json.loads(ended.out)
    assert ended.code == found["exit_code"] == 4
    assert set(found) == {
        "schema_version", "tool", "limits", "files", "looked_at", "outcomes", "exit_code", "meaning",
    }  # fmt: skip
    assert found["schema_version"] == "1.0"
    assert found["tool"]["name"] == "trust-audit"
    assert found["limits"]["depth"] == 5
    assert found["outcomes"] == {"refused": 1, "not examined": 0, "no known indicator": 1}
    first, second = found["files"]
    assert set(first) == {
        "path", "kind", "kind_text", "size_bytes", "outcome", "worst", "examined", "looked_at", "findings",
    }  # fmt: skip
    assert (first["kind"], first["outcome"], first["worst"]) == ("pickle", "refused", "danger")
    assert first["findings"][0].keys() == {"where", "code", "severity", "text"}
    assert (second["kind"], second["findings"], second["worst"]) == ("safetensors", [], None)


def test_many_quiet_files_are_counted(scan, tmp_path):
    for place in range(120):
        (tmp_path / f"{place:03}.txt").write_text("text")
    (tmp_path / "z.pt").write_bytes(EVIL)
    ended = scan(tmp_path)
    assert ended.code == 4
    assert "120 files, each text" in ended.out
    assert "000.txt" not in ended.out
    assert "z.pt" in ended.out
    assert len(json.loads(scan("--json", tmp_path).out)["files"]) == 121


def test_an_empty_folder(scan, tmp_path):
    ended = scan(tmp_path)
    assert ended.code == 0
    assert "Looked at: nothing." in ended.out


def test_names_cannot_write_to_the_terminal(scan, tmp_path):
    (tmp_path / "a\x1b[31m\nrefused.pt").write_bytes(EVIL)
    for words in ((tmp_path,), ("--json", tmp_path)):
        said = scan(*words).out
        assert "\x1b" not in said
        assert "\nrefused.pt" not in said


HEAVY = "{'torch', 'numpy', 'safetensors', 'onnx', 'transformers', 'sympy', 'timm', 'rich'} & set(sys.modules)"


def said_by(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_command_imports_nothing_heavy(tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "m.pt")
    code = (
        "import sys; from audit.cli import main\n"
        f"sys.argv = ['audit', 'scan', {str(tmp_path)!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print(sorted({HEAVY}))"
    )
    said = said_by(code)
    assert said.splitlines()[-1] == "[]"
    assert "no known indicator" in said


def test_the_library_imports_nothing_beyond_python():
    code = f"import sys, audit.scan; print(sorted({HEAVY} | ({{'pydantic', 'typer'}} & set(sys.modules))))"
    assert said_by(code).strip() == "[]"
