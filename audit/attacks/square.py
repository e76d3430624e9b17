"""Square: random search with square patches, which asks for no gradient and so is not fooled by a masked one.

In Linf a patch moves its pixels to one side of the ball. In L2 and L1 a hat-shaped patch takes over the length that a
second patch gives up, and what is left of the radius.

Source: Andriushchenko, Croce, Flammarion & Hein 2020, algorithms 1 to 4 and section 5.1, arXiv 1912.00049.
Differs from source: all random numbers of a job are drawn when it begins, from its own seed.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from audit.attacks import balls, losses
from audit.attacks.rows import Jobs, Rows
from audit.attacks.target import Look
from audit.toolkit.norms import Norm

FIRST_SHARE = 0.8
"""Of the image's pixels that the first patches cover."""
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Ten-thousandths of all looks after which that share is halved."""
SOURCE_LOOKS = 10_000
TILES = 5
"""In L2 and L1 the search begins at so many hats a side."""


@dataclass(frozen=True, slots=True, eq=False)
class State(Rows):
    """Of n jobs.

    Attributes:
        image: to be looked at next.
        best: the image of the largest loss.
        best_loss: its loss.
        draws: (n, looks, 5 + channels) uniform in [0, 1): rows and columns of two patches, whether a hat lies on its
            side, and a sign in each channel.
        looked: how many looks a job has had.
    """

    image: Tensor
    best: Tensor
    best_loss: Tensor
    draws: Tensor
    looked: Tensor


@dataclass(frozen=True, slots=True)
class Square:
    """Square in the ball that each job gives."""

    norm: Norm
    looks: int
    loss: losses.Loss = "margin"
    gradient: bool = False

    def start(self, jobs: Jobs) -> State:
        """In Linf at vertical stripes, else at a grid of hats, of a random sign in each channel."""
        _, channels, height, width = jobs.pixels.shape
        starts, draws = [], []
        for seed in jobs.seeds.tolist():
            generator = torch.Generator().manual_seed(seed)
            if self.norm == "linf":
                stripes = torch.rand(channels, 1, width, generator=generator)
                starts.append((stripes * 2 - 1).sign().expand(channels, height, width))
            else:
                starts.append(_grid(channels, height, width, generator))
            draws.append(torch.rand(self.looks, 5 + channels, generator=generator))
        change = torch.stack(starts).to(jobs.pixels.device)
        change = change / balls.column(balls.length(change, self.norm), change) * balls.column(jobs.eps, change)
        return State(
            image=(jobs.pixels + change).clamp(0, 1),
            best=jobs.pixels,
            best_loss=torch.full_like(jobs.eps, -torch.inf),
            draws=torch.stack(draws).to(jobs.pixels.device),
            looked=torch.zeros_like(jobs.labels),
        )

    def images(self, state: State) -> Tensor:
        """See `pool.Attack`."""
        return state.image

    def advance(self, jobs: Jobs, state: State, look: Look) -> State:
        """The patch is kept where it raised the loss; then another one is tried."""
        better = look.loss > state.best_loss
        state = replace(
            state,
            best=torch.where(balls.column(better, state.image), state.image, state.best),
            best_loss=torch.where(better, look.loss, state.best_loss),
        )
        _, _, height, width = jobs.pixels.shape
        sides = _sides(self.looks, height, width, self.norm, jobs.pixels.device)[state.looked]
        rows = torch.arange(len(sides), device=sides.device)
        drawn = state.draws[rows, state.looked.clamp(max=self.looks - 1)]
        change = state.best - jobs.pixels
        radius = balls.column(jobs.eps, change)
        if self.norm == "linf":
            inside = _window(drawn[:, 0], drawn[:, 1], sides, height, width)
            change = torch.where(inside, _signs(drawn) * radius, change)
        else:
            change = _exchanged(
                change, radius, drawn, sides, _hat_table(self.looks, height, width, sides.device), self.norm
            )
        image = balls.projected(jobs.pixels + change, jobs.pixels, jobs.eps, self.norm)
        return replace(state, image=image, looked=state.looked + 1)


def _signs(drawn: Tensor) -> Tensor:
    """(n, c, 1, 1)."""
    return torch.where(drawn[:, 5:] < 0.5, -1.0, 1.0)[:, :, None, None]


def _exchanged(
    change: Tensor, radius: Tensor, drawn: Tensor, sides: Tensor, hats: tuple[Tensor, Tensor], norm: Norm
) -> Tensor:
    """A hat added to each row's change at one patch, with the length that another patch gives up and what is left.

    Source: algorithm 3 of the paper, for L2; in L1 likewise, with lengths in place of their squares.
    """
    _, channels, height, width = change.shape
    power = 2 if norm == "l2" else 1
    here = _window(drawn[:, 0], drawn[:, 1], sides, height, width)
    there = _window(drawn[:, 2], drawn[:, 3], sides, height, width)
    spent = (change.abs() ** power).sum(dim=(1, 2, 3), keepdim=True)
    given_up = (change.abs() ** power * (here | there)).sum(dim=(1, 2, 3), keepdim=True)
    budget = (((radius**power - spent).clamp(min=0) + given_up) / channels) ** (1 / power)
    old = change * here
    mixed = _signs(drawn) * _unit(_placed(hats, drawn, sides, height, width), power) + _unit(old, power)
    changed = torch.where(here, _unit(mixed, power) * budget, change * ~there)
    return changed * (radius / balls.column(balls.length(changed, norm), changed).clamp(min=balls.TINY))


def _unit(change: Tensor, power: int) -> Tensor:
    """Each channel (n, c, h, w) brought to length 1; 0 where it is 0."""
    length = (change.abs() ** power).sum(dim=(2, 3), keepdim=True) ** (1 / power)
    return change / length.clamp(min=balls.TINY)


def _window(row: Tensor, column: Tensor, sides: Tensor, height: int, width: int) -> Tensor:
    """(n, 1, h, w) bool: squares of the given sides at places given as shares in [0, 1) of those that there are."""
    return _span(row, sides, height)[:, None, :, None] & _span(column, sides, width)[:, None, None, :]


def _offsets(share: Tensor, sides: Tensor, size: int) -> Tensor:
    """(n, size) int64: how far each place lies behind the first of its row's span."""
    first = (share * (size - sides + 1)).floor().long()
    return torch.arange(size, device=share.device) - first[:, None]


