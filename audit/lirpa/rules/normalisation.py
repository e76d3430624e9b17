"""Normalisation by what an image's own values are: in layers, groups and instances.

The output is f(u) = u / s(u) with s^2 = |u|^2 / N + eps, of u = d + h in the terms of `statistics`. There are three
bounds, each of a lower and an upper kind, and for each value the one nearest to f(d) at the centre is taken.

First, the expansion around d. With a = u.h / N, b = |h|^2 / N, the second derivative along h is

    f_i'' = -2 a h_i / s^3 + u_i (3 a^2 / s^5 - b / s^3),

and the remainder is half a mean of it. Let s0 be the least s, B = |r|^2 / N: then b <= B, and |a| / s is at most q, the
lesser of sqrt(B) and (|d|.r / N + B) / s0. The bracket lies between -B / s0^3 and min(2 B, 3 q^2) / s0^3.

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
from audit.lirpa.rules.rule import Pulled, Rule, Standing, product, total
from audit.lirpa.rules.signed import Scaled
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
        found = self._deviations(op, *operands)
        lo, hi = (end.reshape(-1, *op.shape) for end in _ends(found, eps))
        if weight is not None:
            lo, hi = torch.minimum(lo * weight, hi * weight), torch.maximum(lo * weight, hi * weight)
        return Interval(lo, hi) if bias is None else Interval(lo + bias, hi + bias)

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """The nearest of the bounds at the head of the file, for each value and side."""
        weight, bias, eps = self.constants(op)
        (shape, dims), pick = self.layout(op), at.pick
        found = at.known.once(op, lambda: _relaxation(self._deviations(op, at.intervals[op.operands[0]]), eps))
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

    def _deviations(self, op: Operation, x: Interval) -> Deviations:
        shape, dims = self.layout(op)
        return Deviations.of(Interval(x.lo.reshape(-1, *shape), x.hi.reshape(-1, *shape)), dims)


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


def _relaxation(found: Deviations, eps: float) -> Relaxation:
    """The planes below f and above it."""
    steepness, (under, over), (lo, hi) = (found.middle + eps).rsqrt(), _remainders(found, eps), _ends(found, eps)
    value = found.centre * steepness
    tilted = value * found.middle * steepness**2
    lower = _below(found, eps, 1, (value - under, tilted - under), lo)
    upper = _below(found, eps, -1, (-value - over, -tilted - over), -hi)
    return Relaxation(lower, Planes(upper.expanded, -upper.slope, -upper.offset), value, steepness)


def _remainders(found: Deviations, eps: float) -> tuple[Tensor, Tensor]:
    """By how much f lies below and above its expansion at most."""
    low, high, least = found.centre - found.radius, found.centre + found.radius, found.least + eps
    square = found.square
    leaning = torch.minimum(square, (found.reach + square) ** 2 / least)
    crossed = 2 * leaning.sqrt() * found.radius / least
    down, up = square / least**1.5, torch.minimum(2 * square, 3 * leaning) / least**1.5
    positive, negative = high.clamp(min=0), (-low).clamp(min=0)
    under = crossed + torch.maximum(positive * down, negative * up)
    return under / 2, (crossed + torch.maximum(positive * up, negative * down)) / 2


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


STORED = Scaled()
RULES: dict[str, Rule] = {
    "layer_norm": Layer(), "group_norm": Group(), "instance_norm": Instance(),
}  # fmt: skip
