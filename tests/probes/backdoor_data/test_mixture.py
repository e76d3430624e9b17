import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from probes.backdoor_data.mixture import DIRECTIONS, WIDEST, leading, null_gains, split, whitened


def test_a_planted_cluster_is_recovered():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((400, 4))
    rows[:30, 1] += 6
    found = split(rows)
    assert found.second[:30].all()
    assert not found.second[30:].any()
    assert found.gain > 0.2


def test_half_of_a_class_may_be_the_cluster():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 4))
    rows[:150, 2] += 6
    found = split(rows)
    assert found.second[:150].mean() in (pytest.approx(0, abs=0.02), pytest.approx(1, abs=0.02))
    assert found.second.sum() == pytest.approx(150, abs=3)


def test_the_gain_is_that_of_an_independent_mixture_model():
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((500, 3)) @ np.diag([3.0, 1.0, 0.5])
    rows[:60, 1] += 7
    ours = split(rows)
    one, two = (
        GaussianMixture(count, covariance_type="tied", n_init=5, random_state=0, tol=1e-6, max_iter=500).fit(rows)
        for count in (1, 2)
    )
    assert ours.gain == pytest.approx(two.score(rows) - one.score(rows), abs=0.01)


def test_one_cloud_gains_no_more_than_simulated_ones():
    """A rank among exchangeable ones is uniform: the mean of 30 is within 4 of its standard errors (0.053) of 1/2."""
    ranks = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        rows = rng.standard_normal((80, 3)) * np.array([2.0, 1.0, 0.7])
        ranks.append((null_gains(rows, 9, rng) >= split(rows).gain).mean())
    assert 0.5 - 4 * 0.053 < np.mean(ranks) < 0.5 + 4 * 0.053


def test_tails_are_no_clusters():
    rng = np.random.default_rng(3)
    rows = rng.standard_t(5, (400, 4))
    assert split(rows).gain < null_gains(rows, 49, rng).max() + 0.05
    assert split(rows).gain < 0.4


def test_clusters_are_large_enough_or_none():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((200, 4))
    rows[:3] += 40
    assert not 0 < split(rows).second.sum() < 8
    assert split(np.zeros((100, 3))).gain == 0
    assert split(rows[:10]).gain == 0


def test_whitened_features_have_unit_covariance_within_classes():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 3000)
    features = rng.standard_normal((3000, 5)) @ rng.standard_normal((5, 5)) + 10 * labels[:, None]
    values = whitened(features, labels, 3, rng)
    for label in range(3):
        assert values[labels == label].mean(axis=0) == pytest.approx(np.zeros(5), abs=1e-9)
    sizes = np.linalg.eigvalsh(values.T @ values / len(values))
    assert sizes.max() < 1.0
    assert np.sort(sizes)[-3:] == pytest.approx(np.ones(3), abs=0.25)


def test_wide_features_are_projected_and_constant_ones_survive():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    assert whitened(rng.standard_normal((60, WIDEST + 1)), labels, 2, rng).shape == (60, WIDEST)
    assert not whitened(np.ones((60, 4)), labels, 2, rng).any()
    assert leading(rng.standard_normal((25, 9))).shape == (25, 2)
    assert leading(rng.standard_normal((200, 9))).shape == (200, DIRECTIONS)
