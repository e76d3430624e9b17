"""The verdict grammar: one measurement against one threshold.

Proportions (intervals by Clopper-Pearson or Wilson) get exact one-sided limits at the policy's confidence. Any other
number keeps the ends of its own two-sided interval: an interval of level 95 % has one-sided ends of 97.5 %, which is
at least as strict as 95 % asked (conservative), while an interval of too low a level decides nothing.

A bound speaks in one direction: an upper bound can FAIL a `min` rule and PASS a `max` rule, a lower bound the reverse.
"""

import math
from dataclasses import dataclass
from typing import Final

from audit.gate.wording import asked, measured, number, percent, threshold_of
from audit.schema import Claim, Measurement, Outcome, Rule, StatSettings
from audit.toolkit.statistics import lower_limit, proportion, samples_to_settle, upper_limit, wilson

_EXACT_METHODS: Final = {"clopper-pearson": proportion, "wilson": wilson}
_MOST_SAMPLES: Final = 10**7
_SLACK: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Decision:
    """An outcome with its reason in one or two plain sentences."""

    outcome: Outcome
    reason: str
    limit: float | None = None
    samples_needed: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """One-sided confidence limits: the truth is above `low`, and below `high`, each with at least `confidence`."""

    low: float
    high: float
    confidence: float
    exact: bool
    """Recomputed as a proportion, so that further samples can be counted exactly."""


def decide(measurement: Measurement, rule: Rule, stats: StatSettings) -> Decision:
    """What the number says about the rule, were its probe beyond doubt."""
    if measurement.n < stats.min_samples:
        return Decision(
            Outcome.INCONCLUSIVE,
            f"{measured(measurement)}: the policy asks for {stats.min_samples} samples behind a number.",
        )
    limits = one_sided(measurement, stats.confidence)
    if limits is None:
        return _level_too_low(measurement, stats.confidence)
    may_pass, may_fail = _directions(measurement.claim, rule)
    threshold = threshold_of(rule)
    low_reaches = limits.low >= threshold if rule.min is not None else limits.low > threshold
    high_below = limits.high < threshold if rule.min is not None else limits.high <= threshold
    if low_reaches and (may_pass if rule.min is not None else may_fail):
        return _decided(measurement, rule, limits, "at least")
    if high_below and (may_fail if rule.min is not None else may_pass):
        return _decided(measurement, rule, limits, "at most")
    good_side = measurement.value >= threshold if rule.min is not None else measurement.value <= threshold
    if not (may_pass if good_side else may_fail):
        return _wrong_direction(measurement, rule)
    return _undecided(measurement, rule, limits)


def one_sided(measurement: Measurement, confidence: float) -> Limits | None:
    """Limits at `confidence` or above; None when the stored interval's level cannot give them.

    A bound without an interval has no sampling error: it is its own limit.
    """
    interval = measurement.interval
    if interval is None:
        return Limits(measurement.value, measurement.value, confidence, exact=False)
    successes = _successes(measurement)
    if successes is not None:
        low = lower_limit(successes, measurement.n, confidence)
        return Limits(low, upper_limit(successes, measurement.n, confidence), confidence, exact=True)
    stored = (1 + interval.level) / 2
    if stored < confidence - _SLACK:
        return None
    return Limits(interval.low, interval.high, stored, exact=False)


def _successes(measurement: Measurement) -> int | None:
    """Successes behind a proportion; None for what is not one.

    An interval wider than sampling alone explains carries something else, such as a correction for many looks; it is
    kept as it is.
    """
    interval = measurement.interval
    if interval is None or interval.method not in _EXACT_METHODS or not 0 <= measurement.value <= 1:
        return None
    successes = round(measurement.value * measurement.n)
    if abs(successes - measurement.value * measurement.n) > 1e-6 * measurement.n:
        return None
    plain = _EXACT_METHODS[interval.method](successes, measurement.n, interval.level)
    if interval.low < plain.low - _SLACK or interval.high > plain.high + _SLACK:
        return None
    return successes


def _directions(claim: Claim, rule: Rule) -> tuple[bool, bool]:
    """Whether such a claim can PASS and can FAIL such a rule."""
    if claim is Claim.ESTIMATE:
        return True, True
    passes = (claim is Claim.LOWER_BOUND) == (rule.min is not None)
    return passes, not passes


def _decided(measurement: Measurement, rule: Rule, limits: Limits, side: str) -> Decision:
    passes = asked(rule).startswith(side)
    limit = limits.low if side == "at least" else limits.high
    sureness = f" with {percent(limits.confidence)} confidence" if measurement.interval else ""
    note = "" if limits.exact or not measurement.interval else " (the end of its own interval)"
    return Decision(
        Outcome.PASS if passes else Outcome.FAIL,
        f"{measured(measurement)}: the truth is {side} {number(limit, threshold_of(rule))}{sureness}{note}, "
        f"asked {asked(rule)}.",
        limit=limit,
    )


def _level_too_low(measurement: Measurement, confidence: float) -> Decision:
    level = measurement.interval.level if measurement.interval else 0.0
    return Decision(
        Outcome.INCONCLUSIVE,
        f"{measured(measurement)}: the interval's level is too low, since {percent(confidence)} one-sided confidence "
        f"needs a two-sided level of {percent(2 * confidence - 1)} or more, got {percent(level)}.",
    )


def _wrong_direction(measurement: Measurement, rule: Rule) -> Decision:
    upper = measurement.claim is Claim.UPPER_BOUND
    prove = "prove" if upper == (rule.min is not None) else "disprove"
    if upper and rule.min is not None:
        text = "survived what was tried: an upper bound cannot prove {}; a certified lower bound could"
    elif upper:
        text = "an upper bound cannot {prove} {}; a lower bound could"
    else:
        text = "a lower bound cannot {prove} {}; an upper bound could"
    return Decision(Outcome.INCONCLUSIVE, f"{measured(measurement)}: {text.format(asked(rule), prove=prove)}.")


def _undecided(measurement: Measurement, rule: Rule, limits: Limits) -> Decision:
    needed = _further_samples(measurement, threshold_of(rule), limits)
    more = (
        f"about {needed} more samples would settle it at this rate"
        if needed is not None
        else "it is too close for more samples to settle"
    )
    spread = f"{number(limits.low)} to {number(limits.high)}"
    return Decision(
        Outcome.INCONCLUSIVE,
        f"{measured(measurement)}, asked {asked(rule)}: the limits {spread} with {percent(limits.confidence)} "
        f"one-sided confidence lie on both sides; {more}.",
        samples_needed=needed,
    )


def _further_samples(measurement: Measurement, threshold: float, limits: Limits) -> int | None:
    """Exact for proportions; else by the square root law: half the width needs four times the samples."""
    value, n = measurement.value, measurement.n
    distance = abs(value - threshold)
    if distance == 0:
        return None
    if limits.exact:
        needed = samples_to_settle(value, threshold, n, limits.confidence, most=_MOST_SAMPLES)
        return None if needed is None else max(needed, 1)
    ratio = (value - limits.low if value > threshold else limits.high - value) / distance
    if not ratio < _MOST_SAMPLES:  # also when it overflowed
        return None
    further = n * (ratio**2 - 1)
    return max(math.ceil(further), 1) if further <= _MOST_SAMPLES else None
