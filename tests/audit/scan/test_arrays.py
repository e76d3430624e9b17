"""NumPy arrays: objects, headers that are programs, and sizes that lie."""

import struct
import zipfile

import numpy as np
import pytest

from audit.scan import Kind
from tests.audit.scan.planted import Calls, call, codes, scanned


def npy(header, content=bytes(160), version=1):
    text = header.encode("latin-1") + b"\n"
    form = "<H" if version == 1 else "<I"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack(form, len(text)) + text + content


def header(descr="'<f4'", shape="(2, 4)", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


@pytest.mark.parametrize("descr", ["'|O'", "'O'", "'|O8'", "[('a', '<f4'), ('b', '|O')]", "[('a', [('b', 'O')])]",
                                   "[('a', 'O', (2,))]", "('O', (2,))"])  # fmt: skip
def test_objects(tmp_path, descr):
    report = scanned(tmp_path, npy(header(descr), call("os.system", "true")), "x.npy")
    assert report.kind is Kind.NPY
    assert {"array-objects", "pickle-dangerous-global"} <= codes(report, "danger")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_objects_of_numpy(tmp_path, save):
    save(tmp_path / "x.npz", fine=np.zeros(3), evil=np.array([Calls(print, "x")], object))
    report = scanned(tmp_path, (tmp_path / "x.npz").read_bytes(), "y.npz")
    assert report.kind is Kind.NPZ
    assert {"array-objects", "pickle-dangerous-global"} <= codes(report, "danger")
    assert report.findings[0].where == "y.npz!evil.npy"


@pytest.mark.parametrize("text", ["__import__('os').system('true')", "{'descr': '<f4'}", "[]", "{'a': 1}", "(" * 9000,
                                  header(shape="(-1,)"), header(shape="[2]"), header(shape="(2.0,)"),
                                  header(order="1"), header(order="__import__('os')"), "-" * 9000, "x" * 9999,
                                  header(shape="(" + "9" * 9000 + ",)"), "{" * 20 + "}" * 20, ""])  # fmt: skip
def test_headers_that_numpy_does_not_write(tmp_path, text):
    assert "array-header" in codes(scanned(tmp_path, npy(text), "x.npy"), "danger")


def test_long_headers(tmp_path):
    report = scanned(tmp_path, npy(" " * 20_000), "x.npy")
    assert "array-header" in codes(report, "danger")
    wide = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{}"
    assert "array-header" in codes(scanned(tmp_path, wide, "x.npy"), "danger")


def test_sizes(tmp_path):
    assert codes(scanned(tmp_path, npy(header(shape="(2, 4)")), "x.npy")) == set()
    assert codes(scanned(tmp_path, npy(header(shape="(200, 4)")), "x.npy"), "note") == {"truncated"}
    assert codes(scanned(tmp_path, npy(header(shape="(1000000000000,)")), "x.npy"), "danger") == {"array-bomb"}
    assert codes(scanned(tmp_path, npy(header("'<U9999999'", "(9999,)")), "x.npy"), "danger") == {"array-bomb"}


def test_python_2_and_other_versions(tmp_path):
    assert codes(scanned(tmp_path, npy(header(shape="(2L, 4L)")), "x.npy")) == set()
    for version in (2, 3):
        assert codes(scanned(tmp_path, npy(header(), version=version), "x.npy")) == set()
    assert scanned(tmp_path, npy(header(), version=9), "x.npy").outcome == "not examined"
    assert scanned(tmp_path, npy(header())[:30], "x.npy").outcome == "not examined"


def test_a_pickle_among_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", call("os.system", "true"))
    report = scanned(tmp_path, (tmp_path / "x.npz").read_bytes(), "x.npz")
    assert report.worst == "danger"
