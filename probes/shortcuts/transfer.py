"""Whether a network that was trained on the data follows what was found, put on images of other classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from audit.api import IntArray
from audit.poisons.filters import key_filters
from audit.schema import Interval
from audit.toolkit.detection import exact_p
from audit.toolkit.statistics import difference
from probes.shortcuts.filters import SIZE, Gain, Vector, convolved

CONTROLS = 99
ASKED = 200
"""Images over all classes."""
BLUR = 0.3
SMALL_NETWORK, SUBJECT = "a small network", "the model"
"""Who is asked."""
Ask = Callable[[Tensor], IntArray]
"""Pixels (n, c, h, w) to classes (n,)."""


@dataclass(frozen=True, slots=True)
class Followed:
    """How often images were taken for the class whose filter or pattern was put on them.

    Attributes:
        hits, n: of so many.
        before: how many were taken for it without.
        controls: the share under each of the controls, ascending.
        p: exact, of the share among the controls.
    """

    hits: int
    n: int
    before: int
    controls: tuple[float, ...]

    @property
    def p(self) -> float:
        """Chance of a share as large, were what is put on them drawn like the controls."""
        return exact_p(self.hits / self.n, self.controls)

    @property
    def gain(self) -> Interval:
        """Of the share above what it was before, 95 %: Agresti & Caffo 2000, The American Statistician 54(4)."""
        return difference(self.hits, self.n, self.before, self.n)

    @property
    def effect(self) -> float:
        """The share above the controls' mean."""
        return self.hits / self.n - float(np.mean(self.controls))


def follows_filters(
    ask: Ask, images: Tensor, targets: IntArray, found: Sequence[Gain], rng: np.random.Generator
) -> Followed:
    """Each image (n, c, h, w) through the estimated filter of its target class (n,), against keys drawn at random.

    A control draws a filter for every class as CUDA does. The p-value is exact if the found filters are drawn so too.
    """
    taps = {gain.label: gain.taps for gain in found}

    def share(filters: Mapping[int, Vector]) -> int:
        each = np.stack([filters[int(target)] for target in targets])
        return int((ask(convolved(images, each)) == targets).sum())

    most = max(taps) + 1
    keys = rng.integers(2**31, size=CONTROLS)
    drawn = (key_filters(int(key), most, SIZE, BLUR) for key in keys)
    controls = sorted(share({label: filters[label] for label in taps}) / len(targets) for filters in drawn)
    return Followed(share(taps), len(targets), int((ask(images) == targets).sum()), tuple(controls))


def follows_patterns(
    ask: Ask, images: Tensor, targets: IntArray, patterns: dict[int, Tensor], rng: np.random.Generator
) -> Followed:
    """Each image with its target's pattern (c, h, w) added, against the same patterns moved and mirrored at random.

    The p-value is exact if the pattern is as likely to lie at any other place.
    """

    def share(of: dict[int, Tensor]) -> int:
        added = images + torch.stack([of[int(target)] for target in targets])
        return int((ask(added.clamp(0, 1)) == targets).sum())

    def moved(pattern: Tensor) -> Tensor:
        height, width = pattern.shape[-2:]
        shifts = (int(rng.integers(height)), int(rng.integers(width)))
        turned = pattern.flip(2) if rng.random() < 0.5 else pattern
        return turned.roll(shifts, (1, 2)) * (1 if rng.random() < 0.5 else -1)

    controls = sorted(
        share({label: moved(pattern) for label, pattern in patterns.items()}) / len(targets) for _ in range(CONTROLS)
    )
    return Followed(share(patterns), len(targets), int((ask(images) == targets).sum()), tuple(controls))
