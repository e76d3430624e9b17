"""Attacks by losses that a saturated softmax fools, beside attacks by losses that it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from audit.attacks import losses
from audit.attacks.cw import CW
from audit.attacks.fmn import FMN
from audit.attacks.pgd import PGD
from audit.attacks.pool import Attack, Pool, rows_at_once
from audit.attacks.rows import Jobs
from audit.attacks.square import Square
from audit.attacks.target import Target
from audit.toolkit.norms import Norm
from probes.distillation.config import CW_ROUNDS, SOUGHT_STEPS, DistillationProbeConfig

PLAIN = ("fgsm", "pgd")
"""By the cross-entropy of the logits as they are."""
ADAPTIVE = ("fgsm-scaled", "pgd-scaled", "pgd-margin")
"""By the cross-entropy of logits over their spread, which is that at another temperature, and by the margin."""
SATURATION = ("pgd", "pgd-scaled")
"""The same search by a loss that a saturated softmax makes flat, and by one that it does not."""
ITERATIVE = ("pgd", "pgd-scaled", "pgd-margin")
EASY = ("fgsm", "fgsm-scaled", "square", "transfer")
"""By a single step, or without the model's gradient: they cannot break more than a search along a gradient of use."""
ATTACKS = (*PLAIN, *ADAPTIVE, "cw", "square", "transfer")
"""All, in the order of the tables."""
NORM_OF: dict[str, Norm] = {"cw": "l2"}
"""Linf where it is not said."""


@dataclass(frozen=True, slots=True)
class Strength:
    """How far and how hard; see `DistillationProbeConfig`."""

    eps: float
    eps_l2: float
    steps: int
    cw_steps: int
    queries: int

    @classmethod
    def of(cls, config: DistillationProbeConfig, eps: float, eps_l2: float) -> Strength:
        """With radii that were chosen."""
        return cls(eps, eps_l2, config.steps, config.cw_steps, config.queries)

    def radius(self, attack: str) -> float:
        """In which the attack's images must lie."""
        return self.eps_l2 if NORM_OF.get(attack) == "l2" else self.eps


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """What is attacked: n images with labels, on the CPU, and a seed for each."""

    pixels: Tensor
    labels: Tensor
    seeds: Tensor

    def jobs(self, target: Target, eps: float) -> Jobs:
        """One search an image, on the subject's device."""
        scale = losses.logit_scale(target.logits(self.pixels))
        return Jobs.untargeted(self.pixels, self.labels, eps, self.seeds, scale).to(target.subject.device)


def proposed(name: str, target: Target, images: Images, strength: Strength) -> Tensor:
    """Candidates (n, c, h, w) of an attack, on the CPU; not of `transfer`, whose candidates are made elsewhere."""
    makers: dict[str, Callable[[], Attack[Any]]] = {
        "fgsm": lambda: PGD.fast_gradient("linf", "plain-ce"),
        "pgd": lambda: PGD.of("linf", "plain-ce", strength.steps),
        "fgsm-scaled": lambda: PGD.fast_gradient("linf", "ce"),
        "pgd-scaled": lambda: PGD.of("linf", "ce", strength.steps),
        "pgd-margin": lambda: PGD.of("linf", "margin", strength.steps),
        "cw": lambda: CW(CW_ROUNDS, strength.cw_steps),
        "square": lambda: Square("linf", strength.queries),
    }
    if not len(images.labels):
        return images.pixels
    radius = torch.inf if name == "cw" else strength.eps
    enough = strength.eps_l2 if name == "cw" else torch.inf
    pool = Pool(target, makers[name](), images.jobs(target, radius), batch=rows_at_once(target.subject), enough=enough)
    return pool.run().images.cpu()


def nearest(target: Target, images: Images, norm: Norm) -> Tensor:
    """Distance (n,) of the nearest example that a short search finds; inf where it finds none."""
    jobs, attack = images.jobs(target, torch.inf), FMN(norm, SOUGHT_STEPS + 1)
    return Pool(target, attack, jobs, batch=rows_at_once(target.subject), enough=0.0).run().distance.cpu()
