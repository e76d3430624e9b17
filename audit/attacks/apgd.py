"""Auto-PGD: projected gradient ascent with momentum that halves its own step where it no longer gets on.

Source: Croce & Hein 2020, algorithm 1 and section 3, arXiv 2003.01690.
Differs from source: the first look is at the random start with a full step after it, as in the released code; a search
    may begin at a given image in place of a random one.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from audit.attacks import balls, losses
from audit.attacks.rows import Jobs, Rows
from audit.attacks.target import Look
from audit.toolkit.norms import Norm

MOMENTUM = 0.75
ENOUGH_RISES = 0.75
"""rho: below this share of steps on which the loss rose, the step is halved."""
FIRST_STEP = {"linf": 2.0, "l2": 2.0, "l1": 1.0}
"""Times eps."""
FIRST_WINDOW, WINDOW_SHRINKS, SMALLEST_WINDOW = 0.22, 0.03, 0.06
"""Shares of all steps."""


@dataclass(frozen=True, slots=True, eq=False)
class State(Rows):
    """Of n jobs; images are (n, c, h, w), the rest (n,).

    Attributes:
        image: to be looked at next.
        previous: the one before it.
        best: the image of the largest loss, with its gradient and its loss.
        last_loss: of `previous`.
        step: length of a step.
        looked: how many looks a job has had.
        rises: steps since the last checkpoint on which the loss rose.
        loss_at_check: best loss at the last checkpoint.
        halved: whether the step was halved there.
    """

    image: Tensor
    previous: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    last_loss: Tensor
    step: Tensor
    looked: Tensor
    rises: Tensor
    loss_at_check: Tensor
    halved: Tensor


@dataclass(frozen=True, slots=True)
class APGD:
    """Auto-PGD in the ball that each job gives."""

    norm: Norm
    loss: losses.Loss
    looks: int
    gradient: bool = True

    def start(self, jobs: Jobs) -> State:
        """At a random image on the ball's surface, or at the nearest image in the ball to the job's own start."""
        image = balls.start(jobs, self.norm)
        lowest = torch.full_like(jobs.eps, -torch.inf)
        count = torch.zeros_like(jobs.labels)
        return State(
            image=image,
            previous=image,
            best=image,
            best_gradient=torch.zeros_like(image),
            best_loss=lowest,
            last_loss=lowest,
            step=FIRST_STEP[self.norm] * jobs.eps,
            looked=count,
            rises=count,
            loss_at_check=lowest,
            halved=torch.ones_like(jobs.warm),
        )

    def images(self, state: State) -> Tensor:
        """See `pool.Attack`."""
        return state.image

    def advance(self, jobs: Jobs, state: State, look: Look) -> State:
        """One step of the ascent, after the bookkeeping of the look."""
        assert look.gradient is not None
        first = state.looked == 0
        rose = (look.loss > state.last_loss) & ~first
        better = look.loss > state.best_loss
        state = replace(
            state,
            best=torch.where(balls.column(better, state.image), state.image, state.best),
            best_gradient=torch.where(balls.column(better, state.image), look.gradient, state.best_gradient),
            best_loss=torch.where(better, look.loss, state.best_loss),
            rises=state.rises + rose,
            last_loss=look.loss,
        )
        state, gradient, here = self._checked(state, look.gradient)
        momentum = torch.where(first, 1.0, MOMENTUM).to(here.dtype)
        return replace(
            state,
            image=self._moved(jobs, state, here, gradient, momentum),
            previous=here,
            looked=state.looked + 1,
        )

    def _checked(self, state: State, gradient: Tensor) -> tuple[State, Tensor, Tensor]:
        """At a checkpoint, the step halved and the search taken back to its best image where it is stuck."""
        windows = _windows(self.looks, state.looked.device)
        window = windows[state.looked]
        at_check = window > 0
        if not bool(at_check.any()):
            return state, gradient, state.image
        few = state.rises <= ENOUGH_RISES * window
        stuck = at_check & (few | (~state.halved & (state.loss_at_check >= state.best_loss)))
        back = balls.column(stuck, state.image)
        state = replace(
            state,
            step=torch.where(stuck, state.step / 2, state.step),
            rises=torch.where(at_check, 0, state.rises),
            loss_at_check=torch.where(at_check, state.best_loss, state.loss_at_check),
            halved=torch.where(at_check, stuck, state.halved),
        )
        return state, torch.where(back, state.best_gradient, gradient), torch.where(back, state.best, state.image)

    def _moved(self, jobs: Jobs, state: State, here: Tensor, gradient: Tensor, momentum: Tensor) -> Tensor:
        """The next image: a step along the gradient, mixed with the last change."""
        share = balls.column(momentum, here)
        stepped = here + balls.column(state.step, here) * balls.steepest(gradient, self.norm, here, jobs.pixels)
        stepped = balls.projected(stepped, jobs.pixels, jobs.eps, self.norm)
        mixed = here + share * (stepped - here) + (1 - share) * (here - state.previous)
        return balls.projected(mixed, jobs.pixels, jobs.eps, self.norm)


@functools.lru_cache(maxsize=16)
def _windows(looks: int, device: torch.device) -> Tensor:
    """By the number of looks before this one: at a checkpoint, how many steps it looks back on, else 0.

    Windows start at 22 % of all steps and shrink by 3 % down to 6 %.
    """
    window = max(int(FIRST_WINDOW * looks), 1)
    smallest, shrink = max(int(SMALLEST_WINDOW * looks), 1), max(int(WINDOW_SHRINKS * looks), 1)
    found = torch.zeros(looks + 1, dtype=torch.long, device=device)
    place = window
    while place <= looks:
        found[place] = window
        window = max(window - shrink, smallest)
        place += window
    return found
