"""The kind of a file or of a part: its first bytes, an archive's members, and where neither tells, what it would do."""

from __future__ import annotations

from itertools import islice
from pathlib import Path, PurePath

from audit.scan.compressed import is_compressed
from audit.scan.kinds import HEAD_BYTES, PYTHON_LINE, Kind, kind_of_head, kind_of_members
from audit.scan.onnx_models import is_onnx
from audit.scan.parts import Part, part_of
from audit.scan.pickle_guess import calls_something
from audit.scan.tar_headers import BadTar, members
from audit.scan.zip_directory import BadZip, entries, find_end

MOST_MEMBERS = 50_000
"""Whose names are looked at."""
_SPACE = b"\xef\xbb\xbf \t\r\n"
"""White space, and the mark with which some editors begin a text."""
_PROSE = frozenset((".md", ".txt", ".rst", ".csv", ".tsv", ".tex", ".bib", ".html", ".log", ".css", ".arff"))
"""Names of texts that nothing runs, and that may quote a program."""
_CHUNK_BYTES = 1 << 18
_WEAK = (Kind.TEXT, Kind.UNKNOWN, Kind.JSON, Kind.HTML, Kind.IMAGE, Kind.GGUF, Kind.TFLITE, Kind.ONNX, Kind.EMPTY)


def kind_of(path: Path) -> Kind:
    """The kind of a file or folder; reads its first bytes, and an archive's list of members.

    Raises:
        OSError: when there is nothing at the path, or it cannot be read.
    """
    if path.is_dir():
        return Kind.HUGGING_FACE if (path / "config.json").is_file() else Kind.FOLDER
    if not path.is_file():
        path.lstat()  # raises where nothing is there
        return Kind.SPECIAL
    with path.open("rb") as stream:
        return kind_of_part(part_of(path, stream))


def kind_of_part(part: Part) -> Kind:
    """The kind of a file, or of a member of an archive."""
    kind = kind_of_head(part.head())
    if kind is Kind.ZIP:
        return _kind_of_zip(part)
    if kind is Kind.TAR:
        return _kind_of_tar(part)
    return _by_content(part, kind) if kind in _WEAK else kind


def _by_content(part: Part, kind: Kind) -> Kind:
    """Where the first bytes prove little: what a reader that does not look at them would make of the whole."""
    if calls_something(part):
        return Kind.PICKLE
    if kind in (Kind.UNKNOWN, Kind.TEXT) and is_onnx(part):
        return Kind.ONNX
    if kind in (Kind.UNKNOWN, Kind.TEXT) and is_compressed(part):
        return Kind.COMPRESSED
    if kind is not Kind.TEXT:
        return kind
    head = _behind_space(part)
    if kind_of_head(head) is Kind.JSON:
        return Kind.JSON
    prose = PurePath(part.name).suffix.lower() in _PROSE
    return Kind.PYTHON if PYTHON_LINE.search(head) and not prose else kind


def _behind_space(part: Part) -> bytes:
    """The first bytes of a text behind the white space with which it begins, however long."""
    head = part.head()
    for at in range(0, part.size, _CHUNK_BYTES):
        if head.lstrip(_SPACE):
            break
        chunk = part.read(at, _CHUNK_BYTES + HEAD_BYTES)
        head = chunk.lstrip(_SPACE)[:HEAD_BYTES]
    return head


def _kind_of_zip(part: Part) -> Kind:
    names = []
    try:
        for count, entry in enumerate(entries(part, find_end(part))):
            names.append(entry.name)
            if count >= MOST_MEMBERS:
                break
    except BadZip:
        return Kind.DAMAGED_ZIP
    return kind_of_members(names)


def _kind_of_tar(part: Part) -> Kind:
    names: set[str] = set()
    try:
        for member in islice(members(part), MOST_MEMBERS):
            names.add(member.name.removeprefix("./"))
            if {"pickle", "storages"} <= names:
                return Kind.TORCH_TAR
    except BadTar:
        pass
    return Kind.TAR
