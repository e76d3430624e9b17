"""Every attack of the package runs by its name, inside its walls, and proposes."""

import inspect
import random

import numpy as np
import pytest
import torch
from torch import nn

from audit.adapters.torchattacks_by_name import NAMES, UNBOUNDED, attack_by_name, fits
from audit.api import Inconclusive, Subject
from audit.toolkit.verification import verify

engine = pytest.importorskip("torchattacks")
SHAPE = (3, 10, 10)
NO_NAMES = {"LGV", "MultiAttack", "VANILA"}


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
            self.head = nn.Linear(8 * 16, classes)

    def forward(self, pixels):
        return self.head(self.body(pixels))


def subject_of(classes=5):
    model = Net(classes).eval().requires_grad_(False)
    return Subject(model, "planted", classes, (), SHAPE, torch.device("cpu"), "0" * 64)


@pytest.fixture(scope="module")
def planted():
    """A subject with images that it gets right."""
    subject = subject_of()
    pixels = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1))
    return subject, pixels, subject.logits(pixels).argmax(dim=1)


def run(planted, name, norm="linf", eps=0.1, seed=0):
    subject, pixels, labels = planted
    generator = torch.Generator().manual_seed(seed)
    return attack_by_name(subject, pixels, labels, name=name, norm=norm, eps=eps, generator=generator)


def test_the_names_are_those_of_the_package():
    base = engine.attack.Attack
    there = {name for name, kind in vars(engine).items() if inspect.isclass(kind) and issubclass(kind, base)}
    assert there - {"Attack"} == NAMES | NO_NAMES
    assert len(NAMES) == 36


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_runs_and_leaves_everything_as_found(planted, name):
    subject, pixels, labels = planted
    norm = "linf" if fits(name, "linf") else "l2"
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first, again = (run(planted, name, norm) for _ in range(2))
    assert torch.equal(first, again), "the seed decides"
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # noqa: NPY002
    assert not any(module.training for module in subject.model.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in subject.model.parameters())
    assert first.shape == pixels.shape
    assert first.dtype == torch.float32
    verified = verify(subject, pixels, labels, first, norm, 0.1 if name not in UNBOUNDED else 30.0)
    assert verified.admissible.float().mean() >= 0.5, "most of it lies in the ball and the box"


@pytest.mark.parametrize(("name", "norm", "eps"), [("PGD", "linf", 0.2), ("PGDL2", "l2", 2.0), ("APGD", "l2", 2.0)])
def test_what_should_break_breaks(planted, name, norm, eps):
    subject, pixels, labels = planted
    assert verify(subject, pixels, labels, run(planted, name, norm, eps), norm, eps).success.float().mean() >= 0.8


def test_a_failure_is_told_in_the_package_s_words():
    subject = subject_of(2)
    pixels = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    labels = subject.logits(pixels).argmax(dim=1)
    with pytest.raises(Inconclusive, match=r"torchattacks:APGDT failed on this model .*Leave it out") as error:
        run((subject, pixels, labels), "APGDT")
    assert error.value.code == "attack_failed"


def test_norms_that_fit():
    assert fits("PGD", "linf")
    assert not fits("PGD", "l2")
    assert fits("DeepFool", "l1")
    assert fits("FAB", "l1")
    assert not fits("Square", "l1")
