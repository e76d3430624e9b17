"""Files whose beginning says something harmless: what a lenient reader makes of them is something else."""

from __future__ import annotations

import json
import pickle
import struct
import zlib
from collections.abc import Sequence

from tests.hostile.containers import tar_file, torch_zip, zip_file
from tests.hostile.opcodes import Build, Call, Name, Node, program
from tests.hostile.site import Corpus, Site

WORDS = ("scan", "weights", "bare")
V2 = Name("torch._tensor", "_rebuild_from_type_v2")
NOT_FOLLOWED = {"scan": (3, 4), "weights": (2, 4), "bare": (2, 4)}


def add_disguises(corpus: Corpus) -> None:
    """All of them."""
    _pickles(corpus)
    _calls_within_calls(corpus)
    _texts(corpus)
    _arrays(corpus)
    _two_directories(corpus)
    _tars(corpus)
    _keras(corpus)


def plain(site: Site) -> bytes:
    """A call of the shell, in protocol 0."""
    return b"cos\nsystem\n(S" + repr(site.shell).encode() + b"\ntR."


def _pickles(corpus: Corpus) -> None:
    """Pickles that read on where a stricter reader stops before the first name."""
    before = {
        "octal": (b"I010\n0", "a number that C reads as octal, and Python not at all"),
        "place": (b"Np010\n0", "a place of the memo with a zero before it"),
        "long-number": (b"I" + b"0" * 70_000 + b"\n0", "a number of 70,000 digits"),
        "old-long": (b"L" + b"1" * 5_000 + b"L\n0", "a number that Pythons before 3.11 take"),
        "nul": (b"I5\0 is a number\n0", "a number that ends at a NUL, to C"),
        "odd-name": (b"ctorch.ops\n1x\n0", "a name that no program could have, of a module that answers to any"),
        "many": (b"N." * 8, "eight pickles before the one that counts"),
        "line": (b"V" + b"a" * (1 << 20) + b"\n0", "a text of one megabyte in one line"),
        "picture": (b"GIF89a   0I010\n0", "the first letters of a picture"),
    }
    for name, (start, why) in before.items():
        reader = {"many": "pickles", "old-long": ""}.get(name, "pickle")
        corpus.add(
            f"disguise-{name}", ".pkl", lambda site, start=start: start + plain(site), f"{why}, then a call",
            commands=WORDS, executes=reader,
        )  # fmt: skip
    change = b"cos\npath\n}S'__setstate__'\ncos\nsystem\nsb"
    for name, start in (("build", b""), ("build-picture", b"GIF89a   0"), ("build-second", pickle.dumps({"a": 1}, 4))):
        corpus.add(
            f"disguise-{name}", ".pkl",
            lambda site, start=start: start + change + b"S" + repr(site.shell).encode() + b"\nb end\n",
            "a function of Python's made the one that sets a state, without a single call", commands=WORDS,
            executes="pickles" if name == "build-second" else "pickle",
        )  # fmt: skip
    for name, content in (
        ("append", b"csys\npath\nS'/tmp/elsewhere'\na end\n"), ("item", b"cos\nenviron\nS'LD_PRELOAD'\nS'x.so'\ns end\n"),
    ):  # fmt: skip
        corpus.add(
            f"disguise-{name}", ".pkl", content, "something of Python's is filled, and then no pickle", commands=WORDS
        )
    corpus.add(
        "disguise-import", ".pkl", b"cantigravity\nfly\n end\n", "a module that acts as it is imported", commands=WORDS,
    )  # fmt: skip
    corpus.add(
        "disguise-pile", ".pkl", lambda site: b"N" * 1_600_000 + plain(site),
        "1.6 million things on the stack, then a call", commands=WORDS, executes="pickle", codes=NOT_FOLLOWED,
    )  # fmt: skip
    corpus.add(
        "disguise-second", ".pkl", lambda site: pickle.dumps({"a": 1}, 4) + b"I010\n0" + plain(site),
        "a second pickle, which begins with an octal number", commands=WORDS, executes="pickles",
    )  # fmt: skip
    corpus.add(
        "disguise-zlib", ".joblib", lambda site: _stored(plain(site)), "zlib whose bytes are all letters",
        commands=WORDS, executes="joblib",
    )  # fmt: skip


def _stored(content: bytes) -> bytes:
    """A zlib stream of one stored block, with letters for its header and its length."""
    padded = content.ljust(0x2020)
    return b"x^a  \xdf\xdf" + padded + struct.pack(">I", zlib.adler32(padded))


