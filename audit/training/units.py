"""Training inside of a probe: a unit of its run, stored when it ends, so that a resumed run does not train again."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch
from torch import nn

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
    """What a task on the `train` split makes of a model of the subject's form, as a subject of its own.

    It is trained once for all probes of a run that ask for the same.

    Returns:
        None where the budget ended before it was begun.

    Raises:
        AuditError: when it cannot be trained.
        Inconclusive: `budget` when time ended within it; it goes on after its last epoch when the run is resumed.
    """
    unit = Unit(
        name=f"train/{task.name}",
        params={
            "config": task.config.model_dump(mode="json"),
            "initial": tensors_sha256(tensors_of(task.model)),
            "origin": task.origin,
        },
        positions=range(len(task.split)),
        role="train",
    )
    mark = hashlib.sha256(dump_json(unit.params).encode()).hexdigest()[:8]
    tallies = ctx.shared().map(
        lambda _, inner: _weights(task, inner, f"{task.name}-{mark}.unfinished"), [unit], task.name
    )
    if not tallies:
        return None
    shapes = {name: tensor.shape for name, tensor in tensors_of(task.model).items()}  # storing makes scalars vectors
    weights = {
        name: torch.from_numpy(np.array(array)).reshape(shapes[name]) for name, array in tallies[0].arrays.items()
    }
    digest = str(tallies[0].values["sha256"])
    model = filled(task.model, weights, subject.device)
    return replace(subject, model=model, name=task.name, digest=digest, untrained=None)


def _weights(task: Task, ctx: RunContext, unfinished: str) -> Tally:
    state = ctx.workdir / unfinished
    trained = train(task, ctx, state_file=state)
    if trained.log.ending == "budget":
        raise Inconclusive("budget", f"The budget ended within the training of the {task.name}. Raise --budget.")
    state.unlink(missing_ok=True)
    return Tally(
        values={"sha256": trained.log.weights_sha256},
        arrays={name: tensor.numpy() for name, tensor in trained.weights.items()},
    )
