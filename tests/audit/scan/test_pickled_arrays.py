"""Arrays and types of numpy in pickles: states that numpy does not write are found, those that it writes are not."""

import pickle

import numpy as np
import pytest

from audit.scan import scan_file
from tests.audit.scan.planted import Calls, codes, scanned


def text(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()


def named(module, name):
    return text(module) + text(name) + b"\x93"


def number(value):
    return b"J" + value.to_bytes(4, "little", signed=True)


def of_type(name, *, state=b"", copy=b"\x89\x88"):
    """A type; its state is a tuple of eight."""
    return named("numpy", "dtype") + text(name) + copy + b"\x87R" + state


def state(size=-1, alignment=-1, flags=0, *, subarray=b"N", names=b"N", fields=b"N", version=3, more=b""):
    head = b"(" + number(version) + text("|") + subarray + names + fields
    return head + number(size) + number(alignment) + number(flags) + more + b"tb"


def fields(**places):
    """Names and the dict of a structure: of each field, its type and place."""
    content = b"".join(text(name) + what + number(at) + b"\x86" for name, (what, at) in places.items())
    return {"names": b"(" + b"".join(map(text, places)) + b"t", "fields": b"}(" + content + b"u"}


def view(what, content=b"C\x08" + b"A" * 8, count=1):
    shape = number(count) + b"\x85"
    return named("numpy._core.numeric", "_frombuffer") + b"(" + content + what + shape + text("C") + b"tR"


def array(what, content=b"C\x08" + b"A" * 8):
    made = named("numpy._core.multiarray", "_reconstruct") + named("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    return made + b"(K\x01K\x01\x85" + what + b"\x89" + content + b"tb"


def whole(content):
    return b"\x80\x04" + named("builtins", "set") + content + b"\x85R."


OBJECT = of_type("O8", state=state(flags=63))
FLOAT = of_type("f4", state=state())
HELD = b"q\x00"
PLANTED = {
    "objects without flags": view(of_type("O", state=state())),
    "objects without flags, pickled": array(of_type("O8", state=state())),
    "objects out of bytes": view(of_type("O8")),
    "objects out of bytes, with flags": array(OBJECT),
    "a class of Python's": view(named("numpy", "dtype") + named("builtins", "object") + b"\x85R"),
    "a field of objects": view(of_type("V8", state=state(8, 1, 16, **fields(a=(OBJECT, 0))))),
    "a field of objects, with flags": view(of_type("V8", state=state(8, 1, 27, **fields(a=(OBJECT, 0))))),
    "the last of many fields": view(of_type("V88", state=state(
        88, 1, 16, **fields(**{f"f{place}": (FLOAT, place) for place in range(20)}, last=(OBJECT, 80))))),
    "a subarray of objects": view(of_type("V8", state=state(8, 8, 0, subarray=OBJECT + b"K\x01\x85\x86"))),
    "a field beyond the end": of_type("V8", state=state(8, 1, 16, **fields(a=(of_type("V99"), 0)))),
    "a field before the beginning": of_type("V8", state=state(8, 1, 16, **fields(a=(FLOAT, -8)))),
    "a field that is no type": of_type("V8", state=state(8, 1, 16, **fields(a=(number(5), 0)))),
    "a field that is only named": of_type("V8", state=state(8, 1, 16, names=text("z") + b"\x85", fields=b"}")),
    "a subarray beyond the end": of_type("V8", state=state(8, 1, 0, subarray=FLOAT + b"K\x09\x85\x86")),
    "another size": of_type("S3", state=state(3000, 1)),
    "a size of a number": of_type("f4", state=state(4000, 4)),
    "no alignment": of_type("V4", state=state(4, 0)),
    "times without a unit": of_type("M8", state=state()),
    "an old state": of_type("f4", state=b"(K\x02" + text("<") + b"NNN" + number(-1) * 2 + b"tb"),
    "a type within itself": named("numpy", "dtype") + text("V8") + b"\x89\x88\x87R" + HELD
    + state(8, 1, 16, **fields(a=(b"h\x00", 0))),
    "a type that becomes objects later": view(of_type("V8") + HELD)
    + b"0h\x00" + state(8, 1, 27, **fields(a=(OBJECT, 0))),
    "fields that become objects later": b"}q\x010" + view(of_type("V8", state=state(
        8, 1, 16, names=text("a") + b"\x85", fields=b"h\x01"))) + b"0h\x01" + text("a") + OBJECT + b"K\x00\x86s",
    "a type with two states": of_type("f4", state=state() + state()),
    "an array with two states": array(FLOAT) + b"(K\x01K\x01\x85" + FLOAT + b"\x89C\x04AAAAtb",
    "a state of a view": view(FLOAT) + b"(K\x01K\x01\x85" + FLOAT + b"\x89C\x04AAAAtb",
    "a view of an array": view(FLOAT, array(FLOAT)),
    "more objects than are listed": array(OBJECT, b"]"),
    "objects that are listed later": b"]q\x020" + array(OBJECT, b"h\x02") + b"0h\x02Na",
    "a size that is none": array(OBJECT, b"]").replace(b"K\x01\x85", b"N\x85"),
    "types with keywords": named("numpy", "dtype") + b")}" + text("dtype") + text("O") + b"s\x92",
}  # fmt: skip


@pytest.mark.parametrize("content", PLANTED.values(), ids=PLANTED.keys())
def test_states_that_numpy_does_not_write(tmp_path, content):
    report = scanned(tmp_path, whole(content), "x.pkl")
    assert codes(report, "danger") & {"pickle-numpy-memory", "pickle-misuse"}


def test_what_comes_before_damage_is_judged_too(tmp_path):
    report = scanned(tmp_path, whole(PLANTED["objects without flags"])[:-1] + b"\xff")
    assert "pickle-numpy-memory" in codes(report, "danger")


def test_more_fields_than_are_followed_are_not_examined(tmp_path):
    wide = np.zeros(2, [(f"f{place}", "f4") for place in range(600)])
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([wide, np.array([None])]))
    report = scan_file(tmp_path / "x.pkl")
    assert (codes(report), report.outcome) == ({"pickle-numpy-type"}, "not examined")


def test_types_deep_in_one_another_end(tmp_path):
    nested = np.dtype("f4")
    for _ in range(40):
        nested = np.dtype([("a", nested)])
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(nested))
    assert not codes(scan_file(tmp_path / "x.pkl"), "danger")


TYPES = [
    "?", "i1", "u8", "f2", "f8", "g", "c16", "G", ">i4", "S3", "S0", "U3", ">U3", "V4", "V0", "O", "M8[s]", ">M8[25us]",
    "m8[D]", "M8", [("x", "f4"), ("y", "i4", (2,))], [("x", "O"), ("y", "i4")], [("a", "S0"), ("b", "O")],
    [("a", [("b", "O"), ("c", "f4")]), ("d", "U4", (2, 3))], [("c", "M8[s]")], [(("title", "name"), "f4")], [],
    {"names": ["a"], "formats": ["i4"], "offsets": [4], "itemsize": 16}, [("a", "O", (2,)), ("b", "S4", (3,))],
    {"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 0]}, [(f"f{place}", "U5") for place in range(100)],
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_type_are_ordinary(tmp_path, protocol):
    made = [np.dtype(what) for what in TYPES] + [np.dtype([("a", "i1"), ("b", "O")], align=True)]
    for what in made:
        array = np.zeros((3, 2), what)
        content = [array, array.T, array[:, 0], np.zeros((), what), np.zeros(0, what), what, np.zeros((2, 3, 4), what)]
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
        report = scan_file(tmp_path / "x.pkl")
        assert (report.findings, report.examined) == ((), True), what


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects_are_as_many_as_are_listed(tmp_path, protocol):
    large = np.array([*range(3000), None])
    itself = np.array([None, "x"], dtype=object)
    itself[0] = itself
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([large, large.reshape(3001, 1), itself, large[:0]], protocol))
    assert scan_file(tmp_path / "x.pkl").findings == ()


def test_flags_as_numpy_1_wrote_them(tmp_path):
    """A signed byte: 144 is -112 (numpy 1.17)."""
    ordinary = of_type("V8", state=state(8, 4, -112, **fields(a=(FLOAT, 0), b=(FLOAT, 4))))
    assert scanned(tmp_path, whole(array(ordinary)), "x.pkl").findings == ()


def test_masked_arrays_are_code_and_nothing_worse(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(np.ma.masked_array([1, 2], [0, 1])))
    assert scan_file(tmp_path / "x.pkl").worst == "code"


LARGE = 1 << 28
ALMOST = LARGE // 2 + 1


def calls(name, arguments, times=1):
    module, _, last = name.rpartition(".")
    return whole(b"(" + (named(module, last) + b"(" + arguments + b"tR") * times + b"t")


def long(value):
    return b"\x8a\x08" + value.to_bytes(8, "little")


FILLING = {
    "one byte short of too much, twice": calls("builtins.bytearray", long(ALMOST), 2),
    "forty times": calls("builtins.bytearray", long(LARGE >> 4), 40),
    "exactly": calls("builtins.bytearray", long(LARGE)),
    "a tensor": calls("torch.FloatTensor", long(1 << 31)),
    "a tensor of two dimensions": calls("torch.Tensor", long(1 << 15) + long(1 << 15)),
    "tensors": calls("torch.cuda.HalfTensor", long(1 << 20), 40),
    "a tensor of torch.Size": calls("torch.FloatTensor", named("torch", "Size") + b"(" + long(1 << 31) + b"t\x85R"),
    "arrays": calls("numpy.core.multiarray._reconstruct", named("numpy", "ndarray") + long(1 << 20) + b"C\x01b", 40),
    "a shape of many dimensions": calls(
        "numpy.core.multiarray._reconstruct", named("numpy", "ndarray") + b"(" + b"K\x02" * 40 + b"tC\x01b"),
    "copies of what was made": whole(b"(" + named("builtins", "bytearray") + long(LARGE // 4) + b"\x85Rq\x00"
                                     + (named("builtins", "bytes") + b"h\x00\x85R") * 40 + b"t"),
    "copies of a text": whole(b"(X" + (50_000).to_bytes(4, "little") + b"x" * 50_000 + b"q\x00"
                              + (named("_codecs", "encode") + b"h\x00" + text("latin1") + b"\x86R") * 9000 + b"t"),
    "a tuple that is a size": whole(
        named("builtins", "bytearray") + named("torch", "Size") + long(LARGE) + b"\x85\x85RR"),
}  # fmt: skip


@pytest.mark.parametrize("content", FILLING.values(), ids=FILLING.keys())
def test_what_fills_the_memory(tmp_path, content):
    report = scanned(tmp_path, content, "x.pkl")
    assert codes(report, "danger") & {"pickle-memory-bomb", "pickle-not-followed"}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_bytes_and_small_calls_fill_nothing(tmp_path, protocol):
    content = [bytes([place % 256]) * 300_000 for place in range(30)] + [bytearray(500_000), Calls(bytearray, 1 << 20)]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
    assert scan_file(tmp_path / "x.pkl").findings == ()
