"""Small subjects with known truth, and a context that runs units at once."""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from audit.api import DataSplit, Diagnostic, Evidence, RunContext, Subject


class StubContext(RunContext):
    """Runs units in order, at most `most` of them; keeps diagnostics and artefacts."""

    def __init__(self, seed=0, unit="", most=None):
        self.seed, self.unit, self.most = seed, unit, most
        self.device = torch.device("cpu")
        self.workdir = Path(tempfile.gettempdir()) / "evasion-tests"
        self.diagnostics, self.files, self.units = {}, {}, []

    def _key(self, purpose):
        text = f"{self.seed}/evasion/{self.unit}/{purpose}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")

    def rng(self, purpose):
        return np.random.default_rng(self._key(purpose))

    def torch_generator(self, purpose):
        return torch.Generator().manual_seed(self._key(purpose))

    def seconds_left(self):
        return float("inf")

    def predictions(self, role="eval"):
        raise NotImplementedError

    def map(self, function, units, what=""):
        tallies = []
        for unit in units:
            if self.most is not None and len(self.units) >= self.most:
                break
            self.units.append(unit)
            tallies.append(function(unit, StubContext(self.seed, unit.name)))
        return tallies

    def shared(self):
        return StubContext(self.seed, "shared")

    def progress(self, items, what, total=None):
        return items

    def diagnose(self, code, text, severity="warning", *, conclusion=False):
        self.diagnostics.setdefault(code, Diagnostic(code=code, text=text, severity=severity))

    def evidence(self, name, content, kind, text=""):
        self.files[name] = content
        path = f"probes/evasion/{name}"
        return Evidence(path=path, sha256=hashlib.sha256(content).hexdigest(), kind=kind, text=text)


class Images:
    """Decoded images in memory."""

    def __init__(self, pixels):
        self.images = np.asarray(pixels, dtype=np.float32)

    def __len__(self):
        return len(self.images)

    def pixels(self, index):
        return self.images[index]


def split_of(pixels, labels):
    labels = np.asarray(labels, dtype=np.int64)
    ids = [hashlib.sha256(f"{index}".encode()).hexdigest() for index in range(len(labels))]
    return DataSplit(Images(pixels), labels, ids, np.arange(len(labels)), "eval", "0" * 64)


def subject_of(model, shape, classes, output="logits", untrained=None):
    model = model.eval().requires_grad_(False)
    device = torch.device("cpu")
    return Subject(model, "planted", classes, (), shape, device, "0" * 64, output=output, untrained=untrained)


class Outcome:
    """Facts of one run, easy to look into."""

    def __init__(self, facts, ctx):
        self.facts, self.ctx = facts, ctx
        self.codes = set(ctx.diagnostics) - {"evaluation"}
        self.verdict = ctx.diagnostics["evaluation"].text.split(":")[0].removeprefix("Evaluation ")
        self.controls = {fact.name: fact for fact in facts if type(fact).__name__ == "PositiveControl"}
        self.figures = {fact.id: fact for fact in facts if hasattr(fact, "alt")}

    def measured(self, metric, norm=None):
        """Measurements of a metric by radius; the one measurement when it has no setting."""
        found = [fact for fact in self.facts if getattr(fact, "metric", "") == f"evasion.{metric}"]
        if norm is None:
            return found[0]
        return {fact.where["eps"]: fact for fact in found if fact.where["norm"] == norm}


@pytest.fixture(scope="session")
def audited():
    """Runs the probe on a model, images and labels."""
    from probes.evasion import EvasionConfig, evasion

    def run(model, pixels, labels, *, classes, ctx=None, output="logits", untrained=None, train=None, **settings):
        ctx = ctx or StubContext()
        subject = subject_of(model, tuple(pixels.shape[1:]), classes, output, untrained)
        config = EvasionConfig(**settings)
        data = {"eval": split_of(pixels, labels)} | ({"train": split_of(*train)} if train else {})
        return Outcome(list(evasion.run(subject, data, config, ctx)), ctx)

    return run


@pytest.fixture
def stub_context():
    return StubContext


@pytest.fixture(scope="session")
def digits():
    """Digits (n, 1, 8, 8) in [0, 1] not used in training, their labels, and an undefended net."""
    found = load_digits()
    pixels = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(found.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(150):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(pixels[:1200]), labels[:1200]).backward()
            optimiser.step()
        model.zero_grad(set_to_none=True)
    return pixels[1200:], labels[1200:], model
