"""The probe's proof on planted truth: labels drawn from the model's own probabilities, where calibration is known.

Planted: labels drawn from softmax(logits / T), so that the confidences, which are those of T = 1, are over-confident by
a temperature of exactly T. T is 2, or the next power of two whose gap between confidence and accuracy reaches 0.1;
where none does (many classes, flat confidences) labels are drawn sharper, T = 1/2, 1/4, ... The test must see it
(p <= 0.01) and the interval of the temperature, at level 0.999, must hold T.

Sham: labels drawn from softmax(logits) itself. The test must stay silent at 0.001.

By construction a sound probe fails the sham in 0.1 % of runs and the temperature in about 0.1 %. The planted test fails
where n samples with these confidences cannot show a gap of 0.1: few samples. That is what the control is for; the text
then says about how many would do. Logits that are constant have no temperature, and nothing can be planted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from audit.api import PositiveControl, RunContext
from probes.calibration import binned, null, temperature
from probes.calibration.scores import Ints, TopLabel, sample_labels, score
from probes.calibration.study import Study

PLANTED_GAP = 0.1
PLANTED_P = 0.01
SHAM_P = 0.001
INTERVAL_LEVEL = 0.999
CANDIDATES = (*(2.0**k for k in range(1, 10)), *(2.0**-k for k in range(1, 7)))


@dataclass(frozen=True, slots=True)
class Plant:
    """A temperature at which labels are drawn, and the gap between confidence and accuracy that it makes."""

    temperature: float
    gap: float


def choose_plant(study: Study) -> Plant:
    """The first candidate with a gap of at least `PLANTED_GAP`, else the one with the largest."""
    best = Plant(CANDIDATES[0], 0.0)
    claimed = float(study.scores.confidence.mean())
    for candidate in CANDIDATES:
        accuracy = float(score(study.logits, study.labels, 1 / candidate).confidence.mean())
        if abs(claimed - accuracy) > abs(best.gap):
            best = Plant(candidate, claimed - accuracy)
        if abs(best.gap) >= PLANTED_GAP:
            break
    return best


def controls(study: Study, ctx: RunContext) -> Iterator[PositiveControl]:
    """The planted and the sham control."""
    plant = choose_plant(study)
    yield _planted(study, plant, sample_labels(study.logits, plant.temperature, ctx.rng("control-planted")))
    p = _p_value(study, sample_labels(study.logits, 1.0, ctx.rng("control-sham")))
    yield PositiveControl(
        name="sham: calibrated by construction",
        passed=p > SHAM_P,
        expected=f"labels drawn from the model's own probabilities: p > {SHAM_P:g} (fails by chance in 0.1 % of runs)",
        observed=f"p = {p:.3g}",
    )


def _p_value(study: Study, labels: Ints) -> float:
    """The test's answer had these been the labels; the null draws serve again, as they depend on confidences alone."""
    top = TopLabel.ordered(study.scores.confidence, study.scores.predicted == labels)
    return null.p_value(binned.ece(binned.summarise(top, study.width.starts)), study.null_ece)


def _planted(study: Study, plant: Plant, labels: Ints) -> PositiveControl:
    p = _p_value(study, labels)
    fitted = temperature.fit(study.logits, labels, start=plant.temperature)
    found = temperature.interval(study.logits, labels, fitted, INTERVAL_LEVEL)
    holds = fitted.identified and found.low <= plant.temperature <= found.high
    seen = p <= PLANTED_P and abs(plant.gap) > 0
    observed = f"p = {p:.3g}; T = {fitted.temperature:.3g} in [{found.low:.3g}, {found.high:.3g}]"
    if not seen:
        observed += f". {_why(study, plant)}"
    return PositiveControl(
        name="planted temperature",
        passed=seen and holds,
        expected=f"labels drawn at temperature {plant.temperature:g} (gap {plant.gap:+.3f}): p <= {PLANTED_P:g} and "
        f"the {INTERVAL_LEVEL:.1%} interval of T holds {plant.temperature:g}",
        observed=observed,
    )


def _why(study: Study, plant: Plant) -> str:
    """Why the plant was not seen, and about how many samples would show it: noise falls with the root of n."""
    if abs(plant.gap) < 1e-3:
        return "The logits do not respond to temperature (constant or nearly so): no miscalibration can be planted."
    n, spread = len(study), study.noise.standard_error
    needed = n * ((float(np.quantile(study.null_ece, 1 - PLANTED_P)) + 1.3 * spread) / abs(plant.gap)) ** 2
    enough = max(n + 1, int(np.ceil(needed)))
    return f"{n} samples are too few to see a gap of {abs(plant.gap):.2f}; about {enough} would do."
