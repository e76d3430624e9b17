"""A made-up but complete report: every figure kind, every outcome, and names that try to break the page."""

import hashlib
from datetime import date
from pathlib import Path

from audit.schema import (
    Claim,
    Cost,
    DataInfo,
    Diagnostic,
    Environment,
    Evidence,
    FileDigest,
    GateResult,
    Interval,
    Measurement,
    Outcome,
    Policy,
    PositiveControl,
    ProbeResult,
    Reason,
    Report,
    Rule,
    RunRecord,
    Status,
    SubjectInfo,
    Verdict,
    Waiver,
    measurement_id,
)
from tests.reports.sample_cards import CARDS
from tests.reports.sample_figures import (
    CLASSES,
    NASTY,
    bars,
    curve,
    grid,
    histogram,
    matrix,
    reliability,
    roc,
    small_image,
    table,
    write_images,
)

__all__ = [
    "CLASSES",
    "NASTY",
    "bars",
    "curve",
    "grid",
    "histogram",
    "matrix",
    "record",
    "reliability",
    "roc",
    "sample_report",
    "small_image",
    "table",
    "write_images",
]


def _interval(low: float, high: float, method: str = "clopper-pearson") -> Interval:
    return Interval(low=low, high=high, method=method)


def _share(
    metric: str, value: float, half: float, n: int, claim: Claim = Claim.ESTIMATE, **where: str | int | float
) -> Measurement:
    interval = _interval(max(0.0, value - half), min(1.0, value + half))
    return Measurement(metric=metric, where=where, value=value, n=n, claim=claim, interval=interval)


def results(evidence: tuple[Evidence, ...]) -> tuple[ProbeResult, ...]:
    """Measured, inconclusive, skipped and failed probes."""
    control = PositiveControl(
        name="undefended copy", passed=True, expected="accuracy below 5 % at 8/255", observed="0.4 %"
    )
    per_class = tuple(
        _share("accuracy.per_class", 0.9 + i / 120, 0.02, 1000, **{"class": c}) for i, c in enumerate(CLASSES)
    )
    robust = "evasion.robust_accuracy"
    return (
        ProbeResult(
            probe="accuracy", version=1, status=Status.MEASURED, config={"batch": 256, "top": [1, 5]},
            measurements=(_share("accuracy.top1", 0.9412, 0.0046, 10000),
                          _share("accuracy.worst_class", 0.871, 0.021, 1000, **{"class": "cat"}), *per_class),
            figures=(bars(), matrix()),
        ),
        ProbeResult(
            probe="calibration", version=2, status=Status.MEASURED,
            measurements=(_share("calibration.ece", 0.0312, 0.0041, 10000),
                          Measurement(metric="calibration.nll", value=0.2134, n=10000, claim=Claim.ESTIMATE,
                                      interval=_interval(0.198, 0.229, "bootstrap-percentile"),
                                      assumptions=("samples are independent",))),
            figures=(reliability(), histogram()),
            diagnostics=(Diagnostic(code="few_in_bin", text="Three bins hold few samples.", severity="info"),),
        ),
        ProbeResult(
            probe="evasion", version=1, status=Status.MEASURED, device="cuda: one accelerator",
            config={"eps": ["2/255", "4/255", "8/255"], "norm": "linf", "steps": 100, "restarts": 5},
            measurements=(_share(robust, 0.463, 0.031, 1000, Claim.UPPER_BOUND, norm="linf", eps="4/255"),
                          _share(robust, 0.123, 0.021, 1000, Claim.UPPER_BOUND, norm="linf", eps="8/255")),
            controls=(control,), figures=(curve(), table(), grid(evidence)), evidence=evidence,
            diagnostics=(Diagnostic(code="gradient_masking", text="Gradients vanish on 3 % of the samples."),),
        ),
        ProbeResult(
            probe="certified", version=1, status=Status.INCONCLUSIVE,
            reason=Reason(code="budget", text="Bounds were computed for 200 of 1000 samples before the time ended."),
            measurements=(_share("certified.accuracy", 0.312, 0.062, 200, Claim.LOWER_BOUND, norm="linf",
                                 eps="2/255"),),
        ),
        ProbeResult(probe="membership", version=1, status=Status.SKIPPED,
                    reason=Reason(code="missing_role", text="No data of role members was given.")),
        ProbeResult(
            probe="poisoning", version=1, status=Status.FAILED, figures=(roc(),),
            reason=Reason(code="control_failed", text="The probe did not find its own planted trigger."),
            controls=(PositiveControl(name="patch", passed=False, expected="an index above 3", observed="1.2"),),
        ),
    )  # fmt: skip


def _verdict(rule: str, metric: str, outcome: Outcome, reason: str, **rest: object) -> Verdict:
    base = {"rule": rule, "metric": metric, "level": "error", "outcome": outcome, "reason": reason, "direction": "min"}
    return Verdict.model_validate(base | rest)


def _used(m: Measurement, limit: float) -> dict[str, object]:
    return {"where": m.where, "value": m.value, "interval": m.interval, "limit": limit, "n": m.n, "claim": m.claim,
            "measurement": measurement_id(m.metric, m.where)}  # fmt: skip


