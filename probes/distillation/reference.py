"""The reference pair: a teacher, its student at the temperature, and an undistilled twin, all of the subject's form.

Source: Papernot et al. 2016, section IV, arXiv 1511.04508 (same architecture and initial values for all).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from audit.api import DataSplit, Inconclusive, RunContext, Subject, Tally, Unit
from audit.toolkit.tensors import tensors_of, tensors_sha256
from audit.training.config import DistillationConfig, TrainingConfig
from audit.training.loop import Task, train
from audit.training.recipes import filled, standard, student, teacher
from probes.distillation.config import DistillationProbeConfig

STEPS, LEAST_AT_ONCE, MOST_AT_ONCE = 32, 16, 128
"""Steps an epoch where there are few images: logits take many to grow by a temperature. Images of a step."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Two models that differ in nothing but distillation, in evaluation mode."""

    student: Subject
    twin: Subject


def reference_pair(
    subject: Subject, split: DataSplit, config: DistillationProbeConfig, ctx: RunContext
) -> Reference | None:
    """Trains all three, each stored as it ends; None where time ended before the last was begun.

    Raises:
        AuditError: when the architecture cannot be built again or trained.
        Inconclusive: `budget` when time ended within a training; it is begun anew when the run is resumed.
    """
    assert subject.untrained is not None
    seed = int(torch.randint(2**31, (), generator=ctx.torch_generator("reference")))
    fresh = subject.untrained(seed)
    part = split.first(config.train_samples)
    size = min(MOST_AT_ONCE, max(LEAST_AT_ONCE, len(part) // STEPS))
    plain = TrainingConfig(epochs=config.epochs, batch_size=size)
    hot = DistillationConfig(epochs=config.epochs, batch_size=size, temperature=config.temperature)
    twin = _trained(standard(fresh, part, plain, "twin"), subject, ctx)
    taught_by = _trained(teacher(fresh, part, hot), subject, ctx) if twin else None
    pupil = _trained(student(fresh, taught_by.model, part, hot), subject, ctx) if taught_by else None
    return Reference(pupil, twin) if pupil and twin else None


def _trained(task: Task, subject: Subject, ctx: RunContext) -> Subject | None:
    """The model as a subject of its own; None where time ended before."""
    unit = Unit(
        name=f"train/{task.name}",
        params={
            "config": task.config.model_dump(mode="json"),
            "initial": tensors_sha256(tensors_of(task.model)),
            "origin": task.origin,
        },
        positions=range(len(task.split)),
        role="train",
    )
    tallies = ctx.map(lambda _, inner: _weights(task, inner), [unit])
    if not tallies:
        return None
    shapes = {name: tensor.shape for name, tensor in tensors_of(task.model).items()}  # storing makes scalars vectors
    weights = {
        name: torch.from_numpy(np.array(array)).reshape(shapes[name]) for name, array in tallies[0].arrays.items()
    }
    digest = str(tallies[0].values["sha256"])
    return replace(subject, model=filled(task.model, weights), name=task.name, digest=digest, untrained=None)


def _weights(task: Task, ctx: RunContext) -> Tally:
    trained = train(task, ctx)
    if trained.log.ending == "budget":
        raise Inconclusive("budget", f"The budget ended within the training of the {task.name}. Raise --budget.")
    values: dict[str, Any] = {
        "sha256": trained.log.weights_sha256,
        "held_out": trained.log.held_out.value,
        "kept_epoch": trained.log.kept_epoch,
    }
    return Tally(values=values, arrays={name: tensor.numpy() for name, tensor in trained.weights.items()})
