"""Which files are taken for weights, by their content and never by their name; why the others are not."""

from __future__ import annotations

import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from audit.errors import SubjectError, UnsafeArtefactError
from audit.loading.danger import refuse_unsafe
from audit.loading.sources import shown
from audit.scan import Kind, kind_of
from audit.scan.kinds import HEAD_BYTES, is_text
from audit.scan.pickles import globals_of

WeightsFormat = Literal[
    "safetensors", "torch-zip", "torch-legacy", "torch-tar", "pickle", "torchscript", "torch-export"
]
FORMATS: Mapping[Kind, WeightsFormat] = {
    Kind.SAFETENSORS: "safetensors",
    Kind.TORCH_ZIP: "torch-zip",
    Kind.TORCH_LEGACY: "torch-legacy",
    Kind.TORCH_TAR: "torch-tar",
    Kind.PICKLE: "pickle",
    Kind.TORCHSCRIPT: "torchscript",
    Kind.EXPORTED_PROGRAM: "torch-export",
}
"""What weights may lie in."""
CODE: Mapping[Kind, str] = {
    Kind.TORCHSCRIPT: "its code/ folder is a program, so loading it can run code",
    Kind.EXPORTED_PROGRAM: "it may hold pickles and native code, so loading it can run code",
    Kind.TORCH_TAR: "torch reads it by unpickling, which runs code",
    Kind.PICKLE: "unpickling runs code",
}
"""Kinds that are never loaded as they are meant, and why."""
ZIPS = frozenset({Kind.TORCH_ZIP, Kind.TORCHSCRIPT, Kind.EXPORTED_PROGRAM})
MOST_EXPANSION = 20
"""A zip whose members grow more than this is a bomb; torch stores them uncompressed."""
SAVE_STATE_DICT = "Save the state_dict with safetensors.torch.save_file, or with torch.save."
REMEDIES: Mapping[Kind, str] = {
    Kind.LFS_POINTER: "Fetch the file itself: git lfs pull.",
    Kind.HTML: "Download it again: the server answered with a page (a login, a quota or an error) instead of the file.",
    Kind.TAR: "Unpack it and give the file inside; or: " + SAVE_STATE_DICT,
    Kind.COMPRESSED: "Decompress it and give the file inside.",
}


def sniff(path: Path) -> Kind:
    """The kind of a weights file, a key of `FORMATS`; those of `CODE` need more than loading.

    Raises:
        SubjectError: for a file that is missing, empty, truncated or of another format, naming what it looks like.
        UnsafeArtefactError: for an archive that expands too much, and for a file of another format in which something
            would run.
    """
    size = _size_of(path)
    if path.suffix == ".distcp":
        raise SubjectError(
            f"Expected weights in one file, got {shown(path.name)}, a part of a checkpoint of torch.distributed. Make "
            "one file of its folder: python -m torch.distributed.checkpoint.format_utils dcp_to_torch DIR weights.pt."
        )
    kind = kind_of(path)
    if kind is Kind.DAMAGED_ZIP:
        refuse_unsafe(path)
        raise truncated(path, "the directory at the end of the archive is missing")
    if kind not in FORMATS:
        remedy = REMEDIES.get(kind, SAVE_STATE_DICT)
        if path.name.endswith(".index.json"):
            remedy = "It is the index of weights in several files: put these into one, or give their folder as hf:DIR."
        refuse_unsafe(path, of_code=f"Nor are these weights, but {kind.value}. {remedy}")
        raise SubjectError(
            f"Expected weights (safetensors, or a file of torch.save), got {shown(path.name)}, which looks like "
            f"{_looks_like(path, kind)}. {remedy}"
        )
    if kind is Kind.SAFETENSORS:
        _check_safetensors_size(path, size)
    if kind in ZIPS:
        _check_expansion(path, size)
    return kind


def needs_code(path: Path, kind: Kind) -> UnsafeArtefactError:
    """The refusal of a file that cannot be loaded without running code.

    Args:
        path: of the file.
        kind: a key of `CODE`.
    """
    named = ""
    if kind is Kind.PICKLE:
        with path.open("rb") as stream:
            names = list(dict.fromkeys(globals_of(stream)))
        named = f" (globals it names: {', '.join(f'`{shown(name)}`' for name in names[:5]) or 'none'})"
    return UnsafeArtefactError(
        f"Expected tensors alone, got {shown(path.name)}, {kind}{named}: {CODE[kind]}. Nothing of it was loaded. "
        f"{two_ways_on(path)}"
    )


def two_ways_on(path: Path) -> str:
    """What to do with a file that is refused."""
    file = shlex.quote(str(path)) if str(path).isprintable() else "FILE"
    return (
        "Two safe ways on: where the file was made, save only the tensors (safetensors.torch.save_file(...), or "
        f"torch.save(model.state_dict(), ...)); or take the tensors out, which runs nothing of the file: audit convert "
        f"{file} --allow-pickle --out weights.safetensors (with your --weights-key, if you gave one)."
    )


def truncated(path: Path, how: str) -> SubjectError:
    """The error for a file whose end is missing."""
    return SubjectError(
        f"Expected a whole weights file, got {shown(path.name)} ({path.stat().st_size:,} bytes), truncated or damaged: "
        f"{how}. Copy or download it again and compare its sha256."
    )


def _size_of(path: Path) -> int:
    if not path.exists():
        raise SubjectError(f"Expected a weights file at {shown(str(path))}, got nothing there. Check the path.")
    if not path.is_file():
        raise SubjectError(f"Expected a weights file, got the folder {shown(str(path))}. Name the file inside.")
    size = path.stat().st_size
    if size == 0:
        raise SubjectError(
            f"Expected weights in {shown(path.name)}, got an empty file (0 bytes). Copy or download it again."
        )
    return size


def _check_safetensors_size(path: Path, size: int) -> None:
    with path.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
    if header + 8 > size:
        raise truncated(path, "its header is cut off")


def _check_expansion(path: Path, size: int) -> None:
    expanded = sum(member.file_size for member in _members(path))
    if expanded > MOST_EXPANSION * size:
        raise UnsafeArtefactError(
            f"Expected an archive of about its own size, got {shown(path.name)}, which expands more than "
            f"{MOST_EXPANSION} times. Do not unpack it; ask whoever made it."
        )


def _looks_like(path: Path, kind: Kind) -> str:
    if kind in (Kind.ZIP, Kind.NPZ, Kind.KERAS):
        return f"a zip archive ({_zip_kind(path, kind)})"
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if kind is Kind.UNKNOWN:
        return f"bytes {head[:8].hex(' ')}"
    if is_text(head) and kind not in REMEDIES:
        return f"{kind} ({_first_line(head)!r})"
    return f"{kind} (a graph, not only weights)" if kind is Kind.ONNX else str(kind)


def _zip_kind(path: Path, kind: Kind) -> str:
    if kind is not Kind.ZIP:
        return "as Keras writes it" if kind is Kind.KERAS else "as NumPy's savez writes it"
    names = [member.filename for member in _members(path)]
    return "holding " + shown(", ".join(names[:4])) if names else "empty"


def _members(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except Exception as error:  # zipfile raises half a dozen types on damage
        raise truncated(path, f"the archive's directory cannot be read ({shown(str(error))})") from None


def _first_line(head: bytes) -> str:
    lines = head.decode("utf-8", errors="ignore").strip().splitlines()
    return shown(lines[0][:40]) if lines else ""
