"""Ranges of values, which sample each row of a backward pass belongs to, and which part of an image it is about."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
        only: the sample that all rows belong to; None where there are several, or where it is not known.
    """

    sample: Tensor
    n: int
    only: int | None = None

    @staticmethod
    def of(sample: Tensor, n: int) -> Owners:
        """Of at least one row, with `only` where it can be said."""
        first, last = torch.stack(sample.aminmax()).tolist()
        return Owners(sample, n, first if first == last else None)

    @staticmethod
    def all_of(n: int, each: int, device: torch.device) -> Owners:
        """`each` rows a sample, sample by sample."""
        return Owners(torch.arange(n, device=device).repeat_interleave(each), n)

    def pick(self, values: Tensor) -> Tensor:
        """Each row's own (r, *shape) of the samples' values (n, *shape); (1, *shape) where all have the same."""
        if self.n == 1:
            return values
        return values.index_select(0, self.sample) if self.only is None else values[self.only : self.only + 1]

    def part(self, rows: slice) -> Owners:
        """Those of some rows."""
        return Owners(self.sample[rows], self.n)


def products(rows: Tensor, values: Tensor) -> Tensor:
    """The sum (r,) of each row times its values (r, *shape), or the only sample's (1, *shape), all of them finite."""
    if len(values) == 1 and values.shape[1:] == rows.shape[1:]:
        return rows.reshape(len(rows), -1) @ values.reshape(-1)
    return (rows * values).reshape(len(rows), -1).sum(1)


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """The part of values (..., h, w) that each of r rows is about; all its other coefficients are 0.

    All parts have one size and each row's its own place, which may reach over the edges: rows are 0 there. All
    windows of a pass come from one, moved and grown alike for all rows, so that parts that are the same stay the same.

    Attributes:
        top, left: (r,) int64, where each part begins.
        height, width: of the parts.
        span: least and greatest top, least and greatest left.
        apart: (u,) int64, rows of which no two are about the same part of the same sample.
        alike: (r,) int64, for each row the place in `apart` of the one about the same.
    """

    top: Tensor
    left: Tensor
    height: int
    width: int
    span: tuple[int, int, int, int]
    apart: Tensor
    alike: Tensor

    @staticmethod
    def at(top: Tensor, left: Tensor, owners: Owners) -> Window:
        """Parts of one place each."""
        span = torch.stack([*top.aminmax(), *left.aminmax()]).tolist()
        key = (owners.sample * (span[1] + 1) + top) * (span[3] + 1) + left
        found, alike = torch.unique(key, return_inverse=True)
        apart = torch.empty(len(found), dtype=torch.int64, device=top.device)
        apart[alike] = torch.arange(len(top), device=top.device)  # any of those alike
        return Window(top, left, 1, 1, (span[0], span[1], span[2], span[3]), apart, alike)

    def below(self, stride: tuple[int, int], padding: tuple[int, int], height: int, width: int) -> Window:
        """The parts of a convolution's operand that these parts of its value hang on."""
        span = tuple(place * stride[number // 2] - padding[number // 2] for number, place in enumerate(self.span))
        return replace(
            self, top=self.top * stride[0] - padding[0], left=self.left * stride[1] - padding[1], height=height,
            width=width, span=(span[0], span[1], span[2], span[3]),
        )  # fmt: skip

    def leaves(self, height: int, width: int) -> bool:
        """Whether any part reaches over an edge."""
        up, down, left, right = self._margins(height, width)
        return max(up, down, left, right) > 0

    def inside(self, height: int, width: int) -> Tensor:
        """Which places (r, 1, 1, h, w) of the parts lie within the edges: bool."""
        rows = self.top[:, None] + torch.arange(self.height, device=self.top.device)
        columns = self.left[:, None] + torch.arange(self.width, device=self.top.device)
        within = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
        return within[:, None, None]

    def cut(self, values: Tensor, owners: Owners) -> Tensor:
        """Each row's own part (r, *, h, w) of its sample's values (n, *, H, W); zeros beyond the edges."""
        up, down, left, right = self._margins(*values.shape[-2:])
        padded = torch.nn.functional.pad(values.flatten(1, -3), (left, right, up, down))
        parts = padded.unfold(-2, self.height, 1).unfold(-2, self.width, 1)
        rows = self.apart
        sample = owners.sample[rows] if owners.n > 1 else torch.zeros_like(rows)
        taken = parts[sample, :, self.top[rows] + up, self.left[rows] + left]
        return taken.view(len(rows), *values.shape[1:-2], self.height, self.width).index_select(0, self.alike)

    def spread(self, rows: Tensor, height: int, width: int) -> Tensor:
        """Rows (r, *, h, w) of the parts, with zeros around, to (r, *, height, width)."""
        up, down, left, right = self._margins(height, width)
        flat = rows.reshape(len(rows), -1, self.height * self.width)
        whole = flat.new_zeros(*flat.shape[:2], (height + up + down) * (width + left + right))
        whole = whole.scatter(2, self._places(height, width).expand_as(flat), flat)
        whole = whole.view(*whole.shape[:2], height + up + down, width + left + right)
        return whole[..., up : up + height, left : left + width].reshape(*rows.shape[:-2], height, width)

    def shift(self, other: Window) -> tuple[int, int] | None:
        """How far another window's parts begin below and right of these; None where that differs from row to row."""
        down = {theirs - mine for mine, theirs in zip(self.span[:2], other.span[:2], strict=True)}
        right = {theirs - mine for mine, theirs in zip(self.span[2:], other.span[2:], strict=True)}
        if len(down) > 1 or len(right) > 1:
            return None
        found = (down.pop(), right.pop())
        same = bool(((other.top - self.top) == found[0]).all() & ((other.left - self.left) == found[1]).all())
        return found if same else None

    def grown(self, up: int, down: int, left: int, right: int) -> Window:
        """Larger by so much to each side."""
        span = (self.span[0] - up, self.span[1] - up, self.span[2] - left, self.span[3] - left)
        return replace(
            self, top=self.top - up, left=self.left - left, height=self.height + up + down,
            width=self.width + left + right, span=span,
        )  # fmt: skip

    def _margins(self, height: int, width: int) -> tuple[int, int, int, int]:
        """How far parts reach over the upper, lower, left and right edge."""
        first_top, last_top, first_left, last_left = self.span
        up, left = max(-first_top, 0), max(-first_left, 0)
        return up, max(last_top + self.height - height, 0), left, max(last_left + self.width - width, 0)

    def _places(self, height: int, width: int) -> Tensor:
        """The places (r, 1, h w) of the parts among all of what is padded, row by row."""
        up, _, left, right = self._margins(height, width)
        rows = self.top[:, None] + up + torch.arange(self.height, device=self.top.device)
        columns = self.left[:, None] + left + torch.arange(self.width, device=self.top.device)
        return (rows[:, :, None] * (width + left + right) + columns[:, None]).flatten(1)[:, None]
