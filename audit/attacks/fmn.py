"""Fast Minimum-Norm: the nearest image that fools the model, in one search that needs no radius.

The ball shrinks by a small factor while the image fools the model and grows while it does not; the image takes a step
along the gradient of the margin and is pulled into the ball. Both the factor and the step fall along a cosine.

Source: Pintor, Roli, Brendel & Biggio 2021, algorithm 1, arXiv 2102.12827.
Differs from source: a step is measured in the norm itself rather than in L2, and in parts of the radius that the search
    has come to, from all of it down to a fiftieth, since a fixed length would have to be chosen by model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from audit.attacks import balls, losses
from audit.attacks.rows import Jobs, Rows
from audit.attacks.target import Look
from audit.toolkit.norms import Norm, widest

FIRST_FACTOR, LAST_FACTOR = 0.05, 0.001
FIRST_STEP, LAST_STEP = 1.0, 0.02
"""Times the radius."""


@dataclass(frozen=True, slots=True, eq=False)
class State(Rows):
    """Of n jobs: the image to be looked at next, the ball's radius, the smallest distance that fooled, past looks."""

    image: Tensor
    radius: Tensor
    smallest: Tensor
    looked: Tensor


@dataclass(frozen=True, slots=True)
class FMN:
    """Fast Minimum-Norm, from the clean image; a job's own radius and start are not used."""

    norm: Norm
    looks: int
    loss: losses.Loss = "margin"
    gradient: bool = True

    def start(self, jobs: Jobs) -> State:
        """At the clean image."""
        none = torch.full_like(jobs.eps, torch.inf)
        return State(image=jobs.pixels, radius=none, smallest=none, looked=torch.zeros_like(jobs.labels))

    def images(self, state: State) -> Tensor:
        """See `pool.Attack`."""
        return state.image

    def advance(self, jobs: Jobs, state: State, look: Look) -> State:
        """The ball is fitted to what was seen, then the image takes a step and is pulled into it."""
        assert look.gradient is not None
        share = (1 + torch.cos(math.pi * state.looked / self.looks)) / 2
        factor = LAST_FACTOR + (FIRST_FACTOR - LAST_FACTOR) * share
        moved = balls.length(state.image - jobs.pixels, self.norm)
        fools = losses.margin(look.logits, jobs.labels) >= 0
        smallest = torch.where(fools, torch.minimum(moved, state.smallest), state.smallest)
        # Where nothing has fooled the model yet, a little more than the radius at which its linear approximation would:
        # at that radius exactly, rounding may keep the image before the boundary for ever.
        rate = balls.dual_length(look.gradient, self.norm)
        missing = (-look.loss).clamp(min=0) / rate.clamp(min=balls.TINY)
        guess = (moved + missing).clamp(max=widest(self.norm, jobs.pixels.shape[1:]))
        grown = torch.where(smallest.isfinite(), state.radius, guess) * (1 + factor)
        shrunk = torch.minimum(state.radius, smallest) * (1 - factor)
        radius = torch.where(fools, shrunk, torch.minimum(grown, smallest))
        length = (LAST_STEP + (FIRST_STEP - LAST_STEP) * share) * radius
        stepped = state.image + balls.column(length, state.image) * balls.steepest(
            look.gradient, self.norm, state.image, jobs.pixels
        )
        image = balls.projected(stepped, jobs.pixels, radius, self.norm)
        return replace(state, image=image, radius=radius, smallest=smallest, looked=state.looked + 1)
