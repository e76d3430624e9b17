"""Smooth functions, and those made of smooth pieces: where each is convex, where it turns, where it is defined.

The points given to many digits are roots of the second derivative (where a curve bends the other way) or of the first
(where it turns), found with 40 digits; `tests/audit/lirpa/test_elementwise.py` finds them again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from audit.lirpa.bounds import Interval
from audit.lirpa.graph import Operation
from audit.lirpa.rules.curve import Curve
from audit.lirpa.rules.elementwise import Lines
from audit.lirpa.rules.rule import Rule

SHARP = 0.99
"""How far above lo a line below e^x touches at most: it is e^t (1 + x - t), and stays above 0 to the end."""
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
"""Source: Klambauer et al. 2017, arXiv 1706.02515."""


class Exponential(Curve):
    """e^x and 2^x, also less 1: lower lines that stay above the limit at minus infinity."""

    def wanted(self, x: Interval) -> Tensor:
        """The middle, but near lo.

        Source: Shi et al. 2020, arXiv 2002.06622.
        """
        return torch.minimum(x.centre, x.lo + SHARP)


class Power(Curve):
    """x^p with a constant p.

    Of whole numbers, even ones are convex on either side of 0, odd ones concave below 0 and convex above; negative ones
    say nothing about an interval with 0. Others ask for positive values: convex, but concave for 0 < p < 1.
    """

    def __init__(self, exponent: float | None = None) -> None:
        super().__init__()
        self.fixed = exponent

    def exponent(self, op: Operation) -> float | None:
        """The exponent; None where it is no single number or depends on the pixels, which is not covered."""
        given = op.argument(1, "exponent") if self.fixed is None else self.fixed
        if isinstance(op.args[0], Operation) and isinstance(given, int | float | Tensor):
            return float(given) if not isinstance(given, Tensor) or given.numel() == 1 else None
        return None

    def turns(self, op: Operation) -> Sequence[float]:
        """0 for even ones."""
        exponent = self.exponent(op)
        return (0.0,) if exponent is not None and exponent > 0 and exponent % 2 == 0 else ()

    def defined(self, op: Operation, x: Interval) -> Tensor:
        """Where the power is finite and real all over an interval."""
        exponent = self.exponent(op)
        if exponent is None:
            return torch.zeros_like(x.lo, dtype=torch.bool)
        if exponent % 1 == 0:
            return torch.ones_like(x.lo, dtype=torch.bool) if exponent >= 0 else (x.lo > 0) | (x.hi < 0)
        return x.lo >= 0 if exponent > 0 else x.lo > 0

    def convex(self, op: Operation) -> tuple[float, float]:
        """All, none, or the positive half."""
        exponent = self.exponent(op)
        if exponent is None or 0 < exponent < 1:
            return math.inf, math.inf
        return (0.0 if exponent % 2 == 1 else -math.inf), math.inf

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """As of any function; nothing is said of a power with two operands."""
        if self.exponent(op) is None:
            nothing = operands[0].lo.new_full((len(operands[0].lo), *op.shape), torch.inf)
            return Interval(-nothing, nothing)
        return super().interval(op, *operands)


class Gelu(Curve):
    """x Phi(x), or its approximation by tanh."""

    def convex(self, op: Operation) -> tuple[float, float]:
        """Between roots of the second derivative; Phi's are those of 2 - x^2."""
        bend = 1.4185040087908283555 if self._by_tanh(op) else math.sqrt(2)
        return -bend, bend

    def turns(self, op: Operation) -> Sequence[float]:
        """The dip."""
        return (-0.75246142207101625849 if self._by_tanh(op) else -0.75179152469356445746,)

    def _by_tanh(self, op: Operation) -> bool:
        return bool(op.argument(1, "approximate", "none") == "tanh")


class Hardswish(Curve):
    """x relu6(x + 3) / 6: 0, then x (x + 3) / 6 between -3 and 3, then x; slopes fall at both joints."""

    def __init__(self) -> None:
        super().__init__(-3.0, 3.0, (-1.5,))

    def slope(self, op: Operation, x: Tensor, *, convex: bool) -> Tensor:
        """0, (2 x + 3) / 6, 1."""
        between = (x.abs() <= 3) if convex else (x.abs() < 3)
        return torch.where(between, (2 * x + 3) / 6, (x > 0).to(x))


