"""Normalisation by what an image's own values are: in layers, groups and instances.

The output is f(u) = u / s(u) with s^2 = |u|^2 / N + eps, of u = d + h in the terms of `statistics`. There are three
bounds, each of a lower and an upper kind, and for each value the one nearest to f(d) at the centre is taken.

First, the expansion around d. With a = u.h / N, b = |h|^2 / N, the second derivative along h is

    f_i'' = -2 a h_i / s^3 + u_i (3 a^2 / s^5 - b / s^3),

of which a mean, halved, is the remainder, bounded in pieces; see `expansion`. Let s0 be the least s in a piece, t its
share, B = |r|^2 / N, and m the mean of the change of x, by which b <= B - m^2 and |h_i| <= r_i + |m|. Then |a| / s is
at most e = (|d|.r / N + t B) / s0, and as u.h <= |u| |h|, at most sqrt(B - m^2). So |a h_i| / s is at most the lesser
of these two times r_i + |m|, which is greatest where |m| is the larger of (sqrt(r_i^2 + 8 B) - r_i) / 4 and
sqrt(B - e^2), or as large as it can be: mean(r). It is at most q R_i as well, q being the lesser of e and sqrt(B). As
b >= a^2 / s^2, the bracket lies between -B / s^3 and 2 q^2 / s^3, and u_i / s between the constants of the piece.

Second, f_i = u_i k with k = 1 / s between its ends, as if these had nothing to do with one another: min(k_lo u, k_hi u)
is concave in u, so its chord lies below, and that of the maximum above.

Third, constants. As u_i^2 <= (N - 1) |u|^2 / N, on the far side of 0  u_i / sqrt(max(least, u_i^2 / (N - 1)) + eps)
bounds f_i, and rises with u_i.

Source: Shi et al. 2020 (layer normalisation, taken apart), arXiv 2002.06622.
Differs from source: it is bounded as a whole.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from audit.lirpa.bounds import Interval
from audit.lirpa.graph import Operation
from audit.lirpa.rules.expansion import PIECES
from audit.lirpa.rules.rule import Affine, Pulled, Rule, Standing, product, total
from audit.lirpa.rules.statistics import Deviations


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """Bounds of f from one side: f(d) and its slope there, where expanded, else slope u + offset."""

    expanded: Tensor
    slope: Tensor
    offset: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Relaxation:
    """The planes on either side, with what f's slopes at d are made of: f(d) and 1 / s."""

    lower: Planes
    upper: Planes
    value: Tensor
    steepness: Tensor


class Normalised(Rule):
    """Values less their mean, over the root of their variance and a constant; then a scale and a shift by constants."""

    @abstractmethod
    def layout(self, op: Operation) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """In which shape the values stand, and over which dimensions of it, counted from the last, means are."""

    @abstractmethod
    def constants(self, op: Operation) -> tuple[Tensor | None, Tensor | None, float]:
        """Weight and bias, such that they broadcast to the value, and eps."""

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """The third of the bounds."""
        weight, bias, eps = self.constants(op)
        found = Deviations.of(self._shaped(op, *operands), self.layout(op)[1])
        lo, hi = (end.reshape(-1, *op.shape) for end in _ends(found, eps))
        if weight is not None:
            lo, hi = torch.minimum(lo * weight, hi * weight), torch.maximum(lo * weight, hi * weight)
        return Interval(lo, hi) if bias is None else Interval(lo + bias, hi + bias)

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """The nearest of the bounds at the head of the file, for each value and side."""
        weight, bias, eps = self.constants(op)
        (shape, dims), pick = self.layout(op), at.pick
        found = at.known.once(op, lambda: _relaxation(self._shaped(op, at.intervals[op.operands[0]]), dims, eps))
        rest = rows.new_zeros(len(rows)) if bias is None else total(rows * bias)
        rows = (rows if weight is None else rows * weight).reshape(-1, *shape)
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        rest = rest + product(positive, pick(found.lower.offset)) + product(negative, pick(found.upper.offset))
        expanded = positive * pick(found.lower.expanded) + negative * pick(found.upper.expanded)
        value, steepness = pick(found.value), pick(found.steepness)
        pulled = steepness * (expanded - value * (value * expanded).mean(dims, keepdim=True))
        pulled = pulled + positive * pick(found.lower.slope) + negative * pick(found.upper.slope)
        pulled = pulled - pulled.mean(dims, keepdim=True)
        return Pulled((pulled.reshape(-1, *op.operands[0].shape),), rest)

    def _shaped(self, op: Operation, x: Interval) -> Interval:
        shape, _ = self.layout(op)
        return Interval(x.lo.reshape(-1, *shape), x.hi.reshape(-1, *shape))


class Layer(Normalised):
    """Over the last dimensions."""

    def layout(self, op: Operation) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """As it is."""
        return op.shape, tuple(range(-len(op.args[1]), 0))

    def constants(self, op: Operation) -> tuple[Tensor | None, Tensor | None, float]:
        """In the shape of the last dimensions."""
        return op.argument(2, "weight"), op.argument(3, "bias"), op.argument(4, "eps", 1e-5)


