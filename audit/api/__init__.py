"""All that a probe author imports.

A probe is a function that is handed a subject, data and a context, and yields facts:

    @probe(id="accuracy", version=1, question="How often is the model right?", config=AccuracyConfig,
           needs={"logits", "data:eval"}, metrics=[...], references=[...])
    def run(subject: Subject, data: Data, config: AccuracyConfig, ctx: RunContext) -> Iterable[Fact]: ...

It loads nothing, prints nothing, seeds nothing global, and leaves the subject as it found it.
"""

from audit.api.context import RunContext, Tally, Unit
from audit.api.data import (
    Batch,
    Data,
    DataSplit,
    FloatArray,
    ImagesInMemory,
    ImageSource,
    IntArray,
    Predictions,
    Role,
)
from audit.api.probe import Estimate, Fact, Probe, ProbeConfig, probe
from audit.api.subject import Access, Subject
from audit.errors import Inconclusive
from audit.schema import (
    Bars,
    Claim,
    Curve,
    Diagnostic,
    Evidence,
    Figure,
    Histogram,
    ImageGrid,
    ImageTile,
    Interval,
    Matrix,
    Measurement,
    MetricSpec,
    PositiveControl,
    Reliability,
    ReliabilityBin,
    Scalar,
    Series,
    Table,
)

__all__ = [
    "Access",
    "Bars",
    "Batch",
    "Claim",
    "Curve",
    "Data",
    "DataSplit",
    "Diagnostic",
    "Estimate",
    "Evidence",
    "Fact",
    "Figure",
    "FloatArray",
    "Histogram",
    "ImageGrid",
    "ImageSource",
    "ImageTile",
    "ImagesInMemory",
    "Inconclusive",
    "IntArray",
    "Interval",
    "Matrix",
    "Measurement",
    "MetricSpec",
    "PositiveControl",
    "Predictions",
    "Probe",
    "ProbeConfig",
    "Reliability",
    "ReliabilityBin",
    "Role",
    "RunContext",
    "Scalar",
    "Series",
    "Subject",
    "Table",
    "Tally",
    "Unit",
    "probe",
]
