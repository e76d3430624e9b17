"""What unpickling makes of storages, tensors and arrays: descriptions, checked against the bytes that are there."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Sequence

import numpy as np

from audit.loading.placeholders.elements import ELEMENTS, NUMPY, Element, Inert

MOST_DIMENSIONS = 64
LARGEST_INDEX = 1 << 62


class Blob(Inert):
    """Bytes in the file.

    Attributes:
        size: in bytes.
        read: gives them; None until it is known where they lie.
    """

    __slots__ = ("read", "size")

    def __init__(self, size: int, read: Callable[[], bytes] | None = None) -> None:
        self.size, self.read = size, read


class Storage(Inert):
    """A stretch of a blob, taken as numbers of one kind."""

    __slots__ = ("blob", "element", "size", "start")

    def __init__(self, blob: Blob, element: Element, start: int = 0, size: int | None = None) -> None:
        self.blob, self.element, self.start = blob, element, start
        self.size = blob.size - start if size is None else size
        if not 0 <= start <= start + self.size <= blob.size:
            raise pickle.UnpicklingError("a storage beyond its bytes")


class Tensor(Inert):
    """A strided view of a storage that lies within it."""

    __slots__ = ("element", "offset", "shape", "storage", "stride")

    def __init__(
        self, storage: Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], element: Element
    ) -> None:
        self.storage, self.offset, self.shape, self.stride, self.element = storage, offset, shape, stride, element

    def __setstate__(self, state: object) -> None:
        """Attributes that a program set on a tensor are left out."""

    @property
    def numel(self) -> int:
        """How many numbers it has, repeated ones counted as often as they are repeated."""
        return math.prod(self.shape)

    @property
    def place(self) -> tuple[object, ...]:
        """Equal for two tensors that are one."""
        start = self.storage.start + self.offset * self.element.size
        return id(self.storage.blob), start, self.shape, self.stride, self.element.name


def tensor(storage: object, offset: object, shape: object, stride: object, element: Element | None = None) -> Tensor:
    """A tensor whose every number lies within the storage.

    Raises:
        pickle.UnpicklingError: when it does not, or what describes it is not made of whole numbers.
    """
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError(f"a {type(storage).__name__} as storage of a tensor")
    kind = storage.element if element is None else element
    sizes, steps = indices(shape), indices(stride)
    (start,) = indices((offset,))
    if len(sizes) != len(steps) or len(sizes) > MOST_DIMENSIONS:
        raise pickle.UnpicklingError(f"a tensor of {len(sizes)} sizes and {len(steps)} strides")
    last = start + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
    if 0 not in sizes and (last + 1) * kind.size > storage.size:
        raise pickle.UnpicklingError("a tensor beyond its storage")
    return Tensor(storage, start, sizes, steps, kind)


def indices(values: object) -> tuple[int, ...]:
    """Whole numbers that are not negative.

    Raises:
        pickle.UnpicklingError: for anything else.
    """
    if not isinstance(values, list | tuple) or len(values) > MOST_DIMENSIONS:
        raise pickle.UnpicklingError(f"a {type(values).__name__} where sizes belong")
    if not all(type(value) is int and 0 <= value < LARGEST_INDEX for value in values):
        raise pickle.UnpicklingError("sizes that are no whole numbers")
    return tuple(values)


class Lost(Inert):
    """Numbers that are there and cannot be taken for a plain tensor; `what` says why."""

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what


class Dtype(Inert):
    """A kind of number of numpy; `element` is None for text, objects and records."""

    __slots__ = ("big_endian", "element")

    def __init__(self, text: object, *_: object) -> None:
        bare = text.lstrip("<>|=") if isinstance(text, str) else ""
        self.element = ELEMENTS.get(NUMPY.get(bare, ""))
        self.big_endian = isinstance(text, str) and text.startswith(">")

    def __setstate__(self, state: object) -> None:
        """`(version, byte order, ...)`; whatever has fields is no number."""
        if not isinstance(state, tuple) or len(state) < 2:
            raise pickle.UnpicklingError("a dtype of an unknown form")
        self.big_endian = state[1] in (">", b">")


class Array(Inert):
    """A numpy array; `parts` are its shape, dtype, order and bytes once they are known."""

    __slots__ = ("parts",)

    def __init__(self, *_: object) -> None:
        self.parts: tuple[object, ...] = ()

    def __setstate__(self, state: object) -> None:
        """`(version, shape, dtype, is_fortran, bytes)`."""
        if isinstance(state, tuple) and len(state) == 5:
            self.parts = state[1:]

    def tensor(self) -> Tensor | None:
        """The same numbers as a tensor; None for text, objects and records.

        Raises:
            pickle.UnpicklingError: when its shape is not that of its bytes.
        """
        if len(self.parts) != 4:
            return None
        shape, dtype, fortran, content = self.parts
        raw = content.encode("latin-1") if isinstance(content, str) else content
        if not isinstance(dtype, Dtype) or dtype.element is None or not isinstance(raw, bytes | bytearray):
            return None
        sizes = indices(shape)
        if math.prod(sizes) * dtype.element.size != len(raw):
            raise pickle.UnpicklingError("an array beyond its bytes")
        if dtype.big_endian:
            raw = np.frombuffer(raw, f">u{dtype.element.size}").byteswap().tobytes()
        kept = bytes(raw)
        return tensor(Storage(Blob(len(kept), lambda: kept), dtype.element), 0, sizes, steps(sizes, bool(fortran)))


def steps(shape: Sequence[int], fortran: bool = False) -> tuple[int, ...]:
    """Strides of a contiguous tensor."""
    order = range(len(shape)) if fortran else reversed(range(len(shape)))
    found, step = [0] * len(shape), 1
    for place in order:
        found[place], step = step, step * shape[place]
    return tuple(found)


def scalar(dtype: object, raw: object = b"") -> object:
    """A number of numpy as Python's."""
    content = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(dtype, Dtype) or dtype.element is None or not isinstance(content, bytes):
        return "a value of numpy"
    whole = Array()
    whole.parts = ((), dtype, False, content)
    single = whole.tensor()
    assert single is not None
    assert single.storage.blob.read is not None
    kind = next(short for short, name in NUMPY.items() if name == dtype.element.name)
    value = np.frombuffer(single.storage.blob.read(), kind).item()
    return str(value) if isinstance(value, complex) else value
