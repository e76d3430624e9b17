"""Estimators against closed forms, independent implementations and a golden set.

Golden numbers were made once with plain loops, uncertainty-calibration 0.1.4 and torchmetrics 1.9.0, on the inputs of
the `golden` fixture; they agree to the six digits shown.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from probes.calibration import binned, classwise, selective, smooth
from probes.calibration.scores import TopLabel, score


@pytest.fixture(scope="module")
def top(golden):
    scores = score(golden.logits, golden.labels)
    return TopLabel.ordered(scores.confidence, scores.correct)


def random_top(seed: int, n: int = 500, ties: bool = False) -> TopLabel:
    rng = np.random.default_rng(seed)
    confidence = rng.beta(4, 1.5, n)
    if ties:
        confidence = np.round(confidence, 1)
    return TopLabel.ordered(confidence, rng.random(n) < confidence**1.5)


def test_golden_inputs_are_the_published_ones(golden, top):
    assert golden.logits[0, 0] == pytest.approx(0.658461, abs=1e-6)
    assert golden.labels.sum() == 1156
    assert top.correct.mean() == pytest.approx(0.658333, abs=1e-6)
    assert top.confidence.mean() == pytest.approx(0.664848, abs=1e-6)


@pytest.mark.parametrize(("bins", "expected"), [(10, 0.161962), (15, 0.150681), (20, 0.182429), (100, 0.197083)])
def test_equal_width_ece_of_golden_set(top, bins, expected):
    found = binned.ece(binned.summarise(top, binned.equal_width(top.confidence, bins)))
    assert found == pytest.approx(expected, abs=1e-6)


def test_other_errors_of_golden_set(golden, top):
    width = binned.summarise(top, binned.equal_width(top.confidence, 15))
    mass = binned.summarise(top, binned.equal_mass(top.confidence, 15))
    swept = binned.sweep(top)
    assert binned.rms(width) == pytest.approx(0.172900, abs=1e-6)
    assert np.abs(width.difference).max() == pytest.approx(0.284057, abs=1e-6)
    assert binned.ece(mass) == pytest.approx(0.175919, abs=1e-6)
    assert binned.rms(mass) == pytest.approx(0.196036, abs=1e-6)
    assert binned.debiased_rms(mass) == pytest.approx(0.183327, abs=1e-6)
    assert len(swept.count) == 3
    assert binned.ece(swept) == pytest.approx(0.075962, abs=1e-6)
    assert classwise.cells(golden.logits, golden.labels, 15).value == pytest.approx(0.052770, abs=1e-6)


def test_proper_scores_of_golden_set(golden):
    scores = score(golden.logits, golden.labels)
    assert scores.nll.mean() == pytest.approx(0.802958, abs=1e-6)
    assert scores.brier.mean() == pytest.approx(0.470175, abs=1e-6)


def test_selective_risk_of_golden_set(top):
    ranking = selective.Ranking.of(top)
    aurc, augrc = selective.areas(ranking)
    assert aurc == pytest.approx(0.280163, abs=1e-6)
    assert augrc == pytest.approx(0.146494, abs=1e-6)
    kept = selective.kept_at(0.8, 600)
    assert kept == 480
    assert 1 - selective.hits_kept(ranking, np.array([kept]))[0] / kept == pytest.approx(0.343750, abs=1e-6)


def brute_smooth_ece(top: TopLabel, sigma: float, points: int = 4001) -> float:
    """The definition: a matrix of reflected Gaussian kernels, integrated by the midpoint rule."""
    t = (np.arange(points) + 0.5) / points
    residual = (top.confidence - top.correct) / len(top)
    images = [2 * k + sign * top.confidence for k in range(-2, 3) for sign in (1, -1)]
    kernels = sum(np.exp(-0.5 * ((t[:, None] - image) / sigma) ** 2) for image in images)
    return float(np.abs(kernels @ residual).mean() / (sigma * np.sqrt(2 * np.pi)))


@pytest.mark.parametrize("sigma", [0.02, 0.05, 0.2])
def test_smooth_ece_is_its_definition(top, sigma):
    found = smooth.smooth_ece_at(smooth.residual_spectrum(top), sigma)
    assert found == pytest.approx(brute_smooth_ece(top, sigma), abs=1e-6)


def test_smooth_ece_of_golden_set(top):
    """relplot 1.0.3 states .123946 at sigma .05 and .080580 at its fixed point, from a mesh of 200 points and ten
    bisections; with 20,000 points it gives .123643, and its last bisection leaves the bandwidth open by 1/1024."""
    value = smooth.smooth_ece(top)
    assert brute_smooth_ece(top, value) == pytest.approx(value, abs=1e-6)
    assert value == pytest.approx(0.081152, abs=1e-6)
    assert value == pytest.approx(0.080580, abs=1 / 1024)
    assert smooth.smooth_ece_at(smooth.residual_spectrum(top), 0.05) == pytest.approx(0.123946, rel=3e-3)


@pytest.mark.parametrize(("norm", "rule"), [("l1", binned.ece), ("l2", binned.rms), ("max", None)])
def test_equal_width_errors_agree_with_torchmetrics(norm, rule):
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(0, 2, (700, 6)), rng.integers(0, 6, 700)
    scores = score(logits, labels)
    ordered = TopLabel.ordered(scores.confidence, scores.correct)
    bins = binned.summarise(ordered, binned.equal_width(ordered.confidence, 15))
    found = rule(bins) if rule else np.abs(bins.difference).max()
    probabilities = torch.from_numpy(logits).softmax(1)
    expected = multiclass_calibration_error(probabilities, torch.from_numpy(labels), 6, n_bins=15, norm=norm)
    assert found == pytest.approx(expected.item(), abs=2e-6)


def test_proper_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(0, 3, (400, 7)).astype(np.float32), rng.integers(0, 7, 400)
    scores = score(logits, labels)
    p = torch.from_numpy(logits).double().softmax(1).numpy()
    assert scores.nll.mean() == pytest.approx(log_loss(labels, p, labels=np.arange(7)), rel=1e-9)
    assert scores.brier.mean() == pytest.approx(((p - np.eye(7)[labels]) ** 2).sum(1).mean(), rel=1e-12)
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    ours = score(logits[:, :2], labels % 2).brier.mean()
    binary = torch.from_numpy(logits[:, :2]).double().softmax(1)[:, 1].numpy()
    assert ours == pytest.approx(2 * sklearn_metrics.brier_score_loss(labels % 2, binary), rel=1e-12)


def test_log_loss_is_finite_where_the_probability_underflows():
    scores = score(np.array([[0.0, 2000.0]], dtype=np.float32), np.array([0]))
    assert scores.nll[0] == 2000
    assert scores.brier[0] == pytest.approx(2)


def test_confidence_of_one_falls_into_the_last_bin():
    ordered = TopLabel.ordered(np.array([0.2, 1.0, 1.0, 14 / 15]), np.array([0.0, 1.0, 0.0, 1.0]))
    bins = binned.summarise(ordered, binned.equal_width(ordered.confidence, 15))
    assert bins.count.tolist() == [1, 1, 2]
    assert bins.accuracy.tolist() == [0, 1, 0.5]


def test_equal_mass_bins_are_near_equal_and_keep_ties_together():
    assert np.diff(np.r_[binned.equal_mass(np.arange(17) / 20, 5), 17]).tolist() == [4, 4, 3, 3, 3]
    tied = np.r_[np.linspace(0.1, 0.5, 10), np.ones(20)]
    assert binned.equal_mass(tied, 5).tolist() == [0, 6]


@pytest.mark.parametrize("ties", [False, True])
def test_no_estimate_depends_on_the_order_of_samples(ties):
    first = random_top(5, ties=ties)
    shuffle = np.random.default_rng(6).permutation(len(first))
    second = TopLabel.ordered(first.confidence[shuffle], first.correct[shuffle])

    def every(top: TopLabel) -> np.ndarray:
        width = binned.summarise(top, binned.equal_width(top.confidence, 15))
        mass = binned.summarise(top, binned.equal_mass(top.confidence, 15))
        areas = selective.areas(selective.Ranking.of(top))
        kept = selective.hits_kept(selective.Ranking.of(top), np.array([17, 400, 500]))
        found = [binned.ece(width), binned.ece(mass), binned.debiased_rms(mass), binned.ece(binned.sweep(top))]
        return np.array([*found, smooth.smooth_ece(top), *areas, *kept])

    np.testing.assert_allclose(every(first), every(second), rtol=1e-8, atol=1e-10)


def test_ties_give_the_mean_over_random_orders():
    """Mean over 4000 random orders within ties; the tolerance is five standard errors, false alarm rate below 1e-6."""
    tied = random_top(7, n=40, ties=True)
    rng, found = np.random.default_rng(8), []
    for _ in range(4000):
        order = np.lexsort((rng.random(40), -tied.confidence))
        errors = np.cumsum(1 - tied.correct[order])
        found.append(((errors / np.arange(1, 41)).mean(), errors.mean() / 40))
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(4000)
    assert np.all(np.abs(selective.areas(selective.Ranking.of(tied)) - mean) <= 5 * error)


def test_weighted_areas_are_those_of_the_resample():
    top, rng = random_top(9, n=60, ties=True), np.random.default_rng(10)
    rows = rng.integers(0, 60, 60)
    weights = np.bincount(rows, minlength=60)[::-1]
    resample = TopLabel.ordered(top.confidence[rows], top.correct[rows])
    expected = selective.areas(selective.Ranking.of(resample))
    assert selective.areas(selective.Ranking.of(top), weights) == pytest.approx(expected, rel=1e-12)


def test_classwise_error_is_the_mean_of_each_class_against_the_rest():
    rng = np.random.default_rng(11)
    logits, labels = rng.normal(0, 2, (300, 4)), rng.integers(0, 4, 300)
    p = torch.from_numpy(logits).softmax(1).numpy()
    each = []
    for k in range(4):
        ordered = TopLabel.ordered(p[:, k], labels == k)
        each.append(binned.ece(binned.summarise(ordered, binned.equal_width(ordered.confidence, 15))))
    assert classwise.cells(logits, labels, 15).value == pytest.approx(np.mean(each), rel=1e-12)
