"""What the data alone say, and from when on it is an alarm.

Limits of effect were chosen on CIFAR-10's training images (all of them once, parts, and 45 pairs of classes), choices
of classes of Tiny ImageNet, and scikit-learn's digits, all as published, and on keys 1, 7 and 11 of CUDA. `SHARED` was
made since one blur on a third of the images raised alarms on digits, of seeds that `benchmarks/poison.py` uses. Limits
of fine patterns were chosen on MNIST's test images as well, whose drawings raised alarms before.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from audit.api import IntArray
from audit.toolkit.detection import ALPHA
from probes.shortcuts.border import Peak, peaks
from probes.shortcuts.gap import Gap, gap
from probes.shortcuts.reference import Compared, alarming
from probes.shortcuts.templates import Carriers, Template
from probes.shortcuts.traces import Traces

SHARE = 0.02
"""Least share of a class's images in a second peak of its borders."""
OWN = 1.35
"""Times the share that other classes have in the same window, which an own peak surely exceeds."""
SHARED = 0.5
"""Part of a class's share that other classes may have anywhere beyond, at the class that has most of its own."""
GAP, GAP_GREY = 0.15, 0.12
"""Accuracy by texture above that by content: an alarm, and what is too much to be nothing."""
KNOWN = 0.8
"""Accuracy by content from which texture can tell hardly more."""
RECALL, RECALL_GAIN = 0.7, 0.3
"""By texture, of a class that is marked by the gap alone; and above that by content."""
FINE, FINE_RATIO, AGREEMENT = 1.2 / 255, 0.16, 0.3
"""Of a class's fine pattern: strength in units of the pixel range, over its coarse part, and between halves."""
RATIO_SIDE = 32
"""Pixels across, of images below which a drawing's fine part is larger: by the square, as it is a second difference."""
FLAT = 1.0 / 255
"""Strength of a fine pattern where images are flat; clean sets and shams had 0.5 at most, digits of a bold pen 0.9 (two
of 20 such sets were beyond 0.7), noise of 8/255 from 1.4 and noise of 4/255 from 0.7."""


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Of n images.

    Attributes:
        labels: (n,).
        traces: of all.
        peaks: one a class.
        gap: of texture and content.
        templates: of the classes that could be averaged.
        carried: of the classes with a fine pattern of their own, how many images carry it.
        compared: of the classes that trusted images were given of.
        repeated: whether images are enlarged by repeated pixels, so that texture and fine patterns tell nothing.
    """

    labels: IntArray
    traces: Traces
    peaks: list[Peak]
    gap: Gap
    templates: list[Template]
    carried: list[Carriers] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)
    repeated: bool = False

    @property
    def peaked(self) -> list[Peak]:
        """Classes with a border effect of their own; none where all share it, as one filter on some images makes it.

        Content near the border moves the peaks of one filter from class to class, so that there is to be a class on
        whose side of nothing few images of others lie.
        """
        found = [
            peak
            for peak in self.peaks
            if peak.p_adjusted < ALPHA
            and peak.share >= SHARE
            and (peak.elsewhere < SHARE / 2 or peak.lower > OWN * peak.elsewhere + SHARE)
        ]
        return found if any(peak.beyond < SHARED * peak.share for peak in found) else []

    @property
    def textured(self) -> list[int]:
        """Classes that texture tells far better than content does, where it tells all together better."""
        if self.repeated or self.gap.interval(0.99).low <= GAP:
            return []
        found = []
        for label in np.unique(self.labels):
            mine = self.labels == label
            texture, content = float(self.gap.texture[mine].mean()), float(self.gap.content[mine].mean())
            if texture >= RECALL and texture - content >= RECALL_GAIN:
                found.append(int(label))
        return found

    @property
    def patterned(self) -> list[Template]:
        """Classes with a patch or a fine pattern of their own, over what is flat or beyond what their drawing has."""
        return [template for template in self.templates if _is_pattern(template)]

    @property
    def referenced(self) -> list[Compared]:
        """Classes with a filter of their own, by comparison with trusted images."""
        return alarming(self.compared)

    @property
    def alarm(self) -> bool:
        """Whether anything is too much to be chance and nature."""
        return bool(self.peaked or self.textured or self.patterned or self.referenced)

    @property
    def judged(self) -> tuple[bool, bool]:
        """Whether borders, and whether texture, could have told: the first of some class, the second of all."""
        return any(peak.side for peak in self.peaks), not self.repeated and float(self.gap.content.mean()) < KNOWN


def _is_pattern(template: Template) -> bool:
    if template.stamp.isolated:
        return True
    if template.flat > FLAT and template.flat_agreement > AGREEMENT:
        return True
    usual = FINE_RATIO * max(1.0, RATIO_SIDE / min(template.pattern.shape[1:])) ** 2
    return template.fine > FINE and template.ratio > usual and template.agreement > AGREEMENT


def evidence_of(
    traces: Traces, labels: IntArray, classes: int, rng: np.random.Generator, templates: list[Template]
) -> Evidence:
    """Halves and folds are drawn; see `Evidence`."""
    second: npt.NDArray[np.bool_] = rng.random(len(labels)) < 0.5
    return Evidence(labels, traces, peaks(traces, labels, classes, second), gap(traces, labels, rng), templates)
