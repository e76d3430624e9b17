"""The scorecard: each rule with its number drawn against its threshold."""

from dataclasses import dataclass
from math import ceil, floor, log10

from audit.schema import Claim, GateResult, MetricSpec, Outcome, Policy, Verdict
from reports.numbers import CLAIM_WORDS, Style, count_text, exact_text, interval_text, rounded_text, value_text
from reports.text import metric_name, setting_text
from reports.view_measures import Registry, interval_how

MARKS = {Outcome.PASS: "✓", Outcome.FAIL: "✗", Outcome.INCONCLUSIVE: "?", Outcome.NOT_RUN: "–", Outcome.ERROR: "!"}  # noqa: RUF001
_DRAWN_WIDTH, _MARGIN = 300.0, 8.0
_ZOOM_BELOW = 0.2
_ARROW, _SHORTEST_ARROW = 26.0, 12.0


@dataclass(frozen=True)
class Badge:
    """An outcome: symbol and word, and the name of its style."""

    mark: str
    word: str
    style: str


def badge(outcome: Outcome) -> Badge:
    """Symbol and word of an outcome."""
    return Badge(MARKS[outcome], outcome.value, outcome.value.lower())


@dataclass(frozen=True)
class Whisker:
    """A number against a threshold on one scale, in units of a drawing 300 wide.

    `required_x` and `required_width` tint what the rule allows; `arrow` is `left` or `right` for bounds, whose true
    value lies on that side, and ends at `arrow_x`; empty for estimates, and where the scale has no room for it.
    """

    spoken: str
    low_label: str
    high_label: str
    threshold_x: float
    required_x: float
    required_width: float
    value_x: float | None
    interval_x: tuple[float, float] | None
    arrow: str
    arrow_x: float


@dataclass(frozen=True)
class RuleRow:
    """One rule as the scorecard shows it."""

    rule: str
    anchor: str
    name: str
    metric: str
    meaning: str
    setting: str
    level: str
    value: str
    interval: str
    how: str
    n: str
    claim: str
    threshold: str
    limit: str
    badge: Badge
    reason: str
    waived: str
    whisker: Whisker


def rule_rows(gate: GateResult, registry: Registry) -> tuple[RuleRow, ...]:
    """All verdicts, in the policy's order."""
    return tuple(_row(verdict, registry) for verdict in gate.verdicts)


def threshold_text(verdict: Verdict, style: Style) -> str:
    """`at least 45 %` or `at most 3 %`."""
    return f"{'at least' if verdict.direction == 'min' else 'at most'} {exact_text(verdict.threshold, style)}"


def verdict_value(verdict: Verdict, style: Style) -> str:
    """The number used, with its claim's direction; empty when there is none."""
    return "" if verdict.value is None else value_text(verdict.value, verdict.interval, style, verdict.claim)


def _row(verdict: Verdict, registry: Registry) -> RuleRow:
    spec, style = registry.spec(verdict.metric), registry.style(verdict.metric)
    value = verdict_value(verdict, style)
    claim = CLAIM_WORDS[verdict.claim] if verdict.claim and verdict.claim is not Claim.ESTIMATE else ""
    return RuleRow(
        rule=verdict.rule,
        anchor=verdict.measurement or "",
        name=metric_name(verdict.metric),
        metric=verdict.metric,
        meaning=spec.meaning if spec else "",
        setting=setting_text(verdict.where),
        level=verdict.level,
        value=value,
        interval=interval_text(verdict.value, verdict.interval, style) if verdict.value is not None else "",
        how=interval_how(verdict.interval),
        n=count_text(verdict.n) if verdict.n is not None else "",
        claim=claim,
        threshold=threshold_text(verdict, style),
        limit=rounded_text(verdict.limit, style) if verdict.limit is not None else "",
        badge=badge(verdict.outcome),
        reason=verdict.reason,
        waived=verdict.waived or "",
        whisker=_whisker(verdict, spec, style, value or "no number"),
    )


def _scale(verdict: Verdict, spec: MetricSpec | None) -> tuple[float, float]:
    """Round ends of the row's scale: the metric's whole range, or a part of it where all that is shown lies close."""
    shown = [verdict.threshold]
    if verdict.value is not None:
        shown.append(verdict.value)
        shown += [verdict.interval.low, verdict.interval.high] if verdict.interval else []
    low, high = min(shown), max(shown)
    least = spec.low if spec is not None else None
    most = spec.high if spec is not None else None
    if least is not None and most is not None:
        is_close = verdict.value is not None and high - low < _ZOOM_BELOW * (most - least)
        if not is_close:
            return min(least, low), max(most, high)
    start, end = _round_ends(low, high)
    return (
        start if least is None or low < least else max(start, least),
        end if most is None or high > most else min(end, most),
    )


def _round_ends(low: float, high: float) -> tuple[float, float]:
    """A stretch around both with some room, ending on multiples of 1, 2 or 5 times a power of ten."""
    pad = 0.5 * (high - low) or 0.5 * abs(high) or 1.0
    start, end = low - pad, high + pad
    power = 10.0 ** floor(log10((end - start) / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= (end - start) / 8)
    return round(floor(start / step) * step, 12), round(ceil(end / step) * step, 12)


def _whisker(verdict: Verdict, spec: MetricSpec | None, style: Style, value: str) -> Whisker:
    low, high = _scale(verdict, spec)
    span = (high - low) or 1.0

    def place(number: float) -> float:
        share = min(1.0, max(0.0, (number - low) / span))
        return round(_MARGIN + share * (_DRAWN_WIDTH - 2 * _MARGIN), 1)

    threshold = place(verdict.threshold)
    is_floor = verdict.direction == "min"
    right = _DRAWN_WIDTH - _MARGIN
    ends = verdict.interval
    value_x = place(verdict.value) if verdict.value is not None else None
    arrow, arrow_x = _arrow(verdict.claim, value_x)
    return Whisker(
        spoken=f"{value}; required {threshold_text(verdict, style)}",
        low_label=rounded_text(low, style),
        high_label=rounded_text(high, style),
        threshold_x=threshold,
        required_x=threshold if is_floor else _MARGIN,
        required_width=round(right - threshold if is_floor else threshold - _MARGIN, 1),
        value_x=value_x,
        interval_x=(place(ends.low), place(ends.high)) if ends and verdict.value is not None else None,
        arrow=arrow,
        arrow_x=arrow_x,
    )


def _arrow(claim: Claim | None, value_x: float | None) -> tuple[str, float]:
    """Where the truth lies seen from a bound, and how far the arrow can go on the scale."""
    if value_x is None or claim in (None, Claim.ESTIMATE):
        return "", 0.0
    is_upper = claim is Claim.UPPER_BOUND
    end = max(2.0, value_x - _ARROW) if is_upper else min(_DRAWN_WIDTH - 2.0, value_x + _ARROW)
    has_room = abs(end - value_x) >= _SHORTEST_ARROW
    return ("left" if is_upper else "right", round(end, 1)) if has_room else ("", 0.0)


def waiver_rows(policy: Policy | None) -> tuple[tuple[str, ...], ...]:
    """Rule, reason, last day, model, approver and ticket of each waiver of the policy."""
    waivers = policy.waivers if policy else ()
    return tuple(
        (w.rule, w.reason, w.expires.isoformat(), (w.model_sha256 or "every model")[:16], w.approved_by, w.ticket)
        for w in waivers
    )
