"""Tar archives that readers walk differently: no member is passed over in silence."""

import io
import tarfile

import pytest

from audit.scan.parts import Part
from audit.scan.tar_headers import BadTar, members
from tests.audit.scan.planted import call, codes, scanned
from tests.audit.scan.test_tars import tar_of

SYSTEM = call("os.system", "true")
PLAIN = b"cos\nsystem\n(S'true'\ntR."
END = bytes(1024)


def padded(content):
    return content + bytes(-len(content) % 512)


def header(name, size, kind=b"0", **more):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for key, value in more.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(kind, **records):
    """A PAX header of records, each with its own length before it."""
    content = b""
    for key, value in records.items():
        said = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(said) + 1
        while len(str(length)) + len(said) != length:
            length = len(str(length)) + len(said)
        content += str(length).encode() + said
    return header("pax", len(content), kind) + padded(content)


OK = header("r.txt", 5) + padded(b"hello")
INNER = header("model.pkl", len(SYSTEM)) + padded(SYSTEM)


def sparse():
    block = bytearray(header("model.pkl", len(SYSTEM), b"S"))
    block[386:410] = b"%011o\0%011o\0" % (0, len(SYSTEM))
    block[482], block[483:495] = 1, b"%011o\0" % len(SYSTEM)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(512) + padded(SYSTEM)


def hidden_size():
    """Python reads the whole of the last block, whatever the header says of its length."""
    content, shown = pax(b"x", mtime=1, size=len(PLAIN)), len(b"11 mtime=1\n")
    return header("pax", shown, b"x") + content[512:]


HIDING = {
    "an unknown type": OK + header("model.pkl", len(SYSTEM), b"Z") + padded(SYSTEM),
    "a dump of a folder": OK + header("model.pkl", len(SYSTEM), b"D") + padded(SYSTEM),
    "a folder with a size": OK + header("d", len(INNER), b"5") + INNER,
    "an old folder with a size": OK + header("d/", len(INNER), b"\0") + INNER,
    "a link with a size": OK + header("d", len(INNER), b"1", linkname="r.txt") + INNER,
    "a size by Solaris' header": OK + pax(b"X", size=len(PLAIN)) + header("model.pkl", 1) + padded(PLAIN),
    "a size by a PAX header": OK + pax(b"x", size=len(PLAIN)) + header("model.pkl", 1) + padded(PLAIN),
    "a sparse member of GNU tar": OK + sparse(),
    "a size behind the end of a PAX header": OK + hidden_size() + header("model.pkl", 1) + padded(PLAIN),
}


@pytest.mark.parametrize("content", HIDING.values(), ids=HIDING.keys())
def test_what_python_would_unpack_is_examined(tmp_path, content):
    with tarfile.open(fileobj=io.BytesIO(content + END)) as archive:
        assert b"system" in archive.extractfile("model.pkl").read()
    report = scanned(tmp_path, content + END, "x.tar")
    assert "pickle-dangerous-global" in codes(report, "danger")


def test_a_pax_header_for_all_members_is_refused(tmp_path):
    for records in ({"size": len(PLAIN)}, {"path": "../x"}, {"linkpath": "/x"}, {"GNU__sparse__major": 1}):
        content = OK + pax(b"g", comment="x" * 40, **records) + header("model.pkl", 1) + padded(PLAIN) + END
        assert "tar-global" in codes(scanned(tmp_path, content, "x.tar"), "danger")


def test_a_comment_for_all_members_is_ordinary(tmp_path):
    """As `git archive` writes the commit."""
    report = scanned(tmp_path, pax(b"g", comment="a" * 40) + OK + END, "x.tar")
    assert (report.findings, report.outcome) == ((), "no known indicator")


NOT_EXAMINED = {
    "sparse by PAX": (
        OK + pax(b"x", GNU__sparse__major=1, GNU__sparse__minor=0, GNU__sparse__name="m", GNU__sparse__realsize=9)
        + header("m", 521) + padded(b"1\n0\n9\n") + padded(b"some text"), "tar-sparse",
    ),
    "a second archive": (OK + END + INNER, "tar-trailing"),
    "no header": (OK + b"x" * 512 + INNER, "tar-damaged"),
    "a wrong checksum": (OK + INNER.replace(b"model", b"modeL", 1), "tar-damaged"),
    "a huge PAX header": (OK + header("pax", 2 << 20, b"x") + bytes(2 << 20) + INNER, "tar-damaged"),
    "a size that is none": (OK + pax(b"x", size="-512") + INNER, "tar-damaged"),
    "two PAX headers": (OK + pax(b"x", size=len(SYSTEM)) + pax(b"x", size=1) + INNER, "tar-damaged"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "code"), NOT_EXAMINED.values(), ids=NOT_EXAMINED.keys())
def test_what_readers_differ_about_is_not_examined(tmp_path, content, code):
    report = scanned(tmp_path, content + END, "x.tar")
    assert code in codes(report)
    assert report.outcome == "not examined"


def test_names_in_every_header(tmp_path):
    for content in (pax(b"X", path="../x") + OK, pax(b"x", GNU__sparse__name="/x") + OK):
        assert "member-outside" in codes(scanned(tmp_path, content + END, "x.tar"), "danger")


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_members_are_those_that_python_reads(form):
    long = "deep/" * 25 + "long.txt"
    folder, link = {"type": tarfile.DIRTYPE}, {"type": tarfile.LNKTYPE, "linkname": "a.txt"}
    files = [("a.txt", b"x" * 700), (long, b"text"), ("empty", b""), ("z", b"y" * 1024)]
    content = tar_of(*files, ("folder", b"", folder), ("link", b"", link), form=form)
    found = list(members(Part("x", io.BytesIO(content), len(content))))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        expected = [(info.name, info.type, info.offset_data, info.size, info.linkname) for info in archive]
    assert [(m.name.rstrip("/"), m.type, m.at, m.size, m.link) for m in found] == expected


def test_a_torch_file_behind_many_members(tmp_path):
    many = [(f"{place}", b"text") for place in range(40)]
    content = tar_of(*many, ("pickle", SYSTEM), ("storages", SYSTEM), ("tensors", SYSTEM))
    assert "torch-tar" in codes(scanned(tmp_path, content), "code")


def test_no_number_for_a_size():
    block = bytearray(header("a", 0))
    block[124:136] = b"9" * 12
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(BadTar, match="a size is no number"):
        list(members(Part("x", io.BytesIO(bytes(block)), 512)))
