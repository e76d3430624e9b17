"""One model examined: margins of all classes, triggers of some, and which class stands out by both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from audit.api import Data, Inconclusive, RunContext, Subject, Tally, Unit
from probes.backdoor_model.config import BackdoorModelConfig
from probes.backdoor_model.outlying import Standing, Vector, standing
from probes.backdoor_model.searches import Trigger, ideas, margins, smallest_trigger

FEWEST_BASES = 20
SMALLEST = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Bases:
    """Images that triggers are put on.

    Attributes:
        pixels: (n, c, h, w).
        labels: (n,), what the model takes them for.
        origin: in words.
    """

    pixels: Tensor
    labels: Tensor
    origin: str


@dataclass(frozen=True, slots=True, eq=False)
class Examination:
    """What was found of a model.

    Attributes:
        margin: (classes,) largest margin of each class.
        inverted: classes that a trigger was searched for.
        triggers: theirs.
        score: (classes,) or of the inverted ones alone: logarithm of the margin, less that of the trigger's size where
            all classes have one.
        scored: the classes of the scores.
        standing: of the class with the largest score; None with fewer than three.
        bases: what triggers were put on.
    """

    margin: Vector
    inverted: Sequence[int]
    triggers: Sequence[Trigger]
    score: Vector
    scored: Sequence[int]
    standing: Standing | None
    bases: Bases

    @property
    def candidate(self) -> int | None:
        """The class that stands out most."""
        return None if self.standing is None else self.scored[self.standing.label]

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
    bases = _bases(subject, data, config, ctx, name)
    margin = _margins(subject, config, ctx, name)
    order = np.argsort(-margin, kind="stable")[: config.most_inverted]
    inverted = sorted(order.tolist())
    triggers = _triggers(subject, bases, inverted, config, ctx, name)
    logs = np.log(np.maximum(margin, SMALLEST))
    if len(inverted) == subject.num_classes:
        logs = logs - np.log(np.maximum([one.size for one in triggers], SMALLEST))
    scored = list(range(subject.num_classes))
    found = standing(logs) if len(logs) >= 3 else None
    return Examination(margin, inverted, triggers, logs, scored, found, bases)


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


def _bases(subject: Subject, data: Data, config: BackdoorModelConfig, ctx: RunContext, name: str) -> Bases:
    """Trusted images, else those to audit on, else what the model takes for its classes."""
    for role, origin in (("clean", "trusted images"), ("eval", "images to audit on")):
        split = data.get(role)  # type: ignore[call-overload]
        if split is None:
            continue
        pixels = split.batch(0, config.bases).pixels
        with torch.inference_mode():
            labels = subject.logits(pixels).argmax(dim=1).cpu()
        if len(pixels) >= FEWEST_BASES and len(labels.unique()) > 1:  # type: ignore[no-untyped-call]
            return Bases(pixels, labels, origin)

    def made(_: Unit, inner: RunContext) -> Tally:
        labels = torch.arange(config.bases) % subject.num_classes
        noise = torch.rand((config.bases, *subject.input_shape), generator=inner.torch_generator("noise"))
        with subject.frozen(_seed(inner)) as model:
            pixels = ideas(model, noise.to(subject.device), labels.to(subject.device)).cpu()
            with torch.no_grad():
                logits = model(pixels.to(subject.device)).float().cpu()
        _finite(logits)
        return Tally(arrays={"pixels": pixels.numpy(), "labels": logits.argmax(dim=1).numpy()})

    tallies = ctx.map(made, [Unit(f"{name}/images", {"n": config.bases, "model": subject.digest})], "images of its own")
    _done(tallies, 1)
    arrays = tallies[0].arrays
    pixels, labels = (torch.from_numpy(np.array(arrays[key])) for key in ("pixels", "labels"))
    return Bases(pixels, labels, "images made from the model")


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
