"""Reads a weights file in a process apart, and takes over nothing but tensors and where they were."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from audit.errors import SubjectError, UnsafeArtefactError
from audit.loading.danger import refuse_dangerous
from audit.loading.sources import shown
from audit.sandbox import Answer, Limits, Protections, run_apart
from audit.sandbox.limits import GIB, SECONDS
from audit.scan import Finding, Kind

MEMORY_BYTES = {False: 4 * GIB, True: 16 * GIB}
"""Beside four times the file: with placeholders, and for code, whose libraries alone take several GiB of addresses."""
MOST_REPEATED = 16
"""How many times the file its tensors may be; views that repeat a few numbers are stored in full."""
SMALL_BYTES = 256 << 20
DEEPEST = 110
MOST_NAMED = 5


class LeftOut(str):
    """Stands in the content for what is no tensor; says what it was."""

    __slots__ = ()


class Lost(LeftOut):
    """Stands for tensors that are there and could not be followed."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a process apart found in a file.

    Attributes:
        content: tensors in nested dicts and lists; `LeftOut` for what is no tensor, `Lost` for what was not followed.
        names: of classes and functions that had placeholders.
        how: it was read, in words.
        said: what the file's code printed.
        protections: that were in force; None where no process apart was needed.
    """

    content: object
    names: tuple[str, ...]
    how: str
    said: str
    protections: Protections | None


def read_with_placeholders(path: Path, *, memory_bytes: int | None = None, seconds: int = SECONDS) -> Found:
    """Reads a pickle, TorchScript or torch.export file whose classes and functions all have placeholders.

    Args:
        path: of the file.
        memory_bytes: that the process may take; by default 4 GiB and four times the file.
        seconds: that it may take.

    Raises:
        SubjectError: for a file that is damaged, or needs more than it may take.
        UnsafeArtefactError: for a file that holds what no checkpoint needs; nothing of it was read.
    """
    function = "audit.loading.placeholders.reading:read"
    answer, content = _read(path, function, {}, _limits(path, memory_bytes, seconds, code=False), code=False)
    names = _texts(answer.message.get("names"))
    named = ", ".join(f"`{name}`" for name in names[:MOST_NAMED]) or "nothing"
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    subclasses = _texts(answer.message.get("subclasses"))
    plain = f"; tensors of {', '.join(f'`{name}`' for name in subclasses)} taken for plain ones" if subclasses else ""
    how = f"read apart with placeholders for {named}{more}{plain}; in force: {answer.protections}"
    return Found(content, names, how, answer.said, answer.protections)


def read_by_running(path: Path, kind: Kind, *, memory_bytes: int | None = None, seconds: int = SECONDS) -> Found:
    """Loads a file as it is meant, which runs its code, in a process that can reach nothing.

    Raises:
        PrerequisiteError: where the system cannot hold that code.
        SubjectError: for a file that is damaged, or needs more than it may take.
        UnsafeArtefactError: for a file that holds what no checkpoint needs, or tries what it may not.
    """
    function, limits = "audit.loading.unpickling:unpickle", _limits(path, memory_bytes, seconds, code=True)
    answer, content = _read(path, function, {"kind": str(kind)}, limits, code=True)
    how = f"its code run apart; in force: {answer.protections}"
    return Found(content, (), how, answer.said, answer.protections)


def _limits(path: Path, memory_bytes: int | None, seconds: int, *, code: bool) -> Limits:
    size = path.stat().st_size
    memory = MEMORY_BYTES[code] + 4 * size if memory_bytes is None else memory_bytes
    return Limits(memory, seconds, file_bytes=most_bytes(size))


def most_bytes(size: int) -> int:
    """How much the tensors of a file of this size may take in full."""
    return MOST_REPEATED * size + SMALL_BYTES


def _read(
    path: Path, function: str, argument: Mapping[str, object], limits: Limits, *, code: bool
) -> tuple[Answer, object]:
    refuse_dangerous(path, harmless=is_storage_by_value)
    told = {**argument, "name": shown(path.name), "most_bytes": most_bytes(path.stat().st_size)}
    with tempfile.TemporaryDirectory(prefix="trust-audit-") as folder:
        answer = run_apart(function, told, source=path, folder=Path(folder), limits=limits, code=code)
        try:
            tensors = safetensors.torch.load_file(answer.tensors, device="cpu")
            return answer, _content(answer.message["tree"], tensors)
        except (safetensors.SafetensorError, LookupError, TypeError, ValueError) as error:
            raise UnsafeArtefactError(
                f"Expected tensors and a list of them from the process that read {shown(path.name)}, got something "
                f"else ({type(error).__name__}). Ask whoever made the file."
            ) from None


def is_storage_by_value(finding: Finding) -> bool:
    """How a tensor lies in a plain pickle: a torch file within, which is scanned as well, and read in the same way."""
    return re.match(r"(names|calls) `torch\.storage\._load_from_bytes`( with|, which)", finding.text) is not None


def _content(node: Any, tensors: Mapping[str, Tensor], depth: int = 0) -> object:
    """Tensors in nested dicts and lists, out of a `placeholders.collection.Node`.

    Raises:
        ValueError: for anything else.
    """
    kind, value = node
    if depth > DEEPEST or not isinstance(kind, str):
        raise ValueError("no tree of tensors")
    if kind == "tensor":
        return tensors[str(value)]
    if kind == "dict":
        return {_key(key): _content(child, tensors, depth + 1) for key, child in value}
    if kind == "list":
        return [_content(child, tensors, depth + 1) for child in value]
    if kind in ("lost", "left") and isinstance(value, str):
        return Lost(shown(value)) if kind == "lost" else LeftOut(shown(value))
    if kind == "value" and isinstance(value, bool | int | float | str | None):
        return value
    raise ValueError("no tree of tensors")


def _key(key: object) -> str | int:
    if not isinstance(key, str | int):
        raise ValueError("no tree of tensors")
    return key


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise SubjectError("Expected names from the process apart, got something else. Ask whoever made the file.")
    return tuple(shown(value) for value in values)
