"""Products of two values that both depend on the pixels, value by value or as matrices, and quotients.

Write a = ca + s ra and b = cb + t rb, with centres c, radii r, and s, t between -1 and 1. Both (1 + s)(1 + t) and
(1 - s)(1 - t) are at least 0, so any mixture of the two is, and for every number g between -1 and 1

    a b  >=  ca cb + cb (a - ca) + ca (b - cb) - ra rb + g (rb (a - ca) + ra (b - cb)).

These are McCormick's lower planes; g = -1 touches at the lower ends, g = 1 at the upper ones, g = 0 is the expansion
around the centres. All leave the same mean gap ra rb. Over the box, the least value of the plane is that of the product
itself where g lies between -ca / ra and -cb / rb, cut to [-1, 1]. Let p = ca / ra and q = cb / rb, cut alike: the
middle g = -(p + q) / 2 always does, and is a sum of one number of a and one of b, so that it passes out of products of
matrices. With -a in place of a, upper planes have (p - q) / 2. Of a coefficient A of either sign

    A a b  >=  A ca cb - |A| ra rb + (A (cb - q rb / 2) - |A| p rb / 2) (a - ca)
                                   + (A (ca - p ra / 2) - |A| q ra / 2) (b - cb).

Source: McCormick 1976; Shi et al. 2020 (products in attention), arXiv 2002.06622.
Differs from source: g, which is -1 there.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

from audit.lirpa.bounds import Interval, Owners
from audit.lirpa.graph import Operation
from audit.lirpa.rules.rule import Pulled, Rule, Standing, sides, summed_to, total
from audit.lirpa.rules.smooth import Power


class Bilinear(Rule):
    """A product that is linear in each of two operands, which may be the same one."""

    @abstractmethod
    def times(self, first: Tensor, second: Tensor) -> Tensor:
        """The product, sample by sample."""

    @abstractmethod
    def to_first(self, rows: Tensor, second: Tensor) -> Tensor:
        """Coefficients of the first operand where the second is given, from those of the product."""

    @abstractmethod
    def to_second(self, rows: Tensor, first: Tensor) -> Tensor:
        """Coefficients of the second operand where the first is given."""

    @abstractmethod
    def aligned(self, op: Operation, first: Interval, second: Interval) -> tuple[Interval, Interval]:
        """Both intervals in shapes of one rank, which broadcast sample by sample."""

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """The planes at the head of the file."""
        operands = op.args[:2]
        aligned = self.aligned(op, *(at.intervals[operand] for operand in operands))
        *pulled, rest = self.planes(rows, *aligned, at.owners)
        first, second = (part.reshape(-1, *each.shape) for part, each in zip(pulled, operands, strict=True))
        return Pulled((first + second,) if len(op.operands) == 1 else (first, second), rest)

    def planes(self, rows: Tensor, a: Interval, b: Interval, owners: Owners) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients of both operands, in their aligned shapes, and the constants (r,)."""
        middle, spread = self.times(a.centre, b.centre), self.times(a.radius, b.radius)
        rows = rows.reshape(-1, *middle.shape[1:])
        size, pick = rows.abs(), owners.pick
        p, q = _position(a), _position(b)
        to_a = self.to_first(rows, pick(b.centre - q * b.radius / 2))
        to_a = to_a - pick(p) / 2 * self.to_first(size, pick(b.radius))
        to_b = self.to_second(rows, pick(a.centre - p * a.radius / 2))
        to_b = to_b - pick(q) / 2 * self.to_second(size, pick(a.radius))
        rest = total(rows * pick(middle)) - total(size * pick(spread))
        rest = rest - total(to_a * pick(a.centre)) - total(to_b * pick(b.centre))
        return summed_to(to_a, a.lo.shape[1:]), summed_to(to_b, b.lo.shape[1:]), rest


class Multiplied(Bilinear):
    """The product value by value; of an operand with itself, the square."""

    def times(self, first: Tensor, second: Tensor) -> Tensor:
        """Value by value."""
        return first * second

    def to_first(self, rows: Tensor, second: Tensor) -> Tensor:
        """Value by value."""
        return rows * second

    def to_second(self, rows: Tensor, first: Tensor) -> Tensor:
        """Value by value."""
        return rows * first

    def aligned(self, op: Operation, first: Interval, second: Interval) -> tuple[Interval, Interval]:
        """With ones before what there is."""
        return _spread(first, len(op.shape)), _spread(second, len(op.shape))

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """The least and the greatest product of ends: exact."""
        if len(op.operands) == 1:
            return SQUARE.interval(op, *operands)
        return self.ends(*self.aligned(op, *sides(op, operands)))

    def ends(self, a: Interval, b: Interval) -> Interval:
        """Of aligned intervals."""
        products = [one * other for one in (a.lo, a.hi) for other in (b.lo, b.hi)]
        return Interval(reduce(torch.minimum, products), reduce(torch.maximum, products))

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """Planes, or the lines of the square."""
        return SQUARE.backward(op, rows, at) if len(op.operands) == 1 else super().backward(op, rows, at)


