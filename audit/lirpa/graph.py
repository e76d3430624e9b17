"""A network as a list of operations on one image, each with its constants in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One operator of a graph, on values of a single image.

    Attributes:
        kind: the operator's own name, such as `conv2d`; `input` for the pixels.
        name: unique in the graph.
        module: where in the network it stands, such as `layer1.0.conv1`; empty where that is unknown.
        target: computes it.
        args, kwargs: what `target` takes: tensors and numbers, and an `Operation` wherever an operand stands.
        operands: the distinct operations it depends on, in the order of `args`.
        shape: of its value, one image's; of most with a leading 1.
        dtype: of its value in the network, whatever it is bounded in.
    """

    kind: str
    name: str
    module: str
    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    operands: tuple[Operation, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    def __call__(self, *values: Tensor) -> Tensor:
        """The value of a single image from those of its operands."""
        known = dict(zip(self.operands, values, strict=True))

        def found(argument: Any) -> Any:
            return known[argument] if isinstance(argument, Operation) else argument

        args, kwargs = _replaced(self.args, found), _replaced(self.kwargs, found)
        value: Tensor = self.target(*args, **kwargs)
        return value

    def each(self, *values: Tensor) -> Tensor:
        """The values (n, *shape) of n images from those of its operands (n, ...)."""
        return vmap(self)(*values)

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by its place or its name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def __repr__(self) -> str:
        return f"{self.name} = {self.kind}({', '.join(operand.name for operand in self.operands)})"


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A network on one image, as a list.

    Attributes:
        operations: in an order in which each can be computed; the pixels first, the logits last.
    """

    operations: tuple[Operation, ...]

    @property
    def pixels(self) -> Operation:
        """What the images are."""
        return self.operations[0]

    @property
    def logits(self) -> Operation:
        """What comes out."""
        return self.operations[-1]

    @property
    def dtype(self) -> torch.dtype:
        """In which precision it is computed."""
        tensors = (item for op in self.operations for item in (*op.args, *op.kwargs.values()))
        return next((item.dtype for item in tensors if isinstance(item, Tensor) and item.is_floating_point()), _PLAIN)

    def users(self) -> dict[Operation, list[Operation]]:
        """Which operations take each one's value."""
        found: dict[Operation, list[Operation]] = {op: [] for op in self.operations}
        for op in self.operations:
            for operand in op.operands:
                found[operand].append(op)
        return found

    def values(self, pixels: Tensor) -> Iterator[tuple[Operation, Tensor]]:
        """Each operation with its values (n, *shape) on images (n, c, h, w)."""
        known: dict[Operation, Tensor] = {self.pixels: pixels[:, None]}
        for op in self.operations:
            if op not in known:
                known[op] = op.each(*(known[operand] for operand in op.operands))
            yield op, known[op]

    def run(self, pixels: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, c, h, w)."""
        *_, (_, logits) = self.values(pixels)
        return logits[:, 0]


_PLAIN = torch.float32


def _replaced(structure: Any, found: Callable[[Any], Any]) -> Any:
    return tree_map(found, structure, is_leaf=lambda item: isinstance(item, Operation))
