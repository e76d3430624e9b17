"""Tensors that belong together, one row a job: what a batch is put together from and taken apart into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A frozen dataclass of tensors whose first dimension is the row."""

    def take(self, rows: Tensor | slice) -> Self:
        """Some of the rows; `rows` is a mask, places or a slice (of which views are given)."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, in order; there is at least one part."""
        if len(parts) == 1:
            return parts[0]
        return cls(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)})

    def to(self, device: torch.device) -> Self:
        """The same rows on a device."""
        return type(self)(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))


@dataclass(frozen=True, slots=True, eq=False)
class Jobs(Rows):
    """What a search works on: n pairs of an image and a way to attack it, all on the subject's device.

    Attributes:
        sample: (n,) int64, which sample each job belongs to; jobs of one sample end together.
        pixels: (n, c, h, w) float32 in [0, 1], the clean images.
        labels: (n,) int64, the true classes.
        targets: (n,) int64, the class to reach, or -1 for any wrong one.
        eps: (n,) float32, the radius of the ball; inf where the search looks for the smallest.
        seeds: (n,) int64; decide a job's random numbers, so that they do not hang on the batch it is in.
        scale: (n,) float32 above 0, `losses.logit_scale` of the clean images.
        start: (n, c, h, w) float32, where the search begins when `warm`.
        warm: (n,) bool.
    """

    sample: Tensor
    pixels: Tensor
    labels: Tensor
    targets: Tensor
    eps: Tensor
    seeds: Tensor
    scale: Tensor
    start: Tensor
    warm: Tensor

    @classmethod
    def untargeted(cls, pixels: Tensor, labels: Tensor, eps: float, seeds: Tensor, scale: Tensor) -> Jobs:
        """One job an image, for any wrong class, from a start of its own; all as in the attributes."""
        n = len(labels)
        return cls(
            sample=torch.arange(n),
            pixels=pixels,
            labels=labels,
            targets=torch.full((n,), -1),
            eps=torch.full((n,), eps),
            seeds=seeds,
            scale=scale,
            start=pixels,
            warm=torch.zeros(n, dtype=torch.bool),
        )