class Group(Normalised):
    """Over groups of channels, and all places."""

    def layout(self, op: Operation) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Group by group."""
        return (op.shape[0], op.args[1], math.prod(op.shape[1:]) // op.args[1]), (-1,)

    def constants(self, op: Operation) -> tuple[Tensor | None, Tensor | None, float]:
        """One of each a channel."""
        weight, bias = (_by_channel(op, op.argument(*name)) for name in ((2, "weight"), (3, "bias")))
        return weight, bias, op.argument(4, "eps", 1e-5)


class Stored(Affine):
    """A scale and a shift by constants, of whatever form."""

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """The ends change places where the scale is negative."""
        one, other = op.each(*(x.lo for x in operands)), op.each(*(x.hi for x in operands))
        return Interval(torch.minimum(one, other), torch.maximum(one, other))


class Instance(Normalised):
    """Over all places of a channel; by stored statistics it is affine."""

    def layout(self, op: Operation) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Channel by channel."""
        return (*op.shape[:2], math.prod(op.shape[2:])), (-1,)

    def constants(self, op: Operation) -> tuple[Tensor | None, Tensor | None, float]:
        """One of each a channel."""
        return _by_channel(op, op.args[1]), _by_channel(op, op.args[2]), op.args[7]

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """As the others, or of a scale and a shift."""
        return super().interval(op, *operands) if op.args[5] else STORED.interval(op, *operands)

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """As the others, or without loss."""
        return super().backward(op, rows, at) if op.args[5] else STORED.backward(op, rows, at)


def _by_channel(op: Operation, constant: Tensor | None) -> Tensor | None:
    return None if constant is None else constant.view(-1, *(1,) * (len(op.shape) - 2))


def _ends(found: Deviations, eps: float) -> tuple[Tensor, Tensor]:
    """The constants of f."""

    def outward(u: Tensor) -> Tensor:
        return u / (torch.maximum(found.least, u**2 / max(found.size - 1, 1)) + eps).sqrt()

    lo, hi, flat = found.centre - found.radius, found.centre + found.radius, (found.most + eps).rsqrt()
    return torch.where(lo < 0, outward(lo), lo * flat), torch.where(hi > 0, outward(hi), hi * flat)


def _relaxation(x: Interval, dims: tuple[int, ...], eps: float) -> Relaxation:
    """The planes below f and above it."""
    found = Deviations.of(x, dims)
    steepness, (lo, hi) = (found.middle + eps).rsqrt(), _ends(found, eps)
    under, over = torch.zeros_like(lo), torch.zeros_like(hi)
    for share, weight in PIECES:
        part = Deviations.of(Interval.around(x.centre, share * x.radius), dims)
        below, above = _bend(found, part, share, eps)
        under, over = under + weight * below, over + weight * above
    value = found.centre * steepness
    tilted = value * found.middle * steepness**2
    lower = _below(found, eps, 1, (value - under, tilted - under), lo)
    upper = _below(found, eps, -1, (-value - over, -tilted - over), -hi)
    return Relaxation(lower, Planes(upper.expanded, -upper.slope, -upper.offset), value, steepness)


def _bend(found: Deviations, part: Deviations, share: float, eps: float) -> tuple[Tensor, Tensor]:
    """How negative and how positive f'' may be, in a share of the interval that is nearer to the centre."""
    steep, square, raw = (part.least + eps).rsqrt(), found.square, found.raw
    along = (found.reach + share * square) * steep
    q = torch.minimum(along, square.sqrt())
    turn = torch.maximum((torch.sqrt(raw**2 + 8 * square) - raw) / 4, (square - along**2).clamp(min=0).sqrt())
    common = torch.minimum(turn, found.common)
    crossed = torch.minimum(along, (square - common**2).clamp(min=0).sqrt()) * (raw + common)
    crossed = 2 * torch.minimum(crossed, q * found.radius)
    lo, hi = _ends(part, eps)
    negative, positive, most = (-lo).clamp(min=0), hi.clamp(min=0), 2 * q**2
    below, above = torch.maximum(positive * square, negative * most), torch.maximum(positive * most, negative * square)
    return (crossed + below) * steep**2, (crossed + above) * steep**2


def _below(found: Deviations, eps: float, sign: int, expanded: tuple[Tensor, Tensor], end: Tensor) -> Planes:
    """The plane below f, or -f with the sign -1, that is nearest to it at the centre.

    Args:
        found: of the operand.
        eps: added to the variance.
        sign: of f.
        expanded: the expansion's least value at the centre, and what is constant in it.
        end: the constant below.
    """
    flat, steep = sign * (found.most + eps).rsqrt(), sign * (found.least + eps).rsqrt()
    lo, hi = found.centre - found.radius, found.centre + found.radius
    at_lo, at_hi = torch.minimum(flat * lo, steep * lo), torch.minimum(flat * hi, steep * hi)
    wide = hi > lo
    slope = torch.where(wide, (at_hi - at_lo) / torch.where(wide, hi - lo, 1.0), flat)
    offset = torch.minimum(at_lo - slope * lo, at_hi - slope * hi)
    height, (at_centre, tilted) = slope * found.centre + offset, expanded
    first = (at_centre >= height) & (at_centre >= end)
    second = ~first & (height >= end)
    return Planes(first, torch.where(second, slope, 0.0), torch.where(first, tilted, torch.where(second, offset, end)))


STORED = Stored()
RULES: dict[str, Rule] = {
    "layer_norm": Layer(), "group_norm": Group(), "instance_norm": Instance(),
}  # fmt: skip
