"""All that is computed once from the logits and shared by measurements, figures and the control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from audit.api import Claim, Interval, Measurement, RunContext, Scalar
from probes.calibration import binned, null, smooth
from probes.calibration.binned import Bins
from probes.calibration.config import CalibrationConfig
from probes.calibration.intervals import Noise
from probes.calibration.scores import Floats, Ints, Logits, Scores, TopLabel, score
from probes.calibration.selective import Ranking


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """A model's answers on n labelled samples, scored.

    Attributes:
        logits: (n, K).
        labels: (n,).
        config: the probe's settings.
        scores: per-sample scores of the softmax as it is.
        top: confidences and hits, sorted.
        width: equal-width bins.
        mass: equal-mass bins.
        noise: draws under calibration, and normal ones.
        ranking: the samples, most confident first.
    """

    logits: Logits
    labels: Ints
    config: CalibrationConfig
    scores: Scores
    top: TopLabel
    width: Bins
    mass: Bins
    noise: Noise
    ranking: Ranking

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.labels)

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return int(self.logits.shape[1])

    @property
    def errors(self) -> int:
        """Number of wrong predictions."""
        return len(self) - int(self.scores.correct.sum())

    @property
    def null_ece(self) -> Floats:
        """Equal-width ECE of each draw under calibration, (null_draws,)."""
        return self.noise.null.ece(self.width)

    def binning(self, kind: str) -> dict[str, Scalar]:
        """The `where` of a binned error."""
        return {"binning": kind, "bins": self.config.bins}


def study(logits: Logits, labels: Ints, config: CalibrationConfig, ctx: RunContext) -> Study:
    """Scores the answers and draws what the intervals need."""
    scores = score(logits, labels)
    top = TopLabel.ordered(scores.confidence, scores.correct)
    columns = max(smooth.COARSE_GRID, config.bins, binned.MOST_SWEEP_BINS)
    normal = ctx.rng("interval").standard_normal((config.null_draws, columns))
    noise = prepared(top, config, normal, ctx.rng("null"), smooth.grid_starts(top.confidence))
    width, mass = partitions(top, config.bins)
    return Study(logits, labels, config, scores, top, width, mass, noise, Ranking.of(top))


def partitions(top: TopLabel, bins: int) -> tuple[Bins, Bins]:
    """Equal-width and equal-mass bins; the latter with at least two samples each, as the debiased error needs."""
    fitting = max(1, min(bins, len(top) // 2))
    return (
        binned.summarise(top, binned.equal_width(top.confidence, bins)),
        binned.summarise(top, binned.equal_mass(top.confidence, fitting)),
    )


def prepared(top: TopLabel, config: CalibrationConfig, normal: Floats, rng: np.random.Generator, *extra: Ints) -> Noise:
    """Draws under calibration for both binnings (and extra partitions) of these confidences."""
    starts = [bins.starts for bins in partitions(top, config.bins)]
    return Noise(top, null.draw(top.confidence, [*starts, *extra], config.null_draws, rng), normal, config.level)


def estimate(
    metric: str,
    value: float,
    n: int,
    interval: Interval,
    where: Mapping[str, Scalar] | None = None,
    assumptions: tuple[str, ...] = (),
) -> Measurement:
    """A measurement of this probe: `metric` without the probe's id."""
    return Measurement(
        metric=f"calibration.{metric}",
        where=dict(where or {}),
        value=value,
        n=n,
        claim=Claim.ESTIMATE,
        interval=interval,
        assumptions=assumptions,
    )
