"""What stands for numpy's functions and classes while a pickle is read: uint8 arrays, and nothing that can be called.

Source: the states as numpy's `array_setstate` and `arraydescr_setstate` document them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MEANINGS = {
    "numpy.core.multiarray _reconstruct": "reconstruct",
    "numpy._core.multiarray _reconstruct": "reconstruct",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
}
"""The names that are understood; `_codecs.encode` is how Python 3 writes bytes for Python 2."""
MOST_AXES = 4
BYTE_ORDERS = frozenset({"|", "=", "<", ">"})


class ForbiddenError(Exception):
    """A pickle asks for what it is not given; the text names that in a few words."""


@dataclass(frozen=True, slots=True)
class Name:
    """One of `MEANINGS`. It is never replaced by the function or class that it names."""

    meaning: str


class Uint8:
    """The dtype."""


@dataclass(slots=True, eq=False)
class Array:
    """An array; `values` come with its state."""

    values: npt.NDArray[np.uint8] | None = None


def new_array(arguments: tuple[object, ...]) -> Array:
    """For `_reconstruct(ndarray, (0,), b"b")`.

    Raises:
        ForbiddenError: for a subclass of arrays.
    """
    if not arguments or arguments[0] != Name("ndarray"):
        raise ForbiddenError("an array of another class than `numpy.ndarray`")
    return Array()


def uint8(arguments: tuple[object, ...]) -> Uint8:
    """For `dtype("u1", align, copy)`.

    Raises:
        ForbiddenError: for another dtype, or other arguments.
    """
    code, *flags = arguments or ("",)
    if as_text(code) not in {"u1", "|u1"} or not all(isinstance(flag, int) for flag in flags):
        shown = f"dtype {as_text(code)!r:.40}" if as_text(code) else "a composed dtype"
        raise ForbiddenError(f"an array of {shown}")
    return Uint8()


def check_dtype_state(state: object) -> None:
    """Goes on when a state holds numbers, a byte order and nothing else; of uint8 these change nothing.

    Raises:
        ForbiddenError: for fields, sub-arrays or metadata.
    """
    parts = state if isinstance(state, tuple) else (state,)
    if not all(part is None or isinstance(part, int) or as_text(part) in BYTE_ORDERS for part in parts):
        raise ForbiddenError("a dtype with fields, sub-arrays or metadata")


def array_values(state: object) -> npt.NDArray[np.uint8]:
    """The array of a state `(version, shape, dtype, column-major, bytes)`, read-only.

    Raises:
        ForbiddenError: for another dtype, or elements that are not bytes.
        ValueError: when shape and bytes do not fit.
    """
    if not isinstance(state, tuple) or len(state) != 5:
        raise ValueError("an array with an unknown kind of state")
    _, shape, dtype, column_major, content = state
    if not isinstance(dtype, Uint8) or not isinstance(content, bytes):
        raise ForbiddenError(f"an array of {kind(dtype)} made from {kind(content)}")
    sound = isinstance(shape, tuple) and len(shape) <= MOST_AXES and all(type(n) is int and n >= 0 for n in shape)
    if not sound or math.prod(shape) != len(content):
        raise ValueError(f"an array whose shape does not fit its {len(content):,} bytes")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape, order="F" if column_major is True else "C")


def as_text(value: object) -> str | None:
    """Text, or bytes as Latin-1 text; of anything else None."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else None


def kind(value: object) -> str:
    """What messages call a value; never its content, which may be endless."""
    if isinstance(value, Name):
        return f"`{value.meaning}`"
    return {Array: "an array", Uint8: "uint8", type(None): "nothing"}.get(type(value), f"a {type(value).__name__}")
