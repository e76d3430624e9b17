"""The exact limits against enumeration and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from audit.toolkit.statistics import lower_limit, proportion, samples_to_settle, upper_limit, wilson

RATES = (0.001, 0.05, 0.31, 0.5, 0.77, 0.95, 0.999)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [1, 7, 50, 200])
def test_one_sided_limits_cover_with_at_least_the_confidence_by_enumeration(n: int, confidence: float) -> None:
    counts = np.arange(n + 1)
    low = np.array([lower_limit(int(k), n, confidence) for k in counts])
    high = np.array([upper_limit(int(k), n, confidence) for k in counts])
    for rate in RATES:
        chance = binom.pmf(counts, n, rate)
        assert chance[low <= rate].sum() >= confidence - 1e-9
        assert chance[high >= rate].sum() >= confidence - 1e-9


@pytest.mark.parametrize("n", [5, 60, 300])
def test_two_sided_interval_covers_with_at_least_its_level(n: int) -> None:
    intervals = [proportion(k, n, 0.95) for k in range(n + 1)]
    for rate in RATES:
        covered = sum(
            binom.pmf(k, n, rate) for k, interval in enumerate(intervals) if interval.low <= rate <= interval.high
        )
        assert covered >= 0.95 - 1e-9


def test_simulated_coverage_agrees_with_the_enumeration() -> None:
    # 4000 draws: the standard deviation of the share is at most sqrt(.05 * .95 / 4000) = 0.0035; 4.5 of them leave a
    # false alarm in about 1 of 300 000 runs, and the seed is fixed.
    rng = np.random.default_rng(5)
    n, rate = 120, 0.4
    shares = [lower_limit(int(k), n) <= rate for k in rng.binomial(n, rate, 4000)]
    exact = sum(binom.pmf(k, n, rate) for k in range(n + 1) if lower_limit(k, n) <= rate)
    assert abs(np.mean(shares) - exact) < 4.5 * 0.0035


@pytest.mark.parametrize("n", [1, 10, 299, 2995])
def test_closed_forms_at_the_ends(n: int) -> None:
    assert lower_limit(0, n) == 0.0
    assert upper_limit(n, n) == 1.0
    assert lower_limit(n, n) == pytest.approx(0.05 ** (1 / n), rel=1e-12)
    assert upper_limit(0, n) == pytest.approx(1 - 0.05 ** (1 / n), rel=1e-9)


def test_zero_of_2995_bounds_a_rate_below_one_in_a_thousand_and_2994_do_not() -> None:
    assert upper_limit(0, 2995) < 0.001 < upper_limit(0, 2994)
    assert upper_limit(0, 299) < 0.01 < upper_limit(0, 298)


@given(n=st.integers(1, 5000), data=st.data())
def test_limits_equal_an_independent_implementation_and_mirror_each_other(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    low, high = lower_limit(k, n), upper_limit(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert low == pytest.approx(1 - upper_limit(n - k, n), abs=1e-9)
    if k:
        assert low == pytest.approx(beta.ppf(0.05, k, n - k + 1), rel=1e-8)


def test_wilson_reproduces_published_numbers() -> None:
    # Newcombe 1998, Statistics in Medicine 17(8), table I, method 3.
    for successes, n, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]:
        interval = wilson(successes, n)
        assert (interval.low, interval.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert wilson(29, 29).high == 1.0


@settings(max_examples=150, deadline=None)
@given(
    k=st.integers(0, 400),
    spare=st.integers(0, 400),
    threshold=st.floats(0.001, 0.999),
    confidence=st.sampled_from([0.8, 0.95, 0.99]),
)
def test_with_so_many_further_samples_the_limit_has_indeed_reached(
    k: int, spare: int, threshold: float, confidence: float
) -> None:
    n = max(k + spare, 1)
    value = k / n
    more = samples_to_settle(value, threshold, n, confidence, most=10**5)
    if more is None:
        return
    size = n + more
    if value > threshold:
        assert lower_limit(round(value * size), size, confidence) >= threshold
    else:
        assert upper_limit(round(value * size), size, confidence) < threshold


@settings(max_examples=100, deadline=None)
@given(k=st.integers(0, 200), spare=st.integers(0, 200), first=st.floats(0.01, 0.99), second=st.floats(0.01, 0.99))
def test_a_threshold_farther_away_never_needs_more_samples(k: int, spare: int, first: float, second: float) -> None:
    n = max(k + spare, 1)
    value = k / n
    if (first - value) * (second - value) <= 0:
        return
    near, far = sorted((first, second), key=lambda threshold: abs(threshold - value))

    def needed(threshold: float) -> float:
        more = samples_to_settle(value, threshold, n, most=10**5)
        return math.inf if more is None else more

    assert needed(far) <= needed(near)


def test_samples_to_settle_has_a_closed_form_where_all_or_none_succeed() -> None:
    assert samples_to_settle(1.0, 0.95, 1) == math.ceil(math.log(0.05) / math.log(0.95)) - 1
    assert samples_to_settle(0.0, 0.001, 1) == 2995 - 1
    assert samples_to_settle(0.0, 0.001, 2995) == 0


def test_samples_to_settle_is_near_the_normal_approximation() -> None:
    more = samples_to_settle(0.41, 0.40, 100)
    assert more is not None
    assert more + 100 == pytest.approx(1.645**2 * 0.41 * 0.59 / 0.01**2, rel=0.02)


def test_samples_to_settle_gives_up_where_no_number_of_samples_helps() -> None:
    assert samples_to_settle(0.4, 0.4, 100) is None
    assert samples_to_settle(1.0, 1.0, 100) is None
    assert samples_to_settle(0.400001, 0.4, 100) is None
    assert samples_to_settle(0.41, 0.4, 100, most=1000) is None


def test_a_rare_rate_is_searched_in_time() -> None:
    value, size = 2e-5, 50_000
    more = samples_to_settle(value, 1e-5, size)
    assert more is not None
    assert lower_limit(round(value * (size + more)), size + more) >= 1e-5


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError, match=rf"Expected 0 <= successes <= n with n >= 1, got {k} of {n}\."):
        lower_limit(k, n)


@pytest.mark.parametrize("confidence", [0.0, 1.0, math.nan])
def test_impossible_confidences_are_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="Expected a confidence between 0 and 1"):
        upper_limit(1, 2, confidence)
