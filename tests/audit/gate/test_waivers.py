"""Waivers: what they excuse, for whom, and until when."""

from datetime import date, timedelta

import pytest

from audit.schema import Outcome, ProbeResult
from tests.audit.gate.build import (
    ATTACKED,
    BAD,
    BROKEN,
    ECE,
    GOOD,
    ROBUST,
    SUBJECT,
    TODAY,
    UNSURE,
    WEIGHTS,
    gate,
    policy,
    rule,
    short,
    waiver,
)


@pytest.mark.parametrize("probe", [BAD, UNSURE, ATTACKED])
def test_a_waived_verdict_keeps_its_outcome_and_does_not_block(probe: ProbeResult) -> None:
    plain = gate(policy(rule(), rule("ROB", ROBUST, max=0.5)), probe, ATTACKED)
    judged = gate(policy(rule(), rule("ROB", ROBUST, max=0.5), waivers=[waiver()]), probe, ATTACKED)
    assert judged.verdicts[0].outcome is plain.verdicts[0].outcome is not Outcome.PASS
    assert judged.verdicts[0].waived == "lands in 1.5"
    assert not judged.verdicts[0].blocking


def test_a_waived_failure_leaves_exit_code_0_and_is_named() -> None:
    judged = gate(policy(rule(), rule("R-2", min=0.1), waivers=[waiver()]), BAD)
    assert short(judged) == (Outcome.PASS, 0)
    assert judged.sentence == "PASS: 1 of 2 rules passed; 1 waived (R-1)."
    assert judged.notices == ()


def test_an_error_cannot_be_waived() -> None:
    judged = gate(policy(rule("R-1", ECE, max=0.1), waivers=[waiver()]), GOOD, BROKEN)
    assert short(judged) == (Outcome.ERROR, 2)
    assert judged.verdicts[0].waived is None
    assert judged.notices == ("Waiver for R-1 is unused: an ERROR cannot be waived. Remove or correct it.",)


def test_where_every_rule_is_a_waived_not_run_nothing_was_judged() -> None:
    judged = gate(policy(rule(), waivers=[waiver()]), ATTACKED)
    assert short(judged) == (Outcome.NOT_RUN, 3)
    assert judged.sentence == "NOT-RUN: no rule was judged, all 1 are waived; 1 waived (R-1)."


@pytest.mark.parametrize(("days", "applies"), [(-1, False), (0, True), (1, True)])
def test_a_waiver_holds_through_its_last_day(days: int, applies: bool) -> None:
    expires = TODAY + timedelta(days=days)
    judged = gate(policy(rule(), waivers=[waiver(expires=expires)]), BAD)
    assert (judged.exit_code == 0) is applies
    notice = f"Waiver for R-1 expired on {expires} and no longer applies. Mend the cause, or renew it."
    assert judged.notices == (() if applies else (notice,))


@pytest.mark.parametrize("reaction", ["warn", "pass"])
def test_an_expired_waiver_still_applies_where_the_policy_says_so(reaction: str) -> None:
    old = waiver(expires=date(2026, 1, 31))
    judged = gate(policy(rule(), waivers=[old], gate={"on_expired_waiver": reaction}), BAD)
    assert judged.exit_code == 0
    assert judged.verdicts[0].waived == "lands in 1.5 (expired 2026-01-31)"
    assert len(judged.notices) == (reaction == "warn")


def test_a_renewed_waiver_wins_over_its_expired_self() -> None:
    old = waiver(expires=date(2026, 1, 31), reason="old")
    judged = gate(policy(rule(), waivers=[old, waiver()]), BAD)
    assert judged.verdicts[0].waived == "lands in 1.5"
    assert judged.notices == ("Waiver for R-1 is unused: another waiver covers the rule. Remove or correct it.",)


@pytest.mark.parametrize("digest", [SUBJECT, SUBJECT[:12], SUBJECT.upper()[:20], WEIGHTS[:12], f"sha256:{WEIGHTS}"])
def test_a_waiver_for_this_model_applies(digest: str) -> None:
    assert gate(policy(rule(), waivers=[waiver(model_sha256=digest)]), BAD).exit_code == 0


def test_a_waiver_for_another_model_is_unused() -> None:
    judged = gate(policy(rule(), waivers=[waiver(model_sha256="0123456789ab")]), BAD)
    assert short(judged) == (Outcome.FAIL, 1)
    assert judged.notices == (
        f"Waiver for R-1 is unused: it is for model 0123456789ab, this one is {SUBJECT}. Remove or correct it.",
    )


@pytest.mark.parametrize("digest", ["abababababa", "REPLACE", "g" * 12, "a" * 65])
def test_a_scope_too_short_or_not_a_digest_is_refused(digest: str) -> None:
    with pytest.raises(ValueError, match=f"12 or more hexadecimal digits, got '{digest}'"):
        policy(rule(), waivers=[waiver(model_sha256=digest)])


def test_a_waiver_for_a_rule_that_passed_is_unused() -> None:
    judged = gate(policy(rule(), waivers=[waiver()]), GOOD)
    assert short(judged) == (Outcome.PASS, 0)
    assert judged.verdicts[0].waived is None
    assert judged.notices == ("Waiver for R-1 is unused: the rule passed. Remove or correct it.",)
