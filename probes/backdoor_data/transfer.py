"""Whether what a group of images has in common turns images of other classes into the group's class.

The residual is the mean of the group's images, each less its nearest neighbours by coarse content among other classes;
of a tile, its pixels. It is added to images of other classes, and the network's answers are compared with those to

    controls   residuals of random images of the class, in the same number, suspected ones among them; of a tile, what
               other images of the class have at the same place. Their ranks give a p-value that is exact if the group
               is as good as a random part of the class (the tile as good as what a random image has there). They are
               made one by one, and no more once ten did as well; ranks are by a part of the images.
    rivals     residuals of other coherent parts of the class: the unsuspected images that lie farthest along random
               directions of the features. A natural cluster is no random part of its class, and beats the controls
               where it is strong at all; it has to beat the median of these by far as well.

Source: transfer as confirmation, and what it is compared with, are this tool's; that a trigger acts on images that it
was not made of is what Wang et al. 2019 (Neural Cleanse, IEEE S&P) rest on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from audit.api import IntArray
from audit.toolkit.detection import sequential_p
from audit.toolkit.statistics import lower_limit
from probes.backdoor_data.config import COMPARED, TRANSFER
from probes.backdoor_data.content import neighbours
from probes.backdoor_data.mixture import Matrix, leading
from probes.backdoor_data.network import Network, classes_of
from probes.backdoor_data.samples import Samples

ALIKE = 5
"""Images of like content that each image is compared with."""
RIVALS = 19
"""Coherent parts of a class that a cluster is compared with."""
BEYOND = 0.25
"""By how much more images must follow a group's residual than the median rival's."""
RANKED = 64
"""Images by whose mean margin a change and its controls are ranked: the first ones that are asked, in random order."""
WORST = -1e6
"""Margin of an answer that is none."""
Cells = npt.NDArray[np.float32]
Change = Callable[[Tensor], Tensor]
"""Of images (n, c, h, w) in [0, 1]."""


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """How images of other classes follow a change.

    Attributes:
        hits: of the n images that the network gave another class before, those that it gives the class after.
        n: of them.
        rival: the median share that follows a rival, as some may hold images that the cluster missed; NaN where none
            was tried.
        p: exact, of all controls; None where the change was too weak to be compared.
    """

    hits: int
    n: int
    rival: float
    p: float | None

    @property
    def rate(self) -> float:
        """Share that follows."""
        return self.hits / self.n if self.n else 0.0

    @property
    def strong(self) -> bool:
        """Whether at least half of such images follow, with 95 % confidence."""
        return self.n > 0 and lower_limit(self.hits, self.n) >= TRANSFER

    @property
    def notable(self) -> bool:
        """Whether more follow than natural clusters were seen to cause, with 95 % confidence, and beyond rivals."""
        return self.n > 0 and lower_limit(self.hits, self.n) >= COMPARED and self.unrivalled

    @property
    def unrivalled(self) -> bool:
        """Whether it is far beyond what other parts of the class do."""
        return math.isnan(self.rival) or self.rate >= self.rival + BEYOND


def added(residual: Tensor) -> Change:
    """Adds a residual (c, h, w)."""
    return lambda pixels: (pixels + residual).clamp(0, 1)


def pasted(tile: Tensor, top: int, left: int) -> Change:
    """Writes a tile (c, s, s)."""

    def change(pixels: Tensor) -> Tensor:
        made = pixels.clone()
        made[:, :, top : top + tile.shape[1], left : left + tile.shape[2]] = tile
        return made

    return change


def followed(network: Network, pixels: Tensor, label: int, change: Change) -> tuple[int, float]:
    """How many of the images go to the class once they are changed, and the mean of its logit over the other ones."""
    logits = network.logits(change(pixels))
    others = logits.clone()
    others[:, label] = -torch.inf
    margin = (logits[:, label] - others.logsumexp(dim=1)).nan_to_num(nan=WORST, posinf=-WORST, neginf=WORST)
    return int((classes_of(logits) == label).sum()), float(margin.double().mean())


def compared(
    network: Network, targets: Tensor, label: int, change: Change, controls: Iterable[Change], rivals: Sequence[Change]
) -> Transfer:
    """A change against its controls and rivals, which are tried only where it has some effect.

    Args:
        network: is asked.
        targets: images of other classes, (n, c, h, w), in random order.
        label: the group's class.
        change: the group's.
        controls: see above.
        rivals: see above.
    """
    pixels = targets[network.classes_of(targets) != label]
    if len(pixels) == 0:
        return Transfer(0, 0, math.nan, None)
    hits, _ = followed(network, pixels, label, change)
    found = Transfer(hits, len(pixels), math.nan, None)
    if found.rate < COMPARED:
        return found
    some = pixels[:RANKED]
    score = followed(network, some, label, change)[1]
    p = sequential_p(score, (followed(network, some, label, control)[1] for control in controls))
    rates = [followed(network, pixels, label, rival)[0] / len(pixels) for rival in rivals]
    return Transfer(hits, len(pixels), float(np.median(rates)) if rates else math.nan, p)


def mean_image(samples: Samples, rows: IntArray) -> Tensor:
    """(c, h, w) float32 in [0, 1]."""
    total = samples.images[rows].sum(axis=0, dtype=np.float64) / (255 * max(1, len(rows)))
    return torch.from_numpy(total.astype(np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Residuals:
    """What may be added to images: of a group, of its controls as they are asked for, of rivals; (c, h, w) each."""

    group: Tensor
    controls: Iterator[Tensor]
    rivals: list[Tensor]


def residuals(
    samples: Samples, cells: Cells, values: Matrix, group: IntArray, label: int, most: int, count: int,
    rng: np.random.Generator,
) -> Residuals:  # fmt: skip
    """The residual of a cluster, and of so many controls of the same number of images.

    Args:
        samples: the images.
        cells: coarse content (n, d) of them.
        values: whitened features (n, d) of them.
        group: rows of the cluster, the farthest first.
        label: its class.
        most: images whose mean makes a residual.
        count: controls.
        rng: draws them.
    """
    pool = np.flatnonzero(samples.labels != label)
    whole = np.flatnonzero(samples.labels == label)
    rest = np.setdiff1d(whole, group)
    size = max(1, min(most, len(group), len(rest) // 2))
    alike = neighbours(cells, whole, pool, ALIKE)

    def residual(rows: IntArray) -> Tensor:
        return mean_image(samples, rows) - mean_image(samples, alike[np.searchsorted(whole, rows)].ravel())

    places = leading(values[rest] - values[rest].mean(axis=0))
    directions = rng.standard_normal((RIVALS, places.shape[1]))
    rivals = [residual(rest[np.argsort(-(places @ direction))[:size]]) for direction in directions]
    controls = (residual(rng.permutation(whole)[:size]) for _ in range(count))
    return Residuals(residual(group[:size]), controls, rivals)
