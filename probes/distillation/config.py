"""Settings of the distillation probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from audit.api import Estimate, ProbeConfig, Role
from audit.toolkit.norms import Norm, canonical_eps

CW_ROUNDS = 5
"""Balances that Carlini & Wagner's attack tries for each sample."""
SOUGHT, SOUGHT_STEPS = 64, 40
"""First samples by which a radius is chosen, and steps of the search for each one's nearest example."""
CONTROLLED = 64
"""First samples of the controls."""
EXAMINED = 3
"""Models of the experiment that are attacked: the subject, the student and the twin."""


def _radius(norm: Norm) -> AfterValidator:
    def read(text: str) -> str:
        return text if text == "auto" else canonical_eps(text, norm)

    return AfterValidator(read)


class DistillationProbeConfig(ProbeConfig):
    """Which images, how far they may be changed, how hard that is tried, and what is trained to compare with."""

    samples: int = Field(128, ge=1)
    """First samples of the permuted order."""
    chunk: int = Field(64, ge=1)
    """Samples attacked together, and lost together when a run is killed."""
    eps: Annotated[str, BeforeValidator(str), _radius("linf")] = "auto"
    """Linf radius at which losses are compared; `auto` is one and a half times the median distance of the nearest
    example that FMN finds, or, where it finds too few or Square finds nearer ones, the smallest of a ladder at which
    Square breaks half."""
    eps_l2: Annotated[str, BeforeValidator(str), _radius("l2")] = "auto"
    """L2 radius within which Carlini & Wagner's attack counts, likewise."""
    steps: int = Field(40, ge=5)
    """Of each search in the Linf ball."""
    cw_steps: int = Field(100, ge=1)
    """Of each of five rounds of Carlini & Wagner's attack."""
    queries: int = Field(500, ge=1)
    """Looks of Square, which sees no gradient, at each image."""
    reference: Literal["auto", "off"] = "auto"
    """auto trains a teacher, a student at the temperature and an undistilled twin where `train` data is given."""
    temperature: float = Field(100.0, ge=1, le=1000)
    """Of the reference pair."""
    epochs: int = Field(30, ge=1)
    """Of each of the three trainings."""
    train_samples: int = Field(2000, ge=20)
    """First samples of the `train` data that they use."""


def cost(config: DistillationProbeConfig, sizes: Mapping[Role, int]) -> Estimate:
    """Passes when nothing breaks: an upper limit, as a broken sample is attacked no further by that attack."""
    used, trained = min(sizes.get("eval", 0), config.samples), 0
    if config.reference == "auto":
        trained = min(sizes.get("train", 0), config.train_samples)
    models = EXAMINED if trained else 1
    searches = 2 + 4 * (config.steps + 1) + CW_ROUNDS * config.cw_steps
    gradients = models * used * searches + 2 * min(used, SOUGHT) * SOUGHT_STEPS + 3 * trained * config.epochs
    gradients += 2 * min(used, CONTROLLED) * (config.steps + 4)
    queries = (models * used + min(used, SOUGHT)) * (config.queries + 20)
    return Estimate(forwards=gradients + queries + trained * config.epochs, backwards=gradients)
