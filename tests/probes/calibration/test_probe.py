"""The probe as a whole: what it states, on which terms, and what it does with awkward inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from audit.api import Measurement, PositiveControl, Reliability
from audit.errors import Inconclusive
from audit.schema import ProbeResult, Status
from probes.calibration import calibration
from probes.calibration.config import CalibrationConfig
from probes.calibration.scores import sample_labels


def sample(n: int, classes: int, temperature: float = 1.0, scale: float = 2.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (n, classes)).astype(np.float32)
    return logits, sample_labels(logits, temperature, rng)


def measured(outcome) -> dict[str, Measurement]:
    return {
        f"{fact.metric.removeprefix('calibration.')} {fact.where.get('binning', '')}".strip(): fact
        for fact in outcome.facts
        if isinstance(fact, Measurement)
    }


def controls(outcome) -> list[PositiveControl]:
    return [fact for fact in outcome.facts if isinstance(fact, PositiveControl)]


@pytest.fixture(scope="module")
def overconfident(run_probe):
    return run_probe(*sample(3000, 5, temperature=2.0))


def test_planted_temperature_is_found(overconfident):
    found = measured(overconfident)
    assert found["temperature"].interval.low < 2 < found["temperature"].interval.high
    assert found["confidence_gap"].interval.low > 0.1
    assert found["p_value equal-width"].value == pytest.approx(1 / 1001)
    assert found["ece equal-width"].interval.low > 0.1
    assert found["ece_after_temperature equal-width"].interval.low == 0
    assert found["ece_after_temperature equal-width"].interval.high < 0.06
    assert found["nll_after_temperature"].interval.high < found["nll"].interval.low
    assert all(control.passed for control in controls(overconfident))


def test_every_declared_metric_is_stated_and_no_other(overconfident):
    stated = {fact.metric for fact in overconfident.facts if isinstance(fact, Measurement)}
    assert stated == {spec.id for spec in calibration.card.metrics}


def test_settings_match_what_the_card_declares(overconfident):
    declared = {spec.id: spec for spec in calibration.card.metrics}
    for fact in overconfident.facts:
        if isinstance(fact, Measurement):
            assert set(fact.where) == set(declared[fact.metric].where)


def test_values_lie_in_their_intervals_and_ranges(overconfident):
    declared = {spec.id: spec for spec in calibration.card.metrics}
    for fact in overconfident.facts:
        if isinstance(fact, Measurement):
            spec, interval = declared[fact.metric], fact.interval
            assert interval.low <= fact.value <= interval.high
            assert spec.low is None or interval.low >= spec.low
            assert spec.high is None or interval.high <= spec.high


def test_sham_is_left_alone(run_probe):
    found = measured(run_probe(*sample(3000, 5)))
    assert found["p_value equal-width"].value > 1e-3
    assert found["ece equal-width"].interval.low == 0
    assert found["ece_debiased equal-mass"].interval.low == 0
    assert found["smooth_ece"].interval.low == 0
    assert found["temperature"].interval.low < 1 < found["temperature"].interval.high


def test_worst_bin_states_its_own_n(overconfident):
    worst = measured(overconfident)["mce equal-width"]
    figure = next(fact for fact in overconfident.facts if isinstance(fact, Reliability))
    widest = max(figure.bins, key=lambda row: abs(row.accuracy - row.confidence))
    assert worst.n == widest.n
    assert f"holds {widest.n} of 3000 samples" in worst.assumptions[0]


def test_figures_tell_their_content_to_those_who_cannot_see(overconfident):
    alts = {fact.id: fact.alt for fact in overconfident.facts if hasattr(fact, "alt")}
    assert set(alts) == {
        "calibration-reliability",
        "calibration-confidence",
        "calibration-risk-coverage",
        "calibration-estimators",
        "calibration-per-class",
    }
    assert "over-confident by 0." in alts["calibration-reliability"]
    assert all(any(letter.isdigit() for letter in alt) for alt in alts.values())


def test_same_seed_gives_the_same_record(run_probe):
    logits, labels = sample(300, 3)
    first, second = run_probe(logits, labels), run_probe(logits, labels)
    assert [fact.model_dump_json() for fact in first.facts] == [fact.model_dump_json() for fact in second.facts]


def awkward() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    logits, labels = sample(40, 2)
    right, huge = logits.argmax(1), logits * 1e4
    return {
        "one sample": (logits[:1], right[:1]),
        "one sample, wrong": (logits[:1], 1 - right[:1]),
        "two samples": (logits[:2], labels[:2]),
        "two classes": (logits, labels),
        "all right": (logits, right),
        "all wrong": (logits, 1 - right),
        "constant logits": (np.zeros((40, 3), np.float32), np.arange(40) % 3),
        "one constant confidence": (np.tile(np.array([[2.0, 0.0]], np.float32), (40, 1)), labels),
        "saturated": (huge, right),
        "saturated, half wrong": (huge, np.where(np.arange(40) % 2, right, 1 - right)),
        "one class": (logits, np.zeros(40, np.int64)),
        "largest float": (np.array([[3e38, -3e38], [0, 0], [-3e38, 3e38]], np.float32), np.array([1, 0, 1])),
    }


@pytest.mark.parametrize("case", awkward())
def test_awkward_inputs_are_measured_without_nan(run_probe, case):
    outcome = run_probe(*awkward()[case])
    facts = [fact for fact in outcome.facts if isinstance(fact, Measurement)]
    assert all(math.isfinite(fact.value) and fact.interval.low <= fact.value <= fact.interval.high for fact in facts)
    assert len(facts) >= 16
    assert "few_samples" in outcome.diagnostics
    ProbeResult(
        probe="calibration",
        version=1,
        status=Status.MEASURED,
        measurements=tuple(facts),
        figures=tuple(fact for fact in outcome.facts if hasattr(fact, "alt")),
    )


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("all right", "no_errors"),
        ("all wrong", "no_hits"),
        ("constant logits", "temperature_unidentified"),
        ("saturated", "saturated_confidence"),
        ("saturated", "tied_confidence"),
        ("all right", "temperature_at_bound"),
        ("one class", "single_class"),
    ],
)
def test_conditions_are_named(run_probe, case, code):
    assert code in run_probe(*awkward()[case]).diagnostics


def test_all_right_leaves_room_for_unseen_errors(run_probe):
    found = measured(run_probe(*awkward()["all right"]))
    assert found["aurc"].value == 0
    assert found["aurc"].interval.high > 1 - 0.025 ** (1 / 40)
    assert found["confidence_gap"].interval.high > found["confidence_gap"].value + 0.05


def test_saturated_wrong_answers_are_found_although_no_temperature_can_be_planted_small(run_probe):
    logits, labels = sample(400, 3, scale=200)
    labels = np.where(np.arange(400) % 4 == 0, (logits.argmax(1) + 1) % 3, logits.argmax(1))
    outcome = run_probe(logits, labels)
    assert measured(outcome)["ece equal-width"].value == pytest.approx(0.25, abs=0.01)
    assert measured(outcome)["ece equal-width"].interval.low > 0.15
    assert all(control.passed for control in controls(outcome))
    assert "temperature 2 " not in controls(outcome)[0].expected


def test_control_fails_with_the_samples_needed_where_power_is_too_low(run_probe):
    planted = controls(run_probe(*sample(15, 3)))[0]
    assert not planted.passed
    assert "15 samples are too few to see a gap of" in planted.observed
    needed = int(planted.observed.split("about ")[1].split(" ")[0])
    assert all(control.passed for control in controls(run_probe(*sample(4 * needed, 3))))


def test_control_fails_where_logits_do_not_respond_to_temperature(run_probe):
    planted = controls(run_probe(np.zeros((500, 4), np.float32), np.arange(500) % 4))[0]
    assert not planted.passed
    assert "do not respond to temperature" in planted.observed


def test_controls_hardly_ever_fail_by_chance(run_probe):
    """20 runs on 500 samples: each fails by chance in 0.2 % of runs, so four or more have a probability of 8e-8."""
    failed = 0
    for seed in range(20):
        outcome = run_probe(*sample(500, 4, seed=seed), seed=seed, bootstrap=100)
        failed += not all(control.passed for control in controls(outcome))
    assert failed <= 3


def test_no_samples_are_inconclusive(run_probe):
    with pytest.raises(Inconclusive, match="Expected labelled samples") as caught:
        run_probe(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))
    assert caught.value.code == "no_samples"


def test_configuration_refuses_what_cannot_be_measured():
    with pytest.raises(ValidationError, match="null_draws"):
        CalibrationConfig(null_draws=100)
    with pytest.raises(ValidationError, match="coverages"):
        CalibrationConfig(coverages=(0.0,))
    with pytest.raises(ValidationError, match="extra"):
        CalibrationConfig(bin=10)


@pytest.mark.parametrize("n", [100, 300, 1000])
def test_the_nll_of_a_nearly_perfect_model_is_not_overclaimed(n):
    """Nominal 97.5 % one-sided; of 300 data sets at most 3.5 % + 3 Monte Carlo errors may lie below the truth.

    The model errs once in a hundred samples and is then sure of the wrong class: what a plain bootstrap misses.
    """
    from probes.calibration.bootstrap import percentile_interval
    from probes.calibration.measure import _nll_interval
    from probes.calibration.scores import score

    rng = np.random.default_rng(n)
    rate, sure = 0.01, 8.0
    hit_cost, error_cost = np.log1p(np.exp(-sure)), np.log1p(np.exp(sure))
    truth = (1 - rate) * hit_cost + rate * error_cost
    below = 0
    for _ in range(300):
        labels = (rng.random(n) < rate).astype(np.int64)
        scores = score(np.tile([sure, 0.0], (n, 1)), labels)
        means = rng.multinomial(n, np.full(n, 1 / n), size=200) @ scores.nll / n
        found = _nll_interval(scores, percentile_interval(means, float(scores.nll.mean()), 0.95))
        below += found.high < truth
    assert below <= 300 * 0.035 + 3 * np.sqrt(300 * 0.035)