class Elu(Curve):
    """An exponential that saturates below 0, and a straight line above: convex unless the slope falls at 0."""

    def scales(self, op: Operation) -> tuple[float, float, float]:
        """a, c and b in  a (e^(b x) - 1)  below 0 and  c x  above."""
        alpha, scale, inner = (
            float(op.argument(place, name, 1.0)) for place, name in ((1, "alpha"), (2, "scale"), (3, "input_scale"))
        )
        return alpha * scale, scale, inner

    def defined(self, op: Operation, x: Interval) -> Tensor:
        """For scales of the usual sign."""
        alpha, scale, inner = self.scales(op)
        return torch.full_like(x.lo, alpha >= 0 and scale > 0 and inner > 0, dtype=torch.bool)

    def convex(self, op: Operation) -> tuple[float, float]:
        """All, or the half below 0."""
        alpha, scale, inner = self.scales(op)
        return -math.inf, 0.0 if alpha * inner > scale else math.inf

    def slope(self, op: Operation, x: Tensor, *, convex: bool) -> Tensor:
        """At 0, that of the exponential for the convex part, of the line for the other."""
        alpha, scale, inner = self.scales(op)
        straight = x > 0 if convex else x >= 0
        return torch.where(straight, scale, alpha * inner * (inner * x.clamp(max=0)).exp())


class Selu(Elu):
    """Elu with fixed scales, by which the slope falls at 0."""

    def scales(self, op: Operation) -> tuple[float, float, float]:
        """Fixed."""
        return SELU_SCALE * SELU_ALPHA, SELU_SCALE, 1.0


class Celu(Elu):
    """Elu without a joint: a (e^(x / a) - 1)."""

    def scales(self, op: Operation) -> tuple[float, float, float]:
        """The slope is 1 on either side."""
        alpha = float(op.argument(1, "alpha", 1.0))
        return alpha, 1.0, 1 / alpha


class Softplus(Curve):
    """ln(1 + e^(b x)) / b, which PyTorch replaces by x where b x exceeds a threshold: a little less.

    Lines are those of the function s without a threshold, the lower one lowered by s(x) - x at the first x of the
    interval that lies beyond, as that difference falls; where all of the interval does, both lines are x.
    """

    def constants(self, op: Operation) -> tuple[float, float]:
        """The factor b, and the x beyond which the function is x."""
        factor, threshold = float(op.argument(1, "beta", 1.0)), float(op.argument(2, "threshold", 20.0))
        return factor, threshold / factor

    def value(self, op: Operation, x: Tensor) -> Tensor:
        """The function without a threshold."""
        factor, _ = self.constants(op)
        return torch.logaddexp(factor * x, torch.zeros_like(x)) / factor

    def defined(self, op: Operation, x: Interval) -> Tensor:
        """For a positive factor."""
        return torch.full_like(x.lo, self.constants(op)[0] > 0, dtype=torch.bool)

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """The function without a threshold at both ends, lowered as lines are."""
        (x,) = operands
        _, limit = self.constants(op)
        defined, beyond = self.defined(op, x), x.lo > limit
        lo = torch.where(defined, self.value(op, x.lo) - self._drop(op, x), -torch.inf)
        hi = torch.where(defined, torch.where(beyond, x.hi, self.value(op, x.hi)), torch.inf)
        return Interval(torch.where(defined & beyond, x.lo, lo), hi).said()

    def lines(self, op: Operation, x: Interval) -> Lines:
        """As of the function without a threshold, lowered."""
        found, beyond = super().lines(op, x), x.lo > self.constants(op)[1]
        return Lines(
            torch.where(beyond, 1.0, found.lower_slope),
            torch.where(beyond, 0.0, found.lower_offset - self._drop(op, x)),
            torch.where(beyond, 1.0, found.upper_slope),
            torch.where(beyond, 0.0, found.upper_offset),
        )

    def _drop(self, op: Operation, x: Interval) -> Tensor:
        _, limit = self.constants(op)
        first = x.lo.clamp(min=limit)
        return torch.where(x.hi > limit, self.value(op, first) - first, 0.0)


_SILU, _MISH = 2.3993572805154676678, (-2.25637639636079312, 1.4905711794854284593)
RULES: dict[str, Rule] = {
    "exp": Exponential(), "exp2": Exponential(), "expm1": Exponential(), "square": Power(2.0), "pow": Power(),
    "sqrt": Power(0.5), "rsqrt": Power(-0.5), "reciprocal": Power(-1.0),
    "log": Curve(math.inf, least=0.0), "log2": Curve(math.inf, least=0.0), "log10": Curve(math.inf, least=0.0),
    "log1p": Curve(math.inf, least=-1.0),
    "sigmoid": Curve(end=0.0), "tanh": Curve(end=0.0), "erf": Curve(end=0.0), "atan": Curve(end=0.0),
    "erfc": Curve(start=0.0),
    "gelu": Gelu(), "silu": Curve(-_SILU, _SILU, (-1.2784645427610737951,)),
    "mish": Curve(*_MISH, (-1.1924312145154952121,)), "hardswish": Hardswish(),
    "elu": Elu(), "selu": Selu(), "celu": Celu(), "softplus": Softplus(),
}  # fmt: skip
