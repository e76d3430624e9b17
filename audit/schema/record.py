"""The run record (facts), and the report built from it and the gate's verdicts."""

from typing import Literal

from pydantic import Field

from audit.schema.base import Frozen, Scalar
from audit.schema.facts import Diagnostic, ProbeCard, ProbeResult, Reason
from audit.schema.policy import GateResult, Policy

SCHEMA_VERSION = "1.0"


class FileDigest(Frozen):
    """A file that took part in the run."""

    name: str
    """File name without its folders."""
    sha256: str
    bytes: int
    kind: Literal["weights", "code"] = "weights"


class SubjectInfo(Frozen):
    """The classifier, as it was audited."""

    name: str
    spec: str
    digest: str
    """sha256 over architecture spec, weights, code and preprocessing."""
    files: tuple[FileDigest, ...] = ()
    num_classes: int
    class_names: tuple[str, ...] = ()
    input_shape: tuple[int, int, int]
    """(channels, height, width)"""
    parameters: int
    preprocessing: dict[str, object]
    output: str
    """What the raw model returns: logits, log-probabilities or probabilities."""
    access: tuple[str, ...]
    checks: tuple[Diagnostic, ...] = ()
    """What loading found: guesses taken, oddities, the preprocessing self-test."""


class DataInfo(Frozen):
    """A data split, as it was used."""

    role: str
    spec: str
    digest: str
    n: int
    n_used: int
    """Length of the seeded random prefix that probes were allowed to use."""
    class_counts: dict[str, int] = {}


class Environment(Frozen):
    """Where and with what the run was made. User and host names are left out on purpose."""

    tool_version: str
    python: str
    platform: str
    device: str
    threads: int
    packages: dict[str, str]
    numerics: dict[str, Scalar] = {}


class PlannedProbe(Frozen):
    """One line of the plan."""

    probe: str
    config: dict[str, object] = {}
    seconds: float | None = None
    """Estimated from the model's measured speed; None when unknown."""
    skip: Reason | None = None


class RunRecord(Frozen):
    """Facts of one run: `results.json`. No verdicts, no times: equal runs give equal bytes."""

    schema_version: str = SCHEMA_VERSION
    subject: SubjectInfo
    data: tuple[DataInfo, ...]
    seed: int
    arguments: dict[str, object]
    """Effective settings of the run."""
    argv: tuple[str, ...] = ()
    """The command as it was typed, without the output folder."""
    environment: Environment
    trust_exceptions: tuple[str, ...] = ()
    """What was allowed to run as code, such as `--allow-code: py:model.py:make`."""
    cards: tuple[ProbeCard, ...] = ()
    """Every probe that this tool knows, run or not: the registry of metrics, and the report's texts."""
    results: tuple[ProbeResult, ...] = ()

    def result(self, probe: str) -> ProbeResult | None:
        """The result of a probe, or None when it was not asked for."""
        return next((result for result in self.results if result.probe == probe), None)


class Cost(Frozen):
    """What a probe took: kept in `costs.json`, apart from the facts."""

    seconds: float
    peak_memory_mb: float | None = None
    """Peak of the process, or of the GPU, up to the probe's end; earlier probes count in."""


class Report(Frozen):
    """`audit.json`: facts, judgement and costs in one file; everything an HTML report shows."""

    schema_version: str = SCHEMA_VERSION
    record: RunRecord
    policy: Policy | None = None
    gate: GateResult | None = None
    costs: dict[str, Cost] = Field(default_factory=dict)
    started: str | None = None
    """UTC, RFC 3339."""
    finished: str | None = None
