import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from audit.api import Subject
from audit.engine.budget import Budget
from audit.engine.plan import Step
from audit.engine.run import run_step
from audit.engine.session import Session
from audit.engine.store import RunStore
from probes.smoothing import SmoothingConfig, smoothing
from tests.splits import array_split


class Result:
    """A probe's result, easy to look into."""

    def __init__(self, found, root):
        self.found, self.root = found, root
        self.status = found.status.value
        self.reason = found.reason
        self.said = {note.code: note.text for note in found.diagnostics}
        self.controls = {control.name: control for control in found.controls}
        self.figures = {figure.id: figure for figure in found.figures}

    def values(self, metric, **where):
        """Values of a metric, by radius where it has one, else by sigma."""
        return {
            fact.where.get("eps", fact.where["sigma"]): fact.value
            for fact in self.found.measurements
            if fact.metric == f"smoothing.{metric}" and where.items() <= fact.where.items()
        }

    def table(self, sigma=0.25):
        """The per-sample table, as columns."""
        return pq.read_table(self.root / f"probes/smoothing/samples-{sigma:g}.parquet").to_pydict()


class Side(nn.Module):
    """Two classes on either side of the hyperplane through mid-grey, across the first pixel."""

    def forward(self, pixels):
        signed = pixels.flatten(1)[:, 0] - 0.5
        return torch.stack([-signed, signed], 1)


def subject_of(module, shape, classes=2, **fields):
    return Subject(module.eval(), "s", classes, (), shape, torch.device("cpu"), "0" * 64, output="logits", **fields)


def at_distances(distances, shape=(1, 2, 2)):
    """Images at signed distances from the boundary of `Side`, and their right labels."""
    pixels = np.full((len(distances), *shape), 0.4, dtype=np.float32)
    pixels[:, 0, 0, 0] = 0.5 + np.asarray(distances)
    return pixels, (np.asarray(distances) > 0).astype(np.int64)


@pytest.fixture
def smooth(tmp_path):
    """`smooth(module, pixels, labels, classes, **settings)`: the probe's result by the engine's own path."""

    def run(module, pixels, labels, classes=2, *, budget=None, seed=0, folder="run", **settings):
        pixels = np.asarray(pixels, dtype=np.float32)
        subject = subject_of(module, tuple(pixels.shape[1:]), classes)
        data = {"eval": array_split(pixels, np.asarray(labels, dtype=np.int64))}
        store = RunStore(tmp_path / f"{folder}-{seed}")
        session = Session(subject, data, store, seed, budget or Budget())
        step = Step(smoothing, SmoothingConfig(**settings), 0.0)
        return Result(run_step(step, session, session.budget)[0], store.root)

    return run
