"""The verdict grammar: claim x direction x where the number lies."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from audit.gate.grammar import Decision, decide
from audit.schema import Claim, Interval, Measurement, Outcome, Rule, StatSettings
from audit.toolkit.statistics import lower_limit, upper_limit, wilson
from tests.audit.gate.build import ECE, TOP1, other, share

PASS, FAIL, OPEN = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE
ESTIMATE, LOWER, UPPER = Claim.ESTIMATE, Claim.LOWER_BOUND, Claim.UPPER_BOUND


def ruled(
    measurement: Measurement, minimum: float | None = None, maximum: float | None = None, **stats: float
) -> Decision:
    rule = Rule(id="R", metric=measurement.metric, min=minimum, max=maximum)
    return decide(measurement, rule, StatSettings(**stats))


GOLDEN = [
    # claim, successes of 100 against 0.5, outcome under min, outcome under max
    (ESTIMATE, 80, PASS, FAIL),
    (ESTIMATE, 52, OPEN, OPEN),
    (ESTIMATE, 50, OPEN, OPEN),
    (ESTIMATE, 48, OPEN, OPEN),
    (ESTIMATE, 20, FAIL, PASS),
    (LOWER, 80, PASS, FAIL),
    (LOWER, 52, OPEN, OPEN),
    (LOWER, 48, OPEN, OPEN),
    (LOWER, 20, OPEN, OPEN),
    (UPPER, 80, OPEN, OPEN),
    (UPPER, 52, OPEN, OPEN),
    (UPPER, 48, OPEN, OPEN),
    (UPPER, 20, FAIL, PASS),
]


@pytest.mark.parametrize(("claim", "successes", "under_min", "under_max"), GOLDEN)
def test_golden_table_of_proportions(claim: Claim, successes: int, under_min: Outcome, under_max: Outcome) -> None:
    measurement = share(successes, 100, claim=claim)
    assert ruled(measurement, minimum=0.5).outcome is under_min
    assert ruled(measurement, maximum=0.5).outcome is under_max


@pytest.mark.parametrize(("claim", "successes", "under_min", "under_max"), GOLDEN)
def test_golden_table_of_other_numbers(claim: Claim, successes: int, under_min: Outcome, under_max: Outcome) -> None:
    value = successes / 100
    measurement = other(value, value - 0.1, value + 0.1, claim=claim)
    assert ruled(measurement, minimum=0.5).outcome is under_min
    assert ruled(measurement, maximum=0.5).outcome is under_max


@pytest.mark.parametrize(
    ("claim", "value", "under_min", "under_max"),
    [
        (LOWER, 0.5, PASS, OPEN),
        (LOWER, 0.6, PASS, FAIL),
        (LOWER, 0.4, OPEN, OPEN),
        (UPPER, 0.5, OPEN, PASS),
        (UPPER, 0.6, OPEN, OPEN),
        (UPPER, 0.4, FAIL, PASS),
    ],
)
def test_a_bound_without_an_interval_is_its_own_limit(
    claim: Claim, value: float, under_min: Outcome, under_max: Outcome
) -> None:
    measurement = Measurement(metric=ECE, value=value, n=1, claim=claim)
    assert ruled(measurement, minimum=0.5).outcome is under_min
    assert ruled(measurement, maximum=0.5).outcome is under_max


def test_limits_of_a_proportion_are_one_sided_and_exact_at_the_policys_confidence() -> None:
    measurement = share(951, 1000)
    assert ruled(measurement, minimum=0.9).limit == lower_limit(951, 1000, 0.95)
    assert ruled(measurement, minimum=0.9, confidence=0.99).limit == lower_limit(951, 1000, 0.99)
    assert ruled(measurement, minimum=0.99).limit == upper_limit(951, 1000, 0.95)
    assert ruled(measurement, minimum=0.938).outcome is PASS  # the two-sided end, 0.9357, does not reach it


@pytest.mark.parametrize("successes", [0, 3, 50, 100])
def test_a_wilson_interval_is_a_proportion_too(successes: int) -> None:
    measurement = Measurement(
        metric=TOP1, value=successes / 100, n=100, claim=ESTIMATE, interval=wilson(successes, 100)
    )
    assert ruled(measurement, minimum=0.99999).limit in {upper_limit(successes, 100), None}
    assert ruled(measurement, maximum=0.99999).limit in {upper_limit(successes, 100), None}


def test_an_interval_wider_than_sampling_explains_is_kept() -> None:
    # For example a worst class of ten, corrected for having been chosen.
    measurement = other(0.95, 0.90, 0.98, n=1000, metric=TOP1, method="clopper-pearson")
    assert ruled(measurement, minimum=0.93).outcome is OPEN
    assert ruled(measurement, minimum=0.90).limit == 0.90


def test_a_value_that_is_no_count_over_n_keeps_its_own_interval() -> None:
    measurement = other(0.12345, 0.10, 0.15, n=100, metric=TOP1, method="clopper-pearson")
    assert ruled(measurement, minimum=0.10).limit == 0.10


def test_reasons_of_a_pass_and_a_fail_carry_number_interval_n_and_threshold() -> None:
    assert ruled(share(951, 1000), minimum=0.92).reason == (
        "Measured 0.951 on n=1000 (95 % interval 0.936 to 0.964): the truth is at least 0.938 with 95 % confidence, "
        "asked at least 0.920."
    )
    assert ruled(share(3, 500, claim=UPPER), minimum=0.4).reason == (
        "Measured 0.0060, an upper bound on n=500 (95 % interval 0.0012 to 0.017): the truth is at most 0.015 with 95 "
        "% confidence, asked at least 0.400."
    )
    assert ruled(other(0.02, 0.01, 0.03), maximum=0.05).reason == (
        "Measured 0.020 on n=400 (95 % interval 0.010 to 0.030): the truth is at most 0.030 with 97.5 % confidence "
        "(the end of its own interval), asked at most 0.050."
    )


def test_a_bound_in_the_wrong_direction_says_what_could_settle_it() -> None:
    decision = ruled(share(256, 500, claim=UPPER), minimum=0.4)
    assert decision.samples_needed is None
    assert decision.reason.endswith(
        "survived what was tried: an upper bound cannot prove at least 0.400; a certified lower bound could."
    )
    low_certificate = ruled(share(100, 500, claim=LOWER), minimum=0.4)
    assert low_certificate.reason.endswith("a lower bound cannot disprove at least 0.400; an upper bound could.")
    assert low_certificate.samples_needed is None
    leak = ruled(share(20, 500, claim=LOWER), maximum=0.4)
    assert leak.reason.endswith("a lower bound cannot prove at most 0.400; an upper bound could.")


def test_too_low_a_level_decides_nothing() -> None:
    decision = ruled(other(0.2, 0.19, 0.21, level=0.8), maximum=0.5)
    assert decision.outcome is OPEN
    assert decision.reason.endswith(
        "the interval's level is too low, since 95 % one-sided confidence needs a two-sided level of 90 % or more, "
        "got 80 %."
    )
    assert ruled(other(0.2, 0.19, 0.21, level=0.9), maximum=0.5).outcome is PASS


def test_too_few_samples_decide_nothing() -> None:
    decision = ruled(share(100, 100), minimum=0.5, min_samples=250)
    assert decision.outcome is OPEN
    assert decision.samples_needed is None  # of a class or a share, further images of the run count only in part
    assert decision.reason.endswith(
        "on n=100 (95 % interval 0.964 to 1.000): the policy asks for 250 samples behind a number."
    )


def test_samples_needed_settle_a_proportion() -> None:
    decision = ruled(share(210, 500), minimum=0.4)
    assert decision.samples_needed
    assert f"about {decision.samples_needed} more samples would settle it at this rate." in decision.reason
    size = 500 + decision.samples_needed
    assert ruled(share(round(0.42 * size), size), minimum=0.4).outcome is PASS
    assert ruled(share(200, 500), minimum=0.4).samples_needed is None


def test_samples_needed_of_other_numbers_follow_the_square_root_law() -> None:
    # Half width 0.10, distance 0.05: four times the samples, three times as many more.
    assert ruled(other(0.50, 0.40, 0.60, n=400), minimum=0.45).samples_needed == pytest.approx(1200, abs=1)
    assert ruled(other(0.50, 0.40, 0.60, n=400), minimum=0.50).samples_needed is None
    assert ruled(other(0.50, 0.40, 0.60, n=400), minimum=0.50 + 1e-6).samples_needed is None


def test_a_bound_on_its_speaking_side_counts_further_samples() -> None:
    assert ruled(share(195, 500, claim=UPPER), minimum=0.4).samples_needed
    assert ruled(share(205, 500, claim=LOWER), minimum=0.4).samples_needed


def test_near_numbers_are_printed_with_enough_digits_to_differ() -> None:
    decision = ruled(other(0.41, 0.39996, 0.43), minimum=0.39995)
    assert "at least 0.39996 with" in decision.reason


@pytest.mark.parametrize("n", [20, 100, 500])
@pytest.mark.parametrize("threshold", [0.05, 0.4, 0.9])
def test_false_passes_and_false_fails_are_at_most_five_percent_at_the_threshold(n: int, threshold: float) -> None:
    for direction in ("min", "max"):
        rule = Rule.model_validate({"id": "R", "metric": TOP1, direction: threshold})
        outcomes = [decide(share(k, n), rule, StatSettings()).outcome for k in range(n + 1)]
        for outcome in (PASS, FAIL):
            chance = sum(binom.pmf(k, n, threshold) for k in range(n + 1) if outcomes[k] is outcome)
            assert chance <= 0.05 + 1e-12


MEASUREMENTS = st.one_of(
    st.tuples(st.integers(0, 300), st.integers(0, 300), st.sampled_from(Claim)).map(
        lambda t: share(t[0], max(t[0] + t[1], 1), claim=t[2])
    ),
    st.tuples(
        st.lists(st.floats(-2, 2), min_size=3, max_size=3).map(sorted),
        st.integers(1, 10**5),
        st.sampled_from(Claim),
        st.sampled_from([0.8, 0.9, 0.95, 0.99]),
    ).map(lambda t: other(t[0][1], t[0][0], t[0][2], n=t[1], claim=t[2], level=t[3])),
)


@settings(deadline=None, max_examples=200)
@given(MEASUREMENTS, st.floats(-1, 2), st.floats(-1, 2))
def test_a_stricter_threshold_never_turns_fail_into_pass_nor_open_into_pass(
    measurement: Measurement, first: float, second: float
) -> None:
    rank = {FAIL: 0, OPEN: 1, PASS: 2}
    loose, strict = sorted((first, second))
    assert rank[ruled(measurement, minimum=strict).outcome] <= rank[ruled(measurement, minimum=loose).outcome]
    assert rank[ruled(measurement, maximum=loose).outcome] <= rank[ruled(measurement, maximum=strict).outcome]


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(2, 40), st.floats(0.01, 0.99), st.sampled_from(Claim))
def test_more_samples_at_the_same_rate_never_flip_a_verdict(
    k: int, spare: int, times: int, threshold: float, claim: Claim
) -> None:
    n = max(k + spare, 1)
    before, after = share(k, n, claim=claim), share(k * times, n * times, claim=claim)
    for bounds in ({"minimum": threshold}, {"maximum": threshold}):
        pair = {ruled(before, **bounds).outcome, ruled(after, **bounds).outcome}
        assert pair != {PASS, FAIL}
        if ruled(before, **bounds).outcome is not OPEN:
            assert pair == {ruled(before, **bounds).outcome}


@settings(deadline=None, max_examples=200)
@given(MEASUREMENTS, st.floats(-1, 2))
def test_a_bound_never_proves_more_than_its_direction(measurement: Measurement, threshold: float) -> None:
    at_least, at_most = ruled(measurement, minimum=threshold).outcome, ruled(measurement, maximum=threshold).outcome
    if measurement.claim is UPPER:
        assert at_least is not PASS
        assert at_most is not FAIL
    if measurement.claim is LOWER:
        assert at_least is not FAIL
        assert at_most is not PASS


@settings(deadline=None, max_examples=200)
@given(MEASUREMENTS, st.floats(-1, 2))
def test_confidence_only_sharpens(measurement: Measurement, threshold: float) -> None:
    sure = ruled(measurement, minimum=threshold, confidence=0.97).outcome
    if sure is not OPEN:
        assert ruled(measurement, minimum=threshold, confidence=0.9).outcome is sure


def test_nan_cannot_enter() -> None:
    for build in (
        lambda: Measurement(metric=TOP1, value=float("nan"), n=1, claim=LOWER),
        lambda: Interval(low=float("nan"), high=1.0, method="x"),
        lambda: Rule(id="R", metric=TOP1, min=float("inf")),
    ):
        with pytest.raises(ValueError, match="finite"):
            build()
