"""Arrays of numpy in a pickle: bytes never stand for objects, and no array is changed once it is made.

A type may be changed after an array was made with it, so all is judged when the pickle is at its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from audit.scan.pickle_bytes import Blob
from audit.scan.pickle_machine import Container, Made
from audit.scan.pickle_opcodes import NUMBER
from audit.scan.pickled_types import MOST_DIMENSIONS, NAME, TooLarge, Type, Types, Unlikely

_CORES = ("numpy.core", "numpy._core")
RECONSTRUCT = frozenset(f"{core}.multiarray._reconstruct" for core in _CORES)
FROM_BUFFER = frozenset(f"{core}.numeric._frombuffer" for core in _CORES)


class PickledArrays:
    """What a pickle makes of numpy's.

    Args:
        danger: is told what numpy does not write.
        unexamined: is told what could not be followed.
    """

    def __init__(self, danger: Callable[[str], None], unexamined: Callable[[str], None]) -> None:
        self.danger = danger
        self.unexamined = unexamined
        self.types = Types()
        self.arrays: dict[Made, tuple[Any, int]] = {}
        self.views: list[Any] = []

    def called(self, name: str, arguments: Any) -> None:
        """Keeps the arguments of what makes an array out of bytes."""
        if name in FROM_BUFFER:
            self.views.append(arguments)

    def built(self, what: Made, state: Any) -> None:
        """Keeps the state of a type or an array; numpy gives each one alone."""
        name = str(what.callee)
        if name in FROM_BUFFER or what in self.types.states or what in self.arrays:
            self.danger(f"changes what `{name}` made, as numpy never does: memory that is in use may be given up")
        elif name == NAME:
            self.types.states[what] = state
        elif name in RECONSTRUCT:
            content = state[-1] if isinstance(state, tuple) and state else None
            self.arrays[what] = state, content.count if isinstance(content, Container) else 0

    def judge(self) -> None:
        """All of it, at the end of the pickle."""
        for what in self.types.states:
            self._type(what)
        for state, listed in self.arrays.values():
            self._check_array(state, listed)
        for arguments in self.views:
            self._check_view(arguments)

    def _type(self, what: Any) -> Type | None:
        """A type; none, with a finding, where it is not one that numpy writes."""
        try:
            return self.types.of(what)
        except Unlikely as problem:
            self.danger(f"makes a type of numpy's with a state that numpy does not write: {problem}")
        except TooLarge as problem:
            self.unexamined(f"makes a type of numpy's that {problem}, and is not followed")
        return None

    def _check_array(self, state: Any, listed: int) -> None:
        """`(version, shape, type, order, content)`: of objects, the content is a list of as many as the shape says."""
        if not isinstance(state, tuple) or len(state) not in (4, 5) or not _is_shape(state[-4]):
            self.danger("gives an array of numpy's a state that numpy does not write")
            return
        shape, what, _, content = state[-4:]
        found = self._type(what)
        if not found or not found.objects:
            return
        if not isinstance(content, Container) or content.type != "list":
            self.danger("makes an array of objects out of bytes: any address may be taken for an object")
        elif listed != math.prod(shape):
            self.danger(
                f"makes an array out of {listed:,} objects, and gives it another size: numpy reads on behind them"
            )

    def _check_view(self, arguments: Any) -> None:
        """`(bytes, type, shape, order)`: never of objects, and never of what something else may change."""
        if not isinstance(arguments, tuple) or len(arguments) not in (4, 5):
            self.danger("makes an array out of bytes in another way than numpy does")
            return
        found = self._type(arguments[1])
        if found and found.objects:
            self.danger("makes an array of objects out of bytes: any address may be taken for an object")
        if not isinstance(arguments[0], (str, bytes, Blob)) and arguments[0] is not NUMBER:
            self.danger("makes an array out of the memory of another object, which may be given up")


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, tuple) and len(shape) <= MOST_DIMENSIONS and all(isinstance(size, int) for size in shape)
