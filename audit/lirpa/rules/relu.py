"""max(x, 0), and the like of it: two straight pieces.

For l < 0 < u the least upper line passes through (l, 0) and (u, u). Below, every line s x with 0 <= s <= 1 will do; the
one nearer in area has s = 1 where u > -l, else 0.

Source: Zhang et al. 2018, section 3.2, arXiv 1811.00866.
"""

from __future__ import annotations

import torch
from torch import Tensor

from audit.lirpa.bounds import Interval
from audit.lirpa.graph import Operation
from audit.lirpa.rules.rule import Pulled, Rule, Standing, total


class Bent(Rule):
    """A function that is `left` x below 0 and x above, with 0 <= left < 1."""

    def left(self, op: Operation) -> float:
        """The slope below 0."""
        return 0.0

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """The function of both ends, as it rises."""
        (x,) = operands
        return Interval(op.target(x.lo, *op.args[1:]), op.target(x.hi, *op.args[1:]))

    def slopes(self, op: Operation, x: Interval) -> Tensor:
        """Lower slopes (n, *shape), the nearer in area."""
        return torch.where(x.hi > -x.lo, 1.0, self.left(op)).to(x.lo)

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """Where a coefficient is positive the lower line counts, else the upper one."""
        left, x = self.left(op), at.intervals[op.operands[0]]
        lower = torch.where(x.lo >= 0, 1.0, torch.where(x.hi <= 0, left, self.slopes(op, x))).to(x.lo)
        bent = (x.lo < 0) & (x.hi > 0)
        share = torch.where(bent, x.hi / (x.hi - x.lo), (x.lo >= 0).to(x.lo))
        upper = left + (1 - left) * share
        height = torch.where(bent, (left - upper) * x.lo, 0.0)
        below = at.owners.pick(lower)
        if op in at.slopes:
            below = torch.where(at.owners.pick(bent), at.slopes[op], below)
        negative = rows.clamp(max=0)
        pulled = rows.clamp(min=0) * below + negative * at.owners.pick(upper)
        return Pulled((pulled,), total(negative * at.owners.pick(height)))


class Leaky(Bent):
    """Leaky ReLU."""

    def left(self, op: Operation) -> float:
        """The slope below 0."""
        return float(op.argument(1, "negative_slope", 0.01))


RULES: dict[str, Rule] = {"relu": Bent(), "leaky_relu": Leaky()}