def _span(share: Tensor, sides: Tensor, size: int) -> Tensor:
    offsets = _offsets(share, sides, size)
    return (offsets >= 0) & (offsets < sides[:, None])


def _placed(hats: tuple[Tensor, Tensor], drawn: Tensor, sides: Tensor, height: int, width: int) -> Tensor:
    """(n, 1, h, w): a hat in each row's window, on its side for half of the draws; 0 elsewhere."""
    known, table = hats
    row, column, turned = drawn[:, 0], drawn[:, 1], (drawn[:, 4] < 0.5)[:, None, None]
    down = _offsets(row, sides, height).clamp(0, table.shape[1] - 1)[:, :, None]
    across = _offsets(column, sides, width).clamp(0, table.shape[1] - 1)[:, None, :]
    kind = torch.searchsorted(known, sides)[:, None, None]
    found = table[kind, torch.where(turned, across, down), torch.where(turned, down, across)]
    return found[:, None] * _window(row, column, sides, height, width)


@functools.lru_cache(maxsize=4)
def _hat_table(looks: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The sides (k,) of patches, ascending, and the hat of each (k, s, s) in the upper left corner; s is the last."""
    known = torch.tensor(sorted(set(_sides(looks, height, width, "l2", torch.device("cpu")).tolist())))
    largest = int(known[-1])
    table = torch.zeros(len(known), largest, largest)
    for hat, side in zip(table, known.tolist(), strict=True):
        hat[:side, :side] = _hat(side)
    return known.to(device), table.to(device)


def _hat(side: int) -> Tensor:
    """(side, side), of L2 norm 1: two peaks beside each other, one up and one down; a single one up for side 1.

    Source: section 3.3 of the paper.
    """
    if side == 1:
        return torch.ones(1, 1)
    half = side // 2
    both = torch.cat([_peak(half, side), -_peak(side - half, side)])
    hat: Tensor = both / torch.linalg.vector_norm(both)
    return hat


def _peak(height: int, width: int) -> Tensor:
    """(height, width), of L2 norm 1: the sum of rectangles around the middle, the k-th one wider weighing 1 / k^2."""
    peak = torch.zeros(height, width)
    top, left = height // 2, width // 2
    for step in range(max(top, left) + 1):
        peak[max(top - step, 0) : top + step + 1, max(left - step, 0) : left + step + 1] += 1 / (step + 1) ** 2
    normed: Tensor = peak / torch.linalg.vector_norm(peak)
    return normed


def _grid(channels: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """(c, h, w): hats side by side, of a random sign in each channel, random ones of them on their side."""
    side = max(min(height, width) // TILES, 1)
    start = torch.zeros(channels, height, width)
    hat = _hat(side)
    for top in range(height % side // 2, height - side + 1, side):
        for left in range(width % side // 2, width - side + 1, side):
            draw = torch.rand(1 + channels, generator=generator)
            signs = torch.where(draw[1:] < 0.5, -1.0, 1.0)[:, None, None]
            start[:, top : top + side, left : left + side] = signs * (hat.T if draw[0] < 0.5 else hat)
    return start


@functools.lru_cache(maxsize=16)
def _sides(looks: int, height: int, width: int, norm: Norm, device: torch.device) -> Tensor:
    """Side of the patch, int64, by the number of looks before it; in L2 and L1 odd and 3 or more, if there is room."""
    sides = []
    for looked in range(looks + 1):
        place = looked * SOURCE_LOOKS // looks
        share = FIRST_SHARE / 2 ** sum(place > after for after in HALVED_AFTER)
        side = max(round(math.sqrt(share * height * width)), 1)
        if norm != "linf":
            side = max(side + (side % 2 == 0), 3)
        sides.append(min(side, height, width))
    return torch.tensor(sides, device=device)
