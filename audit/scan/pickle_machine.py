"""The machine that follows a pickle with stand-ins in place of objects: its stack, marks and memo; nothing is imported.

They are those of `pickle._Unpickler` (Python 3.11). Numbers, texts and tuples stand for themselves; what a global, a
call or a persistent id would give is a `Global`, a `Made` or a `Stored`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from audit.scan.pickle_bytes import Blob, Broken, Overreach
from audit.scan.pickle_opcodes import OpcodeReader


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """A function or class that the pickle names; `__str__` is `module.name`."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What a call gives: of what, and with which arguments."""

    callee: Any
    arguments: Any


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """What a persistent id gives."""

    key: Any


@dataclass(slots=True, eq=False)
class Container:
    """A list, dict or set, with the first things put into it, and how many were; of a dict, keys and values in turn."""

    type: str
    content: list[Any] = field(default_factory=list)
    count: int = 0


class Watcher(Protocol):
    """Is told what a pickle does, in the order in which it would do it."""

    def followed(self, opcodes: int) -> None:
        """So many more opcodes were followed."""

    def named(self, what: Global) -> None:
        """A global is imported."""

    def extension(self, number: int) -> None:
        """A global is taken from the registry of extension codes."""

    def called(self, callee: Any, arguments: Any, how: str) -> None:
        """Something is called: by REDUCE, NEWOBJ, NEWOBJ_EX, OBJ or INST."""

    def built(self, what: Any, state: Any) -> None:
        """A state is set: `__setstate__`, or attributes."""

    def filled(self, what: Any, how: str) -> None:
        """Something is put into what should be a list, dict or set."""

    def stored(self, key: Any) -> None:
        """A persistent id is looked up."""

    def payload(self, content: str | bytes | Blob) -> None:
        """A text or bytes is read."""


class PickleMachine:
    """Follows one pickle.

    Args:
        reader: at its beginning.
        watch: is told what happens.
    """

    def __init__(self, reader: OpcodeReader, watch: Watcher) -> None:
        self.reader = reader
        self.watch = watch
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self._below = 0

    def things(self) -> int:
        """How many things are held, about."""
        return len(self.stack) + self._below + len(self.marks) + len(self.memo)

    def mark(self) -> None:
        """Begins a new stretch of the stack."""
        self._below += len(self.stack)
        self.marks.append(self.stack)
        self.stack = []

    def pop(self) -> Any:
        """The topmost thing, taken away."""
        if not self.stack:
            raise Broken(f"takes more from its stack than is on it, at {self.reader.at:,}")
        return self.stack.pop()

    def top(self) -> Any:
        """The topmost thing."""
        if not self.stack:
            raise Broken(f"takes more from its stack than is on it, at {self.reader.at:,}")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        """All above the last mark, taken away with it."""
        if not self.marks:
            raise Broken(f"looks for a mark that is not there, at {self.reader.at:,}")
        above, self.stack = self.stack, self.marks.pop()
        self._below -= len(self.stack)
        return above

    def push(self, what: Any) -> None:
        """Puts a thing on top."""
        self.stack.append(what)

    def name(self, module: Any, name: Any) -> Global:
        """A global, by two texts that may have come from anywhere."""
        if isinstance(module, Blob) or isinstance(name, Blob):
            raise Overreach("names a global by a very long text", unnatural=True)
        if type(module) is not str or type(name) is not str:
            raise Broken("names a global by something that is no plain text")
        found = Global(module, name)
        self.watch.named(found)
        return found

    def call(self, callee: Any, arguments: Any, how: str) -> None:
        """Pushes what a call would give."""
        self.watch.called(callee, arguments, how)
        self.push(Made(callee, arguments))

    def recall(self, place: int) -> None:
        """Pushes what the memo holds."""
        if place not in self.memo:
            raise Broken(f"looks up place {place} of its memo, which is empty")
        self.push(self.memo[place])

    def remember(self, place: int) -> None:
        """Puts the topmost thing into the memo."""
        if place < 0:
            raise Broken("puts something at no place of its memo")
        self.memo[place] = self.top()
