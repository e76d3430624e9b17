"""What a training leaves besides weights; without times, so that the same training leaves the same log."""

from __future__ import annotations

from typing import Any, Literal

from audit.schema import Frozen, Interval

Ending = Literal["completed", "early_stopping", "catastrophic_overfitting", "budget"]


class Share(Frozen):
    """A share of images with its interval.

    Attributes are those of a proportion: `right` of `n`, two-sided Clopper-Pearson limits.
    """

    right: int
    n: int
    value: float
    interval: Interval


class Epoch(Frozen):
    """One pass, and what the model could do after it."""

    epoch: int
    """From 1 on."""
    learning_rate: float
    """Of its last step."""
    train_loss: float
    """Mean over the images it trained on, as it went along."""
    train_accuracy: float
    """Likewise, on the images as they were shown: worst-case ones in adversarial training."""
    held_out_loss: float
    held_out_accuracy: float
    robust_accuracy: float | None = None
    """On worst-case images of held-out ones, found by PGD: a signal for choosing, not a claim of robustness."""
    certified_accuracy: float | None = None
    """On held-out images, by interval bounds and CROWN-IBP in float32: a signal for choosing, not a proof."""
    single_step_accuracy: float | None = None
    """The same by one step of the whole radius; far above `robust_accuracy` after catastrophic overfitting."""


class TrainingLog(Frozen):
    """How weights came to be."""

    name: str
    """`training`, or `teacher` and `student`."""
    kind: Literal["standard", "adversarial", "certified", "distillation"]
    config: dict[str, Any]
    n_train: int
    n_held_out: int
    data_digest: str
    """sha256 over the ids and labels of the whole split."""
    initial_sha256: str
    """Over all tensors before the first step; see `toolkit.tensors.tensors_sha256`."""
    weights_sha256: str
    """Over all tensors of the epoch that was kept."""
    epochs: tuple[Epoch, ...]
    kept_epoch: int
    """The best on held-out images: by robust or certified accuracy where there is one, else accuracy, then by loss."""
    ending: Ending
    held_out: Share
    """Accuracy of the epoch kept. The epoch was chosen by it, so it is a little too high."""
    settings: dict[str, str]
    """Precision, memory format and compilation as they were used."""
