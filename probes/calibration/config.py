"""Settings of the calibration probe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from audit.api import ProbeConfig

Coverage = Annotated[float, Field(gt=0, le=1)]


class CalibrationConfig(ProbeConfig):
    """The documented protocol is the default one.

    Attributes:
        bins: bins of every binned error.
        bootstrap: resamples behind bootstrap intervals.
        null_draws: label sets drawn from the confidences; at least 999, so that a p-value of 0.001 can be reached.
        folds: parts for the cross-fitted temperature.
        level: two-sided level of every interval.
        coverages: shares of samples answered, for the accuracy of what is answered.
    """

    bins: int = Field(default=15, ge=2, le=200)
    bootstrap: int = Field(default=1000, ge=100)
    null_draws: int = Field(default=1000, ge=999)
    folds: int = Field(default=5, ge=2)
    level: float = Field(default=0.95, ge=0.5, le=0.999)
    coverages: tuple[Coverage, ...] = (0.8, 0.9, 0.95)
