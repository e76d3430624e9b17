"""From what a file holds to plain data: dicts and lists of tensors, modules as their state dicts."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from audit.loading.placeholders.records import Array, Lost, Tensor
from audit.loading.placeholders.unpickler import Placeholder

DEEPEST = 100
MOST_NODES = 2_000_000
LONGEST_TEXT = 200
SCRIPTED = "__torch__."
BUILT_IN = "__torch__.torch.classes."
"""Objects of C++, such as the packed weights of quantised layers."""
GRAPH_MODULE = "torch.fx.graph_module"
BRANCHES = (Tensor, Array, Lost, Placeholder, dict, list, tuple)
"""What may hold tensors."""

Node = list[Any]
"""`["tensor", n]`, `["dict", [[key, node], ...]]`, `["list", [node, ...]]`, `["value", v]`; `["lost", what]` for
tensors that cannot be followed, `["left", what]` for what holds none."""


class Collection:
    """Tensors of a file, each once, and where they are.

    Attributes:
        tensors: in the order they were met; two that are one appear once.
        tree: where they are, as a node.
    """

    def __init__(self, content: object) -> None:
        """Walks through the content.

        Raises:
            pickle.UnpicklingError: when it unfolds to too much.
        """
        self.tensors: list[Tensor] = []
        self._numbers: dict[tuple[object, ...], int] = {}
        self._known: dict[int, tuple[Node, int]] = {}
        self._on_the_way: set[int] = set()
        self._nodes = 0
        self.tree = self._node(content, 0)

    def _node(self, value: object, depth: int) -> Node:
        self._count(1)
        if isinstance(value, Array):
            value = value.tensor() or "an array of numpy"
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, Lost):
            return ["lost", value.what]
        if isinstance(value, bool | int | float | str | None):
            return _plain(value)
        if id(value) in self._known:
            node, size = self._known[id(value)]
            self._count(size)  # a list that holds another ten times, ten times over, unfolds without end
            return node
        if depth == DEEPEST or id(value) in self._on_the_way:
            return ["left", "nested without end"]
        before = self._nodes
        self._on_the_way.add(id(value))
        node = self._branch(value, depth)
        self._on_the_way.remove(id(value))
        self._known[id(value)] = node, self._nodes - before if _holds(node) else 0
        return node

    def _branch(self, value: object, depth: int) -> Node:
        if isinstance(value, Placeholder):
            return self._placeholder(value, depth)
        if isinstance(value, dict):
            return self._dict(dict.items(value), depth)
        if isinstance(value, list | tuple):
            return self._list(value, depth)
        return ["left", type(value).__name__]

    def _dict(self, entries: Any, depth: int) -> Node:
        known = [(key, entry) for key, entry in entries if isinstance(key, str | int)]
        if not any(isinstance(entry, BRANCHES) for _, entry in known):
            return ["left", "dict"]
        nodes = [(key, self._node(entry, depth + 1)) for key, entry in known]
        return ["dict", nodes] if any(_holds(node) for _, node in nodes) else ["left", "dict"]

    def _list(self, values: Any, depth: int) -> Node:
        if not any(isinstance(value, BRANCHES) for value in values):  # such as a million losses
            return ["left", "list"]
        nodes = [self._node(value, depth + 1) for value in values]
        return ["list", nodes] if any(map(_holds, nodes)) else ["left", "list"]

    def _placeholder(self, value: Placeholder, depth: int) -> Node:
        """A module as its state dict; any other object by its attributes or items, when they hold tensors."""
        state = _attributes(value)
        flat: dict[str, object] | None = None
        if _is_module(state):
            flat = dict(_state_dict(state, "", 0))
        elif _is_script(value):
            flat = dict(_script_state_dict(state, "", 0))
        if flat is not None:
            node = self._dict(flat.items(), depth)
            return node if _holds(node) else ["left", value.qualified]
        for node in (self._dict([*state.items(), *value.entries], depth), self._list(value.elements, depth)):
            if _holds(node):
                return node
        return ["lost" if _holds(self._list(value.args, depth)) else "left", value.qualified]

    def _tensor(self, value: Tensor) -> Node:
        if value.element.quantised or not value.element.code:
            return ["lost", f"a tensor of {value.element.name}"]
        if value.place not in self._numbers:
            self._numbers[value.place] = len(self.tensors)
            self.tensors.append(value)
        return ["tensor", self._numbers[value.place]]

    def _count(self, more: int) -> None:
        self._nodes += more
        if self._nodes > MOST_NODES:
            raise pickle.UnpicklingError(f"more than {MOST_NODES:,} entries")


def _plain(value: Any) -> Node:
    if isinstance(value, str):
        return ["value", value[:LONGEST_TEXT]]
    if isinstance(value, int) and value.bit_length() > 64:
        return ["left", "int"]
    finite = not isinstance(value, float) or abs(value) < float("inf")
    return ["value", value if finite else str(value)]


def _holds(node: Node) -> bool:
    return node[0] in ("tensor", "dict", "list", "lost")


def _attributes(value: Placeholder) -> dict[str, Any]:
    """Of an object, whichever way its state was set."""
    state = value.state
    if state is None and value.qualified.startswith(GRAPH_MODULE) and value.args:
        state = value.args[0]
    parts = state if isinstance(state, tuple) else (state,)
    return {
        key: entry
        for part in parts
        if isinstance(part, dict)
        for key, entry in dict.items(part)
        if isinstance(key, str)
    }


def _is_module(state: Mapping[str, Any]) -> bool:
    return all(isinstance(state.get(name), dict) for name in ("_parameters", "_buffers", "_modules"))


def _is_script(value: object) -> TypeGuard[Placeholder]:
    return isinstance(value, Placeholder) and value.qualified.startswith(SCRIPTED)


def _state_dict(state: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, object]]:
    """The entries of `nn.Module.state_dict()`, in its order."""
    if depth == DEEPEST:
        raise pickle.UnpicklingError("modules nested without end")
    passing = state.get("_non_persistent_buffers_set") or ()
    transient = set(passing) if isinstance(passing, set | frozenset) else set()
    for name, value in dict.items(state["_parameters"]):
        if value is not None and isinstance(name, str):
            yield f"{prefix}{name}", value
    for name, value in dict.items(state["_buffers"]):
        if value is not None and isinstance(name, str) and name not in transient:
            yield f"{prefix}{name}", value
    for name, module in dict.items(state["_modules"]):
        inner = _attributes(module) if isinstance(module, Placeholder) else {}
        if _is_module(inner):
            yield from _state_dict(inner, f"{prefix}{name}.", depth + 1)
        elif _is_script(module):
            yield from _script_state_dict(inner, f"{prefix}{name}.", depth + 1)


def _script_state_dict(state: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, object]]:
    """Tensors of a TorchScript module by the path of their attributes; buffers that do not persist among them."""
    if depth == DEEPEST:
        raise pickle.UnpicklingError("modules nested without end")
    for name, value in state.items():
        if isinstance(value, Tensor | Lost):
            yield f"{prefix}{name}", value
        elif isinstance(value, Placeholder) and value.qualified.startswith(BUILT_IN):
            yield f"{prefix}{name}", Lost(f"an object of {value.qualified.removeprefix(SCRIPTED)}")
        elif _is_script(value):
            yield from _script_state_dict(_attributes(value), f"{prefix}{name}.", depth + 1)
