"""Normalisation by what an image's own values are, and such statistics by themselves.

Of x between lo and hi in a group of N values, let d and r be centre less its mean, and radius. What deviates from the
mean is u = d + h, where h is the change of x less its own mean. Then |h|^2 <= |r|^2, and |h_i| <= R_i, the radius of
x_i less the mean: (1 - 2/N) r_i + mean(r). The variance |u|^2 / N lies between

    least = max_y (y.d - |y|.r)+^2 / (|y|^2 N),    most = (|d|^2 + 2 |d|.r + |r|^2) / N

for any y of sum 0, as then y.u <= |y| |u| and y.u = y.(x's centre + change). Tried are d, and d with each value drawn
towards 0 by r_i, centred, which is about the best.

The output is f(u) = u / s(u) with s^2 = |u|^2 / N + eps. For it there are three bounds, each of lower and upper kind,
and for each value the one nearest to f(d) at the centre is taken.

First, the expansion around d. With a = u.h / N, b = |h|^2 / N, the second derivative along h is

    f_i'' = -2 a h_i / s^3 + u_i (3 a^2 / s^5 - b / s^3),

and the remainder is half a mean of it. Let s0 be the least s, B = |r|^2 / N: then b <= B, and |a| / s is at most q, the
lesser of sqrt(B) and (|d|.r / N + B) / s0. The bracket lies between -B / s0^3 and min(2 B, 3 q^2) / s0^3.

Second, f_i = u_i k with k = 1 / s between its ends, as if these had nothing to do with one another: min(k_lo u, k_hi u)
is concave in u, so its chord lies below, and that of the maximum above.

Third, constants. As u_i^2 <= (N - 1) variance, u_i / sqrt(max(least, u_i^2 / (N - 1)) + eps) bounds f_i on the far side
from 0, and rises with u_i.

Source: Shi et al. 2020 (layer normalisation, there as its parts), arXiv 2002.06622; the bounds are ours.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from audit.lirpa.bounds import Interval
from audit.lirpa.graph import Operation
from audit.lirpa.rules.rule import Pulled, Rule, Standing, total
from audit.lirpa.rules.signed import Scaled


@dataclass(frozen=True, slots=True, eq=False)
class Deviations:
    """What values deviate from their mean, in an interval: all (n, *shape), or 1 along the dimensions of the mean.

    Attributes:
        size: how many values have a mean in common.
        centre, radius: d and R at the head of the file.
        raw: r.
        reach: |d|.r / N.
        middle, least, most: the variance at the centre, and its bounds.
    """

    size: int
    centre: Tensor
    radius: Tensor
    raw: Tensor
    reach: Tensor
    middle: Tensor
    least: Tensor
    most: Tensor

    @staticmethod
    def of(x: Interval, dims: tuple[int, ...]) -> Deviations:
        """From the mean over dimensions."""

        def mean(values: Tensor) -> Tensor:
            return values.mean(dims, keepdim=True)

        size, raw, d = math.prod(x.lo.shape[dim] for dim in dims), x.radius, x.centre - mean(x.centre)
        drawn = d.sign() * (d.abs() - raw).clamp(min=0)
        least = torch.zeros_like(mean(d))
        for y in (d, drawn - mean(drawn)):
            square, reached = mean(y**2), mean(y * d - y.abs() * raw).clamp(min=0)
            least = torch.maximum(least, torch.where(square > 0, reached**2 / torch.where(square > 0, square, 1.0), 0.0))
        middle, reach = mean(d**2), mean(d.abs() * raw)
        most = middle + 2 * reach + mean(raw**2)
        return Deviations(size, d, raw * (1 - 2 / size) + mean(raw), raw, reach, middle, least, most)


class Normalised(Rule):
    """Values less their mean, over the root of their variance and a constant; then a scale and a shift of constants."""

    @abstractmethod
    def setting(self, op: Operation) -> tuple[tuple[int, ...], tuple[int, ...], Any, Any, float]:
        """In which shape, over which dimensions of it, by which weight and bias, in the operation's shape, with eps."""
