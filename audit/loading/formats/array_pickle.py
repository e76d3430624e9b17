"""Pickles of dicts, lists, strings, integers and uint8 arrays, read without unpickling.

Unpickling calls whatever a file names. Here nothing is imported and nothing is called: `pickletools` splits the file
into its operations, and a small stack machine carries out those that build plain data. The few names that the pickle
of a uint8 array needs have stand-ins; every other name and every other operation ends the reading as unsafe. What is
built is bounded by the size of the file and the number of operations.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from audit.errors import DataError, UnsafeArtefactError
from audit.loading.formats import array_stand_ins as stand_ins
from audit.loading.formats.array_stand_ins import ForbiddenError, as_text, kind
from audit.loading.sources import shown

LARGEST_FILE = 1 << 30
"""Bytes. The largest of the files that this is for, CIFAR-100's `train`, has 155 million."""
MOST_OPERATIONS = 2_000_000
"""The same file needs 200,000; each may cost some 100 bytes of memory."""
LONGEST_LINE = 4096
LONGEST_KEY = 256


def read_array_pickle(path: Path, remedy: str) -> dict[str, object]:
    """The dict that a pickle holds: keys as text, `str` of Python 2 as bytes, arrays read-only.

    Args:
        path: an existing file.
        remedy: two safe ways on where it is refused, as the end of a sentence.

    Raises:
        DataError: when it is no pickle, truncated, damaged, too large, or holds something else than a dict.
        UnsafeArtefactError: when it names a function or class, or needs an operation, beyond plain data.
    """
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise DataError(
            f"Expected at most {LARGEST_FILE:,} bytes in {path.name}, got {size:,}. Check that it is the original file."
        )
    try:
        with path.open("rb") as file:
            content = _Machine(size).run(_ClampedFile(file, size))
    except ForbiddenError as error:
        raise UnsafeArtefactError(
            f"Expected numbers, strings and uint8 arrays alone in {path.name}, got a pickle that needs {error}. "
            "Unpickling would call whatever it names, which can be any code; nothing of it was run, the file was only "
            f"parsed. Two safe ways on: {remedy}."
        ) from None
    except OSError:
        raise
    except Exception as error:  # damage shows up as nearly any kind of error, want of memory among them
        raise DataError(
            f"Expected a whole pickle, got {path.name}, which cannot be read "
            f"({shown(str(error)) or type(error).__name__}). Two safe ways on: {remedy}."
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"Expected a dict in {path.name}, got {kind(content)}. Check that it is the original file.")
    return {
        as_text(key) or "": value.values if isinstance(value, stand_ins.Array) else value
        for key, value in content.items()
    }


class _ClampedFile:
    """A file that reserves no more memory than it has bytes left, whatever length a string claims to have."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int) -> bytes:
        content = self._file.read(min(size, self._left))
        self._left -= len(content)
        return content

    def readline(self) -> bytes:
        line = self._file.readline(LONGEST_LINE)
        self._left -= len(line)
        return line


class _Machine:
    """Carries out the operations of one pickle of so many bytes; each takes the operation's argument, or None."""

    def __init__(self, size: int) -> None:
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._bytes_left = size

    def run(self, file: _ClampedFile) -> object:
        for count, (operation, argument, _) in enumerate(pickletools.genops(file)):  # type: ignore[arg-type]
            if count == MOST_OPERATIONS:
                raise ValueError(f"more than {MOST_OPERATIONS:,} operations")
            if operation.name not in OPERATIONS:
                raise ForbiddenError(f"the operation {operation.name}")
            OPERATIONS[operation.name](self, argument)
        return self._stack.pop()

    def push(self, value: object) -> None:
        self._stack.append(value)

    def push_tuple(self, n: int) -> None:
        items = [self._stack.pop() for _ in range(n)]
        self.push(tuple(reversed(items)))

    def mark(self, _: None) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._outer.pop()
        return items

    def append(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise ForbiddenError(f"appending to {kind(self._stack[-1])}")
        self._stack[-1].extend(items)

    def append_one(self, _: None) -> None:
        self.append([self._stack.pop()])

    def set_items(self, flat: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise ForbiddenError(f"setting items of {kind(target)}")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if not isinstance(key, (str, bytes)) or len(key) > LONGEST_KEY:  # hashing others can take for ever
                raise ForbiddenError(f"a dict with {kind(key)} as key")
            target[key] = value

    def set_one(self, _: None) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self.set_items([key, value])

    def remember(self, key: int | None) -> None:
        self._memo[len(self._memo) if key is None else key] = self._stack[-1]

    def recall(self, key: int) -> None:
        self.push(self._memo[key])

    def name(self, text: str | None) -> None:
        if text is None:  # module and name were pushed before
            name, module = self._stack.pop(), self._stack.pop()
            text = f"{as_text(module)} {as_text(name)}"
        if text not in stand_ins.MEANINGS:
            raise ForbiddenError(f"`{shown(text.replace(' ', '.'))}`")
        self.push(stand_ins.Name(stand_ins.MEANINGS[text]))

    def reduce(self, _: None) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        makers: dict[str, Callable[[tuple[object, ...]], object]] = {
            "reconstruct": stand_ins.new_array,
            "dtype": stand_ins.uint8,
            "encode": self._encoded,
        }
        make = makers.get(called.meaning) if isinstance(called, stand_ins.Name) else None
        if make is None or not isinstance(arguments, tuple):
            raise ForbiddenError(f"a call of {kind(called)}")
        self.push(make(arguments))

    def build(self, _: None) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, stand_ins.Uint8):
            stand_ins.check_dtype_state(state)
        elif isinstance(target, stand_ins.Array):
            target.values = stand_ins.array_values(state)
        else:
            raise ForbiddenError(f"setting the state of {kind(target)}")

    def _encoded(self, arguments: tuple[object, ...]) -> bytes:
        """For `encode(text, "latin1")`; counts bytes, so that no text is multiplied by being encoded again."""
        text = arguments[0] if len(arguments) == 2 else None
        if not isinstance(text, str) or as_text(arguments[1]) not in {"latin1", "latin-1"}:
            raise ForbiddenError("`_codecs.encode` for more than Latin-1 text")
        self._bytes_left -= len(text)
        if self._bytes_left < 0:
            raise ValueError("more text than the file has bytes")
        return text.encode("latin-1")


LITERALS = (
    *("NONE", "INT", "BININT", "BININT1", "BININT2", "LONG1", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
)
OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(LITERALS, _Machine.push),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    **dict.fromkeys(("SHORT_BINSTRING", "BINSTRING"), lambda machine, text: machine.push(text.encode("latin-1"))),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.to_mark())),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "MARK": _Machine.mark,
    "APPEND": _Machine.append_one,
    "APPENDS": lambda machine, _: machine.append(machine.to_mark()),
    "SETITEM": _Machine.set_one,
    "SETITEMS": lambda machine, _: machine.set_items(machine.to_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.recall),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _Machine.name),
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
"""All that is understood; the rest of pickle's operations call, look up or share what the file names."""
