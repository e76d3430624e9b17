"""What a rule is: how an operation's interval follows from its operands', and how a linear bound passes it backwards.

Backwards: given rows A with  bound = A . value + rest,  a rule gives for every operand rows A' and a number b with
A . value >= sum(A' . operand) + b  for all operands within their intervals. Upper bounds are lower bounds of -A.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.func import vjp, vmap

from audit.lirpa.bounds import Interval, Owners, Window
from audit.lirpa.graph import Operation

R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What is known of the operations of a graph over a region.

    Attributes:
        intervals: of each, for all samples.
        relaxations: what rules made of them, kept as many passes ask for it. Nothing may be kept of an operation whose
            interval, or an operand's, is yet to become tighter.
    """

    intervals: dict[Operation, Interval]
    relaxations: dict[Operation, Any] = field(default_factory=dict)

    def only(self, rows: Tensor) -> Known:
        """Of some samples."""
        return Known({op: interval.only(rows) for op, interval in self.intervals.items()})

    def once(self, op: Operation, make: Callable[[], R]) -> R:
        """An operation's relaxation, made when first asked for."""
        if op not in self.relaxations:
            self.relaxations[op] = make()
        found: R = self.relaxations[op]
        return found


class Slopes:
    """Lower slopes in place of rules' own, row by row, of the part that rows are about at each operation.

    The first pass notes what rules choose by themselves; later ones take what has become of it since.
    """

    def __init__(self) -> None:
        self.found: dict[Operation, Tensor] = {}

    def of(self, op: Operation, own: Tensor, rows: Tensor) -> Tensor:
        """Those of an operation, in the shape of its rows."""
        if op not in self.found:
            self.found[op] = own.expand_as(rows).clone()
        return self.found[op]


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """What a backward pass knows at an operation.

    Attributes:
        known: of every operation below the start.
        owners: which sample each row belongs to.
        slopes: lower slopes in place of a rule's own, where a rule takes some.
        window: the part of the value that rows are about; None for all of it.
    """

    known: Known
    owners: Owners
    slopes: Slopes | None = None
    window: Window | None = None

    @property
    def intervals(self) -> Mapping[Operation, Interval]:
        """Of every operation below the start, for all samples."""
        return self.known.intervals

    def pick(self, values: Tensor) -> Tensor:
        """Each row's own of the samples' values (n, *shape), of the window where there is one."""
        return self.owners.pick(values) if self.window is None else self.window.cut(values, self.owners)

    def lo(self, op: Operation) -> Tensor:
        """The lower ends, row by row."""
        return self.pick(self.intervals[op].lo)

    def hi(self, op: Operation) -> Tensor:
        """The upper ends, row by row."""
        return self.pick(self.intervals[op].hi)


@dataclass(frozen=True, slots=True, eq=False)
class Pulled:
    """A linear bound on the operands.

    Attributes:
        rows: for each operand (r, *shape), or None where the bound does not depend on it.
        rest: (r,).
        window: the part of the operands that rows are about; None for all of them.
    """

    rows: tuple[Tensor | None, ...]
    rest: Tensor
    window: Window | None = None


class Rule(ABC):
    """One family of operators."""

    exact = False
    """Whether the bound passes backwards without loss, as the operation is affine in its operands."""

    def local(self, op: Operation) -> bool:
        """Whether rows about a part of the value can be passed as they are."""
        return False

    def below(self, op: Operation, height: int, width: int) -> tuple[int, int]:
        """The size of the part of the operands that a part of the value hangs on, where the rule is local."""
        return height, width

    @abstractmethod
    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """What the value lies between when each operand lies in its interval."""

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """The bound on the operands; by itself a constant, the end of the interval that each sign asks for."""
        rest = product(rows.clamp(min=0), at.lo(op)) + product(rows.clamp(max=0), at.hi(op))
        return Pulled((None,) * len(op.operands), rest)


class Affine(Rule):
    """An operation that is affine in its operands together; the bound passes by its transpose."""

    exact = True

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """By the vector-Jacobian product at 0, where the value is the constant part."""
        zeros = [rows.new_zeros(operand.shape) for operand in op.operands]
        constant, transposed = vjp(op, *zeros)  # type: ignore[misc]
        return Pulled(tuple(vmap(transposed)(rows)), (rows * constant).flatten(1).sum(1))


class Monotone(Affine):
    """An affine operation none of whose coefficients is negative: it moves, repeats, adds or averages."""

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """Lower ends give the lower end, upper ends the upper one."""
        return Interval(op.each(*(each.lo for each in operands)), op.each(*(each.hi for each in operands)))


def total(rows: Tensor) -> Tensor:
    """The sum (r,) of each row."""
    return rows.reshape(len(rows), -1).sum(1)


def product(rows: Tensor, values: Tensor) -> Tensor:
    """The sum (r,) of each row times its values; 0 where a coefficient is, however large the value."""
    return total(rows * torch.where(rows == 0, 0.0, values))


def sides(op: Operation, operands: tuple[Interval, ...]) -> tuple[Interval, Interval]:
    """The intervals of an operator's first two arguments; a constant is its own."""
    known = dict(zip(op.operands, operands, strict=True))
    like = operands[0].lo

    def found(argument: object) -> Interval:
        if isinstance(argument, Operation):
            return known[argument]
        value = torch.as_tensor(argument, dtype=like.dtype, device=like.device)
        return Interval(value, value)

    return found(op.args[0]), found(op.args[1])


def summed_to(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Rows (r, ...) summed over what broadcasting had spread from a shape."""
    extra = rows.dim() - 1 - len(shape)
    if extra > 0:
        rows = rows.sum(tuple(range(1, 1 + extra)))
    spread = [place + 1 for place, size in enumerate(shape) if size == 1 and rows.shape[place + 1] != 1]
    return rows.sum(spread, keepdim=True) if spread else rows
