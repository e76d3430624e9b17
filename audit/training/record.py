"""The record that lies beside weights that were trained from the command line."""

from __future__ import annotations

from typing import Any

from audit.schema import DataInfo, Diagnostic, Environment, FileDigest, Frozen, SubjectInfo
from audit.training.log import Share, TrainingLog

RECORD_VERSION = "1.0"


class Test(Frozen):
    """What the weights do on images that had no part in training."""

    data: DataInfo
    accuracy: Share
    also_trained_on: int
    """Images of it that are, by content, among those trained on or held out; should be 0."""


class Poisoning(Frozen):
    """What was planted in the training data, on purpose."""

    poison: str
    kind: str
    """`shortcut`, `backdoor`, `label-noise`, or `sham`."""
    settings: dict[str, Any]
    """Those that were given; others are the recipe's own."""
    poisoned: int
    covers: int
    """Images that were changed and kept their label, to hide the poison."""
    n: int
    target: int | None = None
    success: Share | None = None
    """Of a backdoor: images of the `eval` data, of other classes, that are taken for the target with the trigger."""


class TrainingRecord(Frozen):
    """How a file of weights came to be: enough to do it again, and to tell whether it was this file."""

    record_version: str = RECORD_VERSION
    weights: FileDigest
    subject: SubjectInfo
    """The model before training: its architecture, and the weights that it began with where there were any."""
    data: DataInfo
    seed: int
    arguments: dict[str, Any]
    argv: tuple[str, ...]
    environment: Environment
    trust_exceptions: tuple[str, ...] = ()
    trainings: tuple[TrainingLog, ...]
    """In their order: one, or a teacher's and a student's; the last one is of the weights in the file."""
    teacher: SubjectInfo | None = None
    """Of a distillation from a teacher that was given."""
    test: Test | None = None
    poisoning: Poisoning | None = None
    notices: tuple[Diagnostic, ...] = ()
