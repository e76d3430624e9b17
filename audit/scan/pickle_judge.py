"""Judges what a pickle does: globals against the tables, calls by how they are meant, payloads by their heads."""

from __future__ import annotations

import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from audit.scan.examination import Examination
from audit.scan.globals_allowed import ALLOWED, Use
from audit.scan.globals_dangerous import danger_of
from audit.scan.parts import Part
from audit.scan.pickle_bytes import Blob
from audit.scan.pickle_filling import Filling
from audit.scan.pickle_machine import Container, Global, Made, Stored
from audit.scan.pickled_arrays import PickledArrays

MOST_GLOBALS = 10_000
"""That are remembered, so that each is judged once."""
_TEXT_CODECS = ("latin1", "latin-1", "iso-8859-1")
_LIKE_A_PAYLOAD = re.compile(rb"\x80[\x02-\x05]|PK\x03\x04|\x1f\x8b\x08|c[\w.]+\n[\w.]+\n")
_LIKE_A_FUNCTION = re.compile(r"[a-z]|_+[a-z]")
_REBUILDS = re.compile(
    r"torch\._utils\._rebuild_\w+|numpy\._?core\.multiarray\.scalar|numpy\.random\._pickle\.__\w+_ctor"
    r"|numpy\.ma\.core\._mareconstruct"
)
_SUBCLASS = "torch._tensor._rebuild_from_type_v2"
_REBUILDS_TENSOR = re.compile(r"torch\._utils\._rebuild_\w+")
_TYPES = ("builtins.type", "__builtin__.type")
_LIBRARIES = ("torch", "numpy")
_WAYS_OF_FUNCTIONS = ("REDUCE",)
_WAYS_OF_CLASSES = ("REDUCE", "NEWOBJ", "OBJ", "INST")
"""NEWOBJ_EX is for classes of the user: no class of those allowed is pickled with keywords."""

Payload = Callable[[str, "str | bytes | Blob"], None]


@dataclass(frozen=True, slots=True)
class Dialect:
    """What belongs to the pickles of one kind of file, beyond what belongs to all.

    Attributes:
        allowed: more globals.
        prefixes: of the names of classes that the file defines itself.
        stored: is told the persistent ids, where they belong to it.
        text: is told every text.
        named: is told the name of every global.
        result: is told what the pickle gives.
    """

    allowed: Mapping[str, Use] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ()
    stored: Callable[[Any], None] | None = None
    text: Callable[[str], None] | None = None
    named: Callable[[str], None] | None = None
    result: Callable[[Any], None] | None = None


PLAIN = Dialect()
TORCH = Dialect(stored=lambda key: None)


