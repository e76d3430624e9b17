"""Measurements as texts: what was measured, under which setting, how much, and how sure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from audit.schema import Claim, Interval, Measurement, MetricSpec, ProbeResult, RunRecord, measurement_id
from reports.numbers import CLAIM_WORDS, Style, count_text, interval_text, style_of, value_text
from reports.text import capital, setting_text, words

_ROWS_A_METRIC = 40
_HEADLINES = 3
_TOO_MANY_SETTINGS = 8
"""A metric stated at more settings than this, such as every class, has no single number to put on top."""


@dataclass(frozen=True)
class Number:
    """One measurement in words."""

    anchor: str
    name: str
    metric: str
    meaning: str
    setting: str
    value: str
    interval: str
    how: str
    n: str
    claim: str
    assumptions: tuple[str, ...]


@dataclass(frozen=True)
class MetricGroup:
    """All measurements of one metric; `note` says when some were left out.

    `shared` are assumptions that all of them make; they are said once, not with each number.
    """

    name: str
    metric: str
    meaning: str
    better: str
    shared: tuple[str, ...]
    numbers: tuple[Number, ...]
    note: str


class Registry:
    """The metrics that the record's cards declare."""

    def __init__(self, record: RunRecord) -> None:
        self._specs = {spec.id: spec for card in record.cards for spec in card.metrics}

    def spec(self, metric: str) -> MetricSpec | None:
        """The declaration of a metric, or None when no card has it."""
        return self._specs.get(metric)

    def place(self, metric: str) -> int:
        """Where the metric stands among those declared; what no card has comes last."""
        return list(self._specs).index(metric) if metric in self._specs else len(self._specs)

    def style(self, metric: str) -> Style:
        """How the metric's values are written."""
        return style_of(self.spec(metric), metric)


def interval_how(interval: Interval | None) -> str:
    """`95 % clopper-pearson`, or empty."""
    return "" if interval is None else f"{interval.level * 100:g}\u00a0% {interval.method}"


def number_of(measurement: Measurement, registry: Registry) -> Number:
    """A measurement as a reader sees it."""
    spec, style = registry.spec(measurement.metric), registry.style(measurement.metric)
    return Number(
        anchor=measurement_id(measurement.metric, measurement.where),
        name=capital(words(measurement.metric)),
        metric=measurement.metric,
        meaning=spec.meaning if spec else "",
        setting=setting_text(measurement.where),
        value=value_text(measurement.value, measurement.interval, style, measurement.claim),
        interval=interval_text(measurement.value, measurement.interval, style),
        how=interval_how(measurement.interval),
        n=count_text(measurement.n),
        claim=CLAIM_WORDS[measurement.claim],
        assumptions=measurement.assumptions,
    )


def metric_groups(result: ProbeResult, registry: Registry) -> tuple[MetricGroup, ...]:
    """The measurements of a probe by metric, in the order in which the probe stated them."""
    by_metric: dict[str, list[Measurement]] = {}
    for measurement in result.measurements:
        by_metric.setdefault(measurement.metric, []).append(measurement)
    return tuple(_group(metric, found, registry) for metric, found in by_metric.items())


def _group(metric: str, found: list[Measurement], registry: Registry) -> MetricGroup:
    spec = registry.spec(metric)
    rest = len(found) - _ROWS_A_METRIC
    common = [text for text in found[0].assumptions if all(text in other.assumptions for other in found)]
    shared = tuple(common) if len(found) > 1 else ()
    numbers = (number_of(measurement, registry) for measurement in found[:_ROWS_A_METRIC])
    return MetricGroup(
        name=capital(words(metric)),
        metric=metric,
        meaning=spec.meaning if spec else "",
        better=f"{spec.better} is better" if spec and spec.better != "neither" else "",
        shared=shared,
        numbers=tuple(
            replace(number, assumptions=tuple(text for text in number.assumptions if text not in shared))
            for number in numbers
        ),
        note=f"{count_text(rest)} further settings are in audit.json." if rest > 0 else "",
    )


def headlines(result: ProbeResult, registry: Registry, judged: Iterable[str]) -> tuple[Number, ...]:
    """Up to three numbers that answer the probe's question: judged ones first, then one of each metric as declared."""
    wanted = frozenset(judged)
    leading: dict[str, Measurement] = {}
    for measurement in result.measurements:
        chosen = leading.setdefault(measurement.metric, measurement)
        if _says_more(measurement, chosen, proves=_proves(measurement, registry)):
            leading[measurement.metric] = measurement
    proven = [chosen.where for chosen in leading.values() if _proves(chosen, registry)]
    for measurement in result.measurements:
        if measurement.claim is Claim.UPPER_BOUND and measurement.where in proven:
            leading[measurement.metric] = measurement  # the other end of a bracket, at the same radius
    settings = Counter(measurement.metric for measurement in result.measurements)
    in_order = sorted(leading.values(), key=lambda m: registry.place(m.metric))
    telling = [m for m in in_order if settings[m.metric] <= _TOO_MANY_SETTINGS]
    ranked = [m for m in result.measurements if measurement_id(m.metric, m.where) in wanted]
    ranked += [m for m in telling or in_order if m not in ranked]
    return tuple(number_of(measurement, registry) for measurement in ranked[:_HEADLINES])


def _says_more(later: Measurement, chosen: Measurement, *, proves: bool) -> bool:
    """Of a bound over growing radii, the last says most; of what is proven, the last that says anything."""
    if "eps" not in later.where or _but_eps(later) != _but_eps(chosen):
        return False
    return later.value > 0 if proves else later.claim is not Claim.ESTIMATE


def _proves(measurement: Measurement, registry: Registry) -> bool:
    """Whether it is a lower bound of something good."""
    spec = registry.spec(measurement.metric)
    return measurement.claim is Claim.LOWER_BOUND and spec is not None and spec.better == "higher"


def _but_eps(measurement: Measurement) -> dict[str, str | int | float | bool]:
    return {key: value for key, value in measurement.where.items() if key != "eps"}
