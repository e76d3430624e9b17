"""Softmax and its logarithm.

Softmax is expanded around the centre c of the operand's box. Let D = x - c with |D_j| <= r_j, and p be the softmax at a
point of the line from c to x, which stays within the box. With m = D_i less the mean of all other D_j, which are
weighted by p_j / (1 - p_i), and V their variance, the second derivative along the line is

    p_i'' = p_i ((D_i - sum_j p_j D_j)^2 - variance of D) = p_i (1 - p_i) ((1 - 2 p_i) m^2 - V).

Let s be the largest radius: |m| <= w = r_i + s, V <= s^2. With h(p) = p (1 - p) (1 - 2 p), which is -h(1 - p), and
lo <= p_i <= hi along the line, p_i'' is at most k(lo, hi) w^2, where k is the greatest h in a range, or 0; and at least
-k(1 - hi, 1 - lo) w^2 - v, where v bounds p_i (1 - p_i) V: by s^2 times the greatest p (1 - p), and by
hi_i sum_j hi_j r_j^2. The remainder is a mean of p_i'', halved, and bounded in pieces; see `expansion`. So of uniform
radii r no remainder exceeds 0.2 r^2 above, nor 0.32 r^2 below, and values near 0 or 1 have less.

lo and hi have to be those of a box around c. An interval that backward passes made narrower holds for images only, and
the line from c to x need not consist of values of images.

log softmax is x - lse(x), lse being the logarithm of the sum of exponentials: rows that sum to 0 pass without loss.
lse is convex, so that its tangent at c lies below; its second derivative is the variance of D, at most s^2 and at most
sum_j hi_j r_j^2, of which half is added above.

Of a plane and a constant end of the interval, the one nearer to the value at the centre is taken, for each value.

Source: Shi et al. 2020 (bounds of attention), arXiv 2002.06622.
Differs from source: softmax is not taken apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from audit.lirpa.bounds import Interval
from audit.lirpa.graph import Operation
from audit.lirpa.rules.expansion import PIECES
from audit.lirpa.rules.rule import Pulled, Rule, Standing, product

STEEPEST = (3 - math.sqrt(3)) / 6
"""Where p (1 - p) (1 - 2 p) is greatest."""


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """Bounds of softmax, or of lse, which both have slopes made of p.

    Attributes:
        p: softmax at the centre.
        low, high: where the planes below and above have these slopes, and not 0.
        lower, upper: what is constant in them.
    """

    p: Tensor
    low: Tensor
    high: Tensor
    lower: Tensor
    upper: Tensor


class Softmax(Rule):
    """Softmax along a dimension."""

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """A value at one end with all others at their other one: exact, as a value rises with its own operand alone."""
        return Interval(*(torch.sigmoid(odds) for odds in _odds(op, *operands)))

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """Planes with the slopes of the centre, or constants."""
        found, dim = at.known.once(op, lambda: self.planes(op, at.intervals[op.operands[0]])), _dim(op)
        positive, negative, p = rows.clamp(min=0), rows.clamp(max=0), at.pick(found.p)
        rest = product(positive, at.pick(found.lower)) + product(negative, at.pick(found.upper))
        kept = positive * at.pick(found.low) + negative * at.pick(found.high)
        return Pulled((p * (kept - (p * kept).sum(dim, keepdim=True)),), rest)

    def planes(self, op: Operation, x: Interval) -> Planes:
        """The nearest ones."""
        dim, box = _dim(op), self.interval(op, x)
        centre, radius, sane = _finite(x, dim)
        p = centre.softmax(dim)
        under, over = self._remainders(op, centre, radius)
        tilted = p - p * (centre - (p * centre).sum(dim, keepdim=True))
        low, high = sane & (p - under > box.lo), sane & (p + over < box.hi)
        lower, upper = torch.where(low, tilted - under, box.lo), torch.where(high, tilted + over, box.hi)
        return Planes(p, low, high, lower, upper)

    def _remainders(self, op: Operation, centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """By how much softmax lies below and above its expansion at most; see the head of the file."""
        dim, under, over = _dim(op), torch.zeros_like(centre), torch.zeros_like(centre)
        largest = radius.amax(dim, keepdim=True)
        squared = (radius + largest) ** 2
        for share, weight in PIECES:
            box = self.interval(op, Interval.around(centre, share * radius))
            even = torch.minimum(box.lo.clamp(min=0.5), box.hi)
            spread = torch.minimum(even * (1 - even) * largest**2, box.hi * (box.hi * radius**2).sum(dim, keepdim=True))
            under = under + weight * (_bend(1 - box.hi, 1 - box.lo) * squared + spread)
            over = over + weight * _bend(box.lo, box.hi) * squared
        return under, over


class LogSoftmax(Rule):
    """The logarithm of softmax."""

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """As of softmax: exact."""
        return Interval(*(logsigmoid(odds) for odds in _odds(op, *operands)))

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """The rows themselves, and their sums times what is subtracted from all."""
        found, dim = at.known.once(op, lambda: self.planes(op, at.intervals[op.operands[0]])), _dim(op)
        sums = -rows.sum(dim, keepdim=True)
        positive, negative = sums.clamp(min=0), sums.clamp(max=0)
        rest = product(positive, at.pick(found.lower)) + product(negative, at.pick(found.upper))
        kept = positive * at.pick(found.low) + negative * at.pick(found.high)
        return Pulled((rows + kept * at.pick(found.p),), rest)

    def planes(self, op: Operation, x: Interval) -> Planes:
        """Those of lse."""
        dim = _dim(op)
        centre, radius, sane = _finite(x, dim)
        p, level = centre.softmax(dim), centre.logsumexp(dim, keepdim=True)
        likely = torch.sigmoid(_odds(op, x)[1])
        over = torch.minimum(radius.amax(dim, keepdim=True) ** 2, (likely * radius**2).sum(dim, keepdim=True)) / 2
        least, most = (end.logsumexp(dim, keepdim=True) for end in (x.lo, x.hi))
        tilted = level - (p * centre).sum(dim, keepdim=True)
        high = sane & (level + over < most)
        return Planes(p, sane, high, torch.where(sane, tilted, least), torch.where(high, tilted + over, most))


def _dim(op: Operation) -> int:
    """The dimension, counted from the last, so that it is the same for many samples."""
    dim: int = op.argument(1, "dim")
    return dim if dim < 0 else dim - len(op.shape)


def _finite(x: Interval, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centres and radii, 0 along the dimension where some are infinite, and where they are not."""
    sane = (x.lo.isfinite() & x.hi.isfinite()).all(dim, keepdim=True)
    return torch.where(sane, x.centre, 0.0), torch.where(sane, x.radius, 0.0).clamp(min=0), sane


