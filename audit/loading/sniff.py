"""What kind of file a weights file is, by its content and never by its name."""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Literal

from audit.errors import SubjectError, UnsafeArtefactError

WeightsFormat = Literal["safetensors", "torch-zip", "torch-legacy"]

HEAD_BYTES = 512
TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""The pickled number 0x1950a86a20f9469cfc6c with which files of torch before 1.6 begin."""
LARGEST_SAFETENSORS_HEADER = 100_000_000
_ONNX_START = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x3a\x42]")
"""Field 1 of a ModelProto (ir_version, a small number), then one of the fields that follow it."""
LARGEST_TEXT_PICKLE = 1_000_000
MOST_EXPANSION = 20
"""A zip whose members grow more than this is a bomb; torch stores them uncompressed."""

ByteTest = Callable[[bytes], bool]
SAVE_STATE_DICT = "Save the state_dict with safetensors.torch.save_file, or with torch.save."
NOT_SUPPORTED: tuple[tuple[ByteTest, str, str], ...] = (
    (lambda b: b.startswith(b"version https://git-lfs"), "a Git LFS pointer", "Fetch the file itself: git lfs pull."),
    (lambda b: b.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")), "an HTML or XML page",
     "Download it again: the server answered with a page (a login, a quota or an error) instead of the file."),
    (lambda b: b.startswith(b"\x89HDF\r\n\x1a\n"), "an HDF5 file, as Keras writes it", SAVE_STATE_DICT),
    (lambda b: b.startswith(b"\x93NUMPY"), "a NumPy array", SAVE_STATE_DICT),
    (lambda b: b.startswith(b"GGUF"), "a GGUF file", SAVE_STATE_DICT),
    (lambda b: b[4:8] == b"TFL3", "a TensorFlow Lite model", SAVE_STATE_DICT),
    (lambda b: b[257:262] == b"ustar", "a tar archive", "Unpack it and give the file inside; or: " + SAVE_STATE_DICT),
    (lambda b: b.startswith((b"\x1f\x8b", b"7z\xbc\xaf", b"BZh", b"\xfd7zXZ")), "a compressed file",
     "Decompress it and give the file inside."),
    (lambda b: _ONNX_START.match(b) is not None, "an ONNX model (a graph, not only weights)", SAVE_STATE_DICT),
)  # fmt: skip


def sniff(path: Path) -> WeightsFormat:
    """The format of a weights file.

    Raises:
        SubjectError: for a file that is missing, empty, truncated or of another format, naming what it looks like.
        UnsafeArtefactError: for TorchScript, `.pt2` and plain pickles, which are code.
    """
    size = _size_of(path)
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if head.startswith(b"PK\x03\x04"):
        return _check_zip(path)
    if head[:1] == b"\x80" and head[2:].startswith(TORCH_MAGIC):
        return "torch-legacy"
    if _is_safetensors(head):
        _check_safetensors_size(path, head, size)
        return "safetensors"
    for test, looks_like, remedy in NOT_SUPPORTED:
        if test(head):
            raise _wrong_format(path, looks_like, remedy)
    if _is_pickle(path, head):
        raise _plain_pickle(path)
    looks_like = f"text ({_first_line(head)!r})" if _is_text(head) else f"bytes {head[:8].hex(' ')}"
    raise _wrong_format(path, looks_like, SAVE_STATE_DICT)


def pickle_globals(stream: IO[bytes]) -> Iterator[str]:
    """The globals that a pickle names, as `module.name`, read without running any of it; stops at what it cannot read.

    A legacy torch file is several pickles after another; all are walked.
    """
    strings: list[str] = []
    try:
        while True:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST"):
                    yield str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL" and len(strings) >= 2:
                    yield ".".join(strings[-2:])
                elif isinstance(argument, str):
                    strings.append(argument)
    except Exception:  # the bytes after the last pickle, or damage: nothing more can be named
        return


def _size_of(path: Path) -> int:
    if not path.exists():
        raise SubjectError(f"Expected a weights file at {path}, got nothing there. Check the path.")
    if not path.is_file():
        raise SubjectError(f"Expected a weights file, got the folder {path}. Name the file inside.")
    size = path.stat().st_size
    if size == 0:
        raise SubjectError(f"Expected weights in {path.name}, got an empty file (0 bytes). Copy or download it again.")
    return size


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= LARGEST_SAFETENSORS_HEADER


def _check_safetensors_size(path: Path, head: bytes, size: int) -> None:
    if int.from_bytes(head[:8], "little") + 8 > size:
        raise truncated(path, "its header is cut off")


def _check_zip(path: Path) -> WeightsFormat:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, EOFError, ValueError):
        raise truncated(path, "the directory at the end of the archive is missing") from None
    names = [member.filename.partition("/")[2] or member.filename for member in members]
    if any(name.startswith("code/") or name == "constants.pkl" for name in names):
        raise _code(path, "a TorchScript archive", "its code/ folder is a program")
    if any(name in ("archive_format", "serialized_exported_program.json") for name in names):
        raise _code(path, "a torch.export (.pt2) archive", "it may hold pickles and native code")
    if sum(member.file_size for member in members) > MOST_EXPANSION * max(path.stat().st_size, 1):
        raise UnsafeArtefactError(
            f"Expected an archive of about its own size, got {path.name}, which expands more than {MOST_EXPANSION} "
            "times. Do not unpack it; ask whoever made it."
        )
    if "data.pkl" not in names:
        raise _wrong_format(
            path, f"a zip archive ({_zip_kind([member.filename for member in members])})", SAVE_STATE_DICT
        )
    return "torch-zip"


def _zip_kind(names: list[str]) -> str:
    if "model.weights.h5" in names:
        return "as Keras writes it"
    if names and all(name.endswith(".npy") for name in names):
        return "as NumPy's savez writes it"
    return "holding " + ", ".join(names[:4]) if names else "empty"


def _is_pickle(path: Path, head: bytes) -> bool:
    if head[:1] == b"\x80":
        return len(head) > 1 and 2 <= head[1] <= pickle.HIGHEST_PROTOCOL
    whole = path.read_bytes().rstrip() if path.stat().st_size < LARGEST_TEXT_PICKLE else b""
    return whole.endswith(b".") and head.startswith((b"c", b"(", b"]", b"}")) and bool(_names_of(path))


def _plain_pickle(path: Path) -> UnsafeArtefactError:
    named = ", ".join(f"`{name}`" for name in _names_of(path)[:5]) or "none"
    return UnsafeArtefactError(
        f"Expected tensors alone, got {path.name}, a plain pickle (globals it names: {named}). Unpickling runs code, "
        "so nothing of it was loaded. Where you trust its origin: unpickle it yourself, apart from this tool, and save "
        "the tensors with safetensors.torch.save_file."
    )


def _names_of(path: Path) -> list[str]:
    with path.open("rb") as stream:
        return list(dict.fromkeys(pickle_globals(stream)))


def _code(path: Path, what: str, why: str) -> UnsafeArtefactError:
    return UnsafeArtefactError(
        f"Expected tensors alone, got {path.name}, {what}: {why}, so loading it can run code. "
        "Nothing of it was loaded. Give the architecture as --model and save the state_dict alone with "
        "safetensors.torch.save_file."
    )


def truncated(path: Path, how: str) -> SubjectError:
    """The error for a file whose end is missing."""
    return SubjectError(
        f"Expected a whole weights file, got {path.name} ({path.stat().st_size:,} bytes), truncated or damaged: "
        f"{how}. Copy or download it again and compare its sha256."
    )


def _wrong_format(path: Path, looks_like: str, remedy: str) -> SubjectError:
    return SubjectError(
        f"Expected safetensors or a file of torch.save with --weights, got {path.name}, which looks like {looks_like}. "
        f"{remedy}"
    )


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", errors="ignore")
    return len(text) > 0.9 * len(head) and all(letter.isprintable() or letter.isspace() for letter in text)


def _first_line(head: bytes) -> str:
    lines = head.decode("utf-8", errors="ignore").strip().splitlines()
    return lines[0][:40] if lines else ""
