"""Zip archives: what readers would disagree about, what leads elsewhere, and what grows."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest

from audit.scan import Kind, Limits, scan_file
from tests.audit.scan.planted import call, codes, harmless, scanned, torch_zip, zip_of

SYSTEM = call("os.system", "true")


def link(name, target):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return info, target


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "a/../../b", "C:\\x", "..\\x", "a\\b", "C:x", "a/..", "\\\\host\\share"]
)
def test_names_that_lead_elsewhere(tmp_path, name):
    report = scanned(tmp_path, torch_zip(harmless(), (name, b"x")))
    assert "member-outside" in codes(report, "danger")


@pytest.mark.parametrize("name", ["a/b.txt", "a..b", "..a/b", "dots...", "a/.hidden", "con:", "x y"])
def test_names_that_do_not(tmp_path, name):
    report = scanned(tmp_path, zip_of([(name, b"text")]), "x.zip")
    assert report.findings == ()


def test_links(tmp_path):
    report = scanned(tmp_path, zip_of([link("a", "/etc/passwd")]), "x.zip")
    assert "member-symlink" in codes(report, "danger")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["archive/data.pkl", "archive/DATA.PKL"])
def test_two_members_of_one_name(tmp_path, second):
    """torch looks members up whatever the case of their names."""
    report = scanned(tmp_path, torch_zip(harmless(), (second, SYSTEM)))
    assert "zip-duplicate" in codes(report, "danger")
    assert "pickle-dangerous-global" in codes(report, "danger")


def test_a_pickle_in_capitals(tmp_path):
    report = scanned(tmp_path, zip_of([("archive/DATA.PKL", SYSTEM)]))
    assert report.kind is Kind.TORCH_ZIP
    assert report.worst == "danger"


def changed(content, at, form, value):
    return content[:at] + struct.pack(form, value) + content[at + struct.calcsize(form) :]


def test_two_names_for_one_member(tmp_path):
    content = zip_of([("archive/data.pkl", harmless())])
    report = scanned(tmp_path, content.replace(b"archive/data.pkl", b"archive/data.pk1", 1))
    assert codes(report, "danger") == {"zip-disagrees"}


@pytest.mark.parametrize(("at", "form", "value"), [(8, "<H", 8), (6, "<H", 1), (18, "<I", 3), (22, "<I", 3)])
def test_headers_that_disagree(tmp_path, at, form, value):
    report = scanned(tmp_path, changed(zip_of([("a.txt", b"text" * 9)]), at, form, value), "x.zip")
    assert "zip-disagrees" in codes(report, "danger")


def test_no_header_where_one_should_be(tmp_path):
    report = scanned(tmp_path, b"PK\x03\x04" + b"\0" * 40 + zip_of([("a", b"x")])[35:], "x.zip")
    assert report.outcome != "no known indicator"


def test_encrypted_is_not_examined(tmp_path):
    content = zip_of([("a.txt", b"text" * 9)])
    directory = content.rindex(b"PK\x01\x02")
    content = changed(changed(content, 6, "<H", 1), directory + 8, "<H", 1)
    report = scanned(tmp_path, content, "x.zip")
    assert report.outcome == "not examined"
    assert codes(report) == {"encrypted"}


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_compression(tmp_path, method):
    report = scanned(tmp_path, zip_of([("archive/data.pkl", SYSTEM), ("more.pkl", SYSTEM)], method=method))
    assert [finding.severity for finding in report.findings].count("danger") == 4
    clean = scanned(tmp_path, zip_of([("a.txt", b"words " * 400)], method=method), "x.zip")
    assert clean.findings == ()


def test_unknown_compression_is_not_examined(tmp_path):
    content = zip_of([("a.txt", b"text" * 9)])
    directory = content.rindex(b"PK\x01\x02")
    content = changed(changed(content, 8, "<H", 93), directory + 10, "<H", 93)
    assert scanned(tmp_path, content, "x.zip").outcome == "not examined"


def test_in_front_and_behind(tmp_path):
    content = torch_zip(harmless())
    assert "zip-trailing" in codes(scanned(tmp_path, content + b"more"), "danger")
    hidden = zip_of([("archive/data.pkl", SYSTEM)])
    assert "zip-prepended" in codes(scanned(tmp_path, hidden + content), "danger")


def test_a_member_that_the_directory_leaves_out(tmp_path):
    hidden = zip_of([("evil.pkl", SYSTEM)])
    hidden = hidden[: hidden.index(b"PK\x01\x02")]
    content = zip_of([("a.txt", b"text")])
    directory, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    moved = changed(content[end:], 16, "<I", directory + len(hidden))
    report = scanned(tmp_path, content[:directory] + hidden + content[directory:end] + moved, "x.zip")
    assert "zip-hidden" in codes(report, "danger")


def test_overlapping_members(tmp_path):
    """David Fifield's bomb: every directory entry points into the same bytes."""
    content = zip_of([("a", b"x" * 100), ("b", b"y" * 100)])
    directory = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", directory + 4)
    report = scanned(tmp_path, changed(content, second + 42, "<I", 0), "x.zip")
    assert {"zip-disagrees"} <= codes(report, "danger")
    assert codes(report, "danger") & {"zip-overlap", "zip-hidden"}


