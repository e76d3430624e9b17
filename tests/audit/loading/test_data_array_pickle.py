"""Pickles of arrays: the forms that Python 2 and 3 write are read, and nothing hostile runs or takes the machine."""

import contextlib
import io
import os
import pickle
import pickletools
import struct
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.errors import DataError, UnsafeArtefactError
from audit.loading.formats import array_pickle
from audit.loading.formats.array_pickle import read_array_pickle
from tests.python2_pickle import Python2Pickle

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 30), dtype=np.uint8)
BATCH: dict[bytes, Any] = {
    b"batch_label": b"testing batch 1 of 1",
    b"labels": [3, 8, 8, 0, 6, 70_000, -1],
    b"data": PIXELS,
    b"filenames": [b"domestic_cat_s_000907.png"] * 7,
}
REMEDY = "this, or that"


def _read(folder: Path, content: bytes) -> dict[str, object]:
    path = folder / "batch"
    path.write_bytes(content)
    return read_array_pickle(path, REMEDY)


def _check(read: dict[str, object]) -> None:
    assert read["labels"] == BATCH[b"labels"]
    assert isinstance(read["data"], np.ndarray)
    np.testing.assert_array_equal(read["data"], PIXELS)
    assert read["data"].dtype == np.uint8


# ---------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("long_strings", [False, True])
def test_as_python_2_wrote_it(tmp_path: Path, long_strings: bool) -> None:
    written = Python2Pickle(long_strings=long_strings).dump(BATCH)
    assert pickle.loads(written, encoding="bytes").keys() == BATCH.keys()
    _check(_read(tmp_path, written))


@pytest.mark.parametrize("protocol", [1, 2, 3, 4])
def test_as_python_3_writes_it(tmp_path: Path, protocol: int) -> None:
    _check(_read(tmp_path, pickle.dumps(BATCH, protocol)))
    _check(_read(tmp_path, pickle.dumps({key.decode(): value for key, value in BATCH.items()}, protocol)))
    _check(_read(tmp_path, pickle.dumps(BATCH | {b"data": np.asfortranarray(PIXELS)}, protocol)))


def test_as_older_numpy_named_it(tmp_path: Path) -> None:
    written = pickle.dumps(BATCH, 2)
    for old, new in ((b"numpy._core.", b"numpy.core."), (b"numpy.core.", b"numpy._core.")):
        _check(_read(tmp_path, written.replace(old, new)))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.binary(max_size=9), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(content=st.dictionaries(st.text("abc", max_size=4), PLAIN, max_size=5), protocol=st.integers(1, 4))
def test_plain_data_is_read_as_pickle_reads_it(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any], protocol: int
) -> None:
    folder = tmp_path_factory.mktemp("plain")
    if protocol < 3 and b"b''" in repr(content).encode():  # written as a call of `bytes`
        return
    assert _read(folder, pickle.dumps(content, protocol)) == content
    as_bytes = {key.encode(): value for key, value in content.items()}
    assert _read(folder, Python2Pickle().dump(as_bytes)) == content


# ---------------------------------------------------------------------------------------------- hostile


class Call:
    """Pickles as a call."""

    def __init__(self, called: Any, *arguments: Any, state: Any = None) -> None:
        self._reduced = (called, arguments) if state is None else (called, arguments, state)

    def __reduce__(self) -> Any:
        return self._reduced

    def __call__(self) -> None:
        """Only what can be called is pickled as the function of a call."""


def _hostile(canary: Path) -> dict[str, Any]:
    touch = f"open({str(canary)!r}, 'w')"
    command = f"touch '{canary}'"
    return {
        "system": Call(os.system, command),
        "eval": Call(eval, touch),
        "exec": Call(exec, touch),
        "getattr": Call(getattr, Call(__import__, "os"), "system"),
        "getattr-of-call": Call(Call(getattr, Call(__import__, "os"), "system"), command),
        "partial": Call(partial, os.system, command),
        "encode-elsewhere": Call(io.open, str(canary), "w"),
        "setstate": Call(np.ndarray, (1,), state={"__reduce__": Call(os.system, command)}),
        "objects": np.array([Call(os.system, command)], dtype=object),
        "numpy-load": Call(np.load, str(canary), None, True),
    }


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", list(_hostile(Path())))
@pytest.mark.parametrize("where", ["top", "key", "nested"])
def test_nothing_hostile_runs(tmp_path: Path, name: str, protocol: int, where: str) -> None:
    canary = tmp_path / "canary"
    hostile = _hostile(canary)[name]
    content = {"top": hostile, "key": BATCH | {b"labels": hostile}, "nested": BATCH | {b"x": [{b"y": [hostile]}]}}
    with pytest.raises(UnsafeArtefactError) as error:
        _read(tmp_path, pickle.dumps(content[where], protocol))
    text = str(error.value)
    assert "alone in batch, got a pickle that needs" in text
    assert "nothing of it was run" in text
    assert "Two safe ways on: this, or that." in text
    assert not canary.exists()


def test_the_canary_would_have_sung(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(_hostile(tmp_path / "canary")["system"], 2))
    assert (tmp_path / "canary").exists()


