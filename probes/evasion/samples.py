"""What is known of each sample of a chunk while it is under attack."""

from __future__ import annotations

from collections.abc import Sequence
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
        distance: float64, of the nearest verified adversarial example; inf where there is none.
        down_distance: float64, of the nearest image whose logits are not finite; inf where there is none.
        by_noise: int16, index of the smallest radius at which blind noise alone breaks the sample, else `NEVER`.
        attack: int16, place in the plan's `finders` of what found that example, else -1.
        adversarial: (n, c, h, w) float32, the example, else the clean image.
        predicted: int64, the class that the example is given.
        confidence: float32, the probability of that class.
        survives_8bit: bool, whether the example, rounded to 8 bits, fools the model in the smallest of the plan's balls
            that holds the example.
    """

    pixels: Tensor
    labels: Tensor
    clean: Decisions
    distance: Tensor
    down_distance: Tensor
    by_noise: Tensor
    attack: Tensor
    adversarial: Tensor
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
            distance=torch.full((n,), torch.inf, dtype=torch.float64),
            down_distance=torch.full((n,), torch.inf, dtype=torch.float64),
            by_noise=torch.full((n,), NEVER, dtype=torch.int16),
            attack=torch.full((n,), -1, dtype=torch.int16),
            adversarial=batch.pixels.clone(),
            predicted=clean.predicted.clone(),
            confidence=clean.confidence.clone(),
            survives_8bit=torch.zeros(n, dtype=torch.bool),
        )

    def settle(self, others: Sequence[Tensor]) -> None:
        """Of a model that answers at random: right is what is right in most of several calls."""
        votes = torch.stack([self.clean.correct, *others]).float().mean(dim=0)
        self.clean.correct.copy_(votes > 0.5)

    def whole(self, radius: float) -> Tensor:
        """(n,) bool: right on the clean image, with no adversarial example within the radius."""
        return self.clean.correct & (self.distance > radius)

    def record(self, rows: Tensor, candidates: Tensor, verified: VerifiedCandidates, attack: int) -> None:
        """Takes over what the harness verified of candidates (k, c, h, w) for k rows, where it is nearer."""
        down = verified.nan_inside
        self.down_distance[rows[down]] = torch.minimum(self.down_distance[rows[down]], verified.distance[down])
        won = verified.success & (verified.distance < self.distance[rows])
        hit = rows[won]
        self.attack[hit] = attack
        self.adversarial[hit] = candidates[won]
        self.distance[hit] = verified.distance[won]
        self.predicted[hit] = verified.predicted[won]
        self.confidence[hit] = verified.confidence[won]

    def arrays(self, radii: Sequence[float], shown: int) -> dict[str, npt.NDArray[Any]]:
        """The tally's arrays, with the `shown` adversarial images that are nearest to their originals.

        Args:
            radii: ascending, what still counts as within each of the plan's; `broken` and `broke_down` are the indices
                of the smallest that holds the nearest example, else `NEVER`.
            shown: so many at most, of those within the largest radius.
        """
        broken, broke_down = (_first_within(found, radii) for found in (self.distance, self.down_distance))
        within = (broken != NEVER).nonzero().flatten()
        nearest = within[torch.argsort(self.distance[within], stable=True)[:shown]]
        tensors = {
            "clean_correct": self.clean.correct,
            "clean_finite": self.clean.finite,
            "clean_tied": self.clean.tied,
            "clean_predicted": self.clean.predicted,
            "clean_confidence": self.clean.confidence,
            "labels": self.labels,
            "broken": broken,
            "by_noise": self.by_noise,
            "broke_down": broke_down,
            "attack": self.attack,
            "distance": self.distance,
            "down_distance": self.down_distance,
            "predicted": self.predicted,
            "confidence": self.confidence,
            "survives_8bit": self.survives_8bit,
            "shown_rows": nearest,
            "shown_pixels": self.adversarial[nearest],
        }
        return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}


def _first_within(distance: Tensor, radii: Sequence[float]) -> Tensor:
    """Index (n,) int16 of the smallest radius that is at least the distance, else `NEVER`."""
    index = torch.searchsorted(torch.tensor(radii, dtype=torch.float64), distance)
    return torch.where(index < len(radii), index, NEVER).to(torch.int16)
