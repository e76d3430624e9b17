"""All that a probe author imports.

A probe is a function that is handed a subject, data and a context, and yields facts:

    @probe(id="accuracy", version=1, question="How often is the model right?", config=AccuracyConfig,
           needs={"logits", "data:eval"}, metrics=[...], references=[...])
    def run(subject: Subject, data: Data, config: AccuracyConfig, ctx: RunContext) -> Iterable[Fact]: ...

It loads nothing, prints nothing, seeds nothing global, and leaves the subject as it found it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

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
    ProbeCard,
    Reliability,
    ReliabilityBin,
    Scalar,
    Series,
    Table,
)

__all__ = [
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

Access = Literal["weights", "gradients", "logits", "labels"]
Role = Literal["eval", "train", "members", "nonmembers", "forget", "clean", "surrogate"]
Fact = Measurement | PositiveControl | Figure | Evidence
FloatArray = npt.NDArray[np.float32] | npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


# ---------------------------------------------------------------------------------------------- the subject


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """The classifier under audit.

    Attributes:
        model: maps pixels (n, c, h, w) float32 in [0, 1] to logits (n, num_classes); normalisation lives inside.
            In eval mode, parameters without `requires_grad`. Hand it to third-party engines; else use `logits`.
        name: short, for titles.
        num_classes: columns of the logits.
        class_names: one a class, or empty.
        input_shape: (channels, height, width) of an image.
        device: where the model lives.
        digest: sha256 over everything that decides the output.
        access: what may be used of it.
        output: what the raw network returned before it was brought to logits.
    """

    model: nn.Module
    name: str
    num_classes: int
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    device: torch.device
    digest: str
    access: frozenset[Access] = frozenset({"weights", "gradients", "logits", "labels"})
    output: Literal["logits", "log-probabilities", "probabilities"] = "logits"

    def logits(self, pixels: Tensor) -> Tensor:
        """Logits (n, num_classes) float32 of pixels (n, c, h, w) float32 in [0, 1]; keeps the graph for gradients."""
        logits: Tensor = self.model(pixels.to(self.device, non_blocking=True))
        return logits.float()

    @contextlib.contextmanager
    def untouched(self) -> Iterator[nn.Module]:
        """The model for a third-party engine; flags, buffers and gradients are put back afterwards, whatever it did."""
        modes = {module: module.training for module in self.model.modules()}
        wanted = {parameter: parameter.requires_grad for parameter in self.model.parameters()}
        buffers = {name: buffer.detach().clone() for name, buffer in self.model.named_buffers()}
        try:
            yield self.model
        finally:
            for module, training in modes.items():
                module.training = training
            for parameter, requires_grad in wanted.items():
                parameter.requires_grad_(requires_grad)
                parameter.grad = None
            with torch.no_grad():
                for name, buffer in self.model.named_buffers():
                    if name in buffers and not torch.equal(buffer, buffers[name]):
                        buffer.copy_(buffers[name])


# ---------------------------------------------------------------------------------------------- the data


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some samples of a split.

    Attributes:
        pixels: (n, c, h, w) float32 in [0, 1], already resized and cropped to the subject's input.
        labels: (n,) int64.
        positions: places in the split's permutation, (n,).
    """

    pixels: Tensor
    labels: Tensor
    positions: Sequence[int]


class ImageSource(Protocol):
    """Random access to decoded images; implemented by `audit.loading`, one class a format."""

    def __len__(self) -> int:
        """Number of samples."""

    def pixels(self, index: int) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
        """Sample `index` as (c, h, w), brought to the subject's size and channels: uint8, or float32 in [0, 1]."""


