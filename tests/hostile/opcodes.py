"""Pickles written opcode by opcode: nothing has to exist in order to be named, and nothing is ever run here."""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass, field
from typing import Any

Node = Any
"""What a pickle shall build: the classes below, and text, bytes, numbers, None, tuples, lists and dicts of nodes."""


@dataclass(frozen=True)
class Name:
    """A global."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """REDUCE: a function and what it is called with."""

    function: Node
    arguments: tuple[Node, ...] = ()


@dataclass(frozen=True)
class New:
    """NEWOBJ, or NEWOBJ_EX where there are keywords: `cls.__new__(cls, *arguments, **keywords)`."""

    cls: Node
    arguments: tuple[Node, ...] = ()
    keywords: dict[str, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Build:
    """BUILD: `__setstate__`, or attributes where there is none."""

    what: Node
    state: Node


@dataclass(frozen=True)
class Persistent:
    """BINPERSID: how torch refers to a storage."""

    key: Node


@dataclass(frozen=True)
class Then:
    """Nodes one after another; what the last one builds is kept."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Raw:
    """Opcodes as they are."""

    code: bytes


def glob(dotted: str) -> Name:
    """`module.name` as a global."""
    module, _, name = dotted.rpartition(".")
    return Name(module, name)


def call(function: str | Node, *arguments: Node) -> Call:
    """A call of a global named `module.name`, or of what another node builds."""
    return Call(glob(function) if isinstance(function, str) else function, arguments)


def partial(function: str, *arguments: Node, **keywords: Node) -> Build:
    """A `functools.partial`, as its own `__reduce__` writes it in every protocol."""
    name = glob(function)
    return Build(call("functools.partial", name), (name, arguments, keywords, None))


def program(node: Node, protocol: int = 2) -> bytes:
    """A whole pickle."""
    body = code(node, protocol) + b"."
    head = b"\x80" + bytes([protocol]) if protocol >= 2 else b""
    return head + (b"\x95" + struct.pack("<Q", len(body)) if protocol >= 4 else b"") + body


def code(node: Node, protocol: int) -> bytes:
    """The opcodes that leave this on top of the stack."""
    match node:
        case Raw(raw):
            return raw
        case Name(module, name):
            if protocol >= 4:
                return code(module, protocol) + code(name, protocol) + b"\x93"
            return f"c{module}\n{name}\n".encode()
        case Call(function, arguments):
            return code(function, protocol) + code(arguments, protocol) + b"R"
        case New(cls, arguments, keywords):
            given = code(cls, protocol) + code(arguments, protocol)
            return given + (code(keywords, protocol) + b"\x92" if keywords else b"\x81")
        case Build(what, state):
            return code(what, protocol) + code(state, protocol) + b"b"
        case Persistent(key):
            return code(key, protocol) + b"Q"
        case Then(nodes):
            return b"0".join(code(each, protocol) for each in nodes)
    return _literal(node, protocol)


def _literal(value: Node, protocol: int) -> bytes:
    match value:
        case None:
            return b"N"
        case bool():
            return (b"\x88" if value else b"\x89") if protocol >= 2 else f"I0{int(value)}\n".encode()
        case int():
            return _integer(value, protocol)
        case float():
            return b"G" + struct.pack(">d", value) if protocol else f"F{value!r}\n".encode()
        case str():
            return _text(value, protocol)
        case bytes():
            if protocol >= 3:
                return b"B" + struct.pack("<I", len(value)) + value
            return code(call("_codecs.encode", value.decode("latin1"), "latin1"), protocol)
        case tuple():
            return b"(" + b"".join(code(each, protocol) for each in value) + b"t"
        case list():
            return _filled(b"]", b"l", b"e", [code(each, protocol) for each in value], protocol)
        case dict():
            pairs = [code(key, protocol) + code(each, protocol) for key, each in value.items()]
            return _filled(b"}", b"d", b"u", pairs, protocol)
    raise TypeError(f"Expected something that a pickle can hold, got {value!r}.")


def _filled(empty: bytes, old: bytes, fill: bytes, parts: list[bytes], protocol: int) -> bytes:
    """A list or dict as Python itself writes it; torch's weights-only reader knows no other way."""
    if protocol == 0:
        return b"(" + b"".join(parts) + old
    return empty + (b"(" + b"".join(parts) + fill if parts else b"")


def _integer(value: int, protocol: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value) if protocol else f"I{value}\n".encode()
    if protocol >= 2:
        encoded = pickle.encode_long(value)
        if len(encoded) < 256:
            return b"\x8a" + bytes([len(encoded)]) + encoded
    return f"L{value}L\n".encode()


def _text(value: str, protocol: int) -> bytes:
    encoded = value.encode("utf-8")
    if protocol >= 4 and len(encoded) < 256:
        return b"\x8c" + bytes([len(encoded)]) + encoded + b"\x94"
    if protocol:
        return b"X" + struct.pack("<I", len(encoded)) + encoded
    escaped = value.replace("\\", "\\u005c").replace("\n", "\\u000a").replace("\r", "\\u000d").replace("\0", "\\u0000")
    return b"V" + escaped.encode("raw-unicode-escape") + b"\n"
