"""What a probe states: measurements, evidence, figures, its positive control, and what became of it."""

import hashlib
from typing import Literal, Self

from pydantic import Field, model_validator

from audit.schema.base import Claim, Frozen, Scalar, Status, dump_json
from audit.schema.figures import Figure


class Interval(Frozen):
    """Where the truth may lie, and how that was computed."""

    low: float
    high: float
    level: float = Field(default=0.95, gt=0, lt=1)
    method: str
    """For example `clopper-pearson`, `bootstrap-percentile`, `profile-likelihood`."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"Expected an interval with low <= high, got [{self.low}, {self.high}].")
        return self


class Measurement(Frozen):
    """One number, with what is needed to believe it."""

    metric: str = Field(pattern=r"^[a-z0-9_-]+(\.[a-z0-9_]+)+$")
    """`probe.measure`, declared by the probe; see `MetricSpec`."""
    where: dict[str, Scalar] = {}
    """The setting, such as `{"norm": "linf", "eps": "8/255"}`."""
    value: float
    n: int = Field(ge=1)
    """Samples behind the number."""
    claim: Claim
    interval: Interval | None = None
    """Sampling uncertainty. An estimate always has one."""
    assumptions: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _estimate_has_interval(self) -> Self:
        if self.claim is Claim.ESTIMATE and self.interval is None:
            raise ValueError(f"Expected an interval with the estimate {self.metric!r}, got none. State one.")
        if self.interval is not None:
            low, high = self.interval.low, self.interval.high
            slack = (high - low) + 1e-9  # a bias-corrected interval may lie beside its plug-in value, but not far off
            if not low - slack <= self.value <= high + slack:
                raise ValueError(f"Expected {self.metric!r} near its interval {low} to {high}, got {self.value}.")
        return self


def measurement_id(metric: str, where: dict[str, Scalar]) -> str:
    """A short id that joins the same quantity across runs and links a verdict to its number."""
    return "m_" + hashlib.sha256(dump_json([metric, where]).encode()).hexdigest()[:10]


class MetricSpec(Frozen):
    """A metric that a probe may state."""

    id: str
    meaning: str
    """One sentence that a release engineer understands."""
    better: Literal["higher", "lower", "neither"]
    unit: str = "1"
    where: dict[str, str] = {}
    """Keys that a measurement's `where` carries, each with what it means."""
    low: float | None = None
    high: float | None = None
    """Range of possible values, for the scale of plots."""


class Evidence(Frozen):
    """An artefact behind a number."""

    path: str
    """Relative to the run folder, with forward slashes."""
    sha256: str
    kind: str
    """For example `per-sample-table`, `image`, `adversarial-images`."""
    text: str = ""


class PositiveControl(Frozen):
    """The probe's own proof that it works on this subject: it finds what was planted, or passes a check of itself."""

    name: str
    passed: bool
    expected: str
    observed: str


class Diagnostic(Frozen):
    """Something noticed on the way that a reader of the numbers should know."""

    code: str
    text: str
    severity: Literal["info", "warning"] = "warning"
    conclusion: bool = False
    """Whether it is what the probe comes to, in words: said wherever the probe's numbers are."""
    undecided: bool = False
    """Whether the conclusion is that there can be none, as in CANNOT TELL: said among what could not be told."""


class Reason(Frozen):
    """Why something was skipped, inconclusive or failed."""

    code: str
    text: str


class ProbeCard(Frozen):
    """What a probe is, kept in the record so that a report never needs the probe's code."""

    id: str
    version: int
    question: str
    needs: tuple[str, ...] = ()
    threat_model: str = ""
    how_to_read: str = ""
    limits: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    metrics: tuple[MetricSpec, ...] = ()


class ProbeResult(Frozen):
    """All that one probe left behind; times and memory are apart, in `Cost`, so that equal runs are equal bytes."""

    probe: str
    version: int
    config: dict[str, object] = {}
    status: Status
    reason: Reason | None = None
    measurements: tuple[Measurement, ...] = ()
    controls: tuple[PositiveControl, ...] = ()
    figures: tuple[Figure, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()
    device: str = "cpu"

    @model_validator(mode="after")
    def _reasoned(self) -> Self:
        if self.status is not Status.MEASURED and self.reason is None:
            raise ValueError(f"Expected a reason with status {self.status.value} of probe {self.probe!r}, got none.")
        return self
