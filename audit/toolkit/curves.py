"""Shares of samples as lines of a curve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from audit.api import Series
from audit.toolkit.statistics import band_half_width

POINTS = 41
"""Radii at which a curve is drawn, beside those of the plan."""


def drawn_radii(listed: Sequence[float]) -> list[float]:
    """Evenly spaced radii from 0 to the largest of those listed, and these, ascending."""
    return sorted({*np.linspace(0, max(listed, default=0.0), POINTS).tolist(), *listed})


def banded(name: str, x: Sequence[float], masks: Sequence[npt.NDArray[np.bool_]]) -> Series:
    """The share of samples in each mask (n,), with the 95 % band that holds at all x at once.

    The shares must be those of one distribution function, such as of a sample's radius: see `band_half_width`.
    """
    shares, half = [float(mask.mean()) for mask in masks], band_half_width(len(masks[0]))
    return Series(
        name=name,
        x=tuple(x),
        y=tuple(shares),
        low=tuple(max(share - half, 0.0) for share in shares),
        high=tuple(min(share + half, 1.0) for share in shares),
    )
