"""The images that a bound covers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from audit.lirpa.bounds import Interval, Owners, Window, products


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """For each of n samples a box of images, or the part of a box that lies in an L2 ball.

    Attributes:
        box: (n, c, h, w).
        centre: (n, c, h, w) of the balls; None without.
        radius: (n,) of the balls; None without.
    """

    box: Interval
    centre: Tensor | None = None
    radius: Tensor | None = None

    @staticmethod
    def ball(
        images: Tensor, norm: Literal["linf", "l2"], eps: Tensor | float, low: float = 0, high: float = 1
    ) -> Region:
        """Within eps of each image (n, c, h, w), and of the pixel range.

        Args:
            images: in the precision that the bounds shall have.
            norm: of the distance.
            eps: one radius, or one an image (n,).
            low: the least value of a pixel; what lies below is no image.
            high: the greatest.
        """
        each = torch.as_tensor(eps, dtype=images.dtype, device=images.device).expand(len(images))
        width = each[:, None, None, None]
        box = Interval((images - width).clamp(low, high), (images + width).clamp(low, high))
        return Region(box) if norm == "linf" else Region(box, images, each)

    def __len__(self) -> int:
        return len(self.box.lo)

    def only(self, rows: Tensor | slice) -> Region:
        """The regions of some samples."""
        if self.centre is None or self.radius is None:
            return Region(self.box.only(rows))
        return Region(self.box.only(rows), self.centre[rows], self.radius[rows])

    def lowest(self, rows: Tensor, owners: Owners, window: Window | None = None) -> Tensor:
        """A lower bound (r,) of each row's product (r, c, h, w) with any image of its sample's region.

        The least value over a box is exact. Within a ball it is the larger of what the ball and what the box say.

        Args:
            rows: of the images, or of a part of them.
            owners: which sample each row belongs to.
            window: that part.
        """

        def own(values: Tensor) -> Tensor:
            return owners.pick(values) if window is None else window.cut(values, owners)

        least = products(rows, own(self.box.centre)) - products(rows.abs(), own(self.box.radius))
        if self.centre is None or self.radius is None:
            return least
        in_ball = products(rows, own(self.centre)) - owners.pick(self.radius) * rows.flatten(1).norm(dim=1)
        return torch.maximum(least, in_ball)
