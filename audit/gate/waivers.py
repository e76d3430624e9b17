"""Waivers: a verdict accepted for a while, for a named model, by someone, for a reason.

A waiver excuses FAIL, INCONCLUSIVE and NOT-RUN, never ERROR: an error says nothing about the model. The verdict keeps
its outcome, so that reports show what was waived.
"""

from collections.abc import Sequence
from datetime import date

from audit.schema import Outcome, Policy, RunRecord, Verdict, Waiver


def apply_waivers(
    policy: Policy, record: RunRecord, verdicts: Sequence[Verdict], today: date
) -> tuple[tuple[Verdict, ...], tuple[str, ...]]:
    """The verdicts with `waived` set where a waiver applies, and notices about expired and unused waivers."""
    waived: dict[str, str] = {}
    notices = []
    outcomes = {verdict.rule: verdict.outcome for verdict in verdicts}
    # Valid ones first, so that an expired waiver beside its renewal is merely unused.
    for waiver in sorted(policy.waivers, key=lambda waiver: waiver.expires < today):
        why_unused = _why_unused(waiver, outcomes[waiver.rule], record, waiver.rule in waived)
        if why_unused is not None:
            notices.append(f"Waiver for {waiver.rule} is unused: {why_unused}. Remove or correct it.")
            continue
        text, notice = _effect(waiver, policy, today)
        if text is not None:
            waived[waiver.rule] = text
        if notice is not None:
            notices.append(notice)
    changed = tuple(verdict.model_copy(update={"waived": waived.get(verdict.rule)}) for verdict in verdicts)
    return changed, tuple(notices)


def _why_unused(waiver: Waiver, outcome: Outcome, record: RunRecord, already: bool) -> str | None:
    if outcome is Outcome.PASS:
        return "the rule passed"
    if outcome is Outcome.ERROR:
        return "an ERROR cannot be waived"
    if not _in_scope(waiver, record):
        return f"it is for model {waiver.model_sha256}, this one is {record.subject.digest}"
    if already:
        return "another waiver covers the rule"
    return None


def _in_scope(waiver: Waiver, record: RunRecord) -> bool:
    if waiver.model_sha256 is None:
        return True
    digests = (record.subject.digest, *(file.sha256 for file in record.subject.files if file.kind == "weights"))
    return any(digest.lower().removeprefix("sha256:").startswith(waiver.model_sha256) for digest in digests)


def _effect(waiver: Waiver, policy: Policy, today: date) -> tuple[str | None, str | None]:
    """The text for `Verdict.waived` (None: it does not apply) and a notice."""
    if today <= waiver.expires:
        return waiver.reason, None
    text = f"{waiver.reason} (expired {waiver.expires})"
    expired = f"Waiver for {waiver.rule} expired on {waiver.expires}"
    if policy.gate.on_expired_waiver == "fail":
        return None, f"{expired} and no longer applies. Mend the cause, or renew it."
    if policy.gate.on_expired_waiver == "warn":
        return text, f"{expired} and still applies (on_expired_waiver = 'warn'). Mend the cause, or renew it."
    return text, None
