"""Safetensors with impossible headers, and files that are hostile by what they are or how they are named."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from tests.hostile.containers import BIAS, WEIGHT, state_dict, torch_zip
from tests.hostile.opcodes import program
from tests.hostile.payloads import system
from tests.hostile.site import WEIGHTS, Corpus

DAMAGED = {"scan": (0, 3, 4), "weights": (2, 4), "bare": (2, 4), "convert": (2, 4)}
EVERYTHING = (*WEIGHTS, "onnx", "script", "export", "hf", "npz", "csv", "parquet", "imagefolder", "cifar10", "wds")


def add_oddities(corpus: Corpus) -> None:
    """All of them."""
    _safetensors(corpus)
    _special_files(corpus)
    _names(corpus)


def safetensors(header: str | bytes, values: bytes = WEIGHT + BIAS, length: int | None = None) -> bytes:
    """A file with this header; `length` is what it says of the header's length."""
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + values


def entry(dtype: str = "F32", shape: Iterable[object] = (10, 3), start: object = 0, end: object = 120) -> object:
    """A tensor of a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def _headers() -> dict[str, tuple[bytes, str]]:
    bias = {"fc.bias": entry(shape=[10], start=120, end=160)}
    one = {
        "overlapping": ({"a": entry(), "b": entry()}, "two tensors over the same bytes"),
        "past-the-end": ({"a": entry(end=2**40, shape=[2**38])}, "a tensor past the end"),
        "hole": ({"a": entry(start=40, shape=[20], end=120)}, "bytes that belong to no tensor"),
        "negative-offset": ({"a": entry(start=-8)}, "a negative offset"),
        "reversed": ({"a": entry(start=120, end=0)}, "an end before its start"),
        "dtype": ({"a": entry("PICKLE"), **bias}, "a dtype that is none"),
        "overflow": ({"a": entry(shape=[2**32, 2**32, 2**32])}, "a shape whose product overflows"),
        "zero-overflow": ({"a": entry(shape=[2**63, 0, 2**63], end=0)}, "a shape that overflows, times zero"),
        "shape-text": ({"a": entry(shape=["10", None])}, "a shape of text"),
        "many-dimensions": ({"a": entry(shape=[1] * 100_000, end=4)}, "a hundred thousand dimensions"),
        "metadata": (
            {"__metadata__": {"format": {"pt": [1, 2]}}, "a": entry(end=160, shape=[40])},
            "metadata of objects",
        ),
        "no-tensors": ({}, "no tensor at all"),
        "escape-names": ({"\x1b[31mred\x1b[0m\r\n<script>": entry(end=160, shape=[40])}, "a name of escape sequences"),
        "float-shape": ({"a": entry(shape=[1e308])}, "a shape of floats"),
    }
    made = {name: (safetensors(json.dumps(header)), why) for name, (header, why) in one.items()}
    item = json.dumps(entry(end=160, shape=[40]))
    made |= {
        "header-10-gb": (safetensors('{"a":1}', length=10 * 2**30), "a header of ten gigabytes"),
        "header-2-64": (safetensors('{"a":1}', length=2**64 - 1), "a header of 2^64 bytes"),
        "header-empty": (safetensors("{", length=0), "an empty header"),
        "duplicate-keys": (safetensors(f'{{"a":{item},"a":{item}}}'), "one name twice"),
        "not-utf8": (safetensors(b'{"\xff\xfe":' + item.encode() + b"}"), "a name that is no UTF-8"),
        "surrogate": (safetensors('{"\\ud800":' + item + "}"), "a name that is half a character"),
        "nan": (safetensors('{"a":NaN}'), "a header with NaN"),
        "array": (safetensors("[" + item + "]"), "a header that is a list"),
        "nested": (safetensors('{"__metadata__":' + "[" * 100_000, b""), "brackets, 100,000 deep"),
    }
    return made


def _safetensors(corpus: Corpus) -> None:
    for name, (content, why) in _headers().items():
        readable = name in ("escape-names", "duplicate-keys")
        codes = DAMAGED | ({"convert": (0, 2, 4)} if readable else {})
        corpus.add(f"safetensors-{name}", ".safetensors", content, why, expect="plain", codes=codes)
    corpus.add(
        "safetensors-99-mb", ".safetensors",
        lambda _: safetensors(b'{"__metadata__":' + b"[" * 99_000_000, b""), "99 megabytes of opening brackets",
        expect="plain", codes=DAMAGED, commands=("scan", "weights"),
    )  # fmt: skip


def _special_files(corpus: Corpus) -> None:
    """Things that are no files, under a model's name."""
    site = corpus.site("fifo")
    path = site.path(".pt")
    os.mkfifo(path)
    corpus.enter(site.name, path, "a named pipe: whoever opens it waits for ever", commands=EVERYTHING,
                 codes=dict.fromkeys(EVERYTHING, (2, 4)) | {"scan": (3, 4)})  # fmt: skip
    for name, target in (("zero", "/dev/zero"), ("random", "/dev/urandom"), ("stdin", "/dev/stdin")):
        site = corpus.site(f"device-{name}")
        link(site.path(".pt"), Path(target))
        corpus.enter(site.name, site.path(".pt"), f"a link to {target}, which never ends", commands=EVERYTHING,
                     codes=dict.fromkeys(EVERYTHING, (2, 4)) | {"scan": (3, 4)})  # fmt: skip
    site = corpus.site("link-loop")
    link(site.path(".pt"), site.path(".pt"))
    corpus.enter(site.name, site.path(".pt"), "a link to itself", expect="plain", codes=_absent())
    site = corpus.site("link-nowhere")
    link(site.path(".pt"), Path("/nowhere/at/all"))
    corpus.enter(site.name, site.path(".pt"), "a link to nothing", expect="plain", codes=_absent())
    site = corpus.site("directory")
    site.path(".safetensors").mkdir()
    corpus.enter(site.name, site.path(".safetensors"), "a folder that is named like a file", expect="plain",
                 codes=dict.fromkeys(WEIGHTS, (2, 4)) | {"scan": (0, 2, 3, 4)})  # fmt: skip
    corpus.add("empty-file", ".pt", b"", "an empty file", expect="plain", codes=DAMAGED)
    site = corpus.site("sparse")
    with site.path(".pt").open("wb") as stream:
        stream.truncate(2**36)
    corpus.enter(site.name, site.path(".pt"), "64 gigabytes of nothing, which take no room", expect="plain",
                 commands=("weights", "bare", "convert"), codes=DAMAGED)  # fmt: skip


