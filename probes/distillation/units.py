"""Units of work: a radius, the attacks on a chunk of samples, and the census of copies in which a flaw is planted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audit.api import DataSplit, RunContext, Subject, Tally, Unit
from audit.attacks.census import Census, take_census
from audit.attacks.target import Target, opened
from audit.toolkit.norms import parse_eps
from audit.toolkit.verification import decide, verify
from probes.distillation.config import CONTROLLED, SOUGHT, DistillationProbeConfig
from probes.distillation.searches import ATTACKS, NORM_OF, SATURATION, Images, Strength, nearest, proposed

ROOM = 1.5
"""A radius is this times the median distance of the nearest example."""
MISLED = 0.5
"""Where Square breaks half of the samples within this share of that median, FMN was led astray by the gradient."""
FALLBACK = {"linf": 8 / 255, "l2": 0.5}
"""Radii where examples were found for less than half of the samples, of Linf where Square fails as well."""
LADDER = tuple(levels / 255 for levels in (2, 4, 8, 16, 32, 64))
"""Linf radii that Square is tried at: it asks for no gradient, so a hidden one does not stop it."""
PLANTED_SPREAD, SHAM_SPREAD = 1e4, 1.0
"""Spread of logits of the copy that is saturated, and of the one that is not."""


def chosen_radii(
    subject: Subject, split: DataSplit, config: DistillationProbeConfig, ctx: RunContext
) -> Strength | None:
    """The strength of the attacks, with radii as given or chosen on the first samples; None where time ended."""
    n = min(SOUGHT, config.samples, len(split))
    unit = Unit("radii", params={"queries": config.queries}, positions=range(n))
    tallies = ctx.map(lambda unit, inner: _sought(subject, split, unit, inner), [unit], "radii")
    if not tallies:
        return None
    found = {norm: float(tallies[0].values[norm]) for norm in FALLBACK}
    eps = found["linf"] if config.eps == "auto" else parse_eps(config.eps, "linf")
    eps_l2 = found["l2"] if config.eps_l2 == "auto" else parse_eps(config.eps_l2, "l2")
    return Strength.of(config, eps, eps_l2)


def _sought(subject: Subject, split: DataSplit, unit: Unit, ctx: RunContext) -> Tally:
    """One and a half times the median distance of the nearest examples, in either norm, to three digits."""
    radii = {}
    with opened(subject, seed=_seed(ctx)) as target:
        images, right = _images(subject, split, unit.positions, ctx)
        for norm in ("linf", "l2"):
            distances = nearest(target, images, norm)[right] if len(images.labels) else torch.empty(0)
            found = int(distances.isfinite().sum())
            if found and 2 * found >= len(distances):
                median = float(distances.median())  # torch's is the lower one, so it is finite
                radius = ROOM * median
                if norm == "linf" and _square_breaks_half(subject, target, _only(images, right), unit, median * MISLED):
                    radius = min(radius, _by_square(subject, target, _only(images, right), unit))
            else:
                radius = _by_square(subject, target, _only(images, right), unit) if norm == "linf" else FALLBACK[norm]
            radii[norm] = float(f"{min(radius, 0.5) if norm == 'linf' else radius:.3g}")
    return Tally(values=radii)


def _by_square(subject: Subject, target: Target, images: Images, unit: Unit) -> float:
    """The smallest radius of the ladder at which Square breaks half of the images."""
    return next((eps for eps in LADDER if _square_breaks_half(subject, target, images, unit, eps)), FALLBACK["linf"])


def _square_breaks_half(subject: Subject, target: Target, images: Images, unit: Unit, eps: float) -> bool:
    if not len(images.labels):
        return False
    strength = Strength(eps, FALLBACK["l2"], 1, 1, int(unit.params["queries"]))
    candidates = proposed("square", target, images, strength)
    return 2 * int(_broken(subject, images, candidates, "square", strength).sum()) >= len(images.labels)


def attack_units(config: DistillationProbeConfig, model: str, strength: Strength, n: int, depends: str) -> list[Unit]:
    """Chunks of the first n samples, for a model of this name; `depends` is the digest of the models involved."""
    return [
        Unit(
            name=f"{model}/{start}-{min(start + config.chunk, n)}",
            params=asdict(strength) | {"models": depends},
            positions=range(start, min(start + config.chunk, n)),
        )
        for start in range(0, n, config.chunk)
    ]


def attacked(subject: Subject, source: Subject | None, split: DataSplit, unit: Unit, ctx: RunContext) -> Tally:
    """What each attack breaks of a chunk, verified; images of `transfer` are made on the source.

    Returns:
        Arrays of one row a sample: `correct`; `broken_ATTACK`, within the attack's radius; `gap`, largest less second
        logit; `one`, whether the largest probability is exactly 1. And of one row a right sample: the census.
    """
    strength = Strength(**{name: unit.params[name] for name in Strength.__slots__})
    with opened(subject, seed=_seed(ctx)) as target:  # also for what is decided and verified, as it may be random
        images, right = _images(subject, split, unit.positions, ctx)
        arrays: dict[str, Any] = {"correct": right.numpy()}
        logits = target.logits(images.pixels).float()
        top = logits.topk(2, dim=1).values
        arrays["gap"] = (top[:, 0] - top[:, 1]).numpy()
        arrays["one"] = (logits.softmax(dim=1).amax(dim=1) == 1).numpy()
        some = _only(images, right)
        census = take_census(target, some.pixels, some.labels)
        candidates = {name: proposed(name, target, some, strength) for name in ATTACKS if name != "transfer"}
        if source is not None:
            with opened(source, seed=_seed(ctx)) as other:
                candidates["transfer"] = proposed("pgd-margin", other, some, strength)
        for name, images_of in candidates.items():
            broken = torch.zeros_like(right)
            broken[right] = _broken(subject, some, images_of, name, strength)
            arrays[f"broken_{name}"] = broken.numpy()
    return Tally(arrays=arrays | _census_arrays(census))


def joined(tallies: Sequence[Tally]) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of consecutive chunks."""
    return {name: np.concatenate([tally.arrays[name] for tally in tallies]) for name in tallies[0].arrays}


