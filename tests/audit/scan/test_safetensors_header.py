"""Safetensors: headers that lie, and headers that cost."""

import json
import time

import numpy as np
import pytest

from audit.scan import Kind, Limits, scan_file
from tests.audit.scan.planted import codes, scanned


def file_of(header, data=bytes(8), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin=0, end=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


LIES = {
    "two over the same bytes": ({"a": entry(), "b": entry(4, 8, (1,))}, "safetensors-overlap"),
    "a hole": ({"a": entry(0, 4, (1,)), "b": entry(5, 8, (3,), "U8")}, "safetensors-gap"),
    "a hole in front": ({"a": entry(4, 8, (1,))}, "safetensors-gap"),
    "more behind": ({"a": entry(0, 4, (1,))}, "safetensors-trailing"),
    "another size": ({"a": entry(0, 8, (3,))}, "safetensors-size"),
    "reversed": ({"a": entry(8, 0)}, "safetensors-size"),
    "an overflowing shape": ({"a": entry(shape=[2**62, 2**62])}, "safetensors-size"),
    "a negative place": ({"a": entry(-8, 0)}, "safetensors-entry"),
    "a fraction": ({"a": entry(shape=[2.0])}, "safetensors-entry"),
    "no place": ({"a": {"dtype": "F32", "shape": [2]}}, "safetensors-entry"),
    "a text": ({"a": "x"}, "safetensors-entry"),
    "too many dimensions": ({"a": entry(shape=[1] * 100)}, "safetensors-entry"),
    "metadata of numbers": ({"__metadata__": {"a": 1}, "a": entry()}, "safetensors-metadata"),
    "metadata that are a list": ({"__metadata__": ["a"], "a": entry()}, "safetensors-metadata"),
    "one name twice": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":1}', "safetensors-repeated"),
    "one field twice": (b'{"a":{"dtype":"F32","dtype":"U8","shape":[2],"data_offsets":[0,8]}}', "safetensors-repeated"),
    "no JSON": (b'{"a": [', "safetensors-header"),
    "no text": (b'{"\xff": 1}', "safetensors-header"),
    "brackets": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "safetensors-header"),
    "deep": (b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", "safetensors-header"),
    "a number of a million digits": (b'{"a":' + b"9" * 1_000_000 + b"}", "safetensors-header"),
}


@pytest.mark.parametrize(("header", "code"), LIES.values(), ids=LIES.keys())
def test_lies(tmp_path, header, code):
    report = scanned(tmp_path, file_of(header), "x.safetensors")
    assert report.kind is Kind.SAFETENSORS
    assert code in codes(report, "danger")


def test_absurd_lengths(tmp_path):
    for length in (10**10, 2**64 - 1):
        report = scanned(tmp_path, file_of({"a": entry()}, length=length), "x.safetensors")
        assert codes(report, "danger") == {"safetensors-header"}


def test_what_is_cut_off_is_not_examined(tmp_path):
    whole = file_of({"a": entry()})
    for cut in (whole[:20], whole[:-1]):
        report = scanned(tmp_path, cut, "x.safetensors")
        assert (codes(report), report.outcome) == ({"truncated"}, "not examined")


def test_unknown_types_are_not_examined(tmp_path):
    report = scanned(tmp_path, file_of({"a": entry(dtype="F128")}), "x.safetensors")
    assert (codes(report), report.outcome) == ({"safetensors-type"}, "not examined")


@pytest.mark.parametrize("value", [b"[]", b"{}", b"1", b'""'])
def test_large_headers_cost_little(tmp_path, value):
    """A header of the largest size that is read, made of the values that take the most memory for their letters."""
    header = b'{"a":[' + b",".join([value] * (18_000_000 // (len(value) + 1))) + b"]}"
    begun = time.process_time()
    report = scanned(tmp_path, file_of(header), "x.safetensors")
    assert report.outcome != "no known indicator"
    assert time.process_time() - begun < 10


def test_larger_headers_are_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_of(b'{"a":"' + b"x" * 3000 + b'"}'))
    report = scan_file(path, Limits(header_bytes=1000))
    assert (codes(report), report.outcome) == ({"over-limit"}, "not examined")


def test_a_safetensors_file_that_is_a_pickle_too(tmp_path):
    """The length begins with the opcode of a line of text; the line ends in the header, and the tensors go on."""
    header = b'{"a":{"dtype":"U8","shape":[SIZE],"data_offsets":[0,SIZE]}\n}'
    evil = b"0cos\nsystem\n(S'true'\ntR."
    header = header.replace(b"SIZE", str(len(evil)).encode())
    header += b" " * (0x56 - len(header))
    header = header[: header.index(b"\n")] + b" " * (0x56 - len(header.rstrip())) + b"\n}"
    report = scanned(tmp_path, file_of(header, evil), "x.safetensors")
    assert report.kind is Kind.SAFETENSORS
    assert {"also-a-pickle", "pickle-dangerous-global"} <= codes(report, "danger")


LINE_OPCODES = b"cpgiILFSVPX"
"""Opcodes that a length of this many bytes, or this many times 256, begins with, and that take what follows to a line's
end, or so many bytes, without a look at it."""


@pytest.mark.parametrize("end_of_line", [False, True])
def test_no_length_makes_an_ordinary_file_a_pickle(tmp_path, end_of_line):
    """One of 32 lengths begins with PUT, which takes a line: beyond a large header, to where a number holds a 10."""
    numbers = np.random.default_rng(0).normal(0, 0.05, 50_000).astype("<f4").tobytes().replace(b"\n", b"\x0b")
    data = numbers + b"\n" * end_of_line + numbers
    taken = []
    for length in {low + 256 * high for low in range(0, 256, 8) for high in LINE_OPCODES} | set(range(200, 1024, 8)):
        small = (length - 100) // 100
        texts = [f'"layers.{n}.conv.weight":{json.dumps(entry(4 * n, 4 * n + 4, (1,)))}' for n in range(small)]
        texts.append(f'"head.weight":{json.dumps(entry(4 * small, len(data), (len(data) - 4 * small,), "U8"))}')
        header = ("{" + ",".join(texts) + "}").encode().ljust(length)
        assert len(header) == length
        report = scanned(tmp_path, file_of(header, data), "x.safetensors")
        taken += [hex(length)] * (report.outcome != "no known indicator")
    assert taken == []


def test_a_safetensors_file_that_is_a_zip_too(tmp_path):
    from tests.audit.scan.planted import call, torch_zip

    evil = torch_zip(call("os.system", "true"))
    content = file_of({"a": entry(0, len(evil), (len(evil),), "U8")}, evil)
    report = scanned(tmp_path, content, "x.safetensors")
    assert {"also-a-zip", "pickle-dangerous-global"} <= codes(report, "danger")
