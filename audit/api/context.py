"""What surrounds a probe while it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from audit.api.data import Predictions, Role
from audit.schema import Evidence


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
    def map(self, function: Callable[[Unit, RunContext], Tally], units: Sequence[Unit], what: str = "") -> list[Tally]:
        """Runs the function on units, in order, storing each as it ends; those already stored are not run again.

        When the budget ends the list is shorter: the tallies of a prefix of the units.

        Args:
            function: what is done with each.
            units: the parts of the work.
            what: that they are of, where a probe has several works; shown while it runs.
        """

    @abstractmethod
    def shared(self) -> RunContext:
        """A context of the whole run: what it maps is done once for all probes that ask for the same.

        Its random streams and the keys of its units know nothing of the probe or of its settings, so a unit's
        parameters must hold all that decides its result.
        """

    @abstractmethod
    def progress(self, items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
        """Passes items through, showing how far it is; between them the user may end the run."""

    @abstractmethod
    def diagnose(
        self,
        code: str,
        text: str,
        severity: Literal["info", "warning"] = "warning",
        *,
        conclusion: bool = False,
        undecided: bool = False,
    ) -> None:
        """Records something that a reader of the numbers should know; the same code once.

        Args:
            code: short and stable.
            text: one sentence or two.
            severity: a warning is shown wherever the numbers are.
            conclusion: so is what the probe comes to, whatever its severity.
            undecided: whether the conclusion is that there can be none: CANNOT TELL.
        """

    @abstractmethod
    def evidence(self, name: str, content: bytes, kind: str, text: str = "") -> Evidence:
        """Writes an artefact into `workdir` and returns its record, to be yielded or referred to."""
