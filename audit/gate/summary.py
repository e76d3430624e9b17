"""What the verdicts come to: one outcome, one exit code, one sentence.

Rules that count are those at or above `gate.fail_on`; waived verdicts drop out of the sum. What was never judged is
never a PASS: where no rule counts, or every one that does is a waived NOT-RUN, the outcome is NOT-RUN and
`gate.on_not_run` decides the exit code; where the run measured nothing at all, no setting makes it 0.
"""

from collections.abc import Sequence
from typing import Final

from audit.gate.wording import metric_at, number
from audit.schema import Outcome, Policy, RunRecord, Verdict

_CODES: Final = {
    Outcome.PASS: 0,
    Outcome.FAIL: 1,
    Outcome.ERROR: 2,
    Outcome.INCONCLUSIVE: 3,
    Outcome.NOT_RUN: 3,
}
_BAD_TO_WORSE: Final = (Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.NOT_RUN, Outcome.FAIL, Outcome.ERROR)
_DETAILED: Final = 2


def is_blocking(verdict: Verdict, policy: Policy) -> bool:
    """Whether the verdict keeps the exit code from 0."""
    if not _counts(verdict, policy) or verdict.waived is not None:
        return False
    if verdict.outcome is Outcome.INCONCLUSIVE:
        return verdict.on_inconclusive == "fail"
    if verdict.outcome is Outcome.NOT_RUN:
        return policy.gate.on_not_run == "fail"
    return verdict.outcome is not Outcome.PASS


def outcome_of(verdicts: Sequence[Verdict], policy: Policy, record: RunRecord) -> Outcome:
    """The worst that counts: what blocks before what is let by."""
    counted = [verdict for verdict in verdicts if _counts(verdict, policy)]
    open_ones = [verdict for verdict in counted if verdict.waived is None]
    worst = max(open_ones, key=_badness, default=None)
    outcome = worst.outcome if worst else Outcome.PASS
    judged = any(verdict.outcome is not Outcome.NOT_RUN for verdict in counted)
    if outcome is Outcome.PASS and not (judged and _measured_anything(record)):
        return Outcome.NOT_RUN
    return outcome


def exit_code_of(outcome: Outcome, verdicts: Sequence[Verdict], policy: Policy, record: RunRecord) -> int:
    """The code of what blocks, 2 before 1 before 3; 3 where nothing was measured, or no rule was judged."""
    codes = {_CODES[verdict.outcome] for verdict in verdicts if verdict.blocking}
    if not _measured_anything(record):
        codes.add(3)
    none_open = all(verdict.waived is not None for verdict in verdicts if _counts(verdict, policy))
    if none_open and outcome is Outcome.NOT_RUN and policy.gate.on_not_run == "fail":
        codes.add(3)
    return next((code for code in (2, 1, 3) if code in codes), 0)


def sentence_of(outcome: Outcome, verdicts: Sequence[Verdict], policy: Policy, record: RunRecord) -> str:
    """One line for the end of the terminal, naming the rules behind it."""
    counted = [verdict for verdict in verdicts if _counts(verdict, policy)]
    text = f"{outcome.value}: {_story(outcome, counted, policy, record)}"
    waived = [verdict.rule for verdict in counted if verdict.waived is not None]
    if waived:
        text += f"; {len(waived)} waived ({', '.join(waived)})"
    uncounted = [verdict.rule for verdict in verdicts if not _counts(verdict, policy)]
    missed = [v.rule for v in verdicts if v.rule in uncounted and v.outcome is not Outcome.PASS and v.waived is None]
    if missed and counted:
        text += f"; {len(missed)} of {len(uncounted)} at level warn did not pass ({', '.join(missed)})"
    return text + "."


def _story(outcome: Outcome, counted: Sequence[Verdict], policy: Policy, record: RunRecord) -> str:
    if not _measured_anything(record):
        return "the run measured nothing"
    if not counted:
        return f"no rule counts, since all are at level warn and fail_on is {policy.gate.fail_on}"
    behind = [verdict for verdict in counted if verdict.outcome is outcome and verdict.waived is None]
    share = f"{len(behind)} of {len(counted)} {'rule' if len(counted) == 1 else 'rules'}"
    if outcome is Outcome.PASS:
        return f"{share} passed"
    if not behind:
        return f"no rule was judged, all {len(counted)} are waived"
    words = {
        Outcome.FAIL: "failed",
        Outcome.INCONCLUSIVE: "could not be decided",
        Outcome.NOT_RUN: "had nothing to judge",
        Outcome.ERROR: "could not be judged",
    }
    let_by = "" if any(verdict.blocking for verdict in behind) else ", which the policy lets by"
    return f"{share} {words[outcome]}{let_by} ({_named(behind)})"


def _named(behind: Sequence[Verdict]) -> str:
    """The first rules with their numbers, the rest by id."""
    detailed = [_detail(verdict) for verdict in behind[:_DETAILED]]
    rest = [", ".join(verdict.rule for verdict in behind[_DETAILED:])] if len(behind) > _DETAILED else []
    return "; ".join(detailed + rest)


def _detail(verdict: Verdict) -> str:
    """`ROB-001: evasion.robust_accuracy [eps=8/255] at most 0.012, asked at least 0.400`."""
    text = f"{verdict.rule}: {metric_at(verdict.metric, verdict.where)}"
    if verdict.outcome is Outcome.FAIL and verdict.limit is not None:
        side = "at most" if verdict.direction == "min" else "at least"
        text += f" {side} {number(verdict.limit, verdict.threshold)}"
    elif verdict.value is not None:
        text += f" measured {number(verdict.value, verdict.threshold)}"
    return f"{text}, asked {'at least' if verdict.direction == 'min' else 'at most'} {number(verdict.threshold)}"


def _counts(verdict: Verdict, policy: Policy) -> bool:
    return verdict.level == "error" or policy.gate.fail_on == "warn"


def _badness(verdict: Verdict) -> tuple[bool, int]:
    return verdict.blocking, _BAD_TO_WORSE.index(verdict.outcome)


def _measured_anything(record: RunRecord) -> bool:
    return any(result.measurements for result in record.results)
