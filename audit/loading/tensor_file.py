"""Writes safetensors one tensor at a time, the same bytes for the same tensors; without torch.

The library's own writer orders the entries of the metadata differently each time, and needs all tensors in memory.

Source: the format's description, github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from audit.errors import UnsafeArtefactError

ALIGNMENT = 8


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A tensor as it is written.

    Attributes:
        name: its key.
        code: safetensors' name for its kind of number.
        shape: of it.
        size: in bytes.
        numbers: gives its bytes, contiguous and little-endian.
    """

    name: str
    code: str
    shape: tuple[int, ...]
    size: int
    numbers: Callable[[], Any]


def repeated(name: str, got: int, most: int) -> UnsafeArtefactError:
    """The refusal of a file that unfolds: a kilobyte may say that one number is a matrix of terabytes."""
    return UnsafeArtefactError(
        f"Expected at most {most:,} bytes of tensors in {name}, got {got:,}: they repeat few numbers many times. Save "
        "contiguous tensors where the file was made."
    )


def write_tensors(stream: BinaryIO, tensors: Sequence[StoredTensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors in the order they are given, those of the widest numbers first: each begins where it may.

    Args:
        stream: where to.
        tensors: each of another name.
        metadata: texts beside them.
    """
    order = sorted(tensors, key=lambda tensor: -_width(tensor))
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(sorted(metadata.items()))}
    start = 0
    for tensor in order:
        end = start + tensor.size
        header[tensor.name] = {"dtype": tensor.code, "shape": tensor.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, ensure_ascii=False).encode("utf-8", "replace")
    text += b" " * (-len(text) % ALIGNMENT)
    stream.write(len(text).to_bytes(8, "little") + text)
    for tensor in order:
        stream.write(tensor.numbers())


def _width(tensor: StoredTensor) -> int:
    """Bytes of one number, out of `F32`, `BF16`, `F8_E4M3` or `BOOL`."""
    digits = "".join(letter for letter in tensor.code.partition("_")[0] if letter.isdigit())
    return int(digits) // 8 if digits else 1
