"""One unit of work: attack a chunk of samples in one norm, for each sample's nearest adversarial example."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from audit.api import DataSplit, RunContext, Subject, Tally, Unit
from audit.attacks.census import Census, take_census
from audit.attacks.target import opened
from audit.toolkit.norms import noisy, parse_eps, radius_with_slack, widest
from audit.toolkit.verification import VerifiedCandidates, decide, survives_8bit, verify
from probes.evasion.config import (
    DRAWS,
    SHORT_SHARE,
    SHORT_SQUARE,
    SQUARE_PRESSED,
    VOTES,
    AttackName,
    EvasionConfig,
    in_ball,
    unbounded,
)
from probes.evasion.samples import NEVER, Samples
from probes.evasion.searches import Plan, Searches

SHOWN = 6
"""Adversarial images that a unit keeps, those nearest to their originals."""


def chunks(config: EvasionConfig, n: int, size: int, twin: str) -> list[Unit]:
    """The units of n samples; norms alternate, so that a budget that ends cuts both alike. `twin` is its digest."""
    return [
        Unit(
            name=f"{norm}/{start}-{min(start + size, n)}",
            params=Plan.of(config, norm).params() | {"twin": twin},
            positions=range(start, min(start + size, n)),
        )
        for start in range(0, n, size)
        for norm in config.norms
    ]


def attack_chunk(subject: Subject, split: DataSplit, twin: Subject | None, unit: Unit, ctx: RunContext) -> Tally:
    """Finds for every sample the nearest adversarial example that the plan's attacks find.

    Images made on the twin, where there is one, are tried on those pressed that stand.
    """
    plan = Plan.read(unit.params)
    batch = split.take(unit.positions)
    positions = torch.tensor(list(unit.positions))
    seed, fast = int(torch.randint(2**31, (), generator=ctx.torch_generator("subject"))), plan.precision == "auto"
    with opened(subject, seed=seed, fast=fast) as target:
        samples = Samples.start(batch, decide(subject, batch.pixels, batch.labels))
        right = samples.clean.correct
        census = take_census(target, batch.pixels[right], batch.labels[right])
        if bool(census.random.any()):
            target.draws = DRAWS
            samples.settle([decide(subject, batch.pixels, batch.labels).correct for _ in range(VOTES - 1)])
        work = _Chunk(subject, samples, plan, ctx, Searches(target, samples, plan, ctx.torch_generator), positions)
        work.run()
        if twin is not None:
            work.transfer_from(twin)
        work.round()
        away = work.away()
    arrays = samples.arrays(work.slack, SHOWN) | _named("census", census) | _named("away", away)
    return Tally(values=work.counts(), arrays=arrays)


def _named(prefix: str, census: Census) -> dict[str, npt.NDArray[Any]]:
    return {f"{prefix}_{field.name}": getattr(census, field.name).numpy() for field in fields(census)}


class _Chunk:
    """The order in which a chunk's samples are attacked, and the harness between the attacks and the books.

    Attributes:
        pressed, queried: (n,) bool, the samples on which the longer search and all of Square's queries check the plan's
            attacks: see `selfchecks`.
        by_square, by_longer, by_transfer, met_square, met_longer, met_transfer: (n,) bool, what these broke and what
            they were tried on.
    """

    def __init__(
        self, subject: Subject, samples: Samples, plan: Plan, ctx: RunContext, searches: Searches, positions: Tensor
    ) -> None:
        self.subject, self.samples, self.plan, self.ctx, self.searches = subject, samples, plan, ctx, searches
        self.pressed = positions < plan.pressed
        self.queried = positions < min(plan.pressed, SQUARE_PRESSED)
        self.eps = [parse_eps(text, plan.norm) for text in plan.eps]
        self.indices = [index for index, eps in enumerate(self.eps) if eps > 0]
        values = samples.pixels[0].numel()
        self.slack = [radius_with_slack(eps, plan.norm, values) if eps > 0 else 0.0 for eps in self.eps]
        self.widest = widest(plan.norm, subject.input_shape)
        self.proposed = self.rejected = 0
        self.by_square, self.by_longer, self.by_transfer = (torch.zeros_like(self.pressed) for _ in range(3))
        self.met_square, self.met_longer, self.met_transfer = (torch.zeros_like(self.pressed) for _ in range(3))
        self.ends: list[tuple[Tensor, Tensor]] = []

    def counts(self) -> dict[str, int]:
        """What `selfchecks` and notices are told of."""
        return {
            "proposed": self.proposed,
            "rejected": self.rejected,
            "square_tried": int(self.met_square.sum()),
            "square_broke": int(self.by_square.sum()),
            "longer_tried": int(self.met_longer.sum()),
            "longer_broke": int(self.by_longer.sum()),
            "transfer_tried": int(self.met_transfer.sum()),
            "transfer_broke": int(self.by_transfer.sum()),
        }

    def away(self) -> Census:
        """The census away from the data, where a gradient that is right at the images alone would be seen.

        At random images on the surface of the largest ball that each sample withstands, and where the longer search
        ended without success.
        """
        rows, radii = self._standing(torch.ones_like(self.pressed))
        images, places = [self.searches.on_surface(rows, radii)], [rows]
        for ended, found in self.ends:
            still = torch.isin(ended, rows)
            images.append(found[still])
            places.append(ended[still])
        return take_census(self.searches.target, torch.cat(images), self.samples.labels[torch.cat(places)])

    def run(self) -> None:
        """FGSM and noise at every radius, FMN once, the rest at the largest radius that a sample withstands.

        A sample that withstood everything at a radius is not attacked at smaller ones, whose balls lie inside. One
        that was broken is, in the smaller balls that do not hold its example. So nearly every sample meets the dear
        attacks once, whatever the number of radii.
        """
        if self.indices:
            self._first()
        stands = torch.zeros(len(self.samples.labels), dtype=torch.bool)
        for index in reversed(self.indices):
            for name in in_ball(self.plan.attacks):
                self._within(name, index, self._rows(index, but=stands))
            stands |= self.samples.whole(self.slack[index]) & (self.samples.down_distance > self.slack[index])
        planned = "square" in self.plan.attacks
        if planned:
            self._square(planned)
        for index in self.indices:
            self._shake(index)
        if not planned:
            self._square(planned)
        self._longer()

    def _first(self) -> None:
        """The fast gradient at every radius, then the searches for the nearest image of all."""
        if "fgsm" in self.plan.attacks:
            for index in self.indices:
                self._within("fgsm", index, self._rows(index))
        if "fmn" in self.plan.attacks:
            self._nearest()
        if "cw" in self.plan.attacks and self.plan.norm == "l2":
            rows = self._rows(self.indices[0])
            if len(rows):
                self._take(rows, self.searches.carlini_wagner(rows), self.widest, self._place("cw"))
        for name in unbounded(self.plan.attacks):
            rows = self._rows(self.indices[0])
            if len(rows):
                self._take(rows, self.searches.within(name, rows, self.widest), self.widest, self._place(name))

    def _nearest(self) -> None:
        """FMN: shortly on every right sample, then with all steps where nothing lies within the smallest radius.

        For most samples the short search is within 1 % of the long one.
        """
        for steps in (max(1, self.plan.steps // SHORT_SHARE), self.plan.steps):
            whole = self.samples.whole(self.slack[self.indices[0]])
            rows = (whole if steps == self.plan.steps else self.samples.clean.correct).nonzero().flatten()
            if len(rows):
                self._take(rows, self.searches.nearest(rows, steps), self.widest, self._place("fmn"))

    def _square(self, planned: bool) -> None:
        """Square on all that stands for a part of its queries, and on some to the end; if either broke any, on all.

        Where it is no attack of the plan, on those pressed alone.
        """
        everyone = torch.ones_like(self.pressed)
        short = max(1, self.plan.queries // SHORT_SQUARE)
        if planned:
            self.by_square |= self._standing_against("square", everyone, short)
        self.by_square |= self._standing_against("square", self.queried, self.plan.queries)
        if planned and bool(self.by_square.any()):
            self.by_square |= self._standing_against("square", everyone, self.plan.queries)

    def _longer(self) -> None:
        """A longer search on those pressed that stand, which should find no more."""
        self.by_longer |= self._standing_against("longer", self.pressed, 0)

    def transfer_from(self, twin: Subject) -> None:
        """Adversarial images of the twin on those pressed that stand, each at its largest radius."""
        rows, radii = self._standing(self.pressed)
        if not len(rows):
            return
        self.met_transfer[rows] = True
        with opened(twin, fast=self.plan.precision == "auto") as target:
            candidates = Searches(target, self.samples, self.plan, self.ctx.torch_generator).longer(rows, radii)
        self.by_transfer |= self._tried("transfer", rows, radii, candidates)

    def _standing(self, among: Tensor) -> tuple[Tensor, Tensor]:
        """Rows that stand at some radius, and the largest radius (k,) at which each does."""
        samples = self.samples
        nearest = torch.minimum(samples.distance, samples.down_distance)
        level = torch.searchsorted(torch.tensor(self.slack, dtype=torch.float64), nearest) - 1
        radii = torch.tensor(self.eps)[level.clamp(min=0)]
        rows = (samples.clean.correct & (level >= 0) & (radii > 0) & among).nonzero().flatten()
        return rows, radii[rows]

    def _standing_against(self, attack: str, among: Tensor, queries: int) -> Tensor:
        """Square or the longer search on rows that stand, each at its largest radius; (n,) bool, what it broke."""
        rows, radii = self._standing(among)
        if not len(rows):
            return torch.zeros_like(among)
        if attack == "square":
            self.met_square[rows] = True
            candidates = self.searches.square(rows, radii, queries)
        else:
            self.met_longer[rows] = True
            candidates = self.searches.longer(rows, radii)
            self.ends.append((rows, candidates))
        return self._tried(attack, rows, radii, candidates)

    def _tried(self, attack: str, rows: Tensor, radii: Tensor, candidates: Tensor) -> Tensor:
        """Has candidates verified, each at its own radius (k,); (n,) bool, what they broke."""
        before = self.samples.distance.clone()
        for index in self.indices:
            here = radii == torch.tensor(self.eps[index])
            if bool(here.any()):
                self._take(rows[here], candidates[here], self.eps[index], self._place(attack))
        return self.samples.distance < before

    def _place(self, attack: str) -> int:
        return self.plan.finders.index(attack)

    def _rows(self, index: int, but: Tensor | None = None) -> Tensor:
        """Rows that nothing has broken within a radius."""
        whole = self.samples.whole(self.slack[index])
        return (whole if but is None else whole & ~but).nonzero().flatten()

    def _within(self, name: AttackName, index: int, rows: Tensor) -> None:
        """One attack at one radius."""
        if len(rows):
            candidates = self.searches.within(name, rows, self.eps[index])
            self._take(rows, candidates, self.eps[index], self._place(name))

    def _take(self, rows: Tensor, candidates: Tensor, radius: float, attack: int) -> None:
        """Has candidates verified within a radius, and keeps what holds."""
        samples = self.samples
        verified = self._verified(rows, candidates, radius)
        samples.record(rows, candidates, verified, attack)
        self.proposed += len(rows)
        self.rejected += verified.rejected

    def _verified(self, rows: Tensor, candidates: Tensor, radius: float) -> VerifiedCandidates:
        """What holds of candidates; of a model that answers at random, what holds in most of several calls."""
        samples, norm = self.samples, self.plan.norm
        calls = VOTES if self.searches.target.draws > 1 else 1
        found = [
            verify(self.subject, samples.pixels[rows], samples.labels[rows], candidates, norm, radius)
            for _ in range(calls)
        ]
        wrong = torch.stack([verified.misclassified for verified in found]).float().mean(dim=0) > 0.5
        chosen = found[0]
        for verified in found[1:]:  # the class and the confidence of a call in which it was wrong
            chosen = chosen.where(chosen.misclassified, verified)
        return replace(chosen, misclassified=wrong)

    def _shake(self, index: int) -> None:
        """One draw of blind noise for every sample that no noise has broken yet; what it breaks is broken."""
        samples, norm, eps = self.samples, self.plan.norm, self.eps[index]
        rows = (samples.clean.correct & (samples.by_noise == NEVER)).nonzero().flatten()
        if not len(rows):
            return
        generator = self.ctx.torch_generator(f"{self.plan.eps[index]}/noise")
        candidates = noisy(samples.pixels, norm, eps, generator)[rows]
        verified = self._verified(rows, candidates, eps)
        samples.by_noise[rows[verified.success]] = index
        ahead = samples.whole(self.slack[index])[rows]  # what an attack broke is the attack's
        samples.record(rows[ahead], candidates[ahead], verified.only(ahead), self._place("noise"))

    def round(self) -> None:
        """Which examples survive storage with 8 bits, in the smallest ball of the plan that holds them."""
        samples = self.samples
        level = torch.searchsorted(torch.tensor(self.slack, dtype=torch.float64), samples.distance)
        for index in self.indices:
            rows = (samples.clean.correct & (level == index)).nonzero().flatten()
            if len(rows):
                samples.survives_8bit[rows] = survives_8bit(
                    self.subject, samples.pixels[rows], samples.labels[rows], samples.adversarial[rows], self.plan.norm,
                    self.eps[index],
                )  # fmt: skip
