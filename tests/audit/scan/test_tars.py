"""Tar archives and compressed files."""

import bz2
import gzip
import io
import lzma
import pickle
import struct
import tarfile
import zlib

import pytest
import torch

from audit.scan import Kind
from tests.audit.scan.planted import call, codes, harmless, scanned

SYSTEM = call("os.system", "true")


def tar_of(*members, form=tarfile.GNU_FORMAT):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content, *more in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in (more[0] if more else {}).items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("name", ["../x", "/etc/cron.d/x", "a/../../x", "long" * 20 + "/../../x"])
def test_names_that_lead_elsewhere(tmp_path, name, form):
    report = scanned(tmp_path, tar_of((name, b"x"), form=form), "x.tar")
    assert report.kind is Kind.TAR
    assert "member-outside" in codes(report, "danger")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (tarfile.SYMTYPE, "member-symlink"),
        (tarfile.LNKTYPE, "member-symlink"),
        (tarfile.CHRTYPE, "member-device"),
        (tarfile.FIFOTYPE, "member-device"),
    ],
)
def test_links_and_devices(tmp_path, kind, code):
    report = scanned(tmp_path, tar_of(("a", b"", {"type": kind, "linkname": "/etc/passwd"})), "x.tar")
    assert code in codes(report, "danger")


def test_members_are_examined(tmp_path):
    report = scanned(tmp_path, tar_of(("good.txt", b"text"), ("deep/" * 30 + "evil.pkl", SYSTEM)), "x.tar")
    assert report.findings[0].where.endswith("evil.pkl")
    assert report.worst == "danger"


def test_a_tar_without_a_magic_number(tmp_path):
    """torch hands every file to tarfile first, which knows the oldest format by its checksum alone."""
    content = bytearray(tar_of(("pickle", SYSTEM), ("storages", b"")))
    for at in (0, 1024):
        content[at + 257 : at + 265] = bytes(8)
        content[at + 148 : at + 156] = b"        "
        content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    report = scanned(tmp_path, bytes(content))
    assert report.kind is Kind.TORCH_TAR
    assert "pickle-dangerous-global" in codes(report, "danger")


def test_damage(tmp_path):
    content = tar_of(("a.txt", b"text" * 500))
    assert scanned(tmp_path, content[:1000], "x.tar").outcome == "not examined"


def torch_tar(tensors, evil=b""):
    """What torch 0.1 wrote, for float tensors."""
    storages = pickle.dumps(len(tensors), 2)
    for place, tensor in enumerate(tensors):
        storages += evil or pickle.dumps((str(place), "cpu", torch.FloatStorage), 2)
        storages += struct.pack("<q", tensor.numel()) + tensor.numpy().tobytes()
    storages += pickle.dumps([], 2)
    return tar_of(("sys_info", pickle.dumps({"little_endian": True}, 2)), ("pickle", harmless()),
                  ("storages", storages), ("tensors", pickle.dumps(0, 2)))  # fmt: skip


def test_torch_before_04_is_code(tmp_path):
    report = scanned(tmp_path, torch_tar([torch.rand(100), torch.rand(3)]))
    assert report.kind is Kind.TORCH_TAR
    assert codes(report) == {"torch-tar"}
    assert report.worst == "code"
    assert report.examined


def test_pickles_between_the_numbers_of_an_old_file(tmp_path):
    report = scanned(tmp_path, torch_tar([torch.rand(100)], evil=SYSTEM))
    assert "pickle-dangerous-global" in codes(report, "danger")


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zlib": zlib.compress,
           "lzma": lambda content: lzma.compress(content, lzma.FORMAT_ALONE)}  # fmt: skip


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS.keys())
def test_compressed_pickles(tmp_path, pack):
    report = scanned(tmp_path, pack(SYSTEM), "x.pkl.z")
    assert report.kind is Kind.COMPRESSED
    assert report.worst == "danger"
    assert report.findings[0].where == "x.pkl.z!content"


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_streams_behind_one_another(tmp_path, pack):
    report = scanned(tmp_path, pack(harmless()) + pack(SYSTEM))
    assert report.worst == "danger"


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS.keys())
def test_bombs(tmp_path, pack):
    assert codes(scanned(tmp_path, pack(bytes(60_000_000)))) == {"bomb"}


def test_damaged_and_unknown(tmp_path):
    whole = gzip.compress(bytes(range(256)) * 50)
    assert scanned(tmp_path, whole[:40]).outcome == "not examined"
    assert scanned(tmp_path, whole[:10] + b"\xff" * 50).outcome == "not examined"
    for start in (b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"7z\xbc\xaf\x27\x1c"):
        report = scanned(tmp_path, start + bytes(40))
        assert (report.kind, codes(report)) == (Kind.COMPRESSED, {"compression-unknown"})
