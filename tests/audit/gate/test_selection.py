"""Which number a rule speaks of, and what becomes of it when its probe is in doubt."""

import pytest

from audit.schema import Claim, GateResult, Outcome, ProbeResult, Status, Verdict
from tests.audit.gate.build import GAP, ROBUST, TOP1, gate, other, policy, result, rule, share

LINF, L2 = {"norm": "linf", "eps": "8/255"}, {"norm": "l2", "eps": 0.5}


def only(judged: GateResult) -> Verdict:
    (verdict,) = judged.verdicts
    return verdict


def robust(where: dict[str, object], *results: ProbeResult) -> Verdict:
    return only(gate(policy(rule(metric=ROBUST, min=0.4, where=where)), *results))


@pytest.mark.parametrize("eps", ["8/255", 0.0314, 8 / 255, "0.03137", "8 / 255"])
def test_an_epsilon_is_found_however_it_is_written(eps: object) -> None:
    attacked = result(share(5, 500, ROBUST, LINF, Claim.UPPER_BOUND), share(9, 500, ROBUST, L2, Claim.UPPER_BOUND))
    verdict = robust({"eps": eps}, attacked)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.where == LINF
    assert verdict.n == 500
    assert verdict.claim is Claim.UPPER_BOUND


def test_another_setting_is_not_run_and_says_what_there_is() -> None:
    verdict = robust({"eps": "4/255"}, result(share(5, 500, ROBUST, LINF), share(9, 500, ROBUST, L2)))
    assert verdict.outcome is Outcome.NOT_RUN
    assert verdict.value is None
    assert verdict.where == {"eps": "4/255"}
    assert verdict.reason == (
        "evasion.robust_accuracy [eps=4/255] was not measured; measured settings: [eps=0.5, norm=l2], "
        "[eps=8/255, norm=linf]."
    )


def test_several_matching_measurements_are_an_error_that_names_the_key_to_add() -> None:
    verdict = robust({}, result(share(5, 500, ROBUST, LINF), share(9, 500, ROBUST, {**LINF, "norm": "l2"})))
    assert verdict.outcome is Outcome.ERROR
    assert verdict.reason == (
        "Expected one measurement of evasion.robust_accuracy, got 2: [eps=8/255, norm=l2], [eps=8/255, norm=linf]. "
        "Add norm to the rule's where."
    )


def test_the_same_setting_stated_twice_is_an_error() -> None:
    verdict = robust({}, result(share(5, 500, ROBUST, LINF), share(9, 500, ROBUST, LINF)))
    assert verdict.outcome is Outcome.ERROR
    assert verdict.reason.endswith("The record states the same setting twice; run the audit again.")


def test_between_two_settings_within_rounding_the_spelling_decides() -> None:
    both = result(share(499, 500, GAP, {"method": 1000}), share(1, 500, GAP, {"method": 1001}))
    assert only(gate(policy(rule(metric=GAP, where={"method": 1000})), both)).outcome is Outcome.PASS
    assert only(gate(policy(rule(metric=GAP, where={"method": 1001})), both)).outcome is Outcome.FAIL
    assert only(gate(policy(rule(metric=GAP, where={"method": "1000.5"})), both)).outcome is Outcome.NOT_RUN


def test_a_probe_that_was_not_asked_for_is_not_run() -> None:
    verdict = robust({}, result(share(95, 100)))
    assert verdict.outcome is Outcome.NOT_RUN
    assert verdict.reason == "Probe evasion, which measures evasion.robust_accuracy, was not part of the run."


def test_a_skipped_probe_is_not_run_with_its_reason() -> None:
    skipped = result(probe="evasion", status=Status.SKIPPED, reason=("needs_gradients", "The model has no gradients."))
    verdict = robust({}, skipped)
    assert verdict.outcome is Outcome.NOT_RUN
    assert verdict.reason == "Probe evasion was skipped: The model has no gradients (needs_gradients)."


def test_a_failed_probe_is_an_error_even_with_measurements() -> None:
    failed = result(share(5, 500, ROBUST), status=Status.FAILED, reason=("out_of_memory", "The device ran full."))
    verdict = robust({}, failed)
    assert verdict.outcome is Outcome.ERROR
    assert verdict.reason == "Probe evasion failed: The device ran full (out_of_memory)."