def _odds(op: Operation, x: Interval) -> tuple[Tensor, Tensor]:
    """The least and the greatest logarithms of p / (1 - p)."""
    least, most = _less_others(op, x.lo, x.hi), _less_others(op, x.hi, x.lo)
    return least[0] - least[1], most[0] + most[1]


def _less_others(op: Operation, x: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Values less the logarithms of sums of others' exponentials, and by how much that is rounded."""
    lse, terms = _lse_of_others(others, _dim(op)), x.shape[_dim(op)] + 2
    odds, rounding = x - lse, terms * torch.finfo(x.dtype).eps * (1 + x.abs() + lse.abs())
    return odds, torch.where(odds.isinf(), 0.0, rounding)


def _lse_of_others(x: Tensor, dim: int) -> Tensor:
    """For each value the logarithm of the sum of all others' exponentials, without any difference of sums."""
    none, count = torch.full_like(x.narrow(dim, 0, 1), -torch.inf), x.shape[dim] - 1
    before = torch.cat([none, x.logcumsumexp(dim).narrow(dim, 0, count)], dim)
    after = torch.cat([x.flip(dim).logcumsumexp(dim).flip(dim).narrow(dim, 1, count), none], dim)
    return torch.logaddexp(before, after)


def _bend(lo: Tensor, hi: Tensor) -> Tensor:
    """The greatest p (1 - p) (1 - 2 p) between two ends, at least 0."""
    p = torch.minimum(lo.clamp(min=STEEPEST), hi)
    return (p * (1 - p) * (1 - 2 * p)).clamp(min=0)


RULES: dict[str, Rule] = {
    "softmax": Softmax(), "_softmax": Softmax(), "log_softmax": LogSoftmax(), "_log_softmax": LogSoftmax(),
}  # fmt: skip
