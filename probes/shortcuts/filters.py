"""The filter of each class, as far as the spectra of its images tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import least_squares
from torch import Tensor

from audit.poisons.filters import filtered, key_filters
from probes.shortcuts.traces import COLUMNS, DARK, ROWS, Traces, frequency_bins

Vector = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

SIZE = 3
FEWEST = 15
"""Images of each kind from which a spectrum is estimated."""
FINE = 60
NOISE = 0.02
"""Power, relative to the largest, below which a frequency is not amplified."""
ROUNDS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Gain:
    """What a class's images have that others do not.

    Attributes:
        label: the class.
        rows: (n,) which images have it.
        log_power: (50,) by which the power of each bin of frequency differs, in logarithms.
        against: `own` where the class's other images were compared, `all` where hardly any is left, `trusted` where
            trusted ones were given.
        taps: (3, 3) the filter over no border that fits it best, largest tap 1; turned as borders suggest, since a turn
            by 180 degrees leaves the power as it is.
        explained: share of the differences between bins that the filter explains.
    """

    label: int
    rows: Mask
    log_power: Vector
    against: str
    taps: Vector
    explained: float


def gains(
    traces: Traces, labels: npt.NDArray[np.int64], marked: Mapping[int, Mask], known: Sequence[Gain] = ()
) -> list[Gain]:
    """Of the classes that are marked: of their marked images (n,) against their others.

    Where these are few, against what filters like CUDA's leave of all marked classes' images on average. What
    comparison with trusted images made known is taken as it is.
    """
    found, whole = list(known), {}
    marked = {label: rows for label, rows in marked.items() if label not in {gain.label for gain in known}}
    for label, rows in marked.items():
        others = (labels == label) & ~rows
        if rows.sum() < FEWEST:
            continue
        if others.sum() >= max(FEWEST, 0.25 * rows.sum()):
            found.append(_own(traces, label, rows, others))
        else:
            whole[label] = rows
    together = sorted(found + _relative(traces, whole), key=lambda gain: gain.label)
    return [replace(gain, taps=_turned(gain, traces)) for gain in together]


def _own(traces: Traces, label: int, rows: Mask, others: Mask) -> Gain:
    """Where most images are filtered, a peak may be of those that are not: a filter explains which are which."""
    power = (traces.spectrum[rows].mean(axis=0) - traces.spectrum[others].mean(axis=0)).astype(np.float64)
    (taps, explained), (against, better) = fitted_filter(power), fitted_filter(-power)
    if better > explained + 0.2:
        return Gain(label, others, -power, "own", against, better)
    return Gain(label, rows, power, "own", taps, explained)


def border_shifts(taps: Vector) -> Vector:
    """(4,) by which a filter shifts the logarithm of the light of a border line: top, bottom, left, right.

    Of even light; a filter of three lines loses one of them beyond the border.
    """
    lost = np.array([taps[0].sum(), taps[-1].sum(), taps[:, 0].sum(), taps[:, -1].sum()])
    return np.asarray(np.log(np.maximum(1 - lost / taps.sum(), DARK)))


def _turned(gain: Gain, traces: Traces) -> Vector:
    """The taps, or these turned by 180 degrees, whichever darken the borders as they are."""
    seen = [
        np.median(traces.edge[rows, side]) if (rows := gain.rows & ~traces.framed[:, side]).any() else np.nan
        for side in range(4)
    ]
    turned: Vector = gain.taps[::-1, ::-1].copy()
    miss, other = (np.nansum(np.abs(border_shifts(taps) - seen)) for taps in (gain.taps, turned))
    return gain.taps if miss <= other else turned


def _relative(traces: Traces, whole: Mapping[int, Mask]) -> list[Gain]:
    """Of classes that have no image without: what all share is the spectrum of images, and guessed at first."""
    if not whole:
        return []
    power = np.stack([traces.spectrum[rows].mean(axis=0).astype(np.float64) for rows in whole.values()])
    typical = np.mean([filter_power(taps) for taps in key_filters(0, 200, SIZE, 0.3)], axis=0)
    base = power.mean(axis=0) - typical
    fits = [fitted_filter(values - base) for values in power]
    for _ in range(ROUNDS if len(whole) > 2 else 0):
        base = np.mean([values - filter_power(taps) for values, (taps, _) in zip(power, fits, strict=True)], axis=0)
        fits = [fitted_filter(values - base) for values in power]
    return [
        Gain(label, rows, values - base, "all", taps, explained)
        for (label, rows), values, (taps, explained) in zip(whole.items(), power, fits, strict=True)
    ]


def filter_power(taps: Vector) -> Vector:
    """(50,) logarithm of the mean power that a filter leaves of each bin of frequency."""
    bins = frequency_bins(FINE, FINE).ravel()
    power = (np.abs(np.fft.rfft2(taps, (FINE, FINE))) ** 2).ravel()
    sums = np.bincount(bins[bins >= 0], power[bins >= 0], ROWS * COLUMNS)
    found: Vector = np.log(sums / np.bincount(bins[bins >= 0], minlength=ROWS * COLUMNS) + 1e-6)
    return found


def fitted_filter(log_power: Vector) -> tuple[Vector, float]:
    """The filter of taps in [0, 1], one of them 1, whose power is nearest to this up to a factor; and how near."""
    about = log_power - log_power.mean()
    best: tuple[float, Vector] = (np.inf, np.zeros((SIZE, SIZE)))
    for one in range(SIZE * SIZE // 2 + 1):  # a turn by 180 degrees has the same power

        def taps_of(free: Vector, one: int = one) -> Vector:
            return np.insert(free, one, 1.0).reshape(SIZE, SIZE)

        def missed(free: Vector, taps_of: object = taps_of) -> Vector:
            power = filter_power(taps_of(free))  # type: ignore[operator]
            return np.asarray(power - power.mean() - about)

        found = least_squares(missed, np.full(SIZE * SIZE - 1, 0.15), bounds=(0.0, 1.0), max_nfev=30)
        best = min(best, (float(found.cost), taps_of(found.x)), key=lambda pair: pair[0])
    total = float((about**2).sum()) / 2
    return best[1], 1 - best[0] / total if total > 0 else 0.0


def convolved(images: Tensor, taps: Vector) -> Tensor:
    """The images (n, c, h, w) through a filter (3, 3), or each through its own (n, 3, 3), as CUDA applies it."""
    each = np.broadcast_to(taps, (len(images), SIZE, SIZE)).copy()
    return filtered(images, torch.from_numpy(each).float())


def unfiltered(images: Tensor, taps: Vector) -> Tensor:
    """About what the images (n, c, h, w) were before the filter (3, 3), in [0, 1].

    A Wiener filter: what the filter took nearly all of is not brought back.
    """
    height, width = (side + 2 * SIZE for side in images.shape[-2:])
    kernel = torch.zeros(height, width)
    kernel[:SIZE, :SIZE] = torch.from_numpy(taps[::-1, ::-1].copy()).float()  # correlation
    response = torch.fft.rfft2(kernel.roll((-(SIZE // 2), -(SIZE // 2)), (0, 1)))
    floor = NOISE * response.abs().max() ** 2
    spectrum = torch.fft.rfft2(images, s=(height, width)) * response.conj() / (response.abs() ** 2 + floor)
    made = torch.fft.irfft2(spectrum, s=(height, width))[..., : images.shape[-2], : images.shape[-1]].clamp(min=0)
    scaled: Tensor = made / made.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
    return scaled