@dataclass(frozen=True, slots=True, eq=False)
class DataSplit:
    """A labelled set in a fixed seeded order; any prefix of that order is a valid random sample.

    Attributes:
        source: where images are read when needed; nothing is kept.
        labels: (n_total,) int64, in file order.
        ids: content hashes, in file order.
        order: the seeded permutation of file positions, cut to what the run may use: (n,) int64.
        role: what the split may be used for.
        digest: sha256 over ids and labels of the whole set.
        class_names: names found in the data, or empty.
    """

    source: ImageSource
    labels: IntArray
    ids: Sequence[str]
    order: IntArray
    role: Role
    digest: str
    spec: str = ""
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of samples the run may use."""
        return len(self.order)

    def batch(self, start: int, stop: int) -> Batch:
        """Samples `start` to `stop` of the permuted order, decoded now."""
        return self.take(range(start, min(stop, len(self))))

    def take(self, positions: Sequence[int]) -> Batch:
        """The samples at these positions of the permuted order, decoded now."""
        rows = self.order[np.asarray(positions, dtype=np.int64)]
        images = np.stack([self.source.pixels(int(row)) for row in rows])
        pixels = torch.from_numpy(images)
        pixels = pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels.float()
        return Batch(pixels, torch.from_numpy(self.labels[rows]), positions)

    def sample_ids(self, positions: Sequence[int]) -> list[str]:
        """Content hashes of the samples at these positions."""
        return [self.ids[int(self.order[position])] for position in positions]

    def first(self, n: int) -> DataSplit:
        """The split cut to its first n samples of the order."""
        return dataclasses.replace(self, order=self.order[:n])


Data = Mapping[str, DataSplit]
"""Splits by role; a probe that needs `data:eval` finds `data["eval"]`."""


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """The subject's answers on the first n samples of a split.

    Attributes:
        logits: (n, num_classes) float32, finite.
        labels: (n,) int64.
    """

    logits: npt.NDArray[np.float32]
    labels: IntArray

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.labels)


# ---------------------------------------------------------------------------------------------- the context


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work that can be done, stored and resumed by itself.

    Attributes:
        name: unique within the probe, such as `"linf/0-128"`; part of the unit's key and of its random streams.
        params: what else decides the result (JSON values).
        positions: samples it works on; their content hashes enter the key.
        role: the split of those samples.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    positions: Sequence[int] = ()
    role: Role = "eval"


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """What a unit found: JSON values, and arrays that are stored beside them."""

    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


T = TypeVar("T")


class RunContext(ABC):
    """The only thing around a probe: its device, its randomness, its budget and its store."""

    device: torch.device
    workdir: Path
    """The run folder's part for this probe; artefacts go here and are announced with `evidence`."""

    @abstractmethod
    def rng(self, purpose: str) -> np.random.Generator:
        """A generator keyed by (seed, probe, unit, purpose): independent of order, sharding and resuming."""

    @abstractmethod
    def torch_generator(self, purpose: str) -> torch.Generator:
        """The same for torch, on the CPU."""

    @abstractmethod
    def seconds_left(self) -> float:
        """Seconds of the budget left to this probe; `inf` without a budget."""

    @abstractmethod
    def predictions(self, role: Role = "eval") -> Predictions:
        """The subject's logits on a split, computed once and shared by all probes.

        Raises:
            Inconclusive: when the budget ended before the first chunk.
        """

    @abstractmethod
    def map(self, function: Callable[[Unit, RunContext], Tally], units: Sequence[Unit]) -> list[Tally]:
        """Runs the function on units, in order, storing each as it ends; those already stored are not run again.

        When the budget ends the list is shorter: the tallies of a prefix of the units.
        """

    @abstractmethod
    def progress(self, items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
        """Passes items through, showing how far it is."""

    @abstractmethod
    def diagnose(self, code: str, text: str, severity: Literal["info", "warning"] = "warning") -> None:
        """Records something that a reader of the numbers should know; the same code once."""

    @abstractmethod
    def evidence(self, name: str, content: bytes, kind: str, text: str = "") -> Evidence:
        """Writes an artefact into `workdir` and returns its record, to be yielded or referred to."""


# ---------------------------------------------------------------------------------------------- the probe


class ProbeConfig(BaseModel):
    """Settings of a probe; the defaults are its documented protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a probe will cost, in passes of one sample through the subject."""

    forwards: float = 0
    backwards: float = 0
    seconds: float = 0
    """On top of the passes."""


RunFunction = Callable[[Subject, Data, Any, RunContext], Iterable[Fact]]
CostFunction = Callable[[Any, int], Estimate]


@dataclass(frozen=True, slots=True)
class Probe:
    """A registered probe: its card, its configuration and its function."""

    card: ProbeCard
    config: type[ProbeConfig]
    run: RunFunction
    cost: CostFunction

    @property
    def id(self) -> str:
        """The probe's id, also the first part of its metric ids."""
        return self.card.id


def _free(config: Any, n: int) -> Estimate:
    return Estimate()


def probe(
    *,
    id: str,
    version: int,
    question: str,
    config: type[ProbeConfig] = ProbeConfig,
    needs: Iterable[str] = (),
    metrics: Sequence[MetricSpec] = (),
    references: Sequence[str] = (),
    threat_model: str = "",
    how_to_read: str = "",
    limits: Sequence[str] = (),
    cost: CostFunction = _free,
) -> Callable[[RunFunction], Probe]:
    """Registers a function as a probe.

    Args:
        id: what is measured, such as `calibration`; metric ids begin with it.
        version: raised whenever a number's meaning changes; stored results of other versions are not reused.
        question: what it answers, ending in a question mark.
        config: its settings.
        needs: what must be there, else the probe is skipped with a reason: `weights`, `gradients`, `logits`, `labels`,
            `data:ROLE`, `package:NAME`.
        metrics: every metric it may state.
        references: the sources of its methods.
        threat_model: goal, knowledge, capability and budget of the adversary, or "" where there is none.
        how_to_read: for someone who is not of the field.
        limits: what the numbers do not show.
        cost: `cost(config, n)` for n samples, beyond the shared prediction pass.
    """
    card = ProbeCard(
        id=id,
        version=version,
        question=question,
        needs=tuple(sorted(needs)),
        threat_model=threat_model,
        how_to_read=how_to_read,
        limits=tuple(limits),
        references=tuple(references),
        metrics=tuple(metrics),
    )

    def register(run: RunFunction) -> Probe:
        return Probe(card=card, config=config, run=run, cost=cost)

    return register