def controls(subject: Subject, split: DataSplit, n: int, strength: Strength, ctx: RunContext) -> dict[str, Tally]:
    """Copies with the subject's decisions: one saturated, one not, one without a gradient.

    Returns:
        By copy, the census of right samples; of the saturated one also what the searches break that a saturated
        softmax fools and that it does not, `broken_pgd` and `broken_pgd-scaled`, of one row a right sample.
    """
    params = asdict(strength)
    units = [Unit(f"control/{name}", params=params, positions=range(min(CONTROLLED, n))) for name in COPIES]

    def look(unit: Unit, inner: RunContext) -> Tally:
        name = unit.name.removeprefix("control/")
        copy = replace(subject, model=Copy(subject.model, name), name=name, digest=f"{subject.digest}/{name}")
        broken: dict[str, Any] = {}
        with opened(copy, seed=_seed(inner)) as target:
            images, right = _images(subject, split, unit.positions, inner)
            some = _only(images, right)
            census = take_census(target, some.pixels, some.labels)
            for attack in SATURATION if name == "saturated" else ():
                candidates = proposed(attack, target, some, strength)
                broken[f"broken_{attack}"] = _broken(copy, some, candidates, attack, strength).numpy()
        return Tally(arrays=_census_arrays(census) | broken)

    return dict(zip(COPIES, ctx.map(look, units, "planted copies"), strict=False))


COPIES = ("saturated", "unsaturated", "flat")


class Copy(nn.Module):
    """A model with the same decisions as another, and logits or a gradient of a known kind."""

    def __init__(self, base: nn.Module, kind: str) -> None:
        super().__init__()
        self.base, self.kind = base, kind

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits whose spread is `PLANTED_SPREAD` or `SHAM_SPREAD`; or the model's own, with a gradient of zero."""
        logits: Tensor = self.base(pixels).float()
        if self.kind == "flat":
            return logits.detach() + 0 * pixels.flatten(1).sum(dim=1, keepdim=True)
        spread = logits.detach().std(dim=1, correction=0, keepdim=True).clamp(min=1e-30)
        return logits / spread * (PLANTED_SPREAD if self.kind == "saturated" else SHAM_SPREAD)


def _images(subject: Subject, split: DataSplit, positions: Sequence[int], ctx: RunContext) -> tuple[Images, Tensor]:
    """The samples, and which of them are right."""
    batch = split.take(positions)
    seeds = torch.randint(2**62, (len(batch.labels),), generator=ctx.torch_generator("searches"))
    return Images(batch.pixels, batch.labels, seeds), decide(subject, batch.pixels, batch.labels).correct


def _only(images: Images, rows: Tensor) -> Images:
    return Images(images.pixels[rows], images.labels[rows], images.seeds[rows])


def _broken(subject: Subject, images: Images, candidates: Tensor, attack: str, strength: Strength) -> Tensor:
    """Which candidates (n,) hold in the attack's ball."""
    if not len(images.labels):
        return torch.empty(0, dtype=torch.bool)
    norm = NORM_OF.get(attack, "linf")
    return verify(subject, images.pixels, images.labels, candidates, norm, strength.radius(attack)).success


def _census_arrays(census: Census) -> dict[str, Any]:
    return {f"census_{name}": getattr(census, name).numpy() for name in Census.__slots__}


def _seed(ctx: RunContext) -> int:
    return int(torch.randint(2**31, (), generator=ctx.torch_generator("subject")))
