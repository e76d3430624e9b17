"""Small patches at one place: sharp detail that the images of a class have there alike, and nowhere else.

Drawings that lie alike share detail all along their strokes, photographs hardly any. What a patch adds to either is
detail at one place, so that a class is held against itself: its place of most shared detail against all places that
lie apart from it. A frame, or noise on whole images, is no such patch: see `templates`.

Source: this tool's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import avg_pool2d, max_pool2d

ACROSS, NEAR = 3, 4
"""Pixels across, of the window that detail is averaged over; and how near to it a patch may go on, at least."""
NEARLY_ALL, CLEAR = 0.75, 0.35
"""Share of the class's images that must agree at the place, and by how much more than elsewhere. Patches on all digits
of a class gave 0.86 and more, 0.5 more than elsewhere; the middle of MNIST's ones 0.59, 0.44 more; other drawings less.
"""
FAINT, TIMES, SMOOTH = 0.2, 4.0, 0.07
"""Or that share, how many times that elsewhere, and what is elsewhere at most, as of patches on some photographs.
Drawings have more elsewhere (MNIST's ones 0.1), and photographs are not as far apart: classes of CIFAR-10 and of Tiny
ImageNet were at most 1.8 times beyond, their pairs too."""


@dataclass(frozen=True, slots=True, eq=False)
class Stamp:
    """Where the images of a class agree most on sharp detail.

    Attributes:
        share: of the class's images that have the same detail there: 1 where all have.
        elsewhere: the most at places apart from it.
        mask: (h, w) the pixels of it.
    """

    share: float
    elsewhere: float
    mask: npt.NDArray[np.bool_]

    @property
    def isolated(self) -> bool:
        """Whether it is a patch, as other places have far less."""
        clear = self.share > NEARLY_ALL and self.share - self.elsewhere > CLEAR
        return clear or (self.share > FAINT and self.share > TIMES * self.elsewhere and self.elsewhere < SMOOTH)


def stamp_of(halves: npt.NDArray[np.float32], largest: float) -> Stamp:
    """Of the fine parts (2, c, h, w) of the mean of either half of a class's images, less those of other classes.

    Args:
        halves: what both lack is chance.
        largest: value at which fine parts of images were cut off, so that a mean of it says that all images agree.
    """
    first, second = halves
    agreed = np.where(first * second > 0, np.minimum(np.abs(first), np.abs(second)), 0).max(axis=0) / largest
    height, width = agreed.shape
    if min(height, width) < ACROSS:
        return Stamp(0.0, 0.0, np.zeros(agreed.shape, dtype=np.bool_))
    windows = avg_pool2d(torch.from_numpy(agreed)[None, None], ACROSS, stride=1)[0, 0].numpy()
    top, left = np.unravel_index(int(windows.argmax()), windows.shape)
    near = max(NEAR, min(height, width) // 4)
    apart = np.ones(windows.shape, dtype=np.bool_)
    apart[max(0, top - near) : top + near + 1, max(0, left - near) : left + near + 1] = False
    share, elsewhere = float(windows[top, left]), float(windows[apart].max(initial=0.0))
    within = np.zeros(agreed.shape, dtype=np.bool_)
    within[max(0, top - near) : top + near + ACROSS, max(0, left - near) : left + near + ACROSS] = True
    strong = torch.from_numpy(within & (agreed > share / 2)).float()
    mask: npt.NDArray[np.bool_] = max_pool2d(strong[None, None], 3, stride=1, padding=1)[0, 0].numpy() > 0
    return Stamp(min(1.0, share), min(1.0, elsewhere), mask)
