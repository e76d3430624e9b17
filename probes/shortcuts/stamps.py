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

ACROSS, NEAR, PART = 3, 4, 8
"""Pixels across, of the window that detail is averaged over; how near to it a patch may go on: so many pixels, or this
part of the image's side, whichever is more."""
NEARLY_ALL, CLEAR = 0.75, 0.35
"""Agreement of a class's images at the place, and by how much it exceeds that elsewhere. Chosen on digits (seeds 500
to 503): patches on all images of a class gave 0.85 and more, 0.49 more than elsewhere, clean ones at most 0.42, 0.12
more; and on MNIST's test images: the middle of its ones 0.59, 0.25 more, or 0.44 more in a margin of 18 pixels."""
FAINT, TIMES = 0.2, 4.0
"""Or that agreement, and how many times that elsewhere, as of patches on some photographs. Classes of CIFAR-10 and Tiny
ImageNet had at most 0.1 and 1.5 times. Drawings may have more, as their margins agree on nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Stamp:
    """Where the images of a class agree most on sharp detail.

    Attributes:
        here: agreement at that place: 1 where all images have the same strong detail, 0 where they share none. Of a
            small patch of strong contrast it is about the share of images that have it.
        elsewhere: the most at places apart from it.
        mask: (h, w) the pixels of it.
        own: whether it is detail of this class, and not what others have and this one lacks.
        photographs: whether it is of images without margins, where `FAINT` says something.
    """

    here: float
    elsewhere: float
    mask: npt.NDArray[np.bool_]
    own: bool
    photographs: bool

    @property
    def isolated(self) -> bool:
        """Whether it is a patch, as other places have far less."""
        clear = self.here > NEARLY_ALL and self.here - self.elsewhere > CLEAR
        faint = self.photographs and self.here > FAINT and self.here > TIMES * self.elsewhere
        return self.own and (clear or faint)


def stamp_of(
    mine: npt.NDArray[np.float32], others: npt.NDArray[np.float32], largest: float, *, photographs: bool
) -> Stamp:
    """Of fine parts (2, c, h, w), at least `ACROSS` pixels a side, of the means of either half of images.

    Args:
        mine: of the class.
        others: the median over all classes; of two classes that is the mean, so that a patch counts half.
        largest: value at which fine parts of images were cut off, so that a mean of it says that all images agree.
        photographs: see `Stamp`.
    """
    first, second = mine - others
    agreed = np.where(first * second > 0, np.minimum(np.abs(first), np.abs(second)), 0).max(axis=0) / largest
    height, width = agreed.shape
    windows = avg_pool2d(torch.from_numpy(agreed)[None, None], ACROSS, stride=1)[0, 0].numpy()
    top, left = np.unravel_index(int(windows.argmax()), windows.shape)
    near = max(NEAR, min(height, width) // PART)
    apart = np.ones(windows.shape, dtype=np.bool_)
    apart[max(0, top - near) : top + near + 1, max(0, left - near) : left + near + 1] = False
    here, elsewhere = float(windows[top, left]), float(windows[apart].max(initial=0.0))
    within = np.zeros(agreed.shape, dtype=np.bool_)
    within[max(0, top - near) : top + near + ACROSS, max(0, left - near) : left + near + ACROSS] = True
    strong = within & (agreed > here / 2)
    own = float(np.abs(mine[:, :, strong]).sum()) > float(np.abs(others[:, :, strong]).sum())
    mask: npt.NDArray[np.bool_] = (
        max_pool2d(torch.from_numpy(strong).float()[None, None], 3, stride=1, padding=1)[0, 0].numpy() > 0
    )
    return Stamp(min(1.0, here), min(1.0, elsewhere), mask, own, photographs)
