import numpy as np
import pytest
import torch

from audit.api import Subject
from audit.engine.budget import Budget
from audit.engine.plan import Step
from audit.engine.run import run_step
from audit.engine.session import Session
from audit.engine.store import RunStore
from audit.poisons.by_name import recipe_of
from audit.poisons.planting import plant
from audit.training.quick import QuickNet
from probes.shortcuts import ShortcutsConfig, shortcuts
from tests.splits import array_split


def photographs(n=600, classes=4, channels=3, side=32, seed=0):
    """Noise of falling power over large blobs of each class, so that content tells the class and texture does not."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int64) % classes
    frequency = np.hypot(np.fft.fftfreq(2 * side)[:, None], np.fft.rfftfreq(2 * side)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((n, channels, 2 * side, 2 * side))) / frequency)
    noise = noise[..., :side, :side]
    noise = noise - noise.mean(axis=(2, 3), keepdims=True)
    blobs = np.kron(rng.standard_normal((classes, 1, 4, 4)), np.ones((1, 1, side // 4, side // 4)))
    smooth = np.fft.irfft2(np.fft.rfft2(blobs) / (1 + (40 * np.hypot(
        np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])) ** 2), s=(side, side))  # fmt: skip
    whole = noise / noise.std() * 0.15 + smooth[labels] / smooth.std() * 0.04
    return (np.clip(0.5 + whole, 0, 1) * 255).astype(np.uint8), labels


def split_of(images, labels, role="train"):
    import hashlib
    from dataclasses import replace

    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    return replace(array_split(images, labels), role=role, digest=digest)


def planted(images, labels, name, seed=0, **given):
    classes = int(labels.max()) + 1
    return plant(split_of(images, labels), recipe_of(name, **given), classes, np.random.default_rng(seed))


def subject_for(split, classes):
    shape = tuple(split.batch(0, 1).pixels.shape[1:])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = QuickNet(shape[0], min(shape[1:]), classes, 4).eval().requires_grad_(False)
    return Subject(
        model=model, name="net", num_classes=classes, class_names=(), input_shape=shape, device=torch.device("cpu"),
        digest="net",
    )  # fmt: skip


class Result:
    """A probe's result, easy to look into."""

    def __init__(self, found):
        self.found, self.status, self.reason = found, found.status.value, found.reason
        self.said = {note.code: note.text for note in found.diagnostics}
        self.controls = {control.name: control for control in found.controls}
        self.figures = {figure.id: figure for figure in found.figures}

    @property
    def verdict(self):
        return next(iter(set(self.said) & {"detected", "suspicious", "not_detected", "cannot_tell"}))

    def measured(self, metric, **where):
        return [m for m in self.found.measurements if m.metric == f"shortcuts.{metric}" and m.where == where]


@pytest.fixture
def audited(tmp_path):
    """Runs the probe on splits by role."""

    def run(train, classes=4, clean=None, seed=0, **settings):
        data = {"train": train} | ({"clean": clean} if clean is not None else {})
        subject = subject_for(train, classes)
        config = ShortcutsConfig(**({"canaries": 2, "fractions": (1.0,), "epochs": 6} | settings))
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        session = Session(subject, data, RunStore(folder), seed, Budget())
        return Result(run_step(Step(shortcuts, config, 0.0, None), session, session.budget)[0])

    return run