def _absent() -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(WEIGHTS, (2, 4)) | {"scan": (2, 3, 4)}


def link(path: Path, target: Path) -> None:
    """Makes a symbolic link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


UNOPENED = ("query", "bytes")
"""A bare path is cut at its question mark; torch opens no path that is not UTF-8."""
NAMES = {
    "newline": "name-newline\nPASSED: nothing found.pt",
    "escape": "name-escape\x1b[2J\x1b]0;owned\x07\x1b[31m.pt",
    "markup": "name-markup<script>alert(1)<%2fscript>&quot;.pt",
    "bidirectional": "name-\u202etp.exe.pt",
    "bytes": os.fsdecode(b"name-\xff\xfe\x9b31m.pt"),
    "percent": "name-%s%n%d{0}{x!r}.pt",
    "bracket": "name-[red]bold[0;31m.pt",
    "query": "name-a?num_classes=10&x=1#b,c.pt",
    "long": "name-" + "x" * 240 + ".pt",
}


def _names(corpus: Corpus) -> None:
    """Files of hostile content under names that would be printed."""
    for kind, name in NAMES.items():
        site = corpus.site(f"name-{kind}")
        path = site.path("-folder") / name
        path.parent.mkdir()
        path.write_bytes(torch_zip({"state_dict": state_dict(), "args": system(site)}))
        corpus.enter(site.name, path, "a name that is not only a name", executes="torch",
                     codes=dict.fromkeys(("weights", "bare", "convert"), (2, 4)) if kind in UNOPENED else None)  # fmt: skip
        named = corpus.site(f"name-damaged-{kind}")
        damaged = named.path("-folder") / name
        damaged.parent.mkdir()
        damaged.write_bytes(program("x")[:5])
        corpus.enter(named.name, damaged, "a damaged file with such a name", expect="plain", codes=DAMAGED)
