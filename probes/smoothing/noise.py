"""A classifier asked about noisy copies of one image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from audit.api import Inconclusive, IntArray, Subject
from audit.attacks.pool import rows_at_once
from audit.errors import SubjectError
from audit.toolkit.batching import Batching

NO_CLASS = -1


@dataclass(slots=True, eq=False)
class Noisy:
    """A subject that is asked about images under Gaussian noise; open it with `Subject.frozen` first.

    Noise is drawn on the CPU one number after another, so that neither the size of batches nor the device matters, and
    is not cut to [0, 1]: a certificate needs it whole. A subject that clips its pixels by itself may: that is part of
    the classifier that is smoothed.
    """

    subject: Subject
    batching: Batching = field(init=False)

    def __post_init__(self) -> None:
        self.batching = Batching(rows_at_once(self.subject))

    def answers(self, image: Tensor, sigma: float, n: int, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Noise and what the subject answers under it, in parts that fit into memory, n draws in all.

        Args:
            image: (c, h, w) float32.
            sigma: standard deviation of the noise.
            n: draws.
            rng: of the noise.

        Yields:
            noise (m, c, h, w) float32 and classes (m,) int64, both on the CPU; `NO_CLASS` where a logit is NaN or
            infinite, or two classes are tied at the top.

        Raises:
            Inconclusive: `out_of_range` where the subject answers no pixels outside of [0, 1]; `memory`.
            SubjectError: where it fails on any.
        """
        at_once = rows_at_once(self.subject)
        for start in range(0, n, at_once):
            shape = (min(at_once, n - start), *image.shape)
            noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).mul_(sigma)
            yield noise, classes_of(self.logits(image + noise))

    def votes(self, image: Tensor, sigma: float, n: int, rng: np.random.Generator) -> IntArray:
        """How many of n noisy copies get each class, (num_classes + 1,); last how many get none."""
        total = torch.zeros(self.subject.num_classes + 1, dtype=torch.int64)
        for _, classes in self.answers(image, sigma, n, rng):
            places = torch.where(classes == NO_CLASS, self.subject.num_classes, classes)
            total += torch.bincount(places, minlength=len(total))
        return total.numpy()

    def logits(self, images: Tensor) -> Tensor:
        """Logits (n, num_classes) float32 on the CPU of images (n, c, h, w), in full float32; raises as `answers`."""
        with torch.no_grad(), torch.autocast(self.subject.device.type, enabled=False):
            try:
                return self._passed(images)
            except SubjectError as error:
                self._tell_if_range(images, error)
                raise

    def _passed(self, images: Tensor) -> Tensor:
        parts = self.batching.parts(len(images), lambda rows: self.subject.logits(images[rows]).float().cpu())
        return torch.cat(parts)

    def _tell_if_range(self, images: Tensor, error: SubjectError) -> None:
        """Raises another error where the subject answers the same images once their pixels are cut to [0, 1]."""
        try:
            self._passed(images.clamp(0, 1))
        except SubjectError:
            return
        cause = error.__cause__ or error
        said = (str(cause).strip().splitlines() or [""])[0][:300]
        text = (
            "Expected answers to pixels outside of [0, 1], where Gaussian noise leads, but the model refuses them "
            f"({type(cause).__name__}: {said}). Wrap it so that it clips its input: the clipping is then part of the "
            "classifier that is smoothed."
        )
        raise Inconclusive("out_of_range", text) from error


def classes_of(logits: Tensor) -> Tensor:
    """The class (n,) int64 with the strictly largest of finite logits (n, k), else `NO_CLASS`."""
    top = logits.topk(2, dim=1)
    sure = logits.isfinite().all(dim=1) & (top.values[:, 0] > top.values[:, 1])
    return torch.where(sure, top.indices[:, 0], NO_CLASS)
