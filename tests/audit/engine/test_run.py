import pytest
import torch

from audit.api import Claim, Inconclusive, Measurement, MetricSpec, PositiveControl, ProbeConfig, probe
from audit.engine.plan import Speed, Step, make_plan
from audit.engine.run import run_plan, run_step
from audit.engine.session import Session
from audit.engine.store import RunStore
from audit.errors import DataError, StoreError
from audit.schema import Interval, Status
from audit.testing import run_probe, synthetic

METRIC = MetricSpec(id="toy.share", meaning="A share.", better="higher")


def toy(function, **card):
    given = {"id": "toy", "version": 1, "question": "Well?", "config": ProbeConfig, "metrics": [METRIC], **card}
    return probe(**given)(function)


def share(value=0.5):
    interval = Interval(low=0.4, high=0.6, method="test")
    return Measurement(metric="toy.share", value=value, n=10, claim=Claim.ESTIMATE, interval=interval)


def control(passed):
    return PositiveControl(name="planted", passed=passed, expected="found", observed="found" if passed else "missed")


def result_of(function, tmp_path, **card):
    return run_probe(toy(function, **card), tmp_path, *synthetic())


def test_facts_are_kept(tmp_path):
    result = result_of(lambda *_: [share(), control(passed=True)], tmp_path)

    assert result.status is Status.MEASURED
    assert result.measurements == (share(),)


def test_a_failed_control_makes_the_result_inconclusive_and_keeps_the_numbers(tmp_path):
    result = result_of(lambda *_: [share(), control(passed=False)], tmp_path)

    assert (result.status, result.reason.code) == (Status.INCONCLUSIVE, "control_failed")
    assert "planted: missed" in result.reason.text
    assert result.measurements == (share(),)


def test_what_was_stated_before_giving_up_is_kept(tmp_path):
    def gives_up(*_):
        yield share()
        raise Inconclusive("budget", "No time.")

    result = result_of(gives_up, tmp_path)

    assert (result.status, result.reason.code) == (Status.INCONCLUSIVE, "budget")
    assert result.measurements == (share(),)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DataError("Expected an image, got damage."), "data_error", "Expected an image, got damage."),
        (ZeroDivisionError("division by zero"), "internal_error", "ZeroDivisionError: division by zero"),
        (torch.OutOfMemoryError("full"), "out_of_memory", "memory did not hold it"),
    ],
)
def test_an_exception_becomes_a_failed_result(tmp_path, error, code, text):
    def breaks(*_):
        yield share()
        raise error

    result = result_of(breaks, tmp_path)

    assert (result.status, result.reason.code) == (Status.FAILED, code)
    assert text in result.reason.text


def test_an_undeclared_metric_is_a_defect(tmp_path):
    result = result_of(lambda *_: [share().model_copy(update={"metric": "toy.other"})], tmp_path)

    assert result.status is Status.FAILED
    assert "Expected declared metrics, got toy.other" in result.reason.text


def test_nan_is_never_a_number(tmp_path):
    result = result_of(lambda *_: [share(float("nan"))], tmp_path)

    assert result.status is Status.FAILED
    assert "finite" in result.reason.text


def test_a_full_disk_stops_the_run_instead_of_failing_one_probe(tmp_path):
    def full(*_):
        raise StoreError("Expected room on the disk")

    with pytest.raises(StoreError):
        result_of(full, tmp_path)


@pytest.mark.parametrize(
    ("need", "code", "text"),
    [
        ("data:members", "missing_role", "Give --data members=SPEC"),
        ("package:no_such_package", "missing_package", "which is absent"),
        ("gradients", "no_access", "this subject gives none"),
    ],
)
def test_a_probe_is_skipped_with_its_reason_before_any_time_is_spent(need, code, text):
    import dataclasses

    subject, data = synthetic()
    subject = dataclasses.replace(subject, access=frozenset({"logits", "labels"}))
    needy = toy(lambda *_: pytest.fail("ran"), needs={need})

    plan = make_plan([needy], {}, subject, {"eval": data["eval"]}, Speed(1e-3, 2e-3))

    assert plan.steps[0].skip.code == code
    assert text in plan.steps[0].skip.text


def test_one_probe_failing_loses_nothing_of_the_others(tmp_path):
    subject, data = synthetic()
    good = toy(lambda *_: [share()])
    bad = toy(lambda *_: 1 / 0, id="bad", metrics=[])
    session = Session(subject, data, RunStore(tmp_path))

    results, costs = run_plan(make_plan([bad, good], {}, subject, data, Speed(0, 0)), session)

    assert [result.status for result in results] == [Status.FAILED, Status.MEASURED]
    assert set(costs) == {"bad", "toy"}
    assert (tmp_path / "probes/toy/result.json").is_file()


def test_predictions_are_computed_once_for_all_probes(tmp_path):
    subject, data = synthetic()
    calls = []
    subject.model.register_forward_hook(lambda *_: calls.append(1))
    session = Session(subject, data, RunStore(tmp_path))
    asks = toy(lambda subject, data, config, ctx: [share()] if len(ctx.predictions()) else [])

    counts = []
    for _ in range(2):
        result, _cost = run_step(Step(asks, ProbeConfig(), 0.0), session, session.budget)
        assert result.status is Status.MEASURED
        counts.append(len(calls))
    assert counts[0] == counts[1] == 3  # 160 images in batches of 64


def test_a_nan_logit_fails_the_probe_and_names_samples(tmp_path):
    subject, data = synthetic()
    with torch.no_grad():
        subject.model.linear.bias[0] = float("nan")

    result = run_probe(toy(lambda s, d, c, ctx: [share(float(len(ctx.predictions())))]), tmp_path, subject, data)

    assert result.status is Status.FAILED
    assert "Expected finite outputs, got NaN or Inf on 160 of 160 samples (content hashes eval-" in result.reason.text