def test_a_second_directory_in_the_comment(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.txt", "text")
        archive.comment = b"PK\x05\x06" + bytes(30)
    assert scanned(tmp_path, stream.getvalue(), "x.zip").outcome != "no known indicator"


def test_a_name_with_a_nul(tmp_path):
    content = zip_of([("a.txtXevil", b"text")]).replace(b"a.txtXevil", b"a.txt\0evil")
    assert "zip-name" in codes(scanned(tmp_path, content, "x.zip"), "danger")


def test_bombs(tmp_path):
    report = scanned(tmp_path, zip_of([("zeros", bytes(50_000_000))], method=zipfile.ZIP_DEFLATED), "x.zip")
    assert codes(report, "danger") == {"zip-bomb"}
    small = scanned(tmp_path, zip_of([("zeros", bytes(1_000_000))], method=zipfile.ZIP_DEFLATED), "y.zip")
    assert "zip-bomb" not in codes(small)


def blank(size):
    stream = io.BytesIO()
    np.save(stream, np.zeros(size, np.uint8))
    return stream.getvalue()


def test_blank_arrays_are_ordinary_up_to_a_limit(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((2000, 2000)), masks=np.zeros((100, 512, 512), bool))
    report = scan_file(tmp_path / "x.npz")
    assert (report.findings, report.examined) == ((), True)
    assert codes(scan_file(tmp_path / "x.npz", Limits(blank_bytes=40 << 20)), "danger") == {"zip-bomb"}


def test_blank_arrays_in_many_archives_add_up(tmp_path):
    inner = zip_of([("x.npy", blank(9 << 20))], method=zipfile.ZIP_DEFLATED)
    many = zip_of([(f"{place}.npz", inner) for place in range(8)])
    (tmp_path / "x.zip").write_bytes(many)
    assert scan_file(tmp_path / "x.zip").findings == ()
    assert "zip-bomb" in codes(scan_file(tmp_path / "x.zip", Limits(blank_bytes=60 << 20)), "danger")


def test_gigabytes_of_blank_arrays_are_a_bomb(tmp_path):
    """The directory says so; nothing of it has to be there."""
    content = zip_of([("x.npy", blank(9 << 20))], method=zipfile.ZIP_DEFLATED)
    directory = content.rindex(b"PK\x01\x02")
    content = changed(changed(content, 22, "<I", 2 << 30), directory + 24, "<I", 2 << 30)
    assert "zip-bomb" in codes(scanned(tmp_path, content, "x.npz"), "danger")


def test_a_bomb_that_lies_about_its_size(tmp_path):
    content = zip_of([("zeros", bytes(50_000_000))], method=zipfile.ZIP_DEFLATED)
    directory = content.rindex(b"PK\x01\x02")
    content = changed(changed(content, 22, "<I", 1000), directory + 24, "<I", 1000)
    assert "zip-size" in codes(scanned(tmp_path, content, "x.zip"), "danger")


def test_zips_in_zips(tmp_path):
    content = zip_of([("evil.pkl", SYSTEM)])
    for _ in range(3):
        content = zip_of([("inner.zip", content)])
    report = scanned(tmp_path, content, "x.zip")
    assert report.findings[0].where == "x.zip" + "!inner.zip" * 3 + "!evil.pkl"
    for _ in range(4):
        content = zip_of([("inner.zip", content)])
    deep = scanned(tmp_path, content, "y.zip")
    assert codes(deep) == {"nested-too-deep"}
    assert not deep.examined


def test_limits(tmp_path):
    (tmp_path / "x.zip").write_bytes(zip_of([(f"{place}.txt", b"text") for place in range(30)]))
    report = scan_file(tmp_path / "x.zip", Limits(members=20))
    assert (codes(report), report.outcome) == ({"over-limit"}, "not examined")
    large = zip_of([("noise", zlib.compress(bytes(range(256)) * 100) * 50)], method=zipfile.ZIP_DEFLATED)
    (tmp_path / "y.zip").write_bytes(large)
    report = scan_file(tmp_path / "y.zip", Limits(member_bytes=100))
    assert report.outcome == "not examined"


def test_damage(tmp_path):
    content = torch_zip(harmless())
    for end in (10, 100, len(content) - 30, len(content) - 1):
        report = scanned(tmp_path, content[:end])
        assert report.outcome == "not examined", end
    assert report.kind is Kind.DAMAGED_ZIP


def test_findings_do_not_drown_in_notes(tmp_path):
    members = [(f"{place}.pkl", b"\x80\x02K\x01.more") for place in range(300)]
    report = scanned(tmp_path, zip_of([*members, ("evil.pkl", SYSTEM)]), "x.zip")
    assert report.worst == "danger"
    assert report.findings[0].severity == "danger"
    assert report.findings[-1].code == "more-findings"
