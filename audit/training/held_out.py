"""What a model can do on held-out images after an epoch: in evaluation mode, float32, without compilation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from audit.toolkit.modes import evaluating
from audit.training.bounded import Bounded
from audit.training.config import AdversarialConfig
from audit.training.feed import Feed
from audit.training.inner import worst_case
from audit.training.objectives import Objective
from audit.training.placing import Placed

ATTACKED, STEPS = 512, 10
"""Images that are attacked after an epoch of adversarial training, and with how many steps."""
BOUNDED = 256
"""Images that are bounded after an epoch of certified training."""
ANSWERED = 32
WORST = 1e30
"""Loss of a model that answers NaN: a number, and worse than any other."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out images, and how they are looked at."""

    placed: Placed
    images: Feed
    objective: Objective
    at_once: int
    """Images of a batch: as many as are trained on together, so that what fits there fits here."""

    def look(self) -> dict[str, float]:
        """Mean loss and accuracy."""
        total, right, n = 0.0, 0, len(self.images)
        with evaluating(self.placed.model), torch.no_grad():
            for pixels, labels in self.images.batches(torch.arange(n), self.at_once):
                logits = self.placed.exact(pixels)
                total += float(self.objective.held_out(logits, pixels, labels))
                right += int((logits.argmax(dim=1) == labels).sum())
        return {"held_out_loss": total / n if math.isfinite(total) else WORST, "held_out_accuracy": right / n}

    def attacked(self, config: AdversarialConfig, start: Callable[[], torch.Generator]) -> dict[str, float]:
        """Accuracies on worst-case images, by several steps from a random start (the same every time) and by one.

        In halves of a batch, as gradients in float32 take twice the memory of those in bfloat16.
        """
        n = self.n_attacked
        found = {}
        ways = {"robust_accuracy": (STEPS, 2.5 / STEPS, start()), "single_step_accuracy": (1, 1.0, None)}
        with evaluating(self.placed.model), torch.enable_grad():
            for key, (steps, step, generator) in ways.items():
                right = 0
                for pixels, labels in self.images.batches(torch.arange(n), max(1, self.at_once // 2)):
                    images = worst_case(
                        self.placed.exact, pixels, labels, norm=config.norm, eps=config.radius, steps=steps, step=step,
                        generator=generator,
                    )  # fmt: skip
                    with torch.no_grad():
                        right += int((self.placed.exact(images).argmax(dim=1) == labels).sum())
                found[key] = right / n
        return found

    def bounded(self, objective: Bounded) -> dict[str, float]:
        """Accuracy that bounds leave to the first images, within the radius that is trained for."""
        right, n = 0, min(BOUNDED, len(self.images))
        with evaluating(self.placed.model), torch.no_grad():
            for pixels, labels in self.images.batches(torch.arange(n), max(1, self.at_once // 2)):
                right += int(objective.certified(self.placed, pixels, labels).sum())
        return {"certified_accuracy": right / n}

    @property
    def n_attacked(self) -> int:
        """Images that `attacked` looks at."""
        return min(ATTACKED, len(self.images))

    def answers(self) -> Tensor:
        """Logits (n, classes) of the first images."""
        first = torch.arange(min(ANSWERED, len(self.images)))
        with evaluating(self.placed.model), torch.no_grad():
            return torch.cat([self.placed.exact(pixels) for pixels, _ in self.images.batches(first, self.at_once)])
