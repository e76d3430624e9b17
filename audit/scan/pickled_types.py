"""Types of numpy in a pickle: whether the state of each is one that numpy writes.

numpy believes a pickled type: without its flags, an array of objects takes any bytes for addresses, and fields that
reach beyond an element read what is not theirs. Read in numpy 2.4.6, `_core/src/multiarray/descriptor.c`:
`arraydescr_reduce` writes eight or nine values (version, order of bytes, subarray, names, fields, size, alignment,
flags, and from version 4 metadata), with the size of texts, bytes and structures alone; `arraydescr_setstate` takes
them as they are.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from audit.scan.globals_allowed import ALLOWED
from audit.scan.pickle_machine import Container, Global, Made
from audit.scan.pickle_steps import MOST_KEPT

NAME = "numpy.dtype"
_TEXT = re.compile(r"[<>|=]?([biufcSaUVOMm])(\d{1,9})")
_SIZED = "SaUV"
_OBJECT_FLAGS, _NEEDS_INIT, _NEEDS_PYTHON, _ALIGNED = 63, 8, 16, 128
_OF_OBJECTS_WITHIN = 27
"""Flags that a structure has from a field of objects: references are counted, begin as none, and pickle as a list."""
_SIZE_OF_OBJECT = 8
_LARGEST_ALIGNMENT = 64
MOST_DIMENSIONS = 64
MOST_FIELDS = 1_000_000
"""That are followed, of all types of a pickle together."""
DEEPEST = 30
"""Types within types that are followed."""


_NO_STATE = object()


class Unlikely(Exception):  # noqa: N818 - an outcome, not an error
    """A type with a state that numpy does not write; its text says which."""


class TooLarge(Exception):  # noqa: N818 - an outcome, not an error
    """A type with more fields than are followed."""


@dataclass(frozen=True, slots=True)
class Type:
    """What a type is.

    Attributes:
        size: of an element, in bytes; 0 where it is not known.
        objects: whether an element is an object, or holds one.
    """

    size: int
    objects: bool


class Types:
    """The types that a pickle makes, each with the state that it is given."""

    def __init__(self) -> None:
        self.states: dict[Made, Any] = {}
        self._known: dict[Made, Type] = {}
        self._fields_left = MOST_FIELDS
        self._depth = 0

    def of(self, what: Any) -> Type:
        """The type that something is, when all of the pickle is read.

        Raises:
            Unlikely: where it is none, or its state is not what numpy writes.
            TooLarge: where it has too many fields.
        """
        if not isinstance(what, Made) or str(what.callee) != NAME:
            raise Unlikely("where a type should be is something else")
        known = self._known.get(what)
        if known is None:
            self._known[what] = Type(0, True)  # what a type within itself counts as, and one that is unlikely
            self._depth += 1
            try:
                known = self._known[what] = self._followed(what)
            except TooLarge:
                self._known[what] = Type(0, False)
                raise
            finally:
                self._depth -= 1
        return known

    def _followed(self, what: Made) -> Type:
        if self._depth > DEEPEST:
            raise TooLarge(f"is nested more than {DEEPEST} deep")
        kind, size = _named(what.arguments)
        state = self.states.get(what, _NO_STATE)
        return Type(size, kind == "O") if state is _NO_STATE else self._with_state(kind, size, state)

    def _with_state(self, kind: str, size: int, state: Any) -> Type:
        if not isinstance(state, tuple) or len(state) not in (8, 9) or state[0] != len(state) - 5:
            raise Unlikely("its state has another form")
        _, _, subarray, names, fields, given, alignment, flags, *metadata = state
        if not all(isinstance(number, int) for number in (given, alignment, flags)):
            raise Unlikely("its size, alignment or flags are no numbers")
        flags = flags & 0xFF if -128 <= flags < 0 else flags  # numpy 1 wrote them as a signed byte
        if kind in ("M", "m") and not (metadata and isinstance(metadata[0], tuple)):
            raise Unlikely("it is of times, and lacks their unit")
        if (subarray, names, fields) == (None, None, None):
            _check_plain(kind, size, given, alignment, flags)
            return Type(given if given >= 0 else size, kind == "O")
        if kind not in ("V", "") or (subarray is not None and (names, fields) != (None, None)):
            raise Unlikely("it has fields, and is no structure")
        within = self._subarray(subarray, given) if subarray is not None else self._fields(names, fields, given)
        _check_structure(size if kind else given, given, alignment)
        _check_flags_of_structure(flags, objects=within)
        return Type(given, within)

    def _subarray(self, subarray: Any, size: int) -> bool:
        if not isinstance(subarray, tuple) or len(subarray) != 2:
            raise Unlikely("its subarray has another form")
        base, shape = self.of(subarray[0]), subarray[1] if isinstance(subarray[1], tuple) else (subarray[1],)
        if len(shape) > MOST_DIMENSIONS or not all(isinstance(length, int) and length >= 0 for length in shape):
            raise Unlikely("its subarray has another shape")
        if math.prod(shape) * base.size > size:
            raise Unlikely(f"it is of {size:,} bytes, and its subarray takes more")
        return base.objects

    def _fields(self, names: Any, fields: Any, size: int) -> bool:
        if not isinstance(names, tuple) or not isinstance(fields, Container) or fields.type != "dict":
            raise Unlikely("its fields have another form")
        content = fields.content
        self._fields_left -= len(content)
        if len(content) >= MOST_KEPT or self._fields_left < 0:
            raise TooLarge("has too many fields")
        objects = False
        for place in content[1::2]:
            if not isinstance(place, tuple) or len(place) < 2 or not isinstance(place[1], int):
                raise Unlikely("a field has no place")
            inner = self.of(place[0])
            if place[1] < 0 or place[1] + inner.size > size:
                raise Unlikely(f"it is of {size:,} bytes, and a field lies beyond")
            objects = objects or inner.objects
        if len(names) > len(content) or not {name for name in names if isinstance(name, str)} <= {*content[::2]}:
            raise Unlikely("it names fields that it does not have")
        return objects


def _named(arguments: Any) -> tuple[str, int]:
    """The kind and size that a type is made with; a kind of none is a class of a library, which is judged by its name.

    What is made from anything but a short text counts as objects: a class of Python's is a type of objects to numpy.
    """
    what = arguments[0] if isinstance(arguments, tuple) and arguments else None
    if isinstance(what, Global) and str(what) not in ALLOWED:
        return "", 0
    found = _TEXT.fullmatch(what) if isinstance(what, str) else None
    if found is None or found[1] == "O":
        return "O", _SIZE_OF_OBJECT
    kind = "S" if found[1] == "a" else found[1]
    return kind, int(found[2] or 1) * (4 if kind == "U" else 1)


def _check_plain(kind: str, size: int, given: int, alignment: int, flags: int) -> None:
    """Of a type without fields: the size that its name says, or none, and the flags that follow from its kind."""
    if not kind:
        return
    if kind in _SIZED:
        _check_structure(size, given, alignment)
    elif (given, alignment) != (-1, -1):
        raise Unlikely("it has a size of its own")
    expected = {"O": (_OBJECT_FLAGS,), "U": (0, _NEEDS_INIT)}.get(kind, (0,))
    if flags not in expected:
        raise Unlikely(f"it has the flags {flags} instead of {expected[-1]}")


def _check_structure(size: int, given: int, alignment: int) -> None:
    if given != size:
        raise Unlikely(f"it is of {size:,} bytes, and says {given:,}")
    if not 0 < alignment <= _LARGEST_ALIGNMENT or alignment & (alignment - 1):
        raise Unlikely(f"it has an alignment of {alignment:,}")


def _check_flags_of_structure(flags: int, *, objects: bool) -> None:
    known = _OBJECT_FLAGS if objects else _NEEDS_INIT | _NEEDS_PYTHON
    if flags & ~(known | _ALIGNED) or (objects and flags & _OF_OBJECTS_WITHIN != _OF_OBJECTS_WITHIN):
        raise Unlikely(f"it has the flags {flags}, {'with' if objects else 'without'} objects in it")
