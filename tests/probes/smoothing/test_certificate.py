"""The statistics against exact sums, and the confidence statement against simulated classifiers of known truth."""

import math
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
from scipy.special import bdtrc, ndtr

from probes.smoothing.certificate import certified_radius, largest_radius
from probes.smoothing.config import SmoothingConfig
from probes.smoothing.control import LEVEL, least_radius


def at_least(successes, n, probability):
    """P(X >= successes) of a binomial, summed in fractions."""
    p = Fraction(probability)
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(successes, n + 1))


def exact_lower_limit(successes, n, alpha):
    """The probability at which so many successes are as unlikely as alpha, halved down to 2^-40."""
    low, high = Fraction(0), Fraction(1)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if at_least(successes, n, middle) <= alpha else (low, middle)
    return float(low)


@pytest.mark.parametrize(
    ("successes", "n", "alpha"), [(60, 60, 0.001), (55, 60, 0.001), (48, 60, 0.05), (46, 50, 1e-5)]
)
def test_radius_is_that_of_the_exact_binomial_sums(successes, n, alpha):
    limit = exact_lower_limit(successes, n, Fraction(alpha))
    expected = 0.25 * NormalDist().inv_cdf(limit)

    assert expected > 0
    assert certified_radius(successes, n, 0.25, alpha) == pytest.approx(expected, abs=1e-9)


def test_it_abstains_exactly_where_a_half_cannot_be_excluded():
    n, alpha = 60, 0.01
    for successes in range(n + 1):
        abstains = at_least(successes, n, Fraction(1, 2)) >= Fraction(alpha)
        assert math.isnan(certified_radius(successes, n, 1.0, alpha)) == abstains


def test_published_cap():
    # Cohen et al. 2019, section 3.2.2: the radius is at most sigma * Phi^-1(alpha^(1/n)), at 100,000 draws and alpha
    # 0.001 about 4 sigma (3.811 by the formula).
    assert largest_radius(100_000, 1.0, 0.001) == pytest.approx(NormalDist().inv_cdf(0.001**1e-5), abs=1e-9)
    assert 3.8 < largest_radius(100_000, 1.0, 0.001) < 4
    assert math.isnan(largest_radius(5, 1.0, 0.001))


@pytest.mark.parametrize("truth", [0.55, 0.8, 0.97, 0.999])
def test_the_limit_is_above_the_truth_in_no_more_than_alpha_of_simulated_runs(truth):
    alpha, n, runs = 0.05, 200, 40_000
    counts = np.random.default_rng(0).binomial(n, truth, runs)
    radius = {count: certified_radius(int(count), n, 1.0, alpha) for count in np.unique(counts)}
    wrong = sum(radius[count] > NormalDist().inv_cdf(truth) for count in counts)

    assert bdtrc(wrong - 1, runs, alpha) > 1e-6  # so many or more happen with this chance at alpha itself


def test_alpha_is_shared_by_all_certificates_unless_told_otherwise():
    config = SmoothingConfig(sigmas="0.12,0.25")
    assert config.alpha_each(10) == pytest.approx(0.001 / 20)
    assert SmoothingConfig(sigmas="0.12,0.25", together=False).alpha_each(10) == 0.001


def test_the_controls_least_radius_is_reached_by_nearly_all_runs_and_hardly_below():
    config, alpha, runs = SmoothingConfig(), 1e-4, 200_000
    for sigmas in (1.5, 2.0, 2.8):
        least = least_radius(sigmas, alpha, config, 16)
        counts = np.random.default_rng(1).binomial(config.n, ndtr(sigmas), runs)
        seen = certified_radius(int(counts.min()), config.n, 1.0, alpha)
        assert seen >= least  # fails by chance in runs * LEVEL / 32 < 1 % of seeds, and not at this one
        assert seen - least < 0.35
    assert runs * LEVEL / 32 < 0.01