def verdicts(found: tuple[ProbeResult, ...]) -> tuple[Verdict, ...]:
    """All five outcomes, a waiver, an advisory rule, bounds of both directions."""
    m = {(r.probe, i): x for r in found for i, x in enumerate(r.measurements)}
    return (
        _verdict("ACC-1", "accuracy.top1", Outcome.PASS, "The lower limit 93.7 % reaches 90 %.", threshold=0.9,
                 **_used(m["accuracy", 0], 0.937)),
        _verdict("ACC-2", "accuracy.worst_class", Outcome.INCONCLUSIVE, "The interval holds 87 %.", threshold=0.87,
                 samples_needed=4200, **_used(m["accuracy", 1], 0.853)),
        _verdict("CAL-1", "calibration.ece", Outcome.PASS, "The upper limit 3.5 % stays under 5 %.", threshold=0.05,
                 **(_used(m["calibration", 0], 0.0346) | {"direction": "max"})),
        _verdict("ROB-1", "evasion.robust_accuracy", Outcome.FAIL, "At most 14.4 %, and at least 30 % is asked.",
                 threshold=0.3, **_used(m["evasion", 1], 0.142)),
        _verdict("ROB-2", "evasion.robust_accuracy", Outcome.FAIL, "At most 49.4 %, and at least 50 % is asked.",
                 threshold=0.5, waived="Attack surface is closed in this product.", **_used(m["evasion", 0], 0.489)),
        _verdict("CERT-1", "certified.accuracy", Outcome.PASS, "Proved for 25 %.", threshold=0.2, level="warn",
                 **_used(m["certified", 0], 0.26)),
        _verdict("MEM-1", "membership.tpr", Outcome.NOT_RUN, "No data of role members was given.", threshold=0.01,
                 direction="max"),
        _verdict("POI-1", "poisoning.anomaly_index", Outcome.ERROR, "The probe failed: its control found nothing.",
                 threshold=2, direction="max"),
    )  # fmt: skip


def policy(found: tuple[Verdict, ...]) -> Policy:
    """The rules behind the verdicts."""
    rules = tuple(
        Rule.model_validate(
            {"id": v.rule, "metric": v.metric, "where": v.where, v.direction: v.threshold, "level": v.level}
        )
        for v in found
    )
    waiver = Waiver(rule="ROB-2", reason="Attack surface is closed in this product.", expires=date(2027, 6, 30),
                    approved_by="A. Reviewer", ticket="SEC-41")  # fmt: skip
    return Policy(policy_schema="audit-policy/1", id="vision-release", version="3", rules=rules, waivers=(waiver,))


def record(found: tuple[ProbeResult, ...], names: tuple[str, ...] = CLASSES) -> RunRecord:
    """The facts of a run."""
    digest = hashlib.sha256(b"model").hexdigest()
    subject = SubjectInfo(
        name="resnet18-cifar10", spec="timm:resnet18?num_classes=10", digest=digest, num_classes=len(names),
        files=(FileDigest(name="resnet18.safetensors", sha256=digest, bytes=44_786_912),), class_names=names,
        input_shape=(3, 32, 32), parameters=11_173_962, output="logits", access=("gradients", "logits", "weights"),
        preprocessing={"mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616], "resize": None},
        checks=(Diagnostic(code="normalisation", text="Normalisation was taken from the file.", severity="info"),),
    )  # fmt: skip
    data = DataInfo(role="eval", spec="cifar10:test", digest=digest, n=10000, n_used=10000,
                    class_counts=dict.fromkeys(names, 1000))  # fmt: skip
    environment = Environment(
        tool_version="0.1.0", python="3.11.9", platform="Linux x86_64", device="cuda", threads=16,
        packages={"numpy": "2.4.0", "torch": "2.11.0", "torchvision": "0.26.0"}, numerics={"tf32": False},
    )  # fmt: skip
    return RunRecord(
        subject=subject, data=(data,), seed=7, environment=environment, cards=CARDS, results=found,
        arguments={"device": "auto", "probes": ["accuracy", "calibration", "evasion"], "samples": None},
        argv=("audit", "run", "timm:resnet18?num_classes=10", "--weights", "resnet18.safetensors",
              "--data", "cifar10:test", "--policy", "vision release.toml", "--seed", "7"),
        trust_exceptions=("--allow-code: py:model.py:make",),
    )  # fmt: skip


def sample_report(run_dir: Path) -> Report:
    """The whole report; writes its image files to the run folder."""
    found = results(write_images(run_dir))
    judged = verdicts(found)
    gate = GateResult(
        policy_id="vision-release", policy_version="3", policy_sha256=hashlib.sha256(b"policy").hexdigest(),
        judged_on=date(2026, 11, 24), outcome=Outcome.FAIL, exit_code=1, verdicts=judged,
        sentence="FAIL: ROB-1 fails; ACC-2, MEM-1 and POI-1 could not be told; 1 waived (ROB-2).",
        notices=("The waiver of ROB-2 ends in 218 days.",),
    )  # fmt: skip
    costs = {"accuracy": Cost(seconds=12.3, peak_memory_mb=812), "evasion": Cost(seconds=1843.2, peak_memory_mb=5120.4)}
    return Report(record=record(found), policy=policy(judged), gate=gate, costs=costs,
                  started="2026-11-24T09:12:04Z", finished="2026-11-24T09:46:31Z")  # fmt: skip