def _calls_within_calls(corpus: Corpus) -> None:
    """torch's function for subclasses calls what it is given, and sets what it is told."""
    counter = Name("collections", "Counter")
    nodes: dict[str, tuple[Node, str]] = {
        "bytes": (Call(V2, (Name("builtins", "bytearray"), Name("builtins", "bytearray"), (6 << 30,), {})), "6 GB"),
        "class": (
            Call(V2, (Name("builtins", "type"), Name("builtins", "type"), (Call(counter),), {"update": b"gone"})),
            "a method of a class of Python's replaced",
        ),
        "text": (Call(V2, (Name("_codecs", "encode"), Name("builtins", "bytes"), ("a", "rot13"), {})), "another codec"),
        "itself": (Call(V2, (V2, Name("torch", "Tensor"), (V2, Name("torch", "Tensor"), (), {}), {})), "itself"),
    }
    for name, (node, why) in nodes.items():
        corpus.add(
            f"within-{name}", ".pt", torch_zip({"a": node}), f"a call within a call: {why}", codes={"scan": (4,)}
        )
    patched = Build(Call(Name("builtins", "type"), (Call(counter),)), (None, {"update": b"gone"}))
    corpus.add("within-patch", ".pkl", program(patched), "a class taken by `type`, and changed", commands=WORDS)
    number = b"\x8a\x41" + (6 << 30).to_bytes(65, "little")
    corpus.add(
        "within-padded", ".pkl", b"\x80\x02cbuiltins\nbytearray\n" + number + b"\x85R.",
        "6 GB by a number with 57 zeros before it", commands=WORDS,
    )  # fmt: skip


def _texts(corpus: Corpus) -> None:
    """Programs and YAML under their own names, with a beginning that looks like something else."""
    call = "!!python/object/apply:os.system"
    texts = {
        "page-yaml": (".yaml", lambda site: f"<html>: {call} [{json.dumps(site.shell)}]\n", "YAML that begins as a page"),
        "gif-yaml": (".yml", lambda site: f"GIF89a: {call} [{json.dumps(site.shell)}]\n", "YAML that begins as a picture"),
        "drawn-yaml": (
            ".yaml",
            lambda site: "#" * (1 << 20) + "\n%TAG" + " " * 10_000 + "!e! tag:yaml.org,2002:python/\n---\n"
            f"!e!object/apply:os.system [{json.dumps(site.shell)}]\n",
            "a directive of YAML that is longer than a stretch of reading",
        ),
        "json-python": (".py", lambda site: f"[1]\nimport os\nos.system({site.shell!r})\n", "Python that begins as JSON"),
        "gif-python": (".py", lambda site: f"GIF89a=1\nimport os\nos.system({site.shell!r})\n", "Python, as a picture"),
        "json-shell": (".sh", lambda site: f"[ 1 ]\n{site.shell}\n", "a script of the shell that begins as JSON"),
    }  # fmt: skip
    readers = {".py": "python", ".sh": "shell"}
    for name, (suffix, make, why) in texts.items():
        corpus.add(
            f"disguise-{name}", suffix, lambda site, make=make: make(site).encode(), why, commands=WORDS,
            executes=readers.get(suffix, ""), codes=None if suffix.startswith(".y") else {"weights": (2, 4), "bare": (2, 4)},
        )  # fmt: skip
    corpus.add(
        "disguise-tar-python", ".py", lambda site: _as_tar_header(f"import os\nos.system({site.shell!r})\n'''".encode()),
        "Python with the checksum of a tar archive", commands=WORDS, executes="python",
        codes={"weights": (2, 4), "bare": (2, 4)},
    )  # fmt: skip


def _as_tar_header(program: bytes) -> bytes:
    """A text of 512 bytes whose checksum is that of a tar header: `'''` opens a text, and the end closes it."""
    assert len(program) < 124, "Expected a program that ends before the size of the header."
    text = bytearray(program.ljust(509) + b"'''")
    text[124:136] = b"00000000000 "
    text[148:156] = b" " * 8
    text[148:156] = b"%06o  " % sum(text)
    return bytes(text)


def _arrays(corpus: Corpus) -> None:
    """Arrays of objects, whose type is spelt as numpy takes it and never writes it."""
    for place, descr in enumerate(("'object'", "'object_'", "'O,O'", "'i4,O'", "'(1,)O'", "[('a', 'i4,O')]")):
        corpus.add(
            f"disguise-objects-{place}", ".npy", lambda site, descr=descr: npy(descr, plain(site)),
            f"an array of objects, of the type {descr}", kind="data", commands=("scan", "npz"), executes="numpy",
            codes={"npz": (2, 4)},
        )  # fmt: skip