def test_the_offending_name_is_said(tmp_path: Path) -> None:
    for called, name in ((os.system, f"{os.name}.system"), (eval, r"(__builtin__|builtins)\.eval")):
        for protocol in (2, 4):
            with pytest.raises(UnsafeArtefactError, match=rf"needs `{name}`\. Unpickling"):
                _read(tmp_path, pickle.dumps({"data": Call(called, "1")}, protocol))


NUMPY = b"\x80\x02cnumpy\ndtype\n"
ARRAY = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\x80\x02Psomewhere\n.", "the operation PERSID"),
        (b"\x80\x02K\x00Q.", "the operation BINPERSID"),
        (b"\x80\x02\x82\x01.", "the operation EXT1"),
        (b"(S'id'\nios\nsystem\n.", "the operation"),
        (b"(cos\nsystem\nS'id'\no.", r"`os\.system`"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"`os\.system`"),
        (b"\x80\x04K\x00K\x01\x93.", r"`None\.None`"),
        (b"\x80\x02cnumpy\ndtype.type\n.", r"`numpy\.dtype\.type`"),
        (b"\x80\x02cnumpy\nndarray\n(tR.", "a call of `ndarray`"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "the operation NEWOBJ"),
        (b"\x80\x02cnumpy\nndarray\n}b.", "setting the state of `ndarray`"),
        (b"\x80\x02}(K\x01K\x02ub.", "a dict with a int as key"),
        (b"\x80\x02}))s.", "a dict with a tuple as key"),
        (b"\x80\x02]}b.", "setting the state of a list"),
        (b"\x80\x02}K\x01a.", "appending to a dict"),
        (b"\x80\x02](K\x01K\x02u.", "setting items of a list"),
        (b"\x80\x02K\x01)R.", "a call of a int"),
        (NUMPY + b"U\x02O8K\x00K\x01\x87R.", r"an array of dtype 'O8'"),
        (NUMPY + b"U\x01OK\x00K\x01\x87R.", r"an array of dtype 'O'"),
        (NUMPY + b"U\x02f4K\x00K\x01\x87R.", r"an array of dtype 'f4'"),
        (NUMPY + b"U\x0cu1, O, (2,)OK\x00K\x01\x87R.", r"an array of dtype 'u1, O, \(2,\)O'"),
        (NUMPY + b"](U\x01aU\x01O\x86e\x85R.", "an array of a composed dtype"),
        (NUMPY + b"U\x02u1}\x86R.", "an array of dtype 'u1'"),
        (NUMPY + b")R.", "an array of a composed dtype"),
        (NUMPY + b"U\x02u1K\x00K\x01\x87R(K\x03U\x01|(U\x01at}K\x00K\x00K\x00tb.", "fields, sub-arrays or metadata"),
        (NUMPY + b"U\x02u1K\x00K\x01\x87R(K\x04U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00}tb.", "or metadata"),
        (ARRAY + b"cnumpy\nmatrix\nK\x00\x85U\x01b\x87R.", r"`numpy\.matrix`"),
        (ARRAY + b"cnumpy\ndtype\nK\x00\x85U\x01b\x87R.", "another class than `numpy.ndarray`"),
        (ARRAY + b")R.", "another class than `numpy.ndarray`"),
        (
            ARRAY + b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x01\x85cnumpy\ndtype\n\x89U\x01atb.",
            "an array of `dtype`",
        ),
        (b"\x80\x02c_codecs\nencode\nX\x02\x00\x00\x00hiX\x05\x00\x00\x00rot13\x86R.", "more than Latin-1 text"),
        (b"\x80\x02c_codecs\nencode\n)R.", "more than Latin-1 text"),
        (b"\x80\x02c_codecs\nencode\nK\x05R.", "a call of `encode`"),
        (b"\x80\x02c_codecs\nlookup\n.", r"`_codecs\.lookup`"),
    ],
)
def test_arguments_beyond_plain_arrays(tmp_path: Path, content: bytes, text: str) -> None:
    with pytest.raises(UnsafeArtefactError, match=text):
        _read(tmp_path, content)


def _array_of(shape: bytes, content: bytes) -> bytes:
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    start = b"\x80\x02}U\x04data" + ARRAY[2:] + b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return start + b"(K\x01(" + shape + b"t" + dtype + b"\x89U" + bytes([len(content)]) + content + b"tbs."


