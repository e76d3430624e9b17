"""`judge`: every rule's verdict, and what they come to."""

from datetime import date

from audit.gate.doubt import under_doubt
from audit.gate.grammar import Decision, decide
from audit.gate.selection import Selected, select
from audit.gate.summary import exit_code_of, is_blocking, outcome_of, sentence_of
from audit.gate.waivers import apply_waivers
from audit.gate.wording import metric_at, threshold_of
from audit.schema import GateResult, Outcome, Policy, Rule, RunRecord, Verdict, measurement_id


def judge(policy: Policy, policy_sha256: str, record: RunRecord, today: date) -> GateResult:
    """Judge a run under a policy. Pure: equal arguments give equal results.

    Args:
        policy: as loaded.
        policy_sha256: digest of the policy's bytes, for the result.
        record: the facts; they are not changed.
        today: the day (UTC) against which waivers are checked.

    Returns:
        One verdict a rule, in the policy's order. The outcome PASS always comes with exit code 0; exit code 0 with
        another outcome means that the policy lets that outcome by. A record in which nothing was measured never
        comes out at 0.
    """
    verdicts = tuple(_verdict(rule, policy, record) for rule in policy.rules)
    verdicts, notices = apply_waivers(policy, record, verdicts, today)
    verdicts = tuple(verdict.model_copy(update={"blocking": is_blocking(verdict, policy)}) for verdict in verdicts)
    outcome = outcome_of(verdicts, policy, record)
    return GateResult(
        policy_id=policy.id,
        policy_version=policy.version,
        policy_sha256=policy_sha256,
        judged_on=today,
        outcome=outcome,
        exit_code=exit_code_of(outcome, verdicts, policy, record),
        sentence=sentence_of(outcome, verdicts, policy, record),
        verdicts=verdicts,
        notices=(*notices, *_let_by(verdicts, policy)),
    )


def _verdict(rule: Rule, policy: Policy, record: RunRecord) -> Verdict:
    selected = select(rule, record)
    if isinstance(selected, Selected):
        decision = under_doubt(decide(selected.measurement, rule, policy.stats), selected)
        return _written(rule, policy, decision, selected)
    return _written(rule, policy, selected, None)


def _written(rule: Rule, policy: Policy, decision: Decision, selected: Selected | None) -> Verdict:
    measurement = selected.measurement if selected else None
    return Verdict(
        rule=rule.id,
        metric=rule.metric,
        where=measurement.where if measurement else rule.where,
        level=rule.level,
        outcome=decision.outcome,
        reason=decision.reason,
        threshold=threshold_of(rule),
        direction="min" if rule.min is not None else "max",
        value=measurement.value if measurement else None,
        interval=measurement.interval if measurement else None,
        limit=decision.limit,
        n=measurement.n if measurement else None,
        claim=measurement.claim if measurement else None,
        samples_needed=decision.samples_needed,
        measurement=measurement_id(measurement.metric, measurement.where) if measurement else None,
        on_inconclusive=rule.on_inconclusive or policy.gate.on_inconclusive,
    )


def _let_by(verdicts: tuple[Verdict, ...], policy: Policy) -> tuple[str, ...]:
    """Notices for what `warn` reactions let by."""
    notices = []
    for verdict in verdicts:
        reaction = {Outcome.INCONCLUSIVE: verdict.on_inconclusive, Outcome.NOT_RUN: policy.gate.on_not_run}
        if verdict.waived is None and reaction.get(verdict.outcome) == "warn":
            name = metric_at(verdict.metric, verdict.where)
            notices.append(f"Rule {verdict.rule} ({name}) is {verdict.outcome.value}; the policy only warns of it.")
    return tuple(notices)