def npy(descr: str, content: bytes, shape: str = "(1,)") -> bytes:
    """An array with this type in its header."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


Members = Sequence[tuple[bytes, bytes]]


def _members(members: Members, base: int) -> tuple[bytes, list[bytes]]:
    """Stored members that begin at a place of the file, and their entries of a directory."""
    out, entries = b"", []
    for name, content in members:
        check, size = zlib.crc32(content), len(content)
        common = struct.pack("<HHHHIIIHH", 0, 0, 0, 0, check, size, size, len(name), 0)
        entries.append(
            b"PK\x01\x02"
            + struct.pack("<HH", 20, 20)
            + common
            + struct.pack("<HHHII", 0, 0, 0, 0, base + len(out))
            + name
        )
        out += b"PK\x03\x04" + struct.pack("<H", 20) + common + name + content
    return out, entries


def _ends(count: int, size: int, at: int) -> tuple[bytes, bytes]:
    """The record of zip64, and the old one."""
    wide = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, at)
    return wide, b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, count, count, size, at, 0)


def _locator(at: int) -> bytes:
    return b"PK\x06\x07" + struct.pack("<IQI", 0, at, 1)


def announced_elsewhere(clean: Members, hostile: Members, name: bytes) -> bytes:
    """A clean directory where Python looks, and another, within a member's bytes, where the locator points."""
    inside_at = len(_members(clean, 0)[0]) + 30 + len(name)
    body, entries = _members(hostile, inside_at)
    listed = b"".join(entries)
    record, _ = _ends(len(entries), len(listed), inside_at + len(body))
    members = [*clean, (name, body + listed + record)]
    body, entries = _members(members, 0)
    directory = b"".join(entries)
    clean_record, old = _ends(len(entries), len(directory), len(body))
    return body + directory + clean_record + _locator(inside_at + len(_members(hostile, 0)[0]) + len(listed)) + old


def announced_nowhere_near(clean: Members, hostile: Members) -> bytes:
    """The locator announces a clean record; where none lies before it, Python goes by the old record."""
    body, entries = _members(clean, 0)
    directory = b"".join(entries)
    record, _ = _ends(len(entries), len(directory), len(body))
    base = len(body) + len(directory) + len(record)
    more, hostile_entries = _members(hostile, base)
    comment = b"x" * 60 + _locator(len(body) + len(directory))
    last = bytearray(hostile_entries[-1])
    last[32:34] = struct.pack("<H", len(comment))
    listed = b"".join([*hostile_entries[:-1], bytes(last), comment])
    _, old = _ends(len(hostile_entries), len(listed), base + len(more))
    return body + directory + record + more + listed + old


def _two_directories(corpus: Corpus) -> None:
    version = [(b"archive/version", b"3\n"), (b"archive/byteorder", b"little")]
    clean = [(b"archive/data.pkl", pickle.dumps({}, 2)), *version]
    corpus.add(
        "two-directories-torch", ".pt",
        lambda site: announced_elsewhere(clean, [(b"archive/data.pkl", plain(site)), *version], b"archive/data/0"),
        "a second directory, which torch takes and Python does not", executes="torch",
    )  # fmt: skip
    corpus.add(
        "two-directories-npz", ".npz",
        lambda site: announced_nowhere_near(
            [(b"x.npy", npy("'<f4'", bytes(4)))], [(b"x.npy", npy("'|O'", plain(site)))]
        ),
        "a second directory, which Python takes and others do not", kind="data", commands=("scan", "npz"),
        executes="numpy", codes={"npz": (2, 4)},
    )  # fmt: skip


def _tars(corpus: Corpus) -> None:
    """Checksums as Python's reader takes them, and a first member that is named like the beginning of something."""
    for name, first in (("gif", "GIF89a"), ("page", "<html")):
        for place, checksum in enumerate((b"%06o\0z", b"0o%05o\0", b"%07o", b"\x80\0\0\0\0\0%c%c")):
            corpus.add(
                f"disguise-tar-{name}-{place}", ".tar",
                lambda site, first=first, checksum=checksum: _with_checksum(
                    tar_file([(first, b"x"), (f"../planted_{site.name}", b"outside")]), checksum
                ),
                "a tar archive with a checksum in another form", commands=WORDS,
                codes={"weights": (2, 4), "bare": (2, 4)},
            )  # fmt: skip


def _with_checksum(archive: bytes, form: bytes) -> bytes:
    changed = bytearray(archive)
    total = sum(changed[:148]) + sum(changed[156:512]) + 8 * ord(" ")
    stated = form % ((total >> 8, total & 0xFF) if b"%c" in form else total)
    changed[148:156] = stated.ljust(8, b"\0")[:8]
    return bytes(changed)


def _keras(corpus: Corpus) -> None:
    layers = [
        {
            "module": "keras.layers",
            "class_name": "Lambda",
            "config": {"function": {"class_name": "__lambda__", "config": {}}},
        },
        {"module": "os", "class_name": "system", "registered_name": "system", "config": {}},
    ]
    config = json.dumps({"module": "keras", "class_name": "Sequential", "config": {"layers": layers}}).encode()
    members = [("metadata.json", b"{}"), ("config.json", config), ("model.weights.npz", b"")]
    corpus.add(
        "keras-other-weights", ".keras", zip_file(members), "a Keras archive whose weights have another name",
        commands=WORDS, codes={"weights": (2, 4), "bare": (2, 4)},
    )  # fmt: skip
    corpus.add(
        "keras-json", ".json", config, "a Keras model as JSON", commands=WORDS, codes={"weights": (2, 4), "bare": (2, 4)},
    )  # fmt: skip