HUGE = b"\x8a\x06" + (10**12).to_bytes(6, "little")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 10**12) + b"abc.",  # BINBYTES8
        b"\x80\x04\x8d" + struct.pack("<Q", 10**12) + b"abc.",  # BINUNICODE8
        b"\x80\x04\x8d" + b"\xff" * 8 + b"abc.",
        b"\x80\x02T\xff\xff\xff\x7fabc.",  # BINSTRING
        b"\x80\x02T\xff\xff\xff\xffabc.",  # BINSTRING of -1 bytes
        b"\x80\x02\x8b\xff\xff\xff\x7fabc.",  # LONG4
        b"\x80\x04\x95" + struct.pack("<Q", 10**15) + b"}.x",  # FRAME, which reads well
        _array_of(HUGE, b"abc"),
        _array_of(b"J\xff\xff\xff\xffJ\xfd\xff\xff\xff", b"abc"),
        _array_of(b"K\x01" * 70 + b"K\x03", b"abc"),
        _array_of(b"\x88K\x03", b"abc"),
        _array_of(b"U\x01a", b"abc"),
        b"",
        b"\x80",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02K\x01.",
        b"\x80\x02].",
        b"\x80\x02h\x05.",
        b"\x80\x02a.",
        b"\x80\x02e.",
        b"\x80\x02}(U\x01au.",
        b"\x80\x02R.",
        b"\x80\x02\x93.",
        b"\x80\x02X\x02\x00\x00\x00\xff\xff.",
        b"I" + b"9" * 5000 + b"\n.",
        b"not a pickle",
        b"<!DOCTYPE html>",
        b"\xff" * 100,
        pickle.dumps(BATCH, 2)[:-100],
        Python2Pickle().dump(BATCH)[:200],
    ],
)
def test_bombs_and_damage_end_as_data_errors(tmp_path: Path, content: bytes) -> None:
    tracemalloc.start()
    try:
        _read(tmp_path, content)
    except DataError as error:
        assert "in batch" in str(error) or "got batch" in str(error)  # noqa: PT017 - one of the inputs is sound
    else:
        assert content.endswith(b"}.x")
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 << 20


def test_text_used_again_and_again_does_not_grow(tmp_path: Path) -> None:
    text = b"a" * 100_000
    start = b"\x80\x02}X\x01\x00\x00\x00a](c_codecs\nencode\nq\x01X" + struct.pack("<I", len(text)) + text
    start += b"q\x02X\x06\x00\x00\x00latin1q\x03"
    once = b"h\x01h\x02h\x03\x86R"
    assert pickle.loads(start + once * 3 + b"es.")["a"][3:] == [text] * 3
    with pytest.raises(DataError, match="more text than the file has bytes"):
        _read(tmp_path, start + once * 3 + b"es.")
    assert _read(tmp_path, start + once + b"es.")["a"][3:] == [text]  # type: ignore[index]


def test_a_billion_laughs_and_endless_structures(tmp_path: Path) -> None:
    levels = range(1, 100)
    lists = b"]q\x00" + b"".join(b"](" + bytes([104, n - 1]) * 10 + b"eq" + bytes([n]) for n in levels)
    assert len(_read(tmp_path, b"\x80\x02" + lists + b"}U\x01ah\x63s.")["a"]) == 10  # type: ignore[arg-type]
    tuples = b")q\x00" + b"".join(bytes([104, n - 1]) * 2 + b"\x86q" + bytes([n]) for n in levels)
    with pytest.raises(UnsafeArtefactError, match="a dict with a tuple as key"):
        _read(tmp_path, b"\x80\x02" + tuples + b"}h\x63K\x01s.")
    with pytest.raises(UnsafeArtefactError, match="fields, sub-arrays or metadata"):
        _read(tmp_path, b"\x80\x02" + tuples + NUMPY[2:] + b"U\x02u1\x85Rh\x63b.")
    endless = _read(tmp_path, b"\x80\x02}U\x01a]q\x00h\x00as.")["a"]
    assert isinstance(endless, list)
    assert endless[0] is endless
    deep = _read(tmp_path, b"\x80\x02}U\x01a" + b"]" * 200_000 + b"a" * 199_999 + b"s.")["a"]
    assert isinstance(deep, list)
    with pytest.raises(DataError, match="got batch, which cannot be read"):
        _read(tmp_path, b"\x80\x02" + b"(" * 200_000 + b".")


def test_long_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeArtefactError, match="a dict with a bytes as key"):
        _read(tmp_path, pickle.dumps({b"k" * 300: 1}, 4))


def test_sizes_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Python2Pickle().dump(BATCH)
    monkeypatch.setattr(array_pickle, "MOST_OPERATIONS", len(list(pickletools.genops(written))))
    _check(_read(tmp_path, written))
    monkeypatch.setattr(array_pickle, "MOST_OPERATIONS", 20)
    with pytest.raises(DataError, match=r"more than 20 operations\)\. Two safe ways on: this, or that"):
        _read(tmp_path, written)
    monkeypatch.setattr(array_pickle, "LARGEST_FILE", 100)
    with pytest.raises(DataError, match=r"Expected at most 100 bytes in batch, got \d+\. Check"):
        _read(tmp_path, written)


def test_something_else_than_a_dict(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected a dict in batch, got a list"):
        _read(tmp_path, pickle.dumps([1], 2))
    with pytest.raises(DataError, match="Expected a dict in batch, got an array"):
        _read(tmp_path, pickle.dumps(PIXELS, 2))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bytes_end_as_an_audit_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    sound = Python2Pickle().dump(BATCH | {b"labels": [1, 2], b"data": PIXELS[:2, :4]})
    written = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        written[data.draw(st.integers(0, len(written) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataError, UnsafeArtefactError):
        _read(tmp_path_factory.mktemp("any"), bytes(written))
