"""Settings of the smoothing probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from audit.api import Estimate, ProbeConfig, Role
from audit.toolkit.norms import parse_eps
from audit.toolkit.radii import items, radius_list

CHECKING = 200
"""Fresh noisy copies of an image that is checked."""
DIRECTIONS, CHECKING_AWAY = 3, 100
"""Directions in which it is then moved by its certified radius, and noisy copies in each."""
COPIES = 4
"""Equal copies of an image in each of two passes that show whether the model answers at random."""


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sorted({float(f"{value:g}") for value in values}))


class SmoothingConfig(ProbeConfig):
    """Which noise, how many draws of it, and how sure a certificate is."""

    sigmas: Annotated[
        tuple[Annotated[float, Field(gt=0, le=10)], ...], BeforeValidator(items), AfterValidator(_ascending)
    ] = Field(default=(0.25,), min_length=1)
    """Standard deviations of the noise, in units of the pixel range. Each is a smoothed classifier of its own.
    Six digits count."""
    eps_l2: Annotated[tuple[str, ...], radius_list("l2")] = ("0.1", "0.25", "0.5")
    """L2 radii as `"0.25"` or `0.25`, pixels in [0, 1]."""
    n0: int = Field(default=50, ge=20)
    """Noisy copies of an image that choose its class."""
    n: int = Field(default=500, ge=100)
    """Further ones that give the bound on that class's probability. They cap the radius, and more of them raise it."""
    alpha: float = Field(default=0.001, ge=1e-6, le=0.1)
    """Chance that noise makes a certificate wrong."""
    together: bool = True
    """Whether `alpha` is the chance that any certificate of the run is wrong, whatever the image and the sigma, in
    place of each one's own."""
    checked: int = Field(default=4, ge=0)
    """First certified samples of a sigma that are checked by fresh noise, also around images moved by the radius."""
    samples: int = Field(default=32, ge=1)
    """First samples of the permuted order; fewer when the split is shorter."""
    chunk: int = Field(default=1, ge=1)
    """Samples certified together, and lost together when a run is killed."""

    @model_validator(mode="after")
    def _something_to_certify(self) -> Self:
        if not self.above_zero:
            raise ValueError("Expected a radius above 0 in eps_l2, got none. Give one.")
        return self

    @property
    def above_zero(self) -> tuple[str, ...]:
        """The radii that leave something to certify, in canonical form, ascending."""
        return tuple(text for text in self.eps_l2 if parse_eps(text, "l2") > 0)

    def alpha_each(self, samples: int) -> float:
        """The chance that each certificate of so many samples may be wrong with (Bonferroni, where `together`)."""
        return self.alpha / (samples * len(self.sigmas)) if self.together else self.alpha


def cost(config: SmoothingConfig, sizes: Mapping[Role, int]) -> Estimate:
    """Every noisy copy is a pass."""
    used = min(sizes.get("eval", 0), config.samples)
    checking = min(used, config.checked) * (CHECKING + DIRECTIONS * CHECKING_AWAY)
    return Estimate(forwards=len(config.sigmas) * (used * (config.n0 + config.n + 1 + 2 * COPIES) + checking))
