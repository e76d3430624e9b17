"""Settings of the shortcuts probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, field_validator

from audit.api import Estimate, ProbeConfig, Role

CHUNK = 512
"""Images whose traces are computed together, and lost together when a run is killed."""


class ShortcutsConfig(ProbeConfig):
    """How much is looked at, and how its power is shown."""

    samples: int = Field(default=50_000, ge=20)
    """First samples of the permuted order whose traces are compared; fewer when the split is shorter."""
    trained: int = Field(default=3000, ge=20)
    """Images that the network is trained on which shows whether what was found is followed."""
    epochs: int = Field(default=10, ge=1)
    """Of that training."""
    canaries: int = Field(default=10, ge=0, le=100)
    """Keys of CUDA that are planted in copies of the data, at each of the fractions."""
    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(1.0, 0.2, 0.05), min_length=1)
    """Of every class's images that a planted key filters."""
    canary_samples: int = Field(default=4000, ge=20)
    """First samples that copies are made of."""

    @field_validator("fractions")
    @classmethod
    def _largest_first(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(fractions), reverse=True))


def cost(config: ShortcutsConfig, sizes: Mapping[Role, int]) -> Estimate:
    """Of images of about 32 pixels; no network but a small one is asked."""
    n = min(sizes.get("train", 0), config.samples)
    copies = min(n, config.canary_samples) * (config.canaries * len(config.fractions) + 3)
    return Estimate(seconds=n * 5e-4 + copies * 4e-4)