class PickleJudge:
    """Turns what a pickle does into findings, each global once.

    Args:
        part: the pickle, for names in findings.
        exam: what the findings go to.
        dialect: what belongs to this kind of file.
        payload: is given texts and bytes that begin as a pickle or an archive does.
    """

    def __init__(self, part: Part, exam: Examination, dialect: Dialect, payload: Payload) -> None:
        self.part = part
        self.exam = exam
        self.dialect = dialect
        self.allowed = {**ALLOWED, **dialect.allowed}
        self.give_payload = payload
        self.opcodes = 0
        self.globals: dict[str, None] = {}
        self.filling = Filling(part.size)
        self.arrays = PickledArrays(
            lambda text: self._danger("pickle-numpy-memory", text),
            lambda text: exam.unexamined(part.where, "pickle-numpy-type", text),
        )

    def followed(self, opcodes: int) -> None:
        """Counts, and spends."""
        self.opcodes += opcodes
        self.exam.spend("pickle opcodes", opcodes, self.exam.limits.pickle_opcodes)

    def named(self, what: Global) -> None:
        """A global that is not allowed is a finding already, called or not: importing it runs its module."""
        full = str(what)
        known = full in self.globals
        if len(self.globals) < MOST_GLOBALS:
            self.globals[full] = None
        if self.dialect.named:
            self.dialect.named(full)
        if known or self._use_of(what) is not None:
            return
        danger = danger_of(*python3_name(what))
        if danger:
            self._danger("pickle-dangerous-global", f"names `{full[:200]}`, which {danger}")
        else:
            self._code(
                "pickle-unknown-global", f"names `{full}`, which unpickling imports and uses; refused by default"
            )

    def extension(self, number: int) -> None:
        """No checkpoint uses the registry."""
        self._danger("pickle-extension", f"takes a global by its number ({number}) from a registry, hiding its name")

    def called(self, callee: Any, arguments: Any, how: str) -> None:
        """A call of a global that is not allowed is said once more, with its arguments."""
        if not isinstance(callee, Global):
            self._called_no_global(callee, how)
            return
        use = self._use_of(callee)
        if use is None:
            self._called_unknown(callee, arguments)
        elif str(callee) in _TYPES:
            self._check_type(arguments)
        elif use is Use.VALUE or how not in (_WAYS_OF_CLASSES if use is Use.CLASS else _WAYS_OF_FUNCTIONS):
            self._danger("pickle-misuse", f"calls `{callee}`, which is a value or is called otherwise ({how})")
        elif not isinstance(arguments, tuple):
            self._danger("pickle-not-followed", f"calls `{callee}` with arguments that are no plain tuple")
        else:
            self._check_arguments(callee, arguments)

    def built(self, what: Any, state: Any) -> None:
        """A state on a class or function changes it for the whole process."""
        if isinstance(what, Global):
            self._danger("pickle-patches", f"sets attributes of `{what}` itself, for the whole process")
        elif isinstance(what, (str, bytes, int, type(None))):
            self._danger("pickle-not-followed", "sets the state of a plain value: no pickler writes that")
        elif isinstance(what, Stored):
            self._danger("pickle-misuse", "sets the state of a storage")
        elif isinstance(what, Made) and str(what.callee) in _TYPES:
            self._danger("pickle-patches", "sets attributes of a class, for the whole process")
        elif isinstance(what, Made):
            self.arrays.built(what, state)

    def ended(self) -> None:
        """The pickle is over, or cannot be followed further: what could only be judged as a whole."""
        self.arrays.judge()

    def filled(self, what: Any, how: str) -> None:
        """Only lists, dicts, sets and their subclasses are filled."""
        if isinstance(what, Global):
            self._danger("pickle-patches", f"puts something into `{what}` itself ({how}), for the whole process")
        elif not isinstance(what, Made):
            self._danger("pickle-not-followed", f"puts something into a plain value ({how}): no pickler writes that")

    def stored(self, key: Any) -> None:
        """Persistent ids mean something in files of torch alone."""
        if self.dialect.stored is None:
            self.exam.note(self.part.where, "pickle-persistent-id", "refers to data outside of itself (persistent ids)")
        elif isinstance(key, tuple) and key and key[0] not in ("storage", "module", b"storage", b"module"):
            self._danger("pickle-misuse", f"refers to data of an unknown sort, {shown(key[0])}")
        else:
            self.dialect.stored(key)

    def payload(self, content: str | bytes | Blob) -> None:
        """Texts and bytes that begin as a pickle or an archive does are looked into."""
        if isinstance(content, str) and self.dialect.text:
            self.dialect.text(content)
        if isinstance(content, Blob):
            head = self.part.read(content.at, 256)
        elif isinstance(content, str):
            if len(content) < 4 or content[0] not in "\x80P\x1fc":
                return
            head = content[:256].encode("latin-1", "replace")
        else:
            head = content[:256]
        if _LIKE_A_PAYLOAD.match(head):
            self.give_payload("text" if isinstance(content, str) else "bytes", content)

    def _use_of(self, what: Global) -> Use | None:
        full = ".".join(python3_name(what))
        use = self.allowed.get(full)
        return Use.CLASS if use is None and full.startswith(self.dialect.prefixes or ("\0",)) else use

    def _called_no_global(self, callee: Any, how: str) -> None:
        if isinstance(callee, (Made, Stored)):
            self._danger("pickle-calls-result", f"calls what another call gave ({how}): a way around names")
        else:
            self._danger("pickle-not-followed", f"calls {shown(callee)} ({how}), which is nothing that can be called")

    def _called_unknown(self, callee: Global, arguments: Any) -> None:
        """A function of torch or numpy that rebuilds nothing is a danger; of an unknown library it is code."""
        danger = danger_of(*python3_name(callee))
        full = str(callee)
        ours = full.partition(".")[0] in _LIBRARIES and _LIKE_A_FUNCTION.match(full.rpartition(".")[2])
        if danger or (ours and not _REBUILDS.fullmatch(full)):
            self._danger("pickle-dangerous-call", f"calls `{full}` with {shown(arguments)}")

    def _check_type(self, arguments: Any) -> None:
        """`type(None)` is how its class is pickled, and that of two others; three arguments make a class."""
        if isinstance(arguments, tuple) and len(arguments) == 1:
            only = arguments[0]
            if only is None or (isinstance(only, Global) and only.name in ("Ellipsis", "NotImplemented")):
                return
        self._danger("pickle-misuse", f"takes or makes a class by `type`, with {shown(arguments)}")

    def _check_arguments(self, callee: Global, arguments: tuple[Any, ...]) -> None:
        full = ".".join(python3_name(callee))
        if full == "_codecs.encode" and (len(arguments) != 2 or arguments[1] not in _TEXT_CODECS):
            self._danger("pickle-misuse", f"calls `{full}` with {shown(arguments)}, not to make bytes of a text")
        if self.filling.is_too_much(full, arguments):
            self._danger("pickle-memory-bomb", f"calls `{full}` with {shown(arguments)}, to fill the memory")
        self.arrays.called(full, arguments)
        if full == _SUBCLASS:
            self._check_subclass(arguments)

    def _check_subclass(self, arguments: tuple[Any, ...]) -> None:
        """`_rebuild_from_type_v2(rebuild, class, arguments, state)`: a call within the call, and a state to be set."""
        if len(arguments) != 4 or not (isinstance(arguments[0], Global) and isinstance(arguments[1], Global)):
            self._danger("pickle-misuse", f"calls `{_SUBCLASS}` with {shown(arguments)}, as torch never does")
            return
        rebuild, _, inner, state = arguments
        full = ".".join(python3_name(rebuild))
        if full == _SUBCLASS or not _REBUILDS_TENSOR.fullmatch(full):
            self._danger("pickle-misuse", f"lets `{_SUBCLASS}` call `{full[:200]}`, which rebuilds no tensor")
            return
        self.called(rebuild, inner, "REDUCE")
        if not _is_state(state):
            self._danger("pickle-misuse", f"gives a tensor a state that torch does not write, {shown(state)}")

    def _danger(self, code: str, text: str) -> None:
        self.exam.danger(self.part.where, code, text)

    def _code(self, code: str, text: str) -> None:
        self.exam.code(self.part.where, code, text)


def python3_name(what: Global) -> tuple[str, str]:
    """The module and name under which Python 3 finds a global of Python 2."""
    if (what.module, what.name) in NAME_MAPPING:
        return NAME_MAPPING[(what.module, what.name)]
    return IMPORT_MAPPING.get(what.module, what.module), what.name


def _is_state(state: Any) -> bool:
    """Whether attributes are given as Python does: a dict, or two, the second for slots."""
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    return all(part is None or (isinstance(part, Container) and part.type == "dict") for part in parts)


def shown(value: Any, depth: int = 3) -> str:
    """A stand-in for people, short whatever it holds."""
    if isinstance(value, (str, bytes)):
        return repr(value[:80])
    if isinstance(value, (Global, Made)):
        return f"`{value}`" if isinstance(value, Global) else f"{shown(value.callee, depth - 1) if depth else ''}(...)"
    if isinstance(value, (tuple, Container)):
        content = value if isinstance(value, tuple) else value.content
        inner = ", ".join(shown(item, depth - 1) for item in content[:4]) if depth else "..."
        return f"({inner}{', ...' if len(content) > 4 else ''})"
    return repr(value) if isinstance(value, (int, type(None))) and abs(value or 0) < 1 << 64 else "..."
