"""The reference pair: a teacher, its student at the temperature, and an undistilled twin, all of the subject's form.

Source: Papernot et al. 2016, section IV, arXiv 1511.04508 (same architecture and initial values for all).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from audit.api import DataSplit, RunContext, Subject
from audit.training.config import DistillationConfig, TrainingConfig
from audit.training.recipes import standard, student, teacher
from audit.training.units import batch_size_for, trained_subject
from probes.distillation.config import DistillationProbeConfig


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
    size = batch_size_for(len(part))
    plain = TrainingConfig(epochs=config.epochs, batch_size=size)
    hot = DistillationConfig(epochs=config.epochs, batch_size=size, temperature=config.temperature)
    twin = trained_subject(standard(fresh, part, plain, "twin"), subject, ctx)
    taught_by = trained_subject(teacher(fresh, part, hot), subject, ctx) if twin else None
    pupil = trained_subject(student(fresh, taught_by.model, part, hot), subject, ctx) if taught_by else None
    return Reference(pupil, twin) if pupil and twin else None
