"""Whether bytes of any kind are a pickle, or would act as one: found by following the first of its opcodes."""

from __future__ import annotations

import re
import sys
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Callable
from typing import Any

from audit.scan.examination import OverLimit
from audit.scan.parts import Account, Part
from audit.scan.pickle_bytes import CHUNK_BYTES, Blob, Broken, Overreach
from audit.scan.pickle_machine import Global
from audit.scan.pickle_opcodes import OpcodeReader
from audit.scan.pickle_steps import follow

OPCODES_OF_A_GUESS = 20_000
"""Followed to tell whether bytes are a pickle at all."""
OPCODES_OF_A_LONG_GUESS = 2_000_000
"""Followed where so many name nothing: a tensor of one number is lists or dicts without end, as opcodes."""
LARGEST_SEARCH = 1 << 30
_NAMING = re.compile(rb"[\x82-\x84\x93\n]")
"""Opcodes that take a global from the stack or from the registry, and the end of a line, of which naming takes two."""
_LIBRARIES = frozenset((
    "__main__", "torch", "torchvision", "timm", "transformers", "numpy", "scipy", "sklearn", "joblib", "pandas",
    "keras", "tensorflow", "jax", "onnx", "onnxruntime", "safetensors", "PIL", "cv2", "lightning", "pytorch_lightning",
    "fastai", "ultralytics", "yaml", "requests", "pip", "setuptools", "pkg_resources",
))  # fmt: skip
_ACT_ON_IMPORT = frozenset(("antigravity", "this", "idlelib.idle"))
"""Python's own modules that do something as soon as they are imported."""
_MODULE = re.compile(r"[A-Za-z_][\w.\-]*")


def is_pickle(part: Part, at: int = 0) -> bool:
    """Whether a pickle begins here, whatever it does: it ends, or goes on for longer than anything else would."""
    return _is_one(part, at, _Guess(part.account))


def could_act(part: Part) -> bool:
    """Whether anything could come of unpickling bytes that begin as a pickle: they are one, or name something first.

    Numbers do so by chance, two bytes in ten thousand; an unpickler gives up on these before it imported anything.
    """
    guess = _Guess(part.account)
    return _is_one(part, 0, guess) or guess.named_something


def _is_one(part: Part, at: int, guess: _Guess) -> bool:
    """Follows a pickle until it ends, breaks off or has gone on for longer than the guess."""
    try:
        follow(OpcodeReader(part, at), guess)
    except (OverLimit, Overreach):
        return True
    except Broken:
        return False
    return True


def calls_something(part: Part, at: int = 0) -> bool:
    """Whether bytes of any kind would act as a pickle: they name something plausible, and then call it or end well.

    Unpickling acts as it reads, so what comes after a call need not be a pickle. Where the opcodes go on for longer
    than they are followed here, and something that follows could name a global, the answer is yes, too.
    """
    guess = _Guess(part.account)
    if not _goes_on(part, at, guess) or guess.named_something:
        return guess.acts
    if not _could_name(part, at):
        return False
    guess = _Guess(part.account, OPCODES_OF_A_LONG_GUESS)
    return _goes_on(part, at, guess) or guess.acts


def _goes_on(part: Part, at: int, guess: _Guess) -> bool:
    """Follows one pickle after another; whether they go on for longer than the guess."""
    reader = OpcodeReader(part, at)
    try:
        while True:
            follow(reader, guess)
            guess.acts = guess.named_something
    except (OverLimit, Overreach):
        guess.acts = guess.named_something
        return True
    except Broken:
        guess.acts = guess.acts or guess.called_something
        return False


def _could_name(part: Part, at: int) -> bool:
    """Whether any byte that follows could take a global; of enormous parts, that is not searched."""
    if part.size - at > LARGEST_SEARCH:
        return True
    chunks = range(at, part.size, CHUNK_BYTES)
    return any(_NAMING.search(part.read(begin, CHUNK_BYTES)) for begin in chunks)


def _is_known(module: str) -> bool:
    """Whether a module is Python's own, of either version, or of a library that reads checkpoints."""
    root = module.partition(".")[0]
    return root in sys.stdlib_module_names or root in _LIBRARIES or module in IMPORT_MAPPING


class _Ignores:
    """Watches nothing; what is watched is overridden."""

    def extension(self, number: int) -> None: ...
    def built(self, what: Any, state: Any) -> None: ...
    def filled(self, what: Any, how: str) -> None: ...
    def stored(self, key: Any) -> None: ...
    def payload(self, content: str | bytes | Blob) -> None: ...
    def called(self, callee: Any, arguments: Any, how: str) -> None: ...


class _Guess(_Ignores):
    """Counts what a pickle names and calls, of the first opcodes; `acts` is the outcome."""

    def __init__(self, account: Account, most: int = OPCODES_OF_A_GUESS) -> None:
        self.account = account
        self.left = most
        self.named_something = False
        self.called_something = False
        self.acts = False

    def followed(self, opcodes: int) -> None:
        self.left -= opcodes
        self.account.guessed -= opcodes
        if min(self.left, self.account.guessed) < 0:
            raise OverLimit("is longer than a guess needs")

    def named(self, what: Global) -> None:
        if not _MODULE.fullmatch(what.module):  # some modules answer to any name
            raise Broken("names nothing that could exist")
        self.named_something = True
        self.called_something = self.called_something or what.module in _ACT_ON_IMPORT

    def called(self, callee: Any, arguments: Any, how: str) -> None:
        self.called_something = self.called_something or isinstance(callee, Global)

    def built(self, what: Any, state: Any) -> None:
        self._changed(what)

    def filled(self, what: Any, how: str) -> None:
        self._changed(what)

    def _changed(self, what: Any) -> None:
        """What is changed of a module that is there is changed at once; any two words make a module that is not."""
        self.called_something = self.called_something or (isinstance(what, Global) and _is_known(what.module))


class Names(_Ignores):
    """Collects the names of globals.

    Args:
        add: is given each name.
        most: opcodes that are followed.
    """

    def __init__(self, add: Callable[[str, None], None], most: int) -> None:
        self.add = add
        self.left = most

    def followed(self, opcodes: int) -> None:
        """Counts, up to the most."""
        self.left -= opcodes
        if self.left < 0:
            raise OverLimit("has too many opcodes")

    def named(self, what: Global) -> None:
        """Hands the name on."""
        self.add(str(what), None)
