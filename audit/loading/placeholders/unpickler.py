"""An unpickler that imports nothing: a few names have stand-ins of ours, every other one is an inert placeholder."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, ClassVar

MOST_OBJECTS = 5_000_000
MOST_NAMES = 20_000
LONGEST_NAME = 200
OLD_MODULES = {"copy_reg": "copyreg", "__builtin__": "builtins"}
"""Python 2's names."""


class Census:
    """Counts what a file makes, and keeps what it names.

    Attributes:
        names: every class and function that had no stand-in, in the order they were met.
        subclasses: of tensors that were taken for plain ones.
    """

    def __init__(self) -> None:
        self.names: dict[str, type[Placeholder]] = {}
        self.subclasses: dict[str, None] = {}
        self._objects = 0

    def count(self) -> None:
        """One more object.

        Raises:
            pickle.UnpicklingError: when there are too many.
        """
        self._objects += 1
        if self._objects > MOST_OBJECTS:
            raise pickle.UnpicklingError(f"more than {MOST_OBJECTS:,} objects")

    def placeholder(self, name: str) -> type[Placeholder]:
        """The class that stands for a name, always the same.

        Raises:
            pickle.UnpicklingError: when there are too many names.
        """
        short = name[:LONGEST_NAME]
        if short not in self.names:
            if len(self.names) >= MOST_NAMES:
                raise pickle.UnpicklingError(f"more than {MOST_NAMES:,} names")
            members = {"__slots__": (), "qualified": short, "census": self}
            self.names[short] = type("Placeholder", (Placeholder,), members)
        return self.names[short]


class Placeholder:
    """Stands for an object of a class, or the result of a function, that was not looked up.

    Attributes:
        qualified: name of the class or function; `()` after it for what came out of calling an object.
        args: it was made with.
        state: that was set on it, or None.
        entries: set on it as on a dict.
        elements: appended to it as to a list.
    """

    __slots__ = ("args", "elements", "entries", "state")
    qualified: ClassVar[str] = ""
    census: ClassVar[Census]

    def __new__(cls, *args: object, **_: object) -> Placeholder:
        """One more, whatever the arguments."""
        cls.census.count()
        made = super().__new__(cls)
        made.args, made.state, made.entries, made.elements = args, None, [], []
        return made

    def __init__(self, *_: object, **__: object) -> None:
        self.args: tuple[object, ...]
        self.state: object
        self.entries: list[tuple[object, object]]
        self.elements: list[object]

    def __setstate__(self, state: object) -> None:
        """Keeps the state as it is."""
        self.state = state

    def __call__(self, *args: object, **_: object) -> Placeholder:
        """What calling it would have given."""
        name = self.qualified if self.qualified.endswith("()") else f"{self.qualified}()"
        return self.census.placeholder(name)(*args)

    def __setitem__(self, key: object, value: object) -> None:
        self.entries.append((key, value))

    def append(self, element: object) -> None:
        """One more element, of a list or a set."""
        self.elements.append(element)

    add = append

    def extend(self, elements: Iterable[object]) -> None:
        """More elements."""
        self.elements.extend(elements)


class Items(dict[Any, Any]):
    """Stands for the dicts of Python's library; attributes set on them are left out."""

    __slots__ = ()

    def __init__(self, *args: object) -> None:
        super().__init__()
        for argument in args:  # a `defaultdict` has its factory first
            if isinstance(argument, dict):
                dict.update(self, argument)
            elif isinstance(argument, list):
                dict.update(self, ((key, value) for key, value in argument))

    def __setstate__(self, state: object) -> None:
        """Such as the versions of modules, which `state_dict` attaches."""


class Unpickler(pickle.Unpickler):
    """Reads one pickle into records, placeholders, and dicts, lists and numbers."""

    def __init__(
        self,
        stream: IO[bytes],
        stand_ins: Mapping[str, object],
        census: Census,
        storage: Callable[[object], object] | None = None,
    ) -> None:
        """Prepares to read.

        Args:
            stream: read from where it stands to the end of the pickle.
            stand_ins: what the names that are known stand for.
            census: counts and keeps the others.
            storage: what a persistent id stands for.
        """
        super().__init__(stream, encoding="latin1")  # str of Python 2: any bytes can be read so
        self._stand_ins, self._census, self._storage = stand_ins, census, storage

    def find_class(self, module: str, name: str) -> Any:
        """Never an import."""
        known = f"{OLD_MODULES.get(module, module)}.{name}"
        return self._stand_ins[known] if known in self._stand_ins else self._census.placeholder(known)

    def persistent_load(self, identity: Any) -> Any:
        """What a container keeps apart from its pickle: storages."""
        return None if self._storage is None else self._storage(identity)
