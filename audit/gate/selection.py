"""Which measurement a rule speaks of, and why there is none where there is none."""

from collections.abc import Sequence
from dataclasses import dataclass

from audit.gate.grammar import Decision
from audit.gate.wording import did_you_mean, metric_at
from audit.schema import (
    Measurement,
    Outcome,
    ProbeResult,
    Reason,
    Rule,
    RunRecord,
    Scalar,
    Status,
    same_setting,
    where_text,
)

_MOST_SETTINGS = 12


@dataclass(frozen=True, slots=True)
class Selected:
    """The one measurement that a rule asks for, with the result that it came in."""

    measurement: Measurement
    result: ProbeResult


def select(rule: Rule, record: RunRecord) -> Selected | Decision:
    """The measurement for the rule, or NOT-RUN, ERROR or INCONCLUSIVE with the reason."""
    known = [spec.id for card in record.cards for spec in card.metrics]
    if rule.metric not in known:
        return Decision(
            Outcome.ERROR,
            f"Expected a metric that this record knows, got {rule.metric!r}.{did_you_mean(rule.metric, known)} "
            "Correct the rule, or run the audit again with the probe installed.",
        )
    probes = [card.id for card in record.cards if any(spec.id == rule.metric for spec in card.metrics)]
    results = [result for result in record.results if result.probe in probes]
    if not results:
        return Decision(
            Outcome.NOT_RUN, f"Probe {' or '.join(probes)}, which measures {rule.metric}, was not part of the run."
        )
    failed = next((result for result in results if result.status is Status.FAILED), None)
    if failed is not None:
        return Decision(Outcome.ERROR, f"Probe {failed.probe} failed: {_reason(failed)}")
    return _among(rule, results)


def _among(rule: Rule, results: Sequence[ProbeResult]) -> Selected | Decision:
    stated = [
        Selected(measurement, result)
        for result in results
        if result.status is not Status.SKIPPED
        for measurement in result.measurements
        if measurement.metric == rule.metric
    ]
    matching = [one for one in stated if _matches(rule, one.measurement)]
    if len(matching) > 1:
        # Two settings may lie within rounding of each other (1000 and 1001 queries): then the spelling decides.
        spelt = [one for one in matching if rule.where.items() <= one.measurement.where.items()]
        matching = spelt if len(spelt) == 1 else matching
    if len(matching) == 1:
        return matching[0]
    if matching:
        return _ambiguous(rule, [one.measurement for one in matching])
    if stated:
        return _other_settings(rule, results, [one.measurement for one in stated])
    return _nothing(rule, results)


def _matches(rule: Rule, measurement: Measurement) -> bool:
    found = measurement.where
    return all(key in found and same_setting(key, asked, found[key]) for key, asked in rule.where.items())


def _ambiguous(rule: Rule, measurements: Sequence[Measurement]) -> Decision:
    values: dict[str, list[Scalar]] = {}
    for measurement in measurements:
        for key, value in measurement.where.items():
            values.setdefault(key, []).append(value)
    telling = sorted(
        key
        for key, found in values.items()
        if len(found) < len(measurements) or any(value != found[0] for value in found)
    )
    advice = (
        f"Add {' or '.join(telling)} to the rule's where."
        if telling
        else "The record states the same setting twice; run the audit again."
    )
    return Decision(
        Outcome.ERROR,
        f"Expected one measurement of {metric_at(rule.metric, rule.where)}, got {len(measurements)}: "
        f"{_settings(measurements)}. {advice}",
    )


def _other_settings(rule: Rule, results: Sequence[ProbeResult], measurements: Sequence[Measurement]) -> Decision:
    unfinished = next((result for result in results if result.status is Status.INCONCLUSIVE), None)
    why = f" Probe {unfinished.probe} was inconclusive: {_reason(unfinished)}" if unfinished else ""
    return Decision(
        Outcome.NOT_RUN,
        f"{metric_at(rule.metric, rule.where)} was not measured; measured settings: {_settings(measurements)}.{why}",
    )


def _nothing(rule: Rule, results: Sequence[ProbeResult]) -> Decision:
    for status, outcome, words in (
        (Status.INCONCLUSIVE, Outcome.INCONCLUSIVE, "was inconclusive"),
        (Status.SKIPPED, Outcome.NOT_RUN, "was skipped"),
    ):
        result = next((result for result in results if result.status is status), None)
        if result is not None:
            return Decision(outcome, f"Probe {result.probe} {words}: {_reason(result)}")
    return Decision(Outcome.NOT_RUN, f"Probe {results[0].probe} ran, but stated no {rule.metric}.")


def _settings(measurements: Sequence[Measurement]) -> str:
    texts = sorted({f"[{where_text(measurement.where)}]" for measurement in measurements})
    more = f" and {len(texts) - _MOST_SETTINGS} more" if len(texts) > _MOST_SETTINGS else ""
    return ", ".join(texts[:_MOST_SETTINGS]) + more


def _reason(result: ProbeResult) -> str:
    reason = result.reason or Reason(code="unknown", text="no reason was recorded.")
    return f"{reason.text.rstrip('.')} ({reason.code})."
