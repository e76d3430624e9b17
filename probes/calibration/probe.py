"""The calibration probe: do the confidences mean what they say?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from audit.api import Data, Estimate, Fact, Inconclusive, Role, RunContext, Subject, probe
from probes.calibration import temperature
from probes.calibration.card import HOW_TO_READ, LIMITS, METRICS, REFERENCES
from probes.calibration.config import CalibrationConfig
from probes.calibration.control import controls
from probes.calibration.diagnostics import diagnose
from probes.calibration.figures import figures
from probes.calibration.measure import (
    averages,
    calibration_errors,
    null_test,
    recalibrated,
    selective_facts,
    temperature_facts,
)
from probes.calibration.study import study


def _cost(config: CalibrationConfig, sizes: Mapping[Role, int]) -> Estimate:
    """Seconds on one core beyond the shared predictions, for about ten classes."""
    n = sizes.get("eval", 0)
    return Estimate(seconds=2 + n * (config.bootstrap + 3 * config.null_draws) * 5e-8)


@probe(
    id="calibration",
    version=1,
    question="Do the confidences mean what they say?",
    config=CalibrationConfig,
    needs={"logits", "data:eval"},
    metrics=METRICS,
    references=REFERENCES,
    how_to_read=HOW_TO_READ,
    limits=LIMITS,
    cost=_cost,
)
def calibration(subject: Subject, data: Data, config: CalibrationConfig, ctx: RunContext) -> Iterable[Fact]:
    """Yields calibration errors with intervals, the test against chance, temperature, selective risk and controls."""
    predictions = ctx.predictions("eval")
    if len(predictions) == 0:
        raise Inconclusive(
            "no_samples", "Expected labelled samples to compare confidences with, got none. Give more data."
        )
    scored = study(predictions.logits, predictions.labels.astype(np.int64), config, ctx)
    fitted = temperature.fit(scored.logits, scored.labels)
    after = recalibrated(scored, fitted, ctx)
    diagnose(scored, fitted, ctx)
    measured = [
        *averages(scored, after, ctx),
        *calibration_errors(scored),
        *null_test(scored),
        *temperature_facts(scored, fitted, after, ctx),
        *selective_facts(scored),
    ]
    yield from measured
    yield from figures(scored, measured, subject)
    yield from controls(scored, ctx)
