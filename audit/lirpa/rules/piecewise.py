"""Functions of straight pieces, joined at kinks.

On an interval such a function is the polygon through its ends and the kinks between them. A line that lies below these
points lies below all of it. The best one supports their convex hull at the middle: among the pairs of points on either
side of the middle, the one whose join is lowest there. Any line's offset is then the least of what the points ask for,
so that rounding in the slope takes nothing from its truth. Of |x| this gives the slope -1 or 1, of a clamp a line
through an end and a kink, a flat one, or the chord.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import combinations

import torch
from torch import Tensor

from audit.lirpa.bounds import Interval
from audit.lirpa.graph import Operation
from audit.lirpa.rules.elementwise import Elementwise, Lines, nearest
from audit.lirpa.rules.rule import Rule

ROUNDINGS = 64
"""Widths of no more roundings of a value than this give no slope."""


class Polygon(Elementwise):
    """A continuous function that is straight between kinks."""

    def __init__(self, *kinks: float) -> None:
        self.kinks = kinks

    def turns(self, op: Operation) -> Sequence[float | Tensor]:
        """The kinks."""
        return self.kinks

    def lines(self, op: Operation, x: Interval) -> Lines:
        """The lines that support the hull of the kinks and the ends."""
        places = [x.lo, *(nearest(x, kink) for kink in self.turns(op)), x.hi]
        heights = [op(place) for place in places]
        lower_slope, lower_offset = _below(places, heights)
        upper_slope, upper_offset = _below(places, [-height for height in heights])
        return Lines(lower_slope, lower_offset, -upper_slope, -upper_offset)


class Clamp(Polygon):
    """max(min(x, most), least), either of them possibly absent: numbers, or tensors of constants."""

    def __init__(self, least: tuple[int, str] | None, most: tuple[int, str] | None, *otherwise: float) -> None:
        super().__init__(*otherwise)
        self.arguments = [argument for argument in (least, most) if argument is not None]

    def turns(self, op: Operation) -> Sequence[float | Tensor]:
        """The limits that are given, or those that the operator has by itself."""
        found = [op.argument(*argument) for argument in self.arguments]
        return [limit for limit in found if limit is not None] or self.kinks


class Extremum(Polygon):
    """The greater or the lesser of two: of a value and a constant, or of two values, then without lines."""

    def turns(self, op: Operation) -> Sequence[float | Tensor]:
        """The constant."""
        return [limit for limit in op.args[:2] if not isinstance(limit, Operation)]

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """The operator on both ends, as it rises in each operand."""
        return Interval(op.each(*(each.lo for each in operands)), op.each(*(each.hi for each in operands)))


def _below(places: Sequence[Tensor], heights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Slope and offset of the highest line at the middle among those below points in ascending order."""
    lo, hi = places[0], places[-1]
    middle = (lo + hi) / 2
    least_width = ROUNDINGS * torch.finfo(lo.dtype).eps * torch.maximum(lo.abs(), hi.abs())
    slope, lowest = torch.zeros_like(lo), torch.full_like(lo, torch.inf)
    for (left, start), (right, end) in combinations(zip(places, heights, strict=True), 2):
        across = (right - left > least_width) & (left <= middle) & (middle <= right)
        steepness = (end - start) / torch.where(across, right - left, 1.0)
        height = start + steepness * (middle - left)
        better = across & (height < lowest)
        slope, lowest = torch.where(better, steepness, slope), torch.where(better, height, lowest)
    asked = [height - slope * place for place, height in zip(places, heights, strict=True)]
    return slope, reduce(torch.minimum, asked)


RULES: dict[str, Rule] = {
    "abs": Polygon(0.0), "relu6": Polygon(0.0, 6.0), "hardsigmoid": Polygon(-3.0, 3.0),
    "hardtanh": Clamp((1, "min_val"), (2, "max_val"), -1.0, 1.0), "clamp": Clamp((1, "min"), (2, "max")),
    "clamp_min": Clamp((1, "min"), None), "clamp_max": Clamp(None, (1, "max")),
    "maximum": Extremum(), "minimum": Extremum(),
}  # fmt: skip
