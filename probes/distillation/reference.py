"""The reference pair: a teacher, its student at the temperature, and an undistilled twin, all of the subject's form.

Source: Papernot et al. 2016, section IV, arXiv 1511.04508 (same architecture and initial values for all).
"""

from __future__ import annotations

from dataclasses import dataclass

from audit.api import DataSplit, RunContext, Subject
from audit.training.config import DistillationConfig
from audit.training.recipes import student, teacher
from audit.training.units import batch_size_for, initial_model, trained_subject, undefended_twin
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
        Inconclusive: `budget` when time ended within a training; it goes on when the run is resumed.
    """
    fresh = initial_model(subject, ctx)
    part = split.first(config.train_samples)
    size = batch_size_for(len(part))
    hot = DistillationConfig(epochs=config.epochs, batch_size=size, temperature=config.temperature)
    twin = undefended_twin(subject, fresh, part, config.epochs, ctx)
    taught_by = trained_subject(teacher(fresh, part, hot), subject, ctx) if twin else None
    pupil = trained_subject(student(fresh, taught_by.model, part, hot), subject, ctx) if taught_by else None
    return Reference(pupil, twin) if pupil and twin else None
