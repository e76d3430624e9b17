"""The test against chance, and the temperature."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from scipy.stats import binom, kstwo

from probes.calibration import binned, null, temperature
from probes.calibration.scores import TopLabel, sample_labels, score


def p_of(top: TopLabel, rng: np.random.Generator, draws: int = 199) -> float:
    bins = binned.summarise(top, binned.equal_width(top.confidence, 15))
    return null.p_value(binned.ece(bins), null.draw(top.confidence, [bins.starts], draws, rng).ece(bins))


def test_p_values_are_uniform_under_calibration():
    """400 calibrated data sets: Kolmogorov-Smirnov distance, plus the grid's 1/200, at a false-alarm rate of 1e-6."""
    rng, found = np.random.default_rng(0), []
    for _ in range(400):
        confidence = rng.beta(4, 1.5, 300)
        found.append(p_of(TopLabel.ordered(confidence, rng.random(300) < confidence), rng))
    grid = np.arange(1, 401) / 400
    distance = np.max(np.abs(np.sort(found) - grid))
    assert distance <= kstwo.isf(1e-6, 400) + 1 / 200 + 1 / 400


def test_p_value_is_small_for_planted_overconfidence():
    rng = np.random.default_rng(1)
    confidence = rng.beta(4, 1.5, 1000)
    assert p_of(TopLabel.ordered(confidence, rng.random(1000) < confidence - 0.1), rng) == 1 / 200


def test_null_error_is_that_of_label_draws():
    """Mean of 4000 null draws against 4000 plain ones: five standard errors of the difference, below 1e-6."""
    rng = np.random.default_rng(2)
    confidence = np.sort(rng.beta(4, 1.5, 200))
    bins = binned.summarise(TopLabel(confidence, np.zeros(200)), binned.equal_width(confidence, 15))
    ours = null.draw(confidence, [bins.starts, binned.equal_mass(confidence, 7)], 4000, rng).ece(bins)
    hits = (rng.random((4000, 200)) < confidence).astype(float)
    plain = [binned.ece(binned.summarise(TopLabel(confidence, row), bins.starts)) for row in hits]
    error = np.sqrt((np.var(ours) + np.var(plain)) / 4000)
    assert abs(ours.mean() - np.mean(plain)) <= 5 * error


def test_p_value_is_never_zero():
    assert null.p_value(1.0, np.zeros(999)) == 0.001
    assert null.p_value(0.0, np.zeros(999)) == 1.0


def test_temperature_of_golden_set(golden):
    fitted = temperature.fit(golden.logits, golden.labels)
    assert fitted.temperature == pytest.approx(0.977043, abs=1e-6)
    assert fitted.nll == pytest.approx(0.802797, abs=1e-6)
    after = score(golden.logits, golden.labels, 1 / fitted.temperature)
    ordered = TopLabel.ordered(after.confidence, after.correct)
    found = binned.ece(binned.summarise(ordered, binned.equal_width(ordered.confidence, 15)))
    assert found == pytest.approx(0.166167, abs=1e-6)


@pytest.mark.parametrize("planted", [0.3, 1.0, 7.0])
def test_temperature_is_the_minimum_that_a_scalar_search_finds(planted):
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 4, (500, 6))
    labels = sample_labels(logits, planted, rng)

    def loss(log_t: float) -> float:
        z = logits / np.exp(log_t)
        return float((logsumexp(z, axis=1) - z[np.arange(500), labels]).mean())

    found = minimize_scalar(loss, bounds=(-4, 6), method="bounded", options={"xatol": 1e-10})
    assert temperature.fit(logits, labels).temperature == pytest.approx(np.exp(found.x), rel=1e-5)


@pytest.mark.parametrize("planted", [0.5, 1.0, 2.0])
def test_interval_of_the_temperature_covers_the_planted_one(planted):
    """200 data sets of 400: fails where the true coverage is 95 % with a probability below 1e-6."""
    rng, covered = np.random.default_rng(4), 0
    for _ in range(200):
        logits = rng.normal(0, 2, (400, 5)).astype(np.float32)
        labels = sample_labels(logits, planted, rng)
        found = temperature.interval(logits, labels, temperature.fit(logits, labels), 0.95)
        covered += found.low <= planted <= found.high
    assert covered >= binom.ppf(1e-6, 200, 0.95)
    assert covered <= 199


def test_interval_covers_the_best_temperature_of_another_model():
    """Labels are 20 % random, so no temperature is true; 200 data sets, as above, about the population's best one."""
    rng = np.random.default_rng(5)

    def draw(n: int):
        logits = rng.normal(0, 3, (n, 5))
        labels = sample_labels(logits, 1.0, rng)
        return logits, np.where(rng.random(n) < 0.2, rng.integers(0, 5, n), labels)

    best, covered = temperature.fit(*draw(300_000)).temperature, 0
    for _ in range(200):
        logits, labels = draw(400)
        found = temperature.interval(logits, labels, temperature.fit(logits, labels), 0.95)
        covered += found.low <= best <= found.high
    assert covered >= binom.ppf(1e-6, 200, 0.95)


def test_bounds_are_reported_where_no_temperature_is_best():
    logits = np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    right, wrong = np.array([0, 1, 0]), np.array([1, 0, 1])
    assert temperature.fit(logits, right).temperature == temperature.T_MIN
    assert temperature.fit(logits, wrong).temperature == temperature.T_MAX
    assert temperature.fit(logits, right).at_bound
    flat = temperature.fit(np.zeros((3, 2)), right)
    assert (flat.temperature, flat.identified) == (1.0, False)
    found = temperature.interval(np.zeros((3, 2)), right, flat, 0.95)
    assert (found.low, found.high) == (temperature.T_MIN, temperature.T_MAX)


def test_no_sample_takes_part_in_its_own_temperature():
    """Changing one sample's label leaves the confidences of its fold unchanged."""
    rng = np.random.default_rng(6)
    logits = rng.normal(0, 2, (60, 4))
    labels = sample_labels(logits, 1.0, rng)
    changed = labels.copy()
    changed[17] = (changed[17] + 1) % 4
    first, _ = temperature.cross_fit(logits, labels, 5, 1.0, np.random.default_rng(7))
    second, _ = temperature.cross_fit(logits, changed, 5, 1.0, np.random.default_rng(7))
    same = np.isclose(first.confidence, second.confidence, rtol=1e-12, atol=0)
    assert same[17]
    assert same.sum() == 12


def test_sampled_labels_follow_the_softmax():
    """Counts of 20,000 draws against their probabilities: five standard deviations, below 1e-6 over four classes."""
    row = np.array([1.0, 0.0, -1.0, 2.0], dtype=np.float32)
    drawn = sample_labels(np.tile(row, (20_000, 1)), 2.0, np.random.default_rng(8))
    p = np.exp(row / 2) / np.exp(row / 2).sum()
    assert np.all(np.abs(np.bincount(drawn, minlength=4) - 20_000 * p) <= 5 * np.sqrt(20_000 * p * (1 - p)))
