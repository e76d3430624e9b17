"""Lines of curved functions that are convex between two points and concave to both sides.

Either point may be infinite, so that this covers convex functions, concave ones, S shapes of either sense, and gelu and
its like. Let T_t be the tangent at t. It lies below f on the part that is convex if t does, and below f on a part that
is concave if it does at that part's ends, of which one is an end of the interval. So T_t holds if and only if t lies in
the convex part with

    T_t(lo) <= f(lo)  if lo lies below that part     and     T_t(hi) <= f(hi)  if hi lies above it.

T_t(lo) falls as t rises, T_t(hi) rises, hence the first holds from some t1 on and the second up to some t2. The best
line is T_t with t in [t1, t2] nearest to the middle. If t1 > t2, the hull of f rests on both ends alone, and the chord
is the best line. Bisection finds t1 or t2, from the side where the line holds. Lines above f are lines below -f, which
is convex in the parts where f is concave; see `Curve.lines` for functions that have two of these.

Where slopes jump between the parts, other lines than tangents support f at the joint. If the middle lies beyond the
joint and the tangent there holds, the line from the joint to the end beyond is steeper, holds too, and is better.

A chord's slope is rounded, heavily on small intervals, so the offset is computed after it. If the chord lies below f,
then so does a line of any slope k with the offset min(f(lo) - k lo, f(hi) - k hi), since f(x) - k x is at least the
chord less k x, whose least value is at an end. Where rounding could shape the slope, that of f at the middle is taken.

Source: Zhang et al. 2018, section 3.2 and appendix, arXiv 1811.00866.
Differs from source: a tangent through an end touches at the middle instead where that is possible, so that the area is
    least; touching points are bisected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.func import vjp

from audit.lirpa.bounds import Interval
from audit.lirpa.graph import Operation
from audit.lirpa.rules.elementwise import Elementwise, Lines

HALVINGS = 24
"""Of the distance from the middle within which a tangent touches: bounds lose 1e-7 of the width by it."""
ROUNDINGS, DOUBT = 64, 1e-3
"""A slope counts as rounded if a width is that many roundings of its place, or values leave that doubt in a slope."""


Function = Callable[[Tensor], Tensor]


class Curve(Elementwise):
    """A function that is convex between two points, concave outside."""

    def __init__(
        self, start: float = -math.inf, end: float = math.inf, turns: Sequence[float] = (), least: float = -math.inf
    ) -> None:
        self.bends, self.extremes, self.least = (start, end), turns, least

    def turns(self, op: Operation) -> Sequence[float | Tensor]:
        """Dips, and the like."""
        return self.extremes

    def defined(self, op: Operation, x: Interval) -> Tensor:
        """From the least argument on."""
        return x.lo >= self.least

    def convex(self, op: Operation) -> tuple[float, float]:
        """Where the convex part starts and ends; where there is none, the start is infinity."""
        return self.bends

    def value(self, op: Operation, x: Tensor) -> Tensor:
        """The function."""
        return op(x)

    def slope(self, op: Operation, x: Tensor, *, convex: bool) -> Tensor:
        """The derivative; at a joint, that of the convex part or that of the concave one."""
        _, transposed = vjp(partial(self.value, op), x)  # type: ignore[misc]
        found: Tensor = transposed(torch.ones_like(x))[0]
        return found

    def wanted(self, x: Interval) -> Tensor:
        """Where a lower line shall touch, if it can."""
        return x.centre

    def lines(self, op: Operation, x: Interval) -> Lines:
        """The lines that support the hull at the middle.

        Above, where an interval reaches into both concave parts, the chord is taken. This needs a function whose hull
        rests on the ends alone there: one that is at most 0 and does not rise in the left part, is at most x and rises
        by no less than 1 in the right one, and is greater than x in the left. A tangent of the right part that holds
        would lie below x in the left, and one of the left part at most at 0 in the right.
        """
        start, end = (torch.full_like(x.lo, bend) for bend in self.convex(op))
        below = Below(
            partial(self.value, op), partial(self.slope, op, convex=True), x.lo, x.hi, start, end
        ).line(self.wanted(x))  # fmt: skip
        left, right, none = x.hi <= end, x.lo >= start, torch.full_like(x.lo, torch.inf)
        above = Below(
            lambda place: -self.value(op, place), lambda place: -self.slope(op, place, convex=False), x.lo, x.hi,
            torch.where(left, -torch.inf, torch.where(right, end, none)), torch.where(left, start, none),
        ).line(x.centre)  # fmt: skip
        return Lines(*below, -above[0], -above[1])


class Below:
    """A function on intervals [lo, hi], convex on [start, end], concave elsewhere, seen from below.

    Attributes:
        f: of places.
        slope: of f; at a joint, that of the convex part.
        lo, hi, start, end: of one shape.
        at_lo, at_hi: the values of f there.
    """

    def __init__(self, f: Function, slope: Function, lo: Tensor, hi: Tensor, start: Tensor, end: Tensor) -> None:
        self.f, self.slope = f, slope
        self.lo, self.hi, self.start, self.end = lo, hi, start, end
        self.at_lo, self.at_hi = f(lo), f(hi)

    def line(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Slope and offset of the line that touches as near to the wanted places as a line that holds can."""
        p, q = torch.maximum(self.lo, self.start), torch.minimum(self.hi, self.end)
        some = p < q
        p, q = torch.where(some, p, self.lo), torch.where(some, q, self.hi)
        place = torch.minimum(torch.maximum(wanted, p), q)
        at, slope = self.f(place), self.slope(place)
        left, right = self.holds(place, at, slope)
        free, chord = some & left & right, ~some | ~(left | right)
        if bool((some & ~free & ~chord).any()):
            far = torch.where(left, p, q)
            share, flat = self._touching(place, far, left, some & ~free & ~chord)
            place, chord = place + share * (far - place), chord | flat
            at, slope = self.f(place), self.slope(place)
        steepness, rounded = self._chord()
        slope = self._over_joints(torch.where(chord, steepness, slope), place, at, free & ~rounded, wanted)
        outer = torch.minimum(self.at_lo - slope * self.lo, self.at_hi - slope * self.hi)
        return slope, torch.minimum(outer, at - slope * place)

    def holds(self, place: Tensor, at: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Whether the tangents at places of the convex part lie below f at lo, and at hi."""
        left = at + slope * (self.lo - place) <= self.at_lo
        right = at + slope * (self.hi - place) <= self.at_hi
        return left | (self.lo >= self.start), right | (self.hi <= self.end)

    def _over_joints(self, slope: Tensor, joint: Tensor, at: Tensor, free: Tensor, wanted: Tensor) -> Tensor:
        """The slopes, steeper where a line may pass a joint and the end beyond it on the side that is wanted."""
        beyond, before = free & (wanted > joint) & (joint < self.hi), free & (wanted < joint) & (joint > self.lo)
        rise = (self.at_hi - at) / torch.where(beyond, self.hi - joint, 1.0)
        fall = (at - self.at_lo) / torch.where(before, joint - self.lo, 1.0)
        slope = torch.where(beyond, torch.maximum(slope, rise), slope)
        return torch.where(before, torch.minimum(slope, fall), slope)

    @torch.no_grad()
    def _touching(self, near: Tensor, far: Tensor, left: Tensor, sought: Tensor) -> tuple[Tensor, Tensor]:
        """At which share of the way from near to far the tangents sought hold first, and where no tangent does.

        The one condition that fails at `near` is bisected. It holds at the places returned; if the other one does not,
        both fail at some place between, or the places are as good as equal and the offset takes up the rest.
        """
        ends = (self.lo[sought], self.hi[sought], self.start[sought], self.end[sought])
        part, share = Below(self.f, self.slope, *ends), torch.zeros_like(near)
        near, way, right = near[sought], (far - near)[sought], left[sought]

        def conditions(shares: Tensor) -> tuple[Tensor, Tensor]:
            place = near + shares * way
            at_lo, at_hi = part.holds(place, self.f(place), self.slope(place))
            return torch.where(right, at_hi, at_lo), torch.where(right, at_lo, at_hi)

        good, bad = torch.ones_like(near), torch.zeros_like(near)
        reached, _ = conditions(good)
        for _ in range(HALVINGS):
            middle = (good + bad) / 2
            holds, _ = conditions(middle)
            good, bad = torch.where(holds, middle, good), torch.where(holds, bad, middle)
        _, other = conditions(bad)
        return share.masked_scatter(sought, good), sought.masked_scatter(sought, ~(reached & other))

    def _chord(self) -> tuple[Tensor, Tensor]:
        """Slopes of the chords, or of f at the middle where they would be shaped by rounding: and whether they are."""
        eps, width = torch.finfo(self.lo.dtype).eps, self.hi - self.lo
        size, place = torch.maximum(self.at_lo.abs(), self.at_hi.abs()), torch.maximum(self.lo.abs(), self.hi.abs())
        doubt, small = 4 * eps * size, width <= ROUNDINGS * eps * place
        slope, rounded = (
            (self.at_hi - self.at_lo) / torch.where(width > 0, width, 1.0),
            small | (doubt > DOUBT**2 * width),
        )
        if not bool(rounded.any()):
            return slope, rounded
        tangent = self.slope((self.lo + self.hi) / 2)
        rounded = small | (doubt > DOUBT * width * tangent.abs().clamp(min=DOUBT))
        return torch.where(rounded, tangent, slope), rounded