class Matrices(Bilinear):
    """The product of matrices, vectors, or batches of matrices."""

    def times(self, first: Tensor, second: Tensor) -> Tensor:
        """As matrices."""
        return first @ second

    def to_first(self, rows: Tensor, second: Tensor) -> Tensor:
        """A b^T."""
        return rows @ second.mT

    def to_second(self, rows: Tensor, first: Tensor) -> Tensor:
        """a^T A."""
        return first.mT @ rows

    def aligned(self, op: Operation, first: Interval, second: Interval) -> tuple[Interval, Interval]:
        """A vector as a row on the left and as a column on the right, then with ones before what there is."""
        shapes = [(x.lo.shape[1:], place) for x, place in ((first, 0), (second, 1))]
        left, right = (torch.Size((*s[:place], 1, *s[place:])) if len(s) == 1 else s for s, place in shapes)
        rank = max(len(left), len(right))
        return _spread(_shaped(first, left), rank), _spread(_shaped(second, right), rank)

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """With m = p r, what the centre says of the nearest end: centre ca cb + ma mb, and radius

        |ca| rb + ra |cb| + ra rb - |ma| |mb|. That is exact of every term, but for one of its ends where both factors
        contain 0.

        Source: Rump 2012, Fast interval matrix multiplication, Numerical Algorithms 61.
        """
        a, b = self.aligned(op, *sides(op, operands))
        near_a, near_b = _position(a) * a.radius, _position(b) * b.radius
        centre = a.centre @ b.centre + near_a @ near_b
        radius = a.centre.abs() @ b.radius + a.radius @ (b.centre.abs() + b.radius) - near_a.abs() @ near_b.abs()
        return _shaped(Interval.around(centre, radius), torch.Size(op.shape))


class Quotient(Rule):
    """A value over one that depends on the pixels: the product with its reciprocal, which has lines of its own.

    Nothing is said where the lower one may be 0. Rounded quotients have an interval alone.
    """

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """That of the product, exact; rounding rises."""
        known = dict(zip(op.operands, operands, strict=True))
        below = _reciprocal(op)
        numerator, reciprocal = _numerator(op, known), RECIPROCAL.interval(below, known[op.args[1]])
        found = PRODUCT.ends(*PRODUCT.aligned(op, numerator, reciprocal))
        mode = op.kwargs.get("rounding_mode")
        rounded = {"floor": torch.floor, "trunc": torch.trunc}.get(mode) if mode else None
        return Interval(rounded(found.lo), rounded(found.hi)) if rounded else found

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """The planes of the product, then the lines of the reciprocal."""
        if op.kwargs.get("rounding_mode"):
            return super().backward(op, rows, at)
        below, denominator = _reciprocal(op), at.intervals[op.args[1]]
        numerator, reciprocal = _numerator(op, at.intervals), RECIPROCAL.interval(below, denominator)
        aligned = PRODUCT.aligned(op, numerator, reciprocal)
        above, pulled, rest = PRODUCT.planes(rows, *aligned, at.owners)
        standing = Standing({op.args[1]: denominator, below: reciprocal}, at.owners)
        lines = RECIPROCAL.backward(below, pulled.reshape(-1, *below.shape), standing)
        rest = rest + lines.rest
        if not isinstance(op.args[0], Operation):
            return Pulled(lines.rows, rest + total(above * at.owners.pick(aligned[0].lo)))
        above = above.reshape(-1, *op.args[0].shape)
        if len(op.operands) == 1:
            return Pulled((above + lines.rows[0],), rest)
        return Pulled((above, lines.rows[0]), rest)


def _numerator(op: Operation, known: Mapping[Operation, Interval]) -> Interval:
    """The interval of what is above, a constant's being its own for each sample."""
    if isinstance(op.args[0], Operation):
        return known[op.args[0]]
    like = known[op.args[1]].lo
    value = torch.as_tensor(op.args[0], dtype=like.dtype, device=like.device)
    value = value.expand(len(like), *value.shape)
    return Interval(value, value)


def _reciprocal(op: Operation) -> Operation:
    """One over what is below, as an operation."""
    below: Operation = op.args[1]
    return Operation("reciprocal", op.name, op.module, torch.reciprocal, (below,), {}, (below,), below.shape)


def _position(x: Interval) -> Tensor:
    """Where the centre lies as seen from 0, in radii, cut to [-1, 1]; 0 where there is no radius."""
    wide = x.radius > 0
    return torch.where(wide, (x.centre / torch.where(wide, x.radius, 1.0)).clamp(-1, 1), 0.0)


def _shaped(x: Interval, shape: torch.Size) -> Interval:
    return Interval(x.lo.reshape(-1, *shape), x.hi.reshape(-1, *shape))


def _spread(x: Interval, rank: int) -> Interval:
    """With ones between the samples and the operand's own dimensions, up to a rank."""
    return _shaped(x, torch.Size((*(1,) * (rank + 1 - x.lo.dim()), *x.lo.shape[1:])))


PRODUCT, RECIPROCAL, SQUARE = Multiplied(), Power(-1.0), Power(2.0)
RULES: dict[str, Rule] = {
    "mul": PRODUCT, "div": Quotient(), "matmul": Matrices(), "bmm": Matrices(), "mm": Matrices(), "mv": Matrices(),
    "dot": Matrices(),
}  # fmt: skip
"""For operators of which both operands depend on the pixels, and for a quotient by one that does."""
