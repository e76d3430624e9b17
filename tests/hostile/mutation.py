"""Damage to files, and what must hold of every damaged file; for the tests and for `benchmarks/fuzz.py`.

Three things are checked of whatever comes out: looking at it ends in an answer of ours and in nothing else; the answer
is fit to be printed; and where a pickle would reach a function that no checkpoint needs, the scan has not called the
file free of findings. The last is found out without running anything: an unpickler whose every global ends the reading.
"""

from __future__ import annotations

import gzip
import io
import pickle
import random
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.hostile.containers import state_dict, tar_file, tensor, torch_legacy, torch_tar, torch_zip, zip_file
from tests.hostile.opcodes import program
from tests.hostile.site import Corpus

LARGEST_SEED = 20_000
LARGEST_FILE = 200_000
NUMBERS = (
    0, 1, 2, 7, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**32, 2**40,
    2**62, 2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
TOKENS = (
    b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"\x80\x02", b"\x80\x04\x95", b"cposix\nsystem\n",
    b"c__builtin__\neval\n", b"\x8c\x05posix\x8c\x06system\x93", b"(iposix\nsystem\n", b"R", b"\x81", b"\x92", b"b", b".",
    b"\x82\x01", b"q\x00", b"h\x00", b"\x94", b"2", b"0", b"1", b"(", b"t", b"N", b"]", b"}", b"Q", b"\x8a\x0a", b"I0x1\n",
    b"archive/data.pkl", b"../../../evil", b"/etc/passwd", b"{\"", b"[[[[[[[[", b"]]]]", b"1e999", b"NaN", b"\"\\ud800\"",
    b"\x93NUMPY\x01\x00", b"'descr': '|O'", b"\x1f\x8b\x08\x00", b"BZh9", b"\xfd7zXZ\x00", b"ustar\x0000", b"\x89HDF\r\n\x1a\n",
    b"\xff" * 8, b"\x00" * 16, b"\x1b[2J", b"\n", b"\xe2\x80\xae",
)  # fmt: skip
KINDS = ("flip", "set", "cut", "drop", "repeat", "number", "token", "over", "splice", "digits")
HARMLESS = frozenset({"torch", "collections", "numpy", "_codecs"})
"""Packages whose names ordinary checkpoints hold; a name in any other must be a finding."""
IMPORTABLE = re.compile(r"[^\W\d][\w-]*(\.[^\W\d][\w-]*)*")


@dataclass(frozen=True)
class Damage:
    """One change to a file.

    Attributes:
        kind: one of `KINDS`.
        place: where, as a share of the length.
        size: how many bytes.
        value: which byte, number or token.
        inside: whether a member of an archive is changed, where it is one, and the archive written anew around it.
    """

    kind: str
    place: float
    size: int
    value: int
    inside: bool

    def __call__(self, content: bytes, other: bytes) -> bytes:
        """The damaged content; `other` is another file to take bytes from."""
        if self.inside:
            with suppress(Exception):
                return _inside(content, self.value, lambda part: self._damaged(part, other))[:LARGEST_FILE]
        return self._damaged(content, other)[:LARGEST_FILE]

    def _damaged(self, content: bytes, other: bytes) -> bytes:
        at = int(self.place * len(content))
        number = NUMBERS[self.value % len(NUMBERS)]
        match self.kind:
            case "flip":
                return _over(content, at, bytes([content[at] ^ 1 << self.value % 8]) if at < len(content) else b"")
            case "set":
                return _over(content, at, bytes([self.value % 256]))
            case "cut":
                return content[:at]
            case "drop":
                return content[:at] + content[at + self.size :]
            case "repeat":
                return content[: at + self.size] + content[at : at + self.size] * (1 + self.value % 9) + content[at:]
            case "number":
                width, order = (1, 2, 4, 8)[self.size % 4], "<>"[self.value % 2]
                format_ = order + {1: "B", 2: "H", 4: "I", 8: "Q"}[width]
                return _over(content, at, struct.pack(format_, number % 256**width))
            case "token":
                return content[:at] + TOKENS[self.value % len(TOKENS)] + content[at:]
            case "over":
                return _over(content, at, TOKENS[self.value % len(TOKENS)])
            case "splice":
                return content[:at] + other[self.value % (len(other) + 1) :]
            case "digits":
                return _other_digits(content, at, number)
        raise ValueError(self.kind)


def _over(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def _other_digits(content: bytes, at: int, number: int) -> bytes:
    """A number that is written as text, replaced."""
    found = re.compile(rb"\d+").search(content, at) or re.search(rb"\d+", content)
    return content[: found.start()] + b"%d" % number + content[found.end() :] if found else content


def _inside(content: bytes, choice: int, change: Callable[[bytes], bytes]) -> bytes:
    if content.startswith(b"\x1f\x8b"):
        return gzip.compress(change(gzip.decompress(content)), mtime=0)
    if content[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            entries = [(entry.name, archive.extractfile(entry)) for entry in archive]
            members = [(name, stream.read()) for name, stream in entries if stream]
        return tar_file(_changed(members, choice, change))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    return zip_file(_changed(members, choice, change))


def _changed(
    members: list[tuple[str, bytes]], choice: int, change: Callable[[bytes], bytes]
) -> Iterable[tuple[str, bytes]]:
    chosen = choice % len(members)
    return [(name, change(part) if place == chosen else part) for place, (name, part) in enumerate(members)]


def random_damages(rng: random.Random) -> list[Damage]:
    """One to six changes."""
    return [
        Damage(rng.choice(KINDS), rng.random(), rng.choice((1, 2, 4, 8, 30, 300)), rng.randrange(2**16), rng.random() < 0.4)
        for _ in range(rng.choice((1, 1, 2, 3, 6)))
    ]  # fmt: skip


def damaged(content: bytes, damages: Sequence[Damage], other: bytes) -> bytes:
    """A file after several changes."""
    for damage in damages:
        content = damage(content, other)
    return content


def valid_files() -> dict[str, bytes]:
    """Small files in which there is nothing wrong."""
    header = b'{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"__metadata__":{"format":"pt"}}'
    array = b"\x93NUMPY\x01\x00\x36\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}" + bytes(9)
    return {
        "valid-safetensors": struct.pack("<Q", len(header)) + header + bytes(16),
        "valid-torch": torch_zip({"state_dict": state_dict(), "epoch": 3}),
        "valid-legacy": torch_legacy({"epoch": 3}),
        "valid-tar": torch_tar({"epoch": 3}),
        "valid-pickle": program({"fc": [1.0, "x", None, True, (1, 2)], "n": 2**70}, 4),
        "valid-text-pickle": program({"fc": [1.0, "x"]}, 0),
        "valid-tensor": torch_zip([tensor("0", (10, 3))], protocol=4),
        "valid-npy": array,
        "valid-npz": zip_file([("x.npy", array), ("y.npy", array)]),
        "valid-gzip": gzip.compress(torch_zip(state_dict()), mtime=0),
        "valid-json": b'{"architectures": ["ResNet"], "id2label": {"0": "cat"}}',
        "valid-python": b"import torch\n\ndef make():\n    return torch.nn.Linear(2, 2)\n",
    }


def small_seeds(folder: Path) -> dict[str, bytes]:
    """Valid files, and hostile ones of every kind that needs neither torch nor much time to make."""
    from tests.hostile import archives, graphs, oddities, pickles, tables

    corpus = Corpus(folder, folder / "canary")
    folder.mkdir(parents=True, exist_ok=True)
    pickles.add_pickles(corpus, without=("jit-load",))
    graphs.add_graphs(corpus)
    for add in (archives._disagreeing, archives._flags, archives._nested, archives._traversal, archives._links):
        add(corpus)
    for add in (tables._arrays, tables._shards):
        add(corpus)
    headers = {f"safetensors-{name}": content for name, (content, _) in oddities._headers().items()}
    return valid_files() | {name: part for name, part in headers.items() if len(part) < LARGEST_SEED} | seeds_of(corpus)


def seeds_of(corpus: Corpus) -> dict[str, bytes]:
    """The small ones of a corpus's files, by name."""
    files = {file.name: file.path for file in corpus.files if file.path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if path.stat().st_size < LARGEST_SEED}


class ReachedError(Exception):
    """Unpickling would have called something that no checkpoint needs."""


class Watching(pickle.Unpickler):
    """Reads a pickle with stand-ins for all that it names; nothing is ever imported or called.

    A stand-in for a name outside of `HARMLESS` ends the reading as soon as it is called or handed to a function; what
    was only named is remembered.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.named: list[str] = []

    def find_class(self, module: str, name: str) -> object:
        """A stand-in; what no module can be called ends the reading, as its import would."""
        if not (IMPORTABLE.fullmatch(module) and IMPORTABLE.fullmatch(name)):
            raise ModuleNotFoundError(module)
        if module.partition(".")[0] in HARMLESS and "." not in name:
            return _Harmless
        self.named.append(f"{module}.{name}")
        return type("Named", (_Named,), {"called": self.named[-1]})

    def persistent_load(self, _: object) -> object:
        """A stand-in for a storage."""
        return _Harmless()


class _Named:
    """Stands for something that must not be called."""

    called: str

    def __new__(cls, *_: object, **__: object) -> _Named:
        raise ReachedError(cls.called)


class _Harmless:
    """Takes whatever it is given, unless a function is handed to it, and does nothing."""

    def __new__(cls, *arguments: object, **keywords: object) -> _Harmless:
        for argument in (*arguments, *keywords.values()):
            if isinstance(argument, type) and issubclass(argument, _Named):
                raise ReachedError(argument.called)
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass

    def __call__(self, *arguments: object) -> _Harmless:
        return _Harmless(*arguments)


def reached(content: bytes) -> str | None:
    """What unpickling would call, or import and return, that no checkpoint needs: of a file, or a zip's data.pkl."""
    for part in (content, *_data_pickles(content)):
        watching = Watching(part)
        try:
            watching.load()
        except ReachedError as found:
            return str(found)
        except Exception:  # noqa: S112 - damage of any kind
            continue
        if watching.named:
            return watching.named[0]
    return None


def _data_pickles(content: bytes) -> list[bytes]:
    found = []
    with suppress(Exception), zipfile.ZipFile(io.BytesIO(content)) as archive:
        for entry in archive.infolist():
            with suppress(Exception):
                if entry.filename.endswith("/data.pkl") and entry.file_size < LARGEST_FILE:
                    found.append(archive.read(entry))
    return found


def faults(path: Path) -> list[str]:
    """What is wrong with how a file is looked at; empty when all is well. Anything raised beside is a crash, too."""
    from audit.errors import AuditError
    from audit.loading.sniff import sniff
    from audit.scan import FileReport, Kind, kind_of, scan_file

    report = scan_file(path)
    wrong = [] if isinstance(report, FileReport) else [f"scan_file returned {type(report).__name__}"]
    wrong += [] if isinstance(kind_of(path), Kind) else ["kind_of returned something else"]
    with suppress(AuditError):
        sniff(path)
    said = [word for finding in report.findings for word in (finding.where, finding.text, finding.code)]
    wrong += [f"cannot be printed: {word!r}" for word in (*said, *report.looked_at) if not word.isprintable()]
    if report.outcome == "no known indicator" and (name := reached(path.read_bytes())):
        wrong.append(f"a pickle that reaches {name} passes without a finding")
    return wrong


def seed_names(seeds: Mapping[str, bytes]) -> list[str]:
    """In a fixed order, by families, so that valid files are as frequent as hostile ones."""
    valid = [name for name in seeds if name.startswith("valid-")]
    return sorted(seeds) + valid * (len(seeds) // (2 * len(valid)))
