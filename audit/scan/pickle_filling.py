"""How much memory a pickle asks for beyond its size: by numbers given to what makes so many bytes, and by copies."""

from __future__ import annotations

import math
from typing import Any

from audit.scan.globals_allowed import OF_TORCH
from audit.scan.pickle_bytes import Blob
from audit.scan.pickle_machine import Made
from audit.scan.pickle_opcodes import NUMBER
from audit.scan.pickled_arrays import RECONSTRUCT

LARGEST_FILLING = 1 << 28
"""Bytes that all calls of a pickle may make beyond its size; no pickler writes any such call."""
SMALLEST_KEPT = 1 << 16
_OF_BYTES = frozenset(("builtins.bytes", "builtins.bytearray", "_codecs.encode"))
_TENSORS = frozenset(name for name in OF_TORCH if name.endswith("Tensor"))
_LARGEST_ELEMENT = 16
_MOST_DIMENSIONS = 64


class Filling:
    """Adds up what a pickle's calls make.

    Args:
        size: of the pickle in bytes, so much of which it may copy.
    """

    def __init__(self, size: int) -> None:
        self.left = LARGEST_FILLING
        self.copied = -size
        self._made: dict[int, tuple[Any, int]] = {}

    def is_too_much(self, name: str, arguments: tuple[Any, ...]) -> bool:
        """Adds a call; whether it makes more than all calls of a pickle may."""
        size, is_copy = self._size(name, arguments)
        if size is None:
            return True
        if size <= 0:
            return False
        if is_copy:
            self.copied += size
        else:
            self.left -= size
        if size >= SMALLEST_KEPT:
            self._made[id(arguments)] = arguments, size
        return self.left - max(self.copied, 0) <= 0

    def _size(self, name: str, arguments: tuple[Any, ...]) -> tuple[int | None, bool]:
        """Bytes that a call makes, and whether they are copied from what the pickle holds; none where it may be any."""
        if name in RECONSTRUCT or name in _TENSORS:
            numbers = _numbers(arguments)
            if NUMBER in numbers:
                return None, False
            return math.prod(numbers) * _LARGEST_ELEMENT if numbers else 0, False
        first = arguments[0] if arguments else None
        if first is NUMBER and name in _OF_BYTES:
            return None, False
        if isinstance(first, Made):
            return self._made.get(id(first.arguments), (None, 0))[1], False
        if name not in _OF_BYTES or isinstance(first, int):
            return first if isinstance(first, int) and name in _OF_BYTES else 0, False
        return first.size if isinstance(first, Blob) else len(first) if isinstance(first, (str, bytes)) else 0, True


def _numbers(value: Any, depth: int = 4) -> list[Any]:
    """The whole numbers in nested tuples, and in sizes of torch's."""
    if isinstance(value, int) or value is NUMBER:
        return [value]
    if isinstance(value, Made) and str(value.callee) == "torch.Size":
        value = value.arguments
    if not depth or not isinstance(value, tuple):
        return []
    return [number for item in value[:_MOST_DIMENSIONS] for number in _numbers(item, depth - 1)]
