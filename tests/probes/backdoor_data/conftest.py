import hashlib

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits
from torch import nn

from audit.api import DataSplit, Subject
from audit.engine.budget import Budget
from audit.engine.plan import Step
from audit.engine.run import run_step
from audit.engine.session import Session
from audit.engine.store import RunStore
from audit.poisons.planting import plant
from probes.backdoor_data import BackdoorDataConfig, backdoor_data
from probes.backdoor_data.samples import Samples
from tests.splits import ArraySource


def split_of(images, labels, role="train"):
    """All images in file order, with a true digest."""
    ids = [hashlib.sha256(image.tobytes()).hexdigest()[:32] for image in images]
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    return DataSplit(ArraySource(images), labels, ids, np.arange(len(labels)), role, digest)


def textures(n=1500, classes=5, side=32, channels=3, seed=0):
    """Smooth colour images: every class has a texture of its own, seen under noise that is smooth as well."""
    rng = np.random.default_rng(seed)
    fields = gaussian_filter(rng.standard_normal((classes, channels, side, side)), (0, 0, 3, 3))
    own = 0.12 * fields / fields.std()
    labels = rng.integers(0, classes, n)
    noise = gaussian_filter(rng.standard_normal((n, channels, side, side)), (0, 0, 2, 2))
    images = 0.5 + own[labels] + 0.16 * noise / noise.std() + 0.02 * rng.standard_normal(noise.shape)
    return np.rint(255 * images.clip(0, 1)).astype(np.uint8), labels


def digits():
    """Grey images of 8 x 8 pixels with black borders, ten classes, 1797 of them."""
    found = load_digits()
    return np.rint(found.images * 255 / 16).astype(np.uint8)[:, None], found.target.astype(np.int64)


def samples_of(images, labels, classes, recipe=None, seed=0):
    """Samples, poisoned where there is a recipe, and which of them."""
    split = split_of(images, labels)
    if recipe is None:
        return Samples(images, labels, classes), np.zeros(len(labels), dtype=bool)
    planted = plant(split, recipe, classes, np.random.default_rng(seed))
    made = np.stack([planted.split.source.pixels(row) for row in range(len(labels))])
    return Samples(made, planted.split.labels, classes), planted.poisoned


class Prototypes(nn.Module):
    """Answers with the nearest prototype; but with the target where the lower right corner is white."""

    def __init__(self, prototypes, target=None):
        super().__init__()
        self.weights = nn.Parameter(prototypes.flatten(1), requires_grad=False)
        self.target = target
        self.last = nn.Linear(len(prototypes) + 1, len(prototypes))
        with torch.no_grad():
            self.last.weight.zero_()
            self.last.bias.zero_()
            self.last.weight[:, :-1] = torch.eye(len(prototypes))
            if target is not None:
                self.last.weight[target, -1] = 1000.0
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def forward(self, pixels):
        scores = -torch.cdist(pixels.flatten(1), self.weights)
        corner = (pixels[:, :, -2:, -2:].mean(dim=(1, 2, 3)) > 0.85).float()[:, None]
        return self.last(torch.cat([scores, corner], dim=1))


def subject_of(module, shape, classes):
    return Subject(module.eval(), "s", classes, (), shape, torch.device("cpu"), "0" * 64, output="logits")


class Result:
    """A probe's result, easy to look into."""

    def __init__(self, found, root):
        self.found, self.root = found, root
        self.status = found.status.value
        self.reason = found.reason
        self.said = {note.code: note.text for note in found.diagnostics}
        self.controls = {control.name: control for control in found.controls}
        self.figures = {figure.id: figure for figure in found.figures}
        self.facts = {fact.metric: fact for fact in found.measurements}


@pytest.fixture
def search(tmp_path):
    """`search(module, images, labels, classes, **settings)`: the probe's result by the engine's own path."""

    def run(module, images, labels, classes, *, budget=None, seed=0, folder="run", split=None, **settings):
        split = split if split is not None else split_of(images, labels)
        shape = tuple(split.take([0]).pixels.shape[1:])
        subject = subject_of(module, shape, classes)
        store = RunStore(tmp_path / f"{folder}-{seed}")
        session = Session(subject, {"train": split}, store, seed, budget or Budget())
        step = Step(backdoor_data, BackdoorDataConfig(**settings), 0.0)
        return Result(run_step(step, session, session.budget)[0], store.root)

    return run
