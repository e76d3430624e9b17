"""One unit of work: attack a chunk of samples in one norm, at ascending radii."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from audit.adapters import torchattacks
from audit.api import DataSplit, Inconclusive, RunContext, Subject, Tally, Unit
from audit.toolkit.norms import Norm, noisy, parse_eps
from audit.toolkit.verification import VerifiedCandidates, decide, verify
from probes.evasion.config import AttackName, EvasionConfig
from probes.evasion.samples import NEVER, Samples

SHOWN = 6
"""Adversarial images that a unit keeps, those nearest to their originals."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides a unit's result beside its samples."""

    norm: Norm
    eps: tuple[str, ...]
    attacks: tuple[AttackName, ...]
    steps: int
    step_factor: float
    restarts: int

    @classmethod
    def of(cls, config: EvasionConfig, norm: Norm) -> Plan:
        """The plan of a norm."""
        return cls(norm, config.radii(norm), config.attacks, config.steps, config.step_factor, config.restarts)

    @classmethod
    def read(cls, params: Mapping[str, Any]) -> Plan:
        """The plan in a unit's parameters."""
        return cls(**{**params, "eps": tuple(params["eps"]), "attacks": tuple(params["attacks"])})

    def params(self) -> dict[str, Any]:
        """As JSON values."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "eps": list(self.eps),
            "attacks": list(self.attacks),
        }


def chunks(config: EvasionConfig, n: int) -> list[Unit]:
    """The units of n samples; norms alternate, so that a budget that ends cuts both alike."""
    return [
        Unit(
            name=f"{norm}/{start}-{min(start + config.chunk, n)}",
            params=Plan.of(config, norm).params(),
            positions=range(start, min(start + config.chunk, n)),
        )
        for start in range(0, n, config.chunk)
        for norm in config.norms
    ]


def attack_chunk(subject: Subject, split: DataSplit, unit: Unit, ctx: RunContext) -> Tally:
    """Finds for every sample the smallest radius of the plan at which it breaks.

    Radii ascend and balls are nested: what broke in a smaller ball is broken in every larger one and is not attacked
    again, so accuracy can only fall with the radius.
    """
    plan = Plan.read(unit.params)
    batch = split.take(unit.positions)
    clean = decide(subject, batch.pixels, batch.labels)
    samples = Samples.start(batch, clean)
    zero, broken_gradients = count_bad_gradients(subject, batch.pixels[clean.correct], batch.labels[clean.correct])
    proposed = rejected = 0
    for index, text in enumerate(plan.eps):
        eps = parse_eps(text, plan.norm)
        for name, start in _calls(plan):
            rows = samples.unbroken()
            if eps > 0 and len(rows):
                found = _propose(subject, samples, rows, plan, eps, name, ctx.torch_generator(f"{text}/{name}/{start}"))
                samples.record(rows, *found, index, plan.attacks.index(name))
                proposed += len(rows)
                rejected += found[1].rejected
        if eps > 0:
            _shake(subject, samples, plan, index, eps, ctx)
    values = {
        "zero_gradients": zero,
        "nonfinite_gradients": broken_gradients,
        "proposed": proposed,
        "rejected": rejected,
    }
    return Tally(values=values, arrays=samples.arrays(SHOWN))


def count_bad_gradients(subject: Subject, pixels: Tensor, labels: Tensor) -> tuple[int, int]:
    """How many samples have an input gradient of exactly zero, and how many one that is not finite.

    Of the cross-entropy summed over samples in float32, which is what the attacks climb, without their 1/n.

    Raises:
        Inconclusive: when the output does not depend differentiably on the pixels at all.
    """
    if not len(pixels):
        return 0, 0
    with subject.untouched(), torch.enable_grad():
        inputs = pixels.to(subject.device).requires_grad_(True)
        logits = subject.logits(inputs)
        loss = torch.nn.functional.cross_entropy(logits, labels.to(subject.device), reduction="sum")
        gradient = torch.autograd.grad(loss, inputs, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        text = "The logits carry no gradient to the pixels, so gradient attacks say nothing. A black-box attack would."
        raise Inconclusive("no_gradients", text)
    zero = (gradient == 0).flatten(1).all(dim=1)
    return int(zero.sum()), int((~gradient.flatten(1).isfinite().all(dim=1)).sum())


def _calls(plan: Plan) -> list[tuple[AttackName, int]]:
    """Attacks in order, PGD once a random start."""
    return [(name, start) for name in plan.attacks for start in range(plan.restarts if name == "pgd" else 1)]


def _propose(
    subject: Subject,
    samples: Samples,
    rows: Tensor,
    plan: Plan,
    eps: float,
    name: AttackName,
    generator: torch.Generator,
) -> tuple[Tensor, VerifiedCandidates]:
    """Candidates of one attack for some rows, and what the harness finds them to be."""
    pixels, labels = samples.pixels[rows], samples.labels[rows]
    if name == "fgsm":
        candidates = torchattacks.fgsm(subject, pixels, labels, norm=plan.norm, eps=eps)
    else:
        candidates = torchattacks.pgd(
            subject,
            pixels,
            labels,
            norm=plan.norm,
            eps=eps,
            steps=plan.steps,
            step_size=plan.step_factor * eps / plan.steps,
            generator=generator,
        )
    return candidates.cpu(), verify(subject, pixels, labels, candidates, plan.norm, eps)


def _shake(subject: Subject, samples: Samples, plan: Plan, index: int, eps: float, ctx: RunContext) -> None:
    """One draw of blind noise for every sample that no noise has broken yet; what it breaks is broken."""
    rows = (samples.clean.correct & (samples.by_noise == NEVER)).nonzero().flatten()
    if not len(rows):
        return
    generator = ctx.torch_generator(f"{plan.eps[index]}/noise")
    candidates = noisy(samples.pixels[rows], plan.norm, eps, generator)
    verified = verify(subject, samples.pixels[rows], samples.labels[rows], candidates, plan.norm, eps)
    samples.by_noise[rows[verified.success]] = index
    ahead = samples.broken[rows] == NEVER
    samples.record(rows[ahead], candidates[ahead], verified.only(ahead), index, len(plan.attacks))
