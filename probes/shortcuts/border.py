"""Borders: whether many images of one class share a border effect that other classes do not have.

A filter over black borders takes the same share of light from a border line in every image, so that second differences
of lines at the border gather in a second peak. Natural images have one peak, at nothing, and frames lie anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from audit.api import IntArray
from audit.toolkit.detection import holm
from audit.toolkit.statistics import lower_limit, upper_limit
from probes.shortcuts.traces import Traces

SIDES = ("top", "bottom", "left", "right")
FEWEST = 25
"""Images of a class, of each half, whose border is not framed; with fewer nothing is said."""
NEAREST = 0.2
"""Least shift that is told from none; a filter of taps like CUDA's moves some border by more."""
NARROWEST, WIDEST = 0.12, 0.5
SPREAD = 2.5
"""Width of a window over the spread of natural second differences, which gives it four fifths of a shifted peak."""
COVERED = 0.79
STEP = 0.04
FARTHEST = 2.6
FAR = 0.6
OTHERS = 50
"""Classes that one is compared with, at least, where there are so many; of all of a thousand it would take long."""
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Peak:
    """What the borders of one class show.

    Attributes:
        label: the class.
        n: images of the second half that are looked at.
        side: where the peak is; empty where the class has too few images.
        shift: of its middle, in logarithms of light.
        width: of the window around it.
        p: chance of a window so full, if densities were smooth there and borders as the inside.
        p_adjusted: the same for all classes together.
        share: estimated share of the class's images in the peak.
        hit, background: images of the second half in the window, and those expected there without poison.
        lower: lower limit of the share, one-sided, 99 %.
        elsewhere: median over the other classes of their share in the same window.
        beyond: the same of their share anywhere on that side of nothing, from `FAR` of the shift on.
    """

    label: int
    n: int
    side: str = ""
    shift: float = 0.0
    width: float = 0.0
    p: float = 1.0
    p_adjusted: float = 1.0
    share: float = 0.0
    hit: int = 0
    background: int = 0
    lower: float = 0.0
    elsewhere: float = 0.0
    beyond: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """Of one class and side, unframed images: shifts at the border (n,), inside (n, 4), and the half of each."""

    edge: npt.NDArray[np.float32]
    inside: npt.NDArray[np.float32]
    second: Mask

    def part(self, second: bool) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Of one half."""
        rows = self.second == second
        return self.edge[rows], self.inside[rows]

    @property
    def width(self) -> float:
        """Of a window, by the spread of the inside."""
        middle = np.median(self.inside)
        return float(np.clip(SPREAD * 1.4826 * np.median(np.abs(self.inside - middle)), NARROWEST, WIDEST))


def peaks(traces: Traces, labels: IntArray, classes: int, second: Mask) -> list[Peak]:
    """The fullest window of each class, chosen on the first half of its images, and tested on the second.

    Args:
        traces: of n images.
        labels: (n,).
        classes: how many.
        second: (n,) which images are of the second half.
    """
    sides = [[_side(traces, labels == label, side, second) for side in range(4)] for label in range(classes)]
    common = [_common([row[side] for row in sides]) for side in range(4)]
    for row in sides:
        for side, shift in enumerate(common):
            row[side] = _Side(row[side].edge - shift, row[side].inside, row[side].second)
    found = [_peak(label, sides) for label in range(classes)]
    tested = [peak for peak in found if peak.side]
    adjusted = dict(zip([peak.label for peak in tested], holm([peak.p for peak in tested]), strict=True))
    return [replace(peak, p_adjusted=float(adjusted[peak.label])) if peak.side else peak for peak in found]


def excess_limit(hit: int, background: int, n: int, confidence: float = 0.99) -> float:
    """Lower limit of the share of n images by which a window holds more than its background."""
    each = 1 - (1 - confidence) / 2
    return max(0.0, lower_limit(hit, n, each) - upper_limit(min(background, n), n, each))


def members(traces: Traces, labels: IntArray, peak: Peak, classes: int) -> Mask:
    """Which images (n,) of the class lie in its peak."""
    side = SIDES.index(peak.side)
    everything = np.ones(len(labels), dtype=np.bool_)
    common = _common([_side(traces, labels == label, side, everything) for label in range(classes)])
    near = np.abs(traces.edge[:, side] - common - peak.shift) < peak.width / 2
    found: Mask = (labels == peak.label) & ~traces.framed[:, side] & near
    return found


def _side(traces: Traces, rows: Mask, side: int, second: Mask) -> _Side:
    usable = rows & ~traces.framed[:, side]
    return _Side(traces.edge[usable, side], traces.inside[usable, side], second[usable])


def _common(of_classes: list[_Side]) -> float:
    """The shift that most classes share, which tells nothing of a class: that of a frame, or of one filter for all."""
    shifts = [np.median(side.edge) - np.median(side.inside) for side in of_classes if len(side.edge) >= FEWEST]
    return float(np.median(shifts)) if shifts else 0.0


def _peak(label: int, sides: list[list[_Side]]) -> Peak:
    mine = sides[label]
    usable = [
        place for place, side in enumerate(mine) if min(len(side.part(half)[0]) for half in (False, True)) >= FEWEST
    ]
    if not usable:
        return Peak(label, max(len(side.part(True)[0]) for side in mine))
    scored = [(*_fullest(mine[place]), place) for place in usable]
    _, shift, place = max(scored)
    side, width = mine[place], mine[place].width
    edge, inside = side.part(True)
    hit, flank, within = _counts(edge, inside, shift, width)
    n = len(edge)
    smooth = float(binom.sf(hit - 1, hit + flank, 1 / 3))
    as_inside = float(binom.sf(hit - 1, hit + within, 1 / (1 + inside.shape[1])))
    rest = [row[place] for other, row in enumerate(sides) if other != label and len(row[place].edge) >= FEWEST]
    rest = rest[:: max(1, len(rest) // OTHERS)]
    others, far = [_share(one, shift, width) for one in rest], [_far(one, FAR * shift) for one in rest]
    background = round(max(flank / 2, within / inside.shape[1]))
    return Peak(
        label, n, SIDES[place], shift, width, max(smooth, as_inside),
        share=float(np.clip((hit - background) / n / COVERED, 0, 1)),
        hit=hit,
        background=background,
        lower=excess_limit(hit, background, n),
        elsewhere=float(np.median(others)) if others else 0.0,
        beyond=float(np.median(far)) if far else 0.0,
    )  # fmt: skip


def _share(side: _Side, shift: float, width: float) -> float:
    hit, flank, within = _counts(side.edge, side.inside, shift, width)
    return float(max(0.0, hit - max(flank / 2, within / side.inside.shape[1])) / len(side.edge) / COVERED)


def _far(side: _Side, limit: float) -> float:
    """Share of the images that are shifted by the limit and more, towards its sign, above what lines inside are."""
    sign = np.sign(limit)
    return float((sign * side.edge > abs(limit)).mean() - (sign * side.inside > abs(limit)).mean())


def _fullest(side: _Side) -> tuple[float, float]:
    """How far the fullest window of the first half stands out, and its middle."""
    (edge, inside), width = side.part(False), side.width
    nearest = max(NEAREST, 1.5 * width)
    away = np.arange(nearest, FARTHEST, STEP)
    best = (-np.inf, nearest)
    for shift in np.concatenate([-away, away]):
        hit, flank, within = _counts(edge, inside, float(shift), width)
        background = max(flank / 2, within / inside.shape[1])
        best = max(best, ((hit - background) / np.sqrt(background + 1), float(shift)))
    return best


def _counts(
    edge: npt.NDArray[np.float32], inside: npt.NDArray[np.float32], shift: float, width: float
) -> tuple[int, int, int]:
    """Border shifts in the window, in its two flanks of the same width, and those of the inside in the window."""
    distance = np.abs(edge - shift)
    hit = int((distance < width / 2).sum())
    flank = int((distance < 1.5 * width).sum()) - hit
    return hit, flank, int((np.abs(inside - shift) < width / 2).sum())
