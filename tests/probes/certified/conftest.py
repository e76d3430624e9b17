import numpy as np
import pytest
import torch

from audit.api import Subject
from audit.engine.budget import Budget
from audit.engine.plan import Step
from audit.engine.run import run_step
from audit.engine.session import Session
from audit.engine.store import RunStore
from probes.certified import CertifiedConfig, certified
from tests.splits import array_split


class Result:
    """A probe's result, easy to look into."""

    def __init__(self, found):
        self.found = found
        self.status = found.status.value
        self.reason = found.reason
        self.said = {note.code: note.text for note in found.diagnostics}
        self.controls = {control.name: control for control in found.controls}
        self.figures = {figure.id: figure for figure in found.figures}

    def values(self, metric, norm="linf"):
        """Values of a metric by radius."""
        return {
            fact.where["eps"]: fact.value
            for fact in self.found.measurements
            if fact.metric == f"certified.{metric}" and fact.where["norm"] == norm
        }


@pytest.fixture
def certify(tmp_path):
    """`certify(module, pixels, labels, classes, **settings)`: the probe's result by the engine's own path."""

    def run(module, pixels, labels, classes, *, budget=None, seed=0, **settings):
        pixels = np.asarray(pixels, dtype=np.float32)
        settings = {"second_opinion": 0, **settings}  # which takes a process, and some seconds
        subject = Subject(
            module.eval(), "s", classes, (), tuple(pixels.shape[1:]), torch.device("cpu"), "0" * 64, output="logits"
        )
        data = {"eval": array_split(pixels, np.asarray(labels, dtype=np.int64))}
        session = Session(subject, data, RunStore(tmp_path / f"run-{seed}"), seed, budget or Budget())
        return Result(run_step(Step(certified, CertifiedConfig(**settings), 0.0), session, session.budget)[0])

    return run
