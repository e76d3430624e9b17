"""What of a decision stands when the probe behind the number is in doubt.

An attack that failed its own control is weak, yet what it broke is broken: the harness verified each counterexample.
So a FAIL that rests on a bound stands. A PASS does not: the control of a certifier may have failed because its bounds
are wrong. Only a budget that ran out leaves a PASS by a bound standing, since any prefix of the samples is a valid
sample and nothing else is amiss. An estimate under doubt decides nothing.
"""

from dataclasses import replace
from typing import Final

from audit.gate.grammar import Decision
from audit.gate.selection import Selected
from audit.gate.wording import measured
from audit.schema import Claim, Outcome, ProbeResult, Reason, Status

_HARMLESS: Final = frozenset({"budget"})


def doubt_about(result: ProbeResult) -> Reason | None:
    """Why the numbers cannot be taken at face value: an inconclusive result, a control that failed or is absent."""
    failed = [control for control in result.controls if not control.passed]
    if failed:
        listed = "; ".join(
            f"control {control.name!r} expected {control.expected}, observed {control.observed}" for control in failed
        )
        return Reason(code="control_failed", text=f"the probe's own {listed}")
    if result.status is Status.INCONCLUSIVE:
        return result.reason
    if not result.controls:
        return Reason(code="no_control", text="the probe did not show that it finds planted truth")
    return None


def under_doubt(decision: Decision, selected: Selected) -> Decision:
    """The decision as it stands given the state of its probe."""
    reason = doubt_about(selected.result)
    if reason is None:
        return decision
    because = f"{reason.text.rstrip('.')} ({reason.code})"
    bound = selected.measurement.claim is not Claim.ESTIMATE
    if bound and decision.outcome is Outcome.FAIL:
        return replace(decision, reason=f"{decision.reason} It stands although the probe is in doubt: {because}.")
    if bound and decision.outcome is Outcome.PASS and reason.code in _HARMLESS:
        return replace(decision, reason=f"{decision.reason} The probe stopped early: {because}.")
    return Decision(
        Outcome.INCONCLUSIVE,
        f"{measured(selected.measurement)}, but probe {selected.result.probe} is in doubt: {because}.",
        samples_needed=decision.samples_needed if reason.code in _HARMLESS else None,
    )
