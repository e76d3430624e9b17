"""Exit codes and the sentence: what the verdicts come to."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.schema import Claim, Outcome, ProbeResult, Status
from tests.audit.gate.build import (
    ATTACKED,
    BAD,
    BROKEN,
    ECE,
    GAP,
    GOOD,
    ROBUST,
    TODAY,
    TOP1,
    UNSURE,
    gate,
    other,
    policy,
    result,
    rule,
    share,
    short,
    waiver,
)

# ------------------------------------------------------------------------------------------------- exit codes


def test_all_rules_pass() -> None:
    judged = gate(policy(rule()), GOOD)
    assert short(judged) == (Outcome.PASS, 0)
    assert judged.sentence == "PASS: 1 of 1 rule passed."
    assert not judged.verdicts[0].blocking
    assert (judged.policy_id, judged.policy_version, judged.policy_sha256) == ("release", "1", "f" * 64)
    assert judged.judged_on == TODAY


@pytest.mark.parametrize(
    ("probe", "outcome", "code"),
    [(BAD, Outcome.FAIL, 1), (UNSURE, Outcome.INCONCLUSIVE, 3), (ATTACKED, Outcome.NOT_RUN, 3)],
)
def test_one_outcome_one_code(probe: ProbeResult, outcome: Outcome, code: int) -> None:
    judged = gate(policy(rule()), probe)
    assert short(judged) == (outcome, code)
    assert judged.verdicts[0].blocking
    assert judged.sentence.startswith(f"{outcome.value}: 1 of 1 rule ")


def test_error_comes_before_fail_and_fail_before_inconclusive() -> None:
    error, fail = rule("E", ECE, max=0.1), rule("F", ROBUST, min=0.4)
    unsure, absent = rule("U", TOP1, min=0.9), rule("N", GAP, min=0.1)
    assert short(gate(policy(unsure, fail, error, absent), UNSURE, ATTACKED, BROKEN)) == (Outcome.ERROR, 2)
    assert short(gate(policy(unsure, fail, absent), UNSURE, ATTACKED, BROKEN)) == (Outcome.FAIL, 1)
    assert short(gate(policy(unsure, absent), UNSURE, ATTACKED, BROKEN)) == (Outcome.NOT_RUN, 3)


@pytest.mark.parametrize("reaction", ["warn", "pass"])
def test_inconclusive_can_be_let_by_but_is_never_called_a_pass(reaction: str) -> None:
    judged = gate(policy(rule(), gate={"on_inconclusive": reaction}), UNSURE)
    assert short(judged) == (Outcome.INCONCLUSIVE, 0)
    assert ", which the policy lets by (R-1: accuracy.top1 measured 0.900, asked at least 0.900)." in judged.sentence
    assert not judged.verdicts[0].blocking
    warned = ("Rule R-1 (accuracy.top1) is INCONCLUSIVE; the policy only warns of it.",)
    assert judged.notices == (warned if reaction == "warn" else ())


def test_a_rules_own_reaction_overrides_the_gates() -> None:
    lenient = policy(rule(on_inconclusive="pass"))
    assert gate(lenient, UNSURE).exit_code == 0
    assert gate(lenient, UNSURE).verdicts[0].on_inconclusive == "pass"
    assert gate(lenient, ATTACKED).exit_code == 3  # NOT-RUN is another matter
    assert gate(policy(rule(on_inconclusive="fail"), gate={"on_inconclusive": "pass"}), UNSURE).exit_code == 3


def test_not_run_can_be_let_by() -> None:
    judged = gate(policy(rule(), gate={"on_not_run": "warn"}), ATTACKED)
    assert short(judged) == (Outcome.NOT_RUN, 0)
    assert judged.notices == ("Rule R-1 (accuracy.top1) is NOT-RUN; the policy only warns of it.",)


def test_what_blocks_names_the_outcome_before_what_is_let_by() -> None:
    rules = rule("N", GAP, min=0.1), rule("U", TOP1, min=0.9)
    assert short(gate(policy(*rules, gate={"on_not_run": "warn"}), UNSURE)) == (Outcome.INCONCLUSIVE, 3)


def test_warn_rules_count_only_under_fail_on_warn() -> None:
    rules = rule("A", min=0.9), rule("W", ROBUST, min=0.4, level="warn"), rule("E", ECE, max=0.1, level="warn")
    calm = gate(policy(*rules), GOOD, ATTACKED, BROKEN)
    assert short(calm) == (Outcome.PASS, 0)
    assert calm.sentence == "PASS: 1 of 1 rule passed; 2 of 2 at level warn did not pass (W, E)."
    assert [verdict.outcome for verdict in calm.verdicts] == [Outcome.PASS, Outcome.FAIL, Outcome.ERROR]
    assert short(gate(policy(*rules[:2], gate={"fail_on": "warn"}), GOOD, ATTACKED)) == (Outcome.FAIL, 1)
    assert short(gate(policy(*rules, gate={"fail_on": "warn"}), GOOD, ATTACKED, BROKEN)) == (Outcome.ERROR, 2)


def test_where_no_rule_counts_nothing_was_judged() -> None:
    rules = rule(level="warn"), rule("R-2", ROBUST, level="warn")
    judged = gate(policy(*rules), GOOD)
    assert short(judged) == (Outcome.NOT_RUN, 3)
    assert judged.sentence == "NOT-RUN: no rule counts, since all are at level warn and fail_on is error."
    assert short(gate(policy(*rules, gate={"on_not_run": "warn"}), GOOD)) == (Outcome.NOT_RUN, 0)


@pytest.mark.parametrize("level", ["error", "warn"])
def test_a_run_that_measured_nothing_never_passes(level: str) -> None:
    lenient = {"on_not_run": "pass", "on_inconclusive": "pass"}
    skipped = result(probe="accuracy", status=Status.SKIPPED, reason=("no_data", "No data."))
    stopped = result(probe="accuracy", status=Status.INCONCLUSIVE, reason=("budget", "No time."))
    for results in ((), (skipped,), (stopped,)):
        for waivers in ((), (waiver(),)):
            judged = gate(policy(rule(level=level), gate=lenient, waivers=waivers), *results)
            assert judged.exit_code == 3
            assert judged.outcome in {Outcome.NOT_RUN, Outcome.INCONCLUSIVE}
            assert ": the run measured nothing" in judged.sentence


# --------------------------------------------------------------------------------------------------- sentence


def test_the_sentence_names_the_rule_the_number_and_the_threshold() -> None:
    rules = rule("ACC", min=0.9), rule("ROB-001", ROBUST, min=0.4)
    assert gate(policy(*rules), GOOD, ATTACKED).sentence == (
        "FAIL: 1 of 2 rules failed (ROB-001: evasion.robust_accuracy [eps=8/255, norm=linf] at most 0.015, asked at "
        "least 0.400)."
    )


def test_the_sentence_stays_short_with_many_rules() -> None:
    rules = [rule(f"R-{i}", min=0.9) for i in range(1, 6)]
    assert gate(policy(*rules), BAD).sentence == (
        "FAIL: 5 of 5 rules failed (R-1: accuracy.top1 at most 0.526, asked at least 0.900; R-2: accuracy.top1 at most "
        "0.526, asked at least 0.900; R-3, R-4, R-5)."
    )


def test_sentences_of_the_other_outcomes() -> None:
    assert gate(policy(rule("U")), UNSURE).sentence == (
        "INCONCLUSIVE: 1 of 1 rule could not be decided (U: accuracy.top1 measured 0.900, asked at least 0.900)."
    )
    assert gate(policy(rule("N", GAP, max=1, where={"method": "lira"})), UNSURE).sentence == (
        "NOT-RUN: 1 of 1 rule had nothing to judge (N: unlearning.gap [method=lira], asked at most 1.000)."
    )
    assert gate(policy(rule("E", ECE, max=0.1)), UNSURE, BROKEN).sentence == (
        "ERROR: 1 of 1 rule could not be judged (E: calibration.ece, asked at most 0.100)."
    )


# ------------------------------------------------------------------------------------------------- properties

SHARES = st.integers(0, 400).map(lambda k: share(k, 400))
ATTACKS = st.tuples(st.integers(0, 400), st.sampled_from(Claim)).map(
    lambda t: share(t[0], 400, ROBUST, {"norm": "linf", "eps": "8/255"}, t[1])
)
ERRORS = st.floats(0, 1).map(lambda v: other(v, max(v - 0.02, 0), min(v + 0.02, 1)))
REACTIONS = st.sampled_from(["fail", "warn", "pass"])
THRESHOLDS = st.floats(0, 1)


@settings(deadline=None, max_examples=150)
@given(SHARES, ATTACKS, ERRORS, THRESHOLDS, THRESHOLDS, THRESHOLDS, st.integers(0, 2), REACTIONS)
def test_taking_a_measurement_away_never_opens_the_gate(
    accuracy: Any, attacked: Any, ece: Any, first: float, second: float, third: float, gone: int, reaction: str
) -> None:
    the_policy = policy(
        rule("A", TOP1, min=first),
        rule("R", ROBUST, min=second),
        rule("E", ECE, max=third),
        gate={"on_inconclusive": reaction},
    )
    probes = [result(one) for one in (accuracy, attacked, ece)]
    left = [
        one if index != gone else ProbeResult(probe=one.probe, version=1, status=Status.MEASURED)
        for index, one in enumerate(probes)
    ]
    before = gate(the_policy, *probes)
    for after in (gate(the_policy, *left), gate(the_policy, *(p for i, p in enumerate(probes) if i != gone))):
        assert after.exit_code != 0
        assert after.exit_code in {1, 3}
        assert before.exit_code in {0, 1, 3}


@settings(deadline=None, max_examples=150)
@given(
    SHARES,
    ATTACKS,
    THRESHOLDS,
    REACTIONS,
    REACTIONS,
    st.sampled_from(["error", "warn"]),
    st.sampled_from(["error", "warn"]),
    st.tuples(st.booleans(), st.booleans()),
)
def test_outcome_and_exit_code_never_contradict_each_other(
    accuracy: Any,
    attacked: Any,
    threshold: float,
    first: str,
    second: str,
    level: str,
    fail_on: str,
    waived_present: tuple[bool, bool],
) -> None:
    waived, present = waived_present
    the_policy = policy(
        rule("R-1", TOP1, min=threshold, level=level),
        rule("R-2", ROBUST, min=threshold),
        gate={"on_inconclusive": first, "on_not_run": second, "fail_on": fail_on},
        waivers=[waiver()] if waived else [],
    )
    judged = gate(the_policy, *([result(accuracy)] if present else []), result(attacked))
    assert judged == gate(the_policy, *([result(accuracy)] if present else []), result(attacked))
    if judged.outcome is Outcome.PASS:
        assert judged.exit_code == 0
    if judged.outcome in {Outcome.FAIL, Outcome.ERROR}:
        assert judged.exit_code == {Outcome.FAIL: 1, Outcome.ERROR: 2}[judged.outcome]
    assert (judged.exit_code != 0) == any(verdict.blocking for verdict in judged.verdicts)
    assert judged.sentence.startswith(f"{judged.outcome.value}: ")
    assert "\n" not in judged.sentence