def test_an_inconclusive_probe_without_the_number_is_inconclusive() -> None:
    stopped = result(probe="evasion", status=Status.INCONCLUSIVE, reason=("budget", "Time ran out."))
    verdict = robust({}, stopped)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reason == "Probe evasion was inconclusive: Time ran out (budget)."


def test_an_inconclusive_probe_with_other_settings_is_not_run_and_says_both() -> None:
    stopped = result(share(5, 500, ROBUST, LINF), status=Status.INCONCLUSIVE, reason=("budget", "Time ran out."))
    verdict = robust({"eps": "4/255"}, stopped)
    assert verdict.outcome is Outcome.NOT_RUN
    assert verdict.reason.endswith("[eps=8/255, norm=linf]. Probe evasion was inconclusive: Time ran out (budget).")


def test_a_probe_that_ran_without_stating_the_metric_is_not_run() -> None:
    verdict = robust({}, result(probe="evasion"))
    assert verdict.outcome is Outcome.NOT_RUN
    assert verdict.reason == "Probe evasion ran, but stated no evasion.robust_accuracy."


def test_an_unknown_metric_is_an_error() -> None:
    verdict = only(gate(policy(rule(metric="evasion.robust_acuracy")), result(share(95, 100))))
    assert verdict.outcome is Outcome.ERROR
    assert verdict.reason.startswith(
        "Expected a metric that this record knows, got 'evasion.robust_acuracy'. Did you mean "
        "'evasion.robust_accuracy'?"
    )


CONTROL = ("control_failed", "the attack missed a planted weakness")


@pytest.mark.parametrize(
    ("claim", "successes", "code", "outcome"),
    [
        (Claim.UPPER_BOUND, 5, "control_failed", Outcome.FAIL),  # what it broke is broken
        (Claim.UPPER_BOUND, 480, "control_failed", Outcome.INCONCLUSIVE),
        (Claim.LOWER_BOUND, 480, "control_failed", Outcome.INCONCLUSIVE),  # a certifier whose bounds may be wrong
        (Claim.LOWER_BOUND, 480, "budget", Outcome.PASS),  # a prefix is a valid sample
        (Claim.UPPER_BOUND, 5, "budget", Outcome.FAIL),
        (Claim.ESTIMATE, 480, "budget", Outcome.INCONCLUSIVE),
        (Claim.ESTIMATE, 5, "budget", Outcome.INCONCLUSIVE),
        (Claim.ESTIMATE, 5, "control_failed", Outcome.INCONCLUSIVE),
        (Claim.LOWER_BOUND, 480, "engines_disagree", Outcome.INCONCLUSIVE),
    ],
)
def test_what_stands_when_the_probe_is_inconclusive(claim: Claim, successes: int, code: str, outcome: Outcome) -> None:
    doubtful = result(
        share(successes, 500, ROBUST, LINF, claim), status=Status.INCONCLUSIVE, reason=(code, "It stopped.")
    )
    verdict = robust({}, doubtful)
    assert verdict.outcome is outcome
    assert f"It stopped ({code})." in verdict.reason
    assert verdict.value == successes / 500


def test_a_failed_control_counts_even_where_the_status_says_measured() -> None:
    certified = result(share(480, 500, ROBUST, LINF, Claim.LOWER_BOUND), control_passed=False)
    verdict = robust({}, certified)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reason.endswith(
        "but probe evasion is in doubt: the probe's own control 'weak twin' expected 0 %, observed 31 % "
        "(control_failed)."
    )


def test_a_failed_control_outweighs_a_harmless_reason() -> None:
    certified = result(
        share(480, 500, ROBUST, LINF, Claim.LOWER_BOUND),
        status=Status.INCONCLUSIVE,
        reason=("budget", "Time ran out."),
        control_passed=False,
    )
    assert robust({}, certified).outcome is Outcome.INCONCLUSIVE


def test_a_verdict_carries_the_number_it_rests_on() -> None:
    measurement = share(95, 100)
    verdict = only(gate(policy(rule(min=0.5)), result(measurement)))
    assert (verdict.value, verdict.interval, verdict.n) == (0.95, measurement.interval, 100)
    assert verdict.measurement is not None
    assert verdict.metric == TOP1
    assert (verdict.threshold, verdict.direction) == (0.5, "min")


def test_other_numbers_can_be_judged_too() -> None:
    verdict = only(gate(policy(rule(metric="calibration.ece", max=0.05)), result(other(0.02, 0.01, 0.03))))
    assert verdict.outcome is Outcome.PASS
