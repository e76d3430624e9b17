"""The attacks of a plan, run on some rows of a chunk. They propose; `audit.toolkit.verification` decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from audit.adapters.torchattacks_by_name import attack_by_name, fits
from audit.attacks import balls, losses
from audit.attacks.apgd import APGD
from audit.attacks.cw import CW
from audit.attacks.fmn import FMN
from audit.attacks.pgd import PGD
from audit.attacks.pool import Attack, Found, Pool, rows_at_once
from audit.attacks.rows import Jobs
from audit.attacks.square import Square
from audit.attacks.target import Target
from audit.toolkit.norms import Norm
from probes.evasion.config import (
    CW_ROUNDS,
    KEPT_TARGETS,
    LIBRARY,
    PRESSED,
    AttackName,
    EvasionConfig,
    finders,
    longer_steps,
    screening_steps,
)
from probes.evasion.samples import Samples

VALUES_OF_JOBS = 1 << 26
"""Pixel values of the images of all jobs that are prepared together, 256 MiB."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides a unit's result beside its samples; see `EvasionConfig`."""

    norm: Norm
    eps: tuple[str, ...]
    attacks: tuple[AttackName, ...]
    steps: int
    pgd_steps: int
    cw_steps: int
    restarts: int
    targets: int
    queries: int
    pressed: int
    precision: str

    @classmethod
    def of(cls, config: EvasionConfig, norm: Norm) -> Plan:
        """The plan of a norm."""
        return cls(
            norm, config.radii(norm), config.attacks, config.steps, config.pgd_steps, config.cw_steps,
            config.restarts, config.targets, config.queries, PRESSED, config.precision,
        )  # fmt: skip

    @classmethod
    def read(cls, params: Mapping[str, Any]) -> Plan:
        """The plan in a unit's parameters."""
        own = {name: params[name] for name in cls.__slots__}
        return cls(**{**own, "eps": tuple(params["eps"]), "attacks": tuple(params["attacks"])})

    @property
    def finders(self) -> tuple[str, ...]:
        """What can break a sample, in the order of `Samples.attack`."""
        return finders(self.attacks)

    def params(self) -> dict[str, Any]:
        """As JSON values."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "eps": list(self.eps),
            "attacks": list(self.attacks),
        }


class Generators(Protocol):
    """Gives a generator on the CPU for each purpose."""

    def __call__(self, purpose: str) -> torch.Generator:
        """The same one for the same purpose."""


class Searches:
    """Every search of a chunk. A row's result does not hang on which other rows are searched with it."""

    def __init__(self, target: Target, samples: Samples, plan: Plan, generators: Generators) -> None:
        self.target, self.samples, self.plan, self.generators = target, samples, plan, generators
        self.batch = rows_at_once(target.subject)
        logits = target.logits(samples.pixels)
        self.scale = losses.logit_scale(logits)
        others = logits.scatter(1, samples.labels[:, None], -torch.inf)
        self.ranked = others.argsort(dim=1, descending=True, stable=True)[:, :-1]
        """(n, k - 1): wrong classes, the nearest first."""

    def nearest(self, rows: Tensor, steps: int) -> Tensor:
        """Candidates (k, c, h, w) of FMN for k rows, as near as it finds them."""
        attack = FMN(self.plan.norm, steps + 1)
        return self._in_parts(rows, lambda part: self._pool(attack, self._jobs(part, torch.inf, "fmn"), 0.0).images)

    def carlini_wagner(self, rows: Tensor) -> Tensor:
        """Candidates (k, c, h, w) of Carlini & Wagner's attack for k rows, as near as it finds them."""
        attack = CW(CW_ROUNDS, self.plan.cw_steps)
        return self._in_parts(rows, lambda part: self._pool(attack, self._jobs(part, torch.inf, "cw"), 0.0).images)

    def within(self, name: AttackName, rows: Tensor, eps: float) -> Tensor:
        """Candidates (k, c, h, w) of the named attack for k rows, in the ball of radius eps."""
        norm, plan = self.plan.norm, self.plan
        ways: dict[str, Callable[[Tensor, float], Tensor]] = {
            "fgsm": lambda rows, eps: self._once(PGD.fast_gradient(norm, "ce"), rows, eps, "fgsm"),
            "pgd": self._pgd,
            "apgd-ce": lambda rows, eps: self._restarted(APGD(norm, "ce", plan.steps + 1), rows, eps, "apgd-ce"),
            "apgd-t": self._targeted,
        }
        if name.startswith(LIBRARY):
            return self._of_library(name, rows, eps)
        return self._in_parts(rows, lambda part: ways[name](part, eps))

    def _of_library(self, name: AttackName, rows: Tensor, eps: float) -> Tensor:
        """Candidates of an attack of torchattacks; those of a sample hang on its batch."""
        plain = name.removeprefix(LIBRARY)
        if not fits(plain, self.plan.norm):
            return self.samples.pixels[rows]
        generator = self.generators(f"{name}/{eps!r}")
        batches = [(self.samples.pixels[part], self.samples.labels[part]) for part in torch.split(rows, self.batch)]
        found = [
            attack_by_name(
                self.target.subject, *batch, name=plain, norm=self.plan.norm, eps=eps, generator=generator
            ).cpu()
            for batch in batches
        ]
        return torch.cat(found)

    def _in_parts(self, rows: Tensor, search: Callable[[Tensor], Tensor]) -> Tensor:
        """The candidates of a search for k rows, searched so many at once as keep its jobs' images small."""
        most = max(VALUES_OF_JOBS // (self.samples.pixels[0].numel() * (self.plan.targets + self.plan.restarts)), 1)
        return torch.cat([search(part).cpu() for part in torch.split(rows, most)])

    def square(self, rows: Tensor, eps: Tensor, queries: int) -> Tensor:
        """Candidates (k, c, h, w) of Square for k rows, each in a ball of its own radius (k,)."""
        return self._pool(Square(self.plan.norm, queries), self._at(rows, eps, f"square/{queries}")).images.cpu()

    def longer(self, rows: Tensor, eps: Tensor) -> Tensor:
        """Candidates (k, c, h, w) of APGD on the margin with twice the steps, from two starts of their own."""
        steps = longer_steps(self.plan.steps)
        jobs = Jobs.join([self._at(rows, eps, f"longer/{start}") for start in range(2)])
        return _best(self._pool(APGD(self.plan.norm, "margin", steps + 1), jobs), len(rows)).cpu()

    def on_surface(self, rows: Tensor, eps: Tensor) -> Tensor:
        """Random images (k, c, h, w) on the surface of the balls of k rows, each of its own radius (k,)."""
        return balls.start(self._at(rows, eps, "surface"), self.plan.norm).cpu()

    def _at(self, rows: Tensor, eps: Tensor, purpose: str) -> Jobs:
        """One job a row in a ball of its own radius."""
        return replace(self._jobs(rows, torch.inf, purpose), eps=eps.to(self._device))

    def _pgd(self, rows: Tensor, eps: float) -> Tensor:
        """From the nearest image found so far where there is one, then from random starts."""
        attack = PGD.of(self.plan.norm, "margin", self.plan.pgd_steps)
        warm = self._jobs(rows, eps, f"pgd/{eps!r}", warm=self.samples.distance[rows].isfinite())
        cold = [self._jobs(rows, eps, f"pgd/{eps!r}/{start}") for start in range(self.plan.restarts)]
        return _best(self._pool(attack, Jobs.join([warm, *cold])), len(rows))

    def _restarted(self, attack: Attack[Any], rows: Tensor, eps: float, purpose: str) -> Tensor:
        jobs = [self._jobs(rows, eps, f"{purpose}/{eps!r}/{start}") for start in range(self.plan.restarts)]
        return _best(self._pool(attack, Jobs.join(jobs)), len(rows))

    def _once(self, attack: Attack[Any], rows: Tensor, eps: float, purpose: str) -> Tensor:
        return self._pool(attack, self._jobs(rows, eps, f"{purpose}/{eps!r}")).images

    def _targeted(self, rows: Tensor, eps: float) -> Tensor:
        """APGD-T: every target for a while, then those that came nearest for all steps.

        Differs from source: AutoAttack tries all of its nine targets for all steps.
        """
        count = min(self.plan.targets, self.ranked.shape[1])
        kept = min(KEPT_TARGETS, count)
        first = screening_steps(self.plan.steps)
        places = torch.arange(count)[:, None].expand(count, len(rows))
        screened = self._aimed(rows, places, eps, first, "screen")
        images = _best(screened, len(rows))
        fooled = screened.fooled.view(count, -1).any(dim=0).cpu()
        left = (~fooled).nonzero().flatten()
        if not len(left):
            return images
        reached = screened.loss.view(count, -1).cpu()[:, left]
        chosen = reached.topk(kept, dim=0).indices
        tried = self._aimed(rows[left], chosen, eps, self.plan.steps, "full")
        images[left.to(images.device)] = _best(tried, len(left))
        return images

    def _aimed(self, rows: Tensor, places: Tensor, eps: float, steps: int, purpose: str) -> Found:
        """APGD on targets given by their places (m, k) in `ranked`: all rows' first ones, then all second ones."""
        jobs = [
            self._jobs(rows, eps, f"apgd-t/{purpose}/{eps!r}/{turn}", targets=self.ranked[rows, place])
            for turn, place in enumerate(places)
        ]
        return self._pool(APGD(self.plan.norm, "dlr", steps + 1), Jobs.join(jobs))

    def _jobs(
        self, rows: Tensor, eps: float, purpose: str, *, targets: Tensor | None = None, warm: Tensor | None = None
    ) -> Jobs:
        """One job a row; its seed is the row's own, whatever other rows there are."""
        samples = self.samples
        seeds = torch.randint(2**62, (len(samples.labels),), generator=self.generators(purpose))
        cold = torch.zeros(len(rows), dtype=torch.bool)
        jobs = Jobs(
            sample=rows,
            pixels=samples.pixels[rows],
            labels=samples.labels[rows],
            targets=torch.full_like(rows, -1) if targets is None else targets,
            eps=torch.full((len(rows),), eps),
            seeds=seeds[rows],
            scale=self.scale[rows],
            start=samples.adversarial[rows],
            warm=cold if warm is None else warm,
        )
        return jobs.to(self._device)

    @property
    def _device(self) -> torch.device:
        return self.target.subject.device

    def _pool(self, attack: Attack[Any], jobs: Jobs, enough: float = torch.inf) -> Found:
        return Pool(self.target, attack, jobs, batch=self.batch, enough=enough).run()


def _best(found: Found, rows: int) -> Tensor:
    """Of the jobs of each row, given one after the other for all rows, the image that fools, else of largest loss."""
    turns = len(found.fooled) // rows
    worth = torch.where(found.fooled, torch.inf, found.loss).view(turns, rows)
    best = worth.argmax(dim=0)
    return found.images.view(turns, rows, *found.images.shape[1:])[best, torch.arange(rows, device=best.device)]
