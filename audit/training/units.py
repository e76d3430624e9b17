"""Training inside of a probe: a unit of its run, stored when it ends, so that a resumed run does not train again."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from audit.api import DataSplit, Inconclusive, RunContext, Subject, Tally, Unit
from audit.schema import dump_json
from audit.toolkit.tensors import tensors_of, tensors_sha256
from audit.training.config import TrainingConfig
from audit.training.loop import Task, train
from audit.training.recipes import filled, standard

STEPS, LEAST_AT_ONCE, MOST_AT_ONCE = 32, 16, 128
"""Steps an epoch where there are few images, and images of a step."""


def batch_size_for(images: int) -> int:
    """So many that an epoch has some tens of steps: few steps move weights little, whatever the number of epochs."""
    return min(MOST_AT_ONCE, max(LEAST_AT_ONCE, images // STEPS))


def initial_model(subject: Subject, ctx: RunContext) -> nn.Module:
    """The subject's architecture with initial values, the same ones for all probes of a run.

    Raises:
        AuditError: when it cannot be built again.
    """
    assert subject.untrained is not None
    return subject.untrained(int(torch.randint(2**31, (), generator=ctx.shared().torch_generator("initial"))))


def undefended_twin(
    subject: Subject, initial: nn.Module, split: DataSplit, epochs: int, ctx: RunContext
) -> Subject | None:
    """A network of the subject's form that is trained on labels alone; see `trained_subject`."""
    config = TrainingConfig(epochs=epochs, batch_size=batch_size_for(len(split)))
    return trained_subject(standard(initial, split, config, "twin"), subject, ctx)


def trained_subject(task: Task, subject: Subject, ctx: RunContext) -> Subject | None:
    """What a task makes of a model of the subject's form, as a subject of its own.

    It is trained once for all probes of a run that ask for the same.

    Returns:
        None where the budget ended before it was begun.

    Raises:
        AuditError: when it cannot be trained.
        Inconclusive: as `trained_weights`.
    """
    weights = trained_weights(task, ctx.shared())
    if weights is None:
        return None
    model = filled(task.model, weights, subject.device)
    return replace(subject, model=model, name=task.name, digest=tensors_sha256(weights), untrained=None)


def trained_weights(task: Task, ctx: RunContext) -> dict[str, Tensor] | None:
    """The tensors that a task makes of its model's, as a unit of the run: found again by a resumed run.

    Returns:
        None where the budget ended before the training was begun.

    Raises:
        AuditError: when it cannot be trained.
        Inconclusive: `budget` when time ended within it; it goes on after its last epoch when the run is resumed.
    """
    initial = tensors_of(task.model)
    unit = Unit(
        name=f"train/{task.name}",
        params={
            "config": task.config.model_dump(mode="json"),
            "initial": tensors_sha256(initial),
            "origin": task.origin,
            "data": task.split.digest,
            "order": hashlib.sha256(task.split.order.tobytes()).hexdigest(),
        },
    )
    mark = hashlib.sha256(dump_json(unit.params).encode()).hexdigest()[:8]
    unfinished = f"{task.name.replace('/', '-')}-{mark}.unfinished"
    tallies = ctx.map(lambda _, inner: _weights(task, inner, unfinished), [unit], task.name)
    if not tallies:
        return None
    arrays = tallies[0].arrays  # storing makes scalars vectors
    return {name: torch.from_numpy(np.array(arrays[name])).reshape(initial[name].shape) for name in arrays}


def _weights(task: Task, ctx: RunContext, unfinished: str) -> Tally:
    state = ctx.workdir / unfinished
    trained = train(task, ctx, state_file=state)
    if trained.log.ending == "budget":
        raise Inconclusive("budget", f"The budget ended within the training of the {task.name}. Raise --budget.")
    state.unlink(missing_ok=True)
    return Tally(arrays={name: tensor.numpy() for name, tensor in trained.weights.items()})
