"""How numbers and settings read in verdicts."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

from audit.schema import Claim, Measurement, Rule, Scalar, where_text

_FEWEST_DECIMALS: Final = 3
_MOST_DECIMALS: Final = 9


def number(value: float, beside: float | None = None) -> str:
    """`0.400`: three decimals; more for two significant digits, or to tell it from the number `beside`."""
    if abs(value) >= 1e6:
        return f"{value:.6g}"
    for decimals in range(_FEWEST_DECIMALS, _MOST_DECIMALS + 1):
        text = f"{value:.{decimals}f}"
        visible = value == 0 or abs(value) >= 10.0 ** (1 - decimals)
        apart = beside is None or value == beside or text != f"{beside:.{decimals}f}"
        if visible and apart:
            return text
    return f"{value!r}"


def percent(fraction: float) -> str:
    """`97.5 %`."""
    return f"{100 * fraction:.4g} %"


def metric_at(metric: str, where: Mapping[str, Scalar]) -> str:
    """`evasion.robust_accuracy [eps=8/255, norm=linf]`."""
    return f"{metric} [{where_text(where)}]" if where else metric


def measured(measurement: Measurement) -> str:
    """`Measured 0.951 on n=2000 (95 % interval 0.941 to 0.960)`, with the claim where it is a bound."""
    words = {Claim.ESTIMATE: "", Claim.LOWER_BOUND: ", a lower bound", Claim.UPPER_BOUND: ", an upper bound"}
    text = f"Measured {number(measurement.value)}{words[measurement.claim]} on n={measurement.n}"
    interval = measurement.interval
    if interval is None:
        return text
    return f"{text} ({percent(interval.level)} interval {number(interval.low)} to {number(interval.high)})"


def asked(rule: Rule) -> str:
    """`at least 0.400`."""
    threshold = threshold_of(rule)
    return f"{'at least' if rule.min is not None else 'at most'} {number(threshold)}"


def threshold_of(rule: Rule) -> float:
    """The rule's `min` or `max`, whichever it has.

    Raises:
        ValueError: when it has neither; a validated rule always has one.
    """
    threshold = rule.min if rule.min is not None else rule.max
    if threshold is None:
        raise ValueError(f"Expected a rule with min or max, got {rule.id!r} with neither.")
    return threshold


def quoted(names: list[str]) -> str:
    """`'fail', 'warn'`."""
    return ", ".join(f"'{name}'" for name in names)


def did_you_mean(name: str, known: list[str]) -> str:
    """` Did you mean 'x' or 'y'?` with what is spelt closely, else nothing."""
    close = get_close_matches(name, known, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
