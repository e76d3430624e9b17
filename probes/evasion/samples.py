"""What is known of each sample of a chunk while it is under attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from audit.api import Batch
from audit.toolkit.verification import Decisions, VerifiedCandidates

NEVER = 32767
"""Index of the radius at which something happened, when it did not."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The chunk; its tensors, all on the CPU and (n,) unless said, are filled in place.

    Attributes:
        pixels: (n, c, h, w) float32, the clean images.
        labels: int64.
        clean: decisions on the clean images.
        broken: int16, index of the smallest radius with a verified adversarial example, else `NEVER`.
        by_noise: int16, the same for blind noise alone.
        broke_down: int16, the same for logits that are not finite inside the ball.
        attack: int16, place of the attack that broke it in the plan (one past the last: noise), else -1.
        adversarial: (n, c, h, w) float32, the example found, else the clean image.
        distance: float64, of the example to the clean image.
        predicted: int64, the class that the example is given.
        confidence: float32, the probability of that class.
        survives_8bit: bool, whether the example still counts after rounding to 8 bits.
    """

    pixels: Tensor
    labels: Tensor
    clean: Decisions
    broken: Tensor
    by_noise: Tensor
    broke_down: Tensor
    attack: Tensor
    adversarial: Tensor
    distance: Tensor
    predicted: Tensor
    confidence: Tensor
    survives_8bit: Tensor

    @classmethod
    def start(cls, batch: Batch, clean: Decisions) -> Samples:
        """Before the first attack."""
        n = len(batch.labels)
        return cls(
            pixels=batch.pixels,
            labels=batch.labels,
            clean=clean,
            broken=torch.full((n,), NEVER, dtype=torch.int16),
            by_noise=torch.full((n,), NEVER, dtype=torch.int16),
            broke_down=torch.full((n,), NEVER, dtype=torch.int16),
            attack=torch.full((n,), -1, dtype=torch.int16),
            adversarial=batch.pixels.clone(),
            distance=torch.zeros(n, dtype=torch.float64),
            predicted=clean.predicted.clone(),
            confidence=clean.confidence.clone(),
            survives_8bit=torch.zeros(n, dtype=torch.bool),
        )

    def unbroken(self) -> Tensor:
        """Rows that are right on the clean image and not yet broken: those worth attacking."""
        return (self.clean.correct & (self.broken == NEVER)).nonzero().flatten()

    def record(self, rows: Tensor, candidates: Tensor, verified: VerifiedCandidates, index: int, attack: int) -> None:
        """Takes over what the harness verified of candidates (k, c, h, w) for k rows that were unbroken."""
        down = rows[verified.nan_inside]
        self.broke_down[down] = self.broke_down[down].clamp(max=index)
        won = verified.success
        hit = rows[won]
        self.broken[hit] = index
        self.attack[hit] = attack
        self.adversarial[hit] = candidates[won]
        self.distance[hit] = verified.distance[won]
        self.predicted[hit] = verified.predicted[won]
        self.confidence[hit] = verified.confidence[won]
        self.survives_8bit[hit] = verified.survives_8bit[won]

    def arrays(self, shown: int) -> dict[str, npt.NDArray[Any]]:
        """The tally's arrays, with the `shown` adversarial images that are nearest to their originals."""
        broken = (self.broken != NEVER).nonzero().flatten()
        nearest = broken[torch.argsort(self.distance[broken], stable=True)[:shown]]
        tensors = {
            "clean_correct": self.clean.correct,
            "clean_finite": self.clean.finite,
            "clean_predicted": self.clean.predicted,
            "clean_confidence": self.clean.confidence,
            "labels": self.labels,
            "broken": self.broken,
            "by_noise": self.by_noise,
            "broke_down": self.broke_down,
            "attack": self.attack,
            "distance": self.distance,
            "predicted": self.predicted,
            "confidence": self.confidence,
            "survives_8bit": self.survives_8bit,
            "shown_rows": nearest,
            "shown_pixels": self.adversarial[nearest],
        }
        return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}
