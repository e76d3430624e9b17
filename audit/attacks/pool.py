"""Many jobs in full batches: a job that has ended makes room for the next, so the model never sees a batch half empty.

A job that breaks its sample ends the sample's later jobs, whether they run or wait; earlier ones go on. So what is
found first in the order given does not hang on the size of a batch. Jobs are given cheap before dear, and those of one
sample far apart: the second target of a sample starts when the first one has failed on nearly all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from audit.api import Subject
from audit.attacks import balls, losses
from audit.attacks.rows import Jobs, Rows
from audit.attacks.target import Look, Target
from audit.toolkit.norms import Norm

S = TypeVar("S", bound=Rows)
BATCH, SMALLEST_BATCH_ON_CPU = 512, 64
VALUES_ON_CPU = 1 << 17
"""Pixel values of a batch on a CPU, where larger ones leave its caches and are slower."""


def rows_at_once(subject: Subject) -> int:
    """Rows that the model is shown at once."""
    if subject.device.type != "cpu":
        return BATCH
    return min(max(VALUES_ON_CPU // math.prod(subject.input_shape), SMALLEST_BATCH_ON_CPU), BATCH)


class Attack(Protocol[S]):
    """A search written as steps: it never calls the model, but says which images it wants to be looked at."""

    @property
    def norm(self) -> Norm:
        """Of the ball or of the distance."""

    @property
    def loss(self) -> losses.Loss:
        """What it climbs."""

    @property
    def looks(self) -> int:
        """Images a job looks at before it ends."""

    @property
    def gradient(self) -> bool:
        """Whether it needs gradients."""

    def start(self, jobs: Jobs) -> S:
        """The state of jobs that begin."""

    def images(self, state: S) -> Tensor:
        """What each job wants to be looked at next."""

    def advance(self, jobs: Jobs, state: S, look: Look) -> S:
        """The state after that look."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a search found for each of n jobs, in the order given; on the subject's device, not verified.

    Attributes:
        images: (n, c, h, w) float32, the nearest image that fooled the model or drove it to NaN; where none did, the
            one of the largest loss; where the job never ran, the clean image.
        fooled: (n,) bool, whether one did.
        distance: (n,) float32, of that image to the clean one; inf where none did.
        loss: (n,) float32, largest loss seen, -inf where the job never ran.
    """

    images: Tensor
    fooled: Tensor
    distance: Tensor
    loss: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Running(Rows):
    """Jobs under way, and the best of each: see `Found`. `job` is the place among those given, `looked` a count."""

    job: Tensor
    looked: Tensor
    best: Tensor
    fooled: Tensor
    distance: Tensor
    loss: Tensor


class Pool(Generic[S]):
    """Runs one attack over many jobs."""

    def __init__(self, target: Target, attack: Attack[S], jobs: Jobs, *, batch: int, enough: float = math.inf) -> None:
        """Nothing is run yet.

        Args:
            target: the model.
            attack: what to run.
            jobs: in the order in which they start.
            batch: rows that the model is shown at once.
            enough: a job ends when it has fooled the model within this distance; by default with its first success.
        """
        self.target, self.attack, self.jobs, self.enough = target, attack, jobs, enough
        self.batch = batch
        self.waiting = 0
        self.end = len(jobs)
        samples = int(jobs.sample.max()) + 1 if len(jobs) else 0
        self.broken_by = torch.full((samples,), self.end, device=jobs.sample.device)
        """(samples,): place of the earliest job that broke each sample, else the number of jobs."""
        self.found = Found(
            images=jobs.pixels.clone(),
            fooled=torch.zeros_like(jobs.warm),
            distance=torch.full_like(jobs.eps, torch.inf),
            loss=torch.full_like(jobs.eps, -torch.inf),
        )

    def run(self) -> Found:
        """Runs until no job is left."""
        active = self._filled(None)
        while active is not None:
            active = self._filled(self._advance(*active))
        return self.found

    def _filled(self, active: tuple[_Running, Jobs, S] | None) -> tuple[_Running, Jobs, S] | None:
        """With waiting jobs where there is room; none when nothing runs or waits."""
        room = self.batch - (len(active[0]) if active else 0)
        places = self._next(room)
        if not len(places):
            return active if active and len(active[0]) else None
        jobs = self.jobs.take(places)
        fresh = (self._begin(places, jobs), jobs, self.attack.start(jobs))
        if active is None or not len(active[0]):
            return fresh
        running, old, state = active
        return _Running.join([running, fresh[0]]), Jobs.join([old, jobs]), type(state).join([state, fresh[2]])

    def _next(self, room: int) -> Tensor:
        """Places of the next jobs whose sample is whole, at most so many."""
        device = self.jobs.sample.device
        places = [torch.empty(0, dtype=torch.long, device=device)]
        while room > 0 and self.waiting < self.end:
            window = torch.arange(self.waiting, min(self.waiting + room, self.end), device=device)
            self.waiting += len(window)
            whole = window[self.broken_by[self.jobs.sample[window]] == self.end]
            room -= len(whole)
            places.append(whole)
        return torch.cat(places)

    def _begin(self, places: Tensor, jobs: Jobs) -> _Running:
        return _Running(
            job=places,
            looked=torch.zeros_like(places),
            best=jobs.pixels,
            fooled=torch.zeros_like(jobs.warm),
            distance=torch.full_like(jobs.eps, torch.inf),
            loss=torch.full_like(jobs.eps, -torch.inf),
        )

    def _advance(self, running: _Running, jobs: Jobs, state: S) -> tuple[_Running, Jobs, S]:
        """One look, and what follows from it; jobs that have ended are written down and leave."""
        images = self.attack.images(state)
        look = self.target.search(
            images,
            lambda logits, rows: losses.of(self.attack.loss, logits, jobs.take(rows)),
            jobs.labels,
            gradient=self.attack.gradient,
        )
        fools = (losses.margin(look.logits, jobs.labels) >= 0) | ~look.logits.isfinite().all(dim=1)
        running = self._noted(running, jobs, images, look, fools)
        broke = running.fooled & (running.distance <= self.enough)
        self.broken_by.scatter_reduce_(0, jobs.sample[broke], running.job[broke], "amin")
        over = (running.looked >= self.attack.looks) | (running.job >= self.broken_by[jobs.sample])
        state = self.attack.advance(jobs, state, look)
        if bool(over.any()):
            self._write(running.take(over))
            keep = ~over
            running, jobs, state = running.take(keep), jobs.take(keep), state.take(keep)
        return running, jobs, state

    def _noted(self, running: _Running, jobs: Jobs, images: Tensor, look: Look, fools: Tensor) -> _Running:
        """With this look's images where they are better than the best so far."""
        moved = balls.length(images - jobs.pixels, self.attack.norm)
        nearer = fools & (moved < running.distance)
        higher = ~fools & ~running.fooled & (look.loss > running.loss)
        better = (nearer | higher) & images.flatten(1).isfinite().all(dim=1)
        return _Running(
            job=running.job,
            looked=running.looked + 1,
            best=torch.where(balls.column(better, images), images, running.best),
            fooled=running.fooled | (better & fools),
            distance=torch.where(better & fools, moved, running.distance),
            loss=torch.maximum(running.loss, look.loss.nan_to_num(-torch.inf)),
        )

    def _write(self, ended: _Running) -> None:
        self.found.images[ended.job] = ended.best
        self.found.fooled[ended.job] = ended.fooled
        self.found.distance[ended.job] = ended.distance
        self.found.loss[ended.job] = ended.loss
