"""The harness: what an attack proposes is re-examined here, and only what holds is counted.

Every attack hands over candidates; this module alone decides. Nothing is clipped or mended: a candidate that leaves the
box or the ball is rejected, however wrong the model is about it.

A decision is *correct* when the label's logit is finite and strictly the largest: where two classes tie, the answer
hangs on the order of the classes, and that is not counted as right, neither on clean images nor under attack. With
this, every sample with finite logits is exactly one of correct and misclassified.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from audit.api import Subject
from audit.toolkit.batching import Batching
from audit.toolkit.norms import Norm, distance, in_box, radius_with_slack, to_8bit


@dataclass(frozen=True, slots=True, eq=False)
class Decisions:
    """What the subject says to n images; all on the CPU.

    Attributes:
        finite: (n,) bool, whether all logits are finite.
        correct: (n,) bool, whether they are finite and the label's is strictly the largest.
        predicted: (n,) int64, the largest logit's class other than the label where the decision is not correct; -1
            where logits are not finite.
        confidence: (n,) float32, softmax probability of `predicted`; 0 where logits are not finite.
        tied: (n,) bool, whether the label's logit is the largest together with others: not correct.
    """

    finite: Tensor
    correct: Tensor
    predicted: Tensor
    confidence: Tensor
    tied: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class VerifiedCandidates:
    """What holds of each candidate; all on the CPU, (n,).

    Attributes:
        finite: whether all pixels are finite.
        in_box: whether all pixels lie in [0, 1], exactly.
        in_ball: whether the distance to the clean image is at most eps, up to `norms.radius_with_slack`.
        misclassified: whether the logits are finite and the label's is not strictly the largest.
        broke_down: whether a logit is NaN or infinite.
        distance: float64, to the clean image.
        predicted: int64, as in `Decisions`.
        confidence: float32, as in `Decisions`.
    """

    finite: Tensor
    in_box: Tensor
    in_ball: Tensor
    misclassified: Tensor
    broke_down: Tensor
    distance: Tensor
    predicted: Tensor
    confidence: Tensor

    @property
    def admissible(self) -> Tensor:
        """Whether the adversary may use the candidate at all."""
        return self.finite & self.in_box & self.in_ball

    @property
    def success(self) -> Tensor:
        """Whether it is a verified adversarial example. A NaN never is."""
        return self.admissible & self.misclassified

    @property
    def nan_inside(self) -> Tensor:
        """Whether it drives an admissible image to NaN or infinite logits: not robust, yet no misclassification."""
        return self.admissible & self.broke_down

    @property
    def rejected(self) -> int:
        """How many candidates the adversary may not use."""
        return int((~self.admissible).sum())

    def where(self, mask: Tensor, other: VerifiedCandidates) -> VerifiedCandidates:
        """These where the mask (n,) is true, the other ones elsewhere."""
        return VerifiedCandidates(
            **{
                field.name: torch.where(mask, getattr(self, field.name), getattr(other, field.name))
                for field in fields(self)
            }
        )

    def only(self, rows: Tensor) -> VerifiedCandidates:
        """The same for some of the candidates; rows is a mask or places."""
        return VerifiedCandidates(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def decide(subject: Subject, pixels: Tensor, labels: Tensor) -> Decisions:
    """The subject's decisions on images (n, c, h, w) with labels (n,), in eval mode, float32, without autocast."""
    with _as_deployed(subject), torch.no_grad():
        parts = Batching().parts(len(pixels), lambda rows: subject.logits(pixels[rows]).float().cpu())
    logits = torch.cat(parts) if parts else torch.empty(0, subject.num_classes)
    labels = labels.cpu()
    finite = logits.isfinite().all(dim=1)
    safe = torch.where(finite[:, None], logits, torch.zeros_like(logits))
    label_logit = safe.gather(1, labels[:, None]).squeeze(1)
    others = safe.scatter(1, labels[:, None], -torch.inf)
    correct = finite & (label_logit > others.amax(dim=1))
    predicted = torch.where(correct, labels, others.argmax(dim=1))
    confidence = safe.softmax(dim=1).gather(1, predicted[:, None]).squeeze(1)
    return Decisions(
        finite=finite,
        correct=correct,
        predicted=torch.where(finite, predicted, -1),
        confidence=torch.where(finite, confidence, 0.0),
        tied=finite & (label_logit == others.amax(dim=1)),
    )


def verify(
    subject: Subject, clean_pixels: Tensor, labels: Tensor, candidates: Tensor, norm: Norm, eps: float
) -> VerifiedCandidates:
    """Re-examines candidates from scratch; whatever the attack claims is not asked for.

    Args:
        subject: the classifier, left as it was found.
        clean_pixels: (n, c, h, w) float32 in [0, 1].
        labels: (n,) int64, the true classes.
        candidates: (n, c, h, w), one a clean image.
        norm: of the ball.
        eps: its radius.

    Raises:
        ValueError: when the candidates' shape is not that of the clean images.
    """
    if candidates.shape != clean_pixels.shape:
        raise ValueError(
            f"Expected candidates like {tuple(clean_pixels.shape)}, got {tuple(candidates.shape)}. Return one a sample."
        )
    candidates, clean = candidates.detach().float().cpu(), clean_pixels.detach().float().cpu()
    finite = candidates.flatten(1).isfinite().all(dim=1)
    usable = torch.where(finite[:, None, None, None], candidates, clean)
    decisions = decide(subject, usable, labels)
    moved = distance(candidates, clean, norm)
    inside = moved <= radius_with_slack(eps, norm, clean[0].numel() if len(clean) else 0)
    box = in_box(candidates)
    misclassified = finite & decisions.finite & ~decisions.correct
    return VerifiedCandidates(
        finite=finite,
        in_box=box,
        in_ball=inside,
        misclassified=misclassified,
        broke_down=finite & ~decisions.finite,
        distance=moved,
        predicted=decisions.predicted,
        confidence=decisions.confidence,
    )


def survives_8bit(
    subject: Subject, clean_pixels: Tensor, labels: Tensor, candidates: Tensor, norm: Norm, eps: float
) -> Tensor:
    """Which candidates (n,) are adversarial examples in the ball once rounded to k/255; see `verify`."""
    return verify(subject, clean_pixels, labels, to_8bit(candidates), norm, eps).success


@contextlib.contextmanager
def _as_deployed(subject: Subject) -> Iterator[None]:
    """Eval mode and full float32, whatever was left behind; the flags found are put back."""
    with subject.untouched() as model, torch.autocast(subject.device.type, enabled=False):
        for module in model.modules():
            module.training = False
        yield
