"""Projected gradient ascent with steps of fixed length; a single one from the clean image is the fast gradient attack.

Source: Madry et al. 2018, section 2.1, arXiv 1706.06083; Goodfellow, Shlens & Szegedy 2015, section 4, arXiv 1412.6572.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from audit.attacks import balls, losses
from audit.attacks.rows import Jobs, Rows
from audit.attacks.target import Look
from audit.toolkit.norms import Norm

STEP_FACTOR = 2.5
"""A step is this times eps over the number of steps, so that a search can cross the ball and come back."""


@dataclass(frozen=True, slots=True, eq=False)
class State(Rows):
    """Of n jobs: the image to be looked at next."""

    image: Tensor


@dataclass(frozen=True, slots=True)
class PGD:
    """Projected gradient ascent in the ball that each job gives.

    Attributes:
        norm, loss, looks, gradient: see `pool.Attack`; one look more than there are steps.
        step: length of a step, times eps.
        from_clean: whether it begins at the clean image; else at a random one, or at the job's own start.
    """

    norm: Norm
    loss: losses.Loss
    looks: int
    step: float
    from_clean: bool = False
    gradient: bool = True

    @classmethod
    def of(cls, norm: Norm, loss: losses.Loss, steps: int) -> Self:
        """With so many steps, from a random start."""
        return cls(norm, loss, steps + 1, STEP_FACTOR / steps)

    @classmethod
    def fast_gradient(cls, norm: Norm, loss: losses.Loss) -> Self:
        """One step of length eps from the clean image: the fast gradient sign method in Linf."""
        return cls(norm, loss, 2, 1.0, from_clean=True)

    def start(self, jobs: Jobs) -> State:
        """See `from_clean`."""
        if self.from_clean:
            return State(jobs.pixels)
        return State(balls.start(jobs, self.norm))

    def images(self, state: State) -> Tensor:
        """See `pool.Attack`."""
        return state.image

    def advance(self, jobs: Jobs, state: State, look: Look) -> State:
        """A step along the gradient, pulled back into the ball."""
        assert look.gradient is not None
        length = balls.column(self.step * jobs.eps, state.image)
        stepped = state.image + length * balls.steepest(look.gradient, self.norm, state.image, jobs.pixels)
        return replace(state, image=balls.projected(stepped, jobs.pixels, jobs.eps, self.norm))
