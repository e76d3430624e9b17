"""Carlini & Wagner's attack in L2: Adam on distance and margin together, and a search for each sample's balance.

Source: Carlini & Wagner 2017, sections V and VI-A, arXiv 1608.04644.
Differs from source: the margin is in units of the logits' spread, so that the first balance need not be tiny; the
    search for it starts at 1, with every sample on its own, and no round ends early.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from audit.attacks import balls, losses
from audit.attacks.rows import Jobs, Rows
from audit.attacks.target import Look
from audit.toolkit.norms import Norm

INSIDE = 0.999999
"""Pixels are drawn off the edges of the box by this factor, where the hyperbolic tangent has no gradient."""
FIRST_BALANCE, GROWTH = 1.0, 10.0
LEARNING_RATE, DECAY, SQUARE_DECAY, STABLE = 0.01, 0.9, 0.999, 1e-8
"""Adam's."""


@dataclass(frozen=True, slots=True, eq=False)
class State(Rows):
    """Of n jobs; images are (n, c, h, w), the rest (n,).

    Attributes:
        place: the image to be looked at next is (tanh(place) + 1) / 2.
        slope, square: Adam's running means of the gradient and of its square.
        balance: weight of the margin.
        low, high: largest balance that failed, smallest that fooled.
        fooled: whether this round did.
        looked: how many looks a job has had.
    """

    place: Tensor
    slope: Tensor
    square: Tensor
    balance: Tensor
    low: Tensor
    high: Tensor
    fooled: Tensor
    looked: Tensor


@dataclass(frozen=True, slots=True)
class CW:
    """Carlini & Wagner in L2, from the clean image; a job's own radius and start are not used.

    Attributes:
        rounds: balances that are tried, one after the other.
        steps: of each round.
    """

    rounds: int = 9
    steps: int = 200
    norm: Norm = "l2"
    loss: losses.Loss = "margin"
    gradient: bool = True

    @property
    def looks(self) -> int:
        """See `pool.Attack`."""
        return self.rounds * self.steps

    def start(self, jobs: Jobs) -> State:
        """At the clean image."""
        nothing = torch.zeros_like(jobs.pixels)
        return State(
            place=_place(jobs.pixels),
            slope=nothing,
            square=nothing,
            balance=torch.full_like(jobs.eps, FIRST_BALANCE),
            low=torch.zeros_like(jobs.eps),
            high=torch.full_like(jobs.eps, torch.inf),
            fooled=torch.zeros_like(jobs.warm),
            looked=torch.zeros_like(jobs.labels),
        )

    def images(self, state: State) -> Tensor:
        """See `pool.Attack`."""
        return (state.place.tanh() + 1) / 2

    def advance(self, jobs: Jobs, state: State, look: Look) -> State:
        """A step of Adam; after the last of a round the balance is moved and the search begins anew."""
        assert look.gradient is not None
        fools = losses.margin(look.logits, jobs.labels) >= 0
        image, weight = self.images(state), balls.column(torch.where(fools, 0.0, state.balance), state.place)
        rise = 2 * (image - jobs.pixels) - weight * look.gradient  # of squared distance less weighted margin
        rise = rise * (1 - state.place.tanh() ** 2) / 2
        slope = DECAY * state.slope + (1 - DECAY) * rise
        square = SQUARE_DECAY * state.square + (1 - SQUARE_DECAY) * rise**2
        step = balls.column((state.looked % self.steps + 1).to(rise.dtype), rise)
        mean, deviation = slope / (1 - DECAY**step), (square / (1 - SQUARE_DECAY**step)).sqrt()
        state = replace(
            state,
            place=state.place - LEARNING_RATE * mean / (deviation + STABLE),
            slope=slope,
            square=square,
            fooled=state.fooled | fools,
            looked=state.looked + 1,
        )
        return self._next_round(jobs, state)

    def _next_round(self, jobs: Jobs, state: State) -> State:
        over = state.looked % self.steps == 0
        if not bool(over.any()):
            return state
        low = torch.where(over & ~state.fooled, state.balance, state.low)
        high = torch.where(over & state.fooled, state.balance, state.high)
        moved = torch.where(high.isfinite(), (low + high) / 2, GROWTH * low)
        anew = balls.column(over, state.place)
        return replace(
            state,
            place=torch.where(anew, _place(jobs.pixels), state.place),
            slope=torch.where(anew, 0.0, state.slope),
            square=torch.where(anew, 0.0, state.square),
            balance=torch.where(over, moved, state.balance),
            low=low,
            high=high,
            fooled=state.fooled & ~over,
        )


def _place(pixels: Tensor) -> Tensor:
    return torch.atanh((2 * pixels - 1) * INSIDE)
