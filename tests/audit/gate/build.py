"""Small records and policies for the gate's tests."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from audit.gate import judge
from audit.schema import (
    Claim,
    Environment,
    FileDigest,
    GateResult,
    Interval,
    Measurement,
    MetricSpec,
    Outcome,
    Policy,
    PositiveControl,
    ProbeCard,
    ProbeResult,
    Reason,
    RunRecord,
    Scalar,
    Status,
    SubjectInfo,
)
from audit.toolkit.statistics import proportion

TODAY = date(2026, 11, 22)
SUBJECT = "ab" * 32
WEIGHTS = "cd" * 32
ROBUST = "evasion.robust_accuracy"
TOP1 = "accuracy.top1"
ECE = "calibration.ece"
GAP = "unlearning.gap"

CARDS = (
    ProbeCard(
        id="accuracy",
        version=1,
        question="How often is the model right?",
        metrics=(MetricSpec(id=TOP1, meaning="share right", better="higher", low=0, high=1),),
    ),
    ProbeCard(
        id="evasion",
        version=1,
        question="Can small changes fool it?",
        metrics=(
            MetricSpec(
                id=ROBUST,
                meaning="share right under attack",
                better="higher",
                low=0,
                high=1,
                where={"eps": "radius", "norm": "norm"},
            ),
        ),
    ),
    ProbeCard(
        id="calibration",
        version=1,
        question="Do the confidences mean what they say?",
        metrics=(MetricSpec(id=ECE, meaning="calibration error", better="lower", low=0, high=1),),
    ),
    ProbeCard(
        id="unlearning",
        version=1,
        question="Is it forgotten?",
        metrics=(MetricSpec(id=GAP, meaning="gap", better="neither", low=0, where={"method": "attack"}),),
    ),
)


def share(
    successes: int,
    n: int,
    metric: str = TOP1,
    where: Mapping[str, Scalar] | None = None,
    claim: Claim = Claim.ESTIMATE,
) -> Measurement:
    interval = proportion(successes, n)
    return Measurement(metric=metric, where=dict(where or {}), value=successes / n, n=n, claim=claim, interval=interval)


def other(
    value: float,
    low: float,
    high: float,
    n: int = 400,
    level: float = 0.95,
    metric: str = ECE,
    claim: Claim = Claim.ESTIMATE,
    method: str = "bootstrap-percentile",
) -> Measurement:
    interval = Interval(low=low, high=high, level=level, method=method)
    return Measurement(metric=metric, value=value, n=n, claim=claim, interval=interval)


def result(
    *measurements: Measurement,
    probe: str | None = None,
    status: Status = Status.MEASURED,
    reason: tuple[str, str] | None = None,
    control_passed: bool = True,
) -> ProbeResult:
    return ProbeResult(
        probe=probe or measurements[0].metric.split(".")[0],
        version=1,
        status=status,
        reason=Reason(code=reason[0], text=reason[1]) if reason else None,
        measurements=measurements,
        controls=(PositiveControl(name="weak twin", passed=control_passed, expected="0 %", observed="31 %"),),
    )


def record(*results: ProbeResult) -> RunRecord:
    return RunRecord(
        subject=SubjectInfo(
            name="net",
            spec="timm:net",
            digest=SUBJECT,
            files=(FileDigest(name="net.safetensors", sha256=WEIGHTS, bytes=3),),
            num_classes=10,
            input_shape=(3, 8, 8),
            parameters=5,
            preprocessing={},
            output="logits",
            access=("logits",),
        ),
        data=(),
        seed=0,
        arguments={},
        environment=Environment(
            tool_version="0", python="3.11", platform="linux", device="cpu", threads=1, packages={}
        ),
        cards=CARDS,
        results=results,
    )


def rule(rule_id: str = "R-1", metric: str = TOP1, **more: Any) -> dict[str, Any]:
    return {"id": rule_id, "metric": metric, **({} if "max" in more else {"min": 0.9}), **more}


def policy(
    *rules: Mapping[str, Any],
    gate: Mapping[str, Any] | None = None,
    stats: Mapping[str, Any] | None = None,
    waivers: Sequence[Mapping[str, Any]] = (),
) -> Policy:
    return Policy.model_validate(
        {
            "schema": "audit-policy/1",
            "id": "release",
            "version": "1",
            "rules": list(rules),
            "gate": dict(gate or {}),
            "stats": dict(stats or {}),
            "waivers": list(waivers),
        }
    )


def gate(the_policy: Policy, *results: ProbeResult, today: date = TODAY) -> GateResult:
    return judge(the_policy, "f" * 64, record(*results), today)


def waiver(**more: Any) -> dict[str, Any]:
    return {"rule": "R-1", "reason": "lands in 1.5", "expires": TODAY + timedelta(days=30), **more}


def short(judged: GateResult) -> tuple[Outcome, int]:
    return judged.outcome, judged.exit_code


GOOD = result(share(990, 1000))
BAD = result(share(500, 1000))
UNSURE = result(share(900, 1000))
BROKEN = result(probe="calibration", status=Status.FAILED, reason=("crash", "It broke."))
ATTACKED = result(share(3, 500, ROBUST, {"norm": "linf", "eps": "8/255"}, Claim.UPPER_BOUND))
