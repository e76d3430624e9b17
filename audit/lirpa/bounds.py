"""Ranges of values, which sample each row of a backward pass belongs to, and which part of an image it is about."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDINGS = 4
"""Of a value, by which an interval is widened: more than a function that is computed by itself is off by."""


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """What an operation's value lies between, for n samples: lo <= value <= hi, both (n, *shape).

    What overflowed, or is not a number, is infinite: a bound that says nothing.
    """

    lo: Tensor
    hi: Tensor

    @property
    def centre(self) -> Tensor:
        """Half way between."""
        return (self.lo + self.hi) / 2

    @property
    def radius(self) -> Tensor:
        """Half of the width."""
        return (self.hi - self.lo) / 2

    def reach(self, terms: int) -> Tensor:
        """The radius, widened so that sums of so many terms, which are rounded, stay within what follows from it.

        A sum of k products w x is off by at most k u sum(|w| |x|), u being the unit roundoff (Higham 2002, section
        3.1); as |x| is at most |centre| + radius, so much of these, added to the radius, covers it.
        """
        return self.radius + terms * torch.finfo(self.lo.dtype).eps * (self.centre.abs() + self.radius)

    def said(self) -> Interval:
        """The same a few roundings wider, with infinity in place of what is not a number."""
        rounding = ROUNDINGS * torch.finfo(self.lo.dtype).eps
        lo, hi = self.lo - rounding * self.lo.abs(), self.hi + rounding * self.hi.abs()
        return Interval(
            lo.nan_to_num(-torch.inf, torch.inf, -torch.inf), hi.nan_to_num(torch.inf, torch.inf, -torch.inf)
        )

    def only(self, rows: Tensor | slice) -> Interval:
        """Those of some samples."""
        return Interval(self.lo[rows], self.hi[rows])

    @staticmethod
    def around(centre: Tensor, radius: Tensor) -> Interval:
        """From centre - radius to centre + radius."""
        return Interval(centre - radius, centre + radius)


@dataclass(frozen=True, slots=True, eq=False)
class Owners:
    """Which of n samples each of r rows belongs to.

    Attributes:
        sample: (r,) int64.
        n: samples.
    """

    sample: Tensor
    n: int

    @staticmethod
    def all_of(n: int, each: int, device: torch.device) -> Owners:
        """`each` rows a sample, sample by sample."""
        return Owners(torch.arange(n, device=device).repeat_interleave(each), n)

    def pick(self, values: Tensor) -> Tensor:
        """Each row's own (r, *shape) of the samples' values (n, *shape); (1, *shape) where there is one sample."""
        return values if self.n == 1 else values[self.sample]

    def part(self, rows: slice) -> Owners:
        """Those of some rows."""
        return Owners(self.sample[rows], self.n)


@dataclass(frozen=True, slots=True)
class Window:
    """The part of values (..., h, w) that rows are about; all their other coefficients are 0."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, values: Tensor) -> Tensor:
        """That part of values (..., h, w)."""
        return values[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def spread(self, rows: Tensor, height: int, width: int) -> Tensor:
        """Rows of this part, with zeros around, to (..., height, width)."""
        below, right = height - self.top - self.height, width - self.left - self.width
        return torch.nn.functional.pad(rows, (self.left, right, self.top, below))

    def around(self, other: Window) -> Window:
        """The smallest part that holds both."""
        top, left = min(self.top, other.top), min(self.left, other.left)
        bottom = max(self.top + self.height, other.top + other.height)
        right = max(self.left + self.width, other.left + other.width)
        return Window(top, left, bottom - top, right - left)

    def within(self, outer: Window) -> Window:
        """The same, counted from the corner of a part that holds it."""
        return Window(self.top - outer.top, self.left - outer.left, self.height, self.width)
