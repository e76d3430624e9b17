"""How a function becomes a probe.

Size: `probe` documents an argument a line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from audit.api.context import RunContext
from audit.api.data import Data, Role
from audit.api.subject import Subject
from audit.schema import Evidence, Figure, Measurement, MetricSpec, PositiveControl, ProbeCard

NEEDS = r"weights|gradients|logits|labels|data:[a-z]+|package:\w+"

Fact = Measurement | PositiveControl | Figure | Evidence
"""What a probe may yield."""


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
CostFunction = Callable[[Any, Mapping[Role, int]], Estimate]


@dataclass(frozen=True, slots=True)
class Probe:
    """A registered probe: its card, its configuration and its function."""

    card: ProbeCard
    config: type[ProbeConfig]
    run: RunFunction
    cost: CostFunction
    by_default: bool = True
    """Whether it runs where no probe was named."""

    @property
    def id(self) -> str:
        """The probe's id, also the first part of its metric ids."""
        return self.card.id


def _free(config: Any, sizes: Mapping[Role, int]) -> Estimate:
    return Estimate()


def probe(
    *,
    id: str,
    version: int,
    question: str,
    config: type[ProbeConfig] = ProbeConfig,
    needs: Collection[str] = (),
    metrics: Sequence[MetricSpec] = (),
    references: Sequence[str] = (),
    threat_model: str = "",
    how_to_read: str = "",
    limits: Sequence[str] = (),
    cost: CostFunction = _free,
    by_default: bool = True,
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
        cost: `cost(config, sizes)` for splits of so many samples by role, beyond the shared prediction pass.
        by_default: whether it runs where no probe was named; not one that takes long whatever the data.
    """
    unknown = [need for need in needs if not re.fullmatch(NEEDS, need)]
    if unknown:
        raise ValueError(f"Expected needs of the form {NEEDS}, got {', '.join(unknown)} in probe {id!r}. Correct them.")
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
        return Probe(card=card, config=config, run=run, cost=cost, by_default=by_default)

    return register
