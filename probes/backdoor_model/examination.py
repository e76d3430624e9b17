"""One model examined: margins of all classes, triggers of some, and which class stands out by its trigger.

Margins choose what is searched, where there are many classes, and are shown; they decide nothing. On CIFAR-10 they set
three of twelve backdoored networks apart at 1 %, where trigger sizes did twelve, and among clean MobileNetV3s one class
may have ten times the margin of the others (`benchmarks/backdoored.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from audit.api import Data, Inconclusive, RunContext, Subject, Tally, Unit
from probes.backdoor_model.bases import Bases, bases_for
from probes.backdoor_model.config import BackdoorModelConfig
from probes.backdoor_model.outlying import SIZES, Standing, Vector, standing
from probes.backdoor_model.searches import Trigger, margins, smallest_trigger

SMALLEST = 1e-3
FEWEST_COMPARED = 3


@dataclass(frozen=True, slots=True, eq=False)
class Examination:
    """What was found of a model.

    Attributes:
        margin: (classes,) largest margin of each class.
        inverted: classes that a trigger was searched for.
        triggers: theirs.
        standing: the class with the smallest trigger, among those that one was searched for; None with fewer than
            three.
        bases: what triggers were put on.
    """

    margin: Vector
    inverted: Sequence[int]
    triggers: Sequence[Trigger]
    standing: Standing | None
    bases: Bases

    @property
    def candidate(self) -> int | None:
        """The class that stands out most."""
        return None if self.standing is None else self.standing.label

    def trigger_of(self, label: int) -> Trigger | None:
        """That of a class, where one was searched for."""
        return dict(zip(self.inverted, self.triggers, strict=True)).get(label)

    def usual_size(self, label: int) -> float:
        """Median size of the other classes' triggers."""
        others = [one.size for other, one in zip(self.inverted, self.triggers, strict=True) if other != label]
        return float(np.median(others)) if others else float("nan")


def examined(subject: Subject, data: Data, config: BackdoorModelConfig, ctx: RunContext, name: str) -> Examination:
    """All of it, in units; `name` tells models of a run apart.

    Raises:
        Inconclusive: when time ended, or the model answers with NaN.
    """
    bases = bases_for(subject, data, config, ctx, name)
    margin = _margins(subject, config, ctx, name)
    order = np.argsort(-margin, kind="stable")[: config.most_inverted]
    inverted = sorted(order.tolist())
    triggers = _triggers(subject, bases, inverted, config, ctx, name)
    by_size = None
    if subject.num_classes >= FEWEST_COMPARED:
        sizes = np.array([one.size for one in triggers], dtype=np.float64)
        found = standing(-np.log(np.maximum(sizes, SMALLEST)), SIZES, subject.num_classes)
        by_size = replace(found, label=inverted[found.label])
    return Examination(margin, inverted, triggers, by_size, bases)


def _done(tallies: Sequence[Tally], wanted: int) -> None:
    if len(tallies) < wanted:
        raise Inconclusive("budget", "The budget ended before all classes were searched. Give --budget more time.")


def _finite(values: Tensor | npt.NDArray[np.float64]) -> None:
    if not bool(torch.as_tensor(np.asarray(values)).isfinite().all()):
        raise Inconclusive("not_finite", "The model answers images that a search leads to with NaN or infinity.")


def _seed(ctx: RunContext) -> int:
    return int(torch.randint(2**31, (), generator=ctx.torch_generator("subject")))


def _margins(subject: Subject, config: BackdoorModelConfig, ctx: RunContext, name: str) -> Vector:
    def searched(unit: Unit, inner: RunContext) -> Tally:
        noise = torch.rand((config.starts, *subject.input_shape), generator=inner.torch_generator("starts"))
        with subject.frozen(_seed(inner)) as model:
            found = margins(model, noise.to(subject.device), unit.params["label"], config.margin_steps)
        _finite(found.cpu())
        return Tally(values={"margin": float(found.max())})

    units = [
        Unit(f"{name}/margin/{label}", {"label": label, "model": subject.digest})
        for label in range(subject.num_classes)
    ]
    tallies = ctx.map(searched, units, f"margins of {name}")
    _done(tallies, len(units))
    return np.array([tally.values["margin"] for tally in tallies], dtype=np.float64)


def _triggers(
    subject: Subject, bases: Bases, labels: Sequence[int], config: BackdoorModelConfig, ctx: RunContext, name: str
) -> list[Trigger]:
    def searched(unit: Unit, inner: RunContext) -> Tally:
        label = unit.params["label"]
        others = bases.pixels[bases.labels != label].to(subject.device)
        with subject.frozen(_seed(inner)) as model:
            found = smallest_trigger(model, others, label, config.trigger_steps)
        return Tally(
            values={"size": found.size, "hits": found.hits, "n": found.n},
            arrays={"mask": found.mask.numpy(), "pattern": found.pattern.numpy()},
        )

    what = {"model": subject.digest, "bases": bases.origin, "n": len(bases.pixels)}
    units = [Unit(f"{name}/trigger/{label}", {"label": label, **what}) for label in labels]
    tallies = ctx.map(searched, units, f"triggers of {name}")
    _done(tallies, len(units))
    return [
        Trigger(
            float(tally.values["size"]), int(tally.values["hits"]), int(tally.values["n"]),
            *(torch.from_numpy(np.array(tally.arrays[key])) for key in ("mask", "pattern")),
        )
        for tally in tallies
    ]  # fmt: skip
