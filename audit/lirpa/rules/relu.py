"""max(x, 0), and the like of it: two straight pieces.

For l < 0 < u the least upper line passes through (l, 0) and (u, u). Below, every line s x with 0 <= s <= 1 will do; the
one nearer in area has s = 1 where u > -l, else 0.

Source: Zhang et al. 2018, section 3.2, arXiv 1811.00866.
"""

from __future__ import annotations

import torch

from audit.lirpa.bounds import Interval
from audit.lirpa.graph import Operation
from audit.lirpa.rules.elementwise import Elementwise, Lines
from audit.lirpa.rules.rule import Rule


class Bent(Elementwise):
    """A function that is `left` x below 0 and x above, with 0 <= left < 1; any slope between is free."""

    def left(self, op: Operation) -> float:
        """The slope below 0."""
        return 0.0

    def lines(self, op: Operation, x: Interval) -> Lines:
        """The least upper line, and the lower one nearer in area."""
        left, zero = self.left(op), torch.zeros_like(x.lo)
        bent = (x.lo < 0) & (x.hi > 0)
        share = torch.where(bent, x.hi / torch.where(bent, x.hi - x.lo, 1.0), (x.lo >= 0).to(x.lo))
        upper = left + (1 - left) * share
        lower = torch.where((x.lo >= 0) | (bent & (x.hi > -x.lo)), 1.0, torch.full_like(zero, left))
        return Lines(lower, zero, upper, torch.where(bent, (left - upper) * x.lo, 0.0), bent)


class Leaky(Bent):
    """Leaky ReLU, with a slope below 0 that is neither negative nor above 1."""

    def left(self, op: Operation) -> float:
        """The slope below 0."""
        return float(op.argument(1, "negative_slope", 0.01))

    def defined(self, op: Operation, x: Interval) -> torch.Tensor:
        """Nowhere for other slopes, so that nothing is claimed of them."""
        return torch.full_like(x.lo, 0 <= self.left(op) <= 1, dtype=torch.bool)


RULES: dict[str, Rule] = {"relu": Bent(), "leaky_relu": Leaky()}
