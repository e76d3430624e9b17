"""Closed forms on linear models, and one test for each quirk that the adapter walls off."""

import random
import sys

import numpy as np
import pytest
import torch
from torch import nn

from audit.adapters.torchattacks import fgsm, pgd
from audit.api import Subject
from audit.errors import PrerequisiteError, SubjectError
from audit.toolkit.norms import distance, radius_with_slack

engine = pytest.importorskip("torchattacks")
SHAPE = (1, 4, 4)


def subject_of(model, classes=2):
    model = model.eval().requires_grad_(False)
    return Subject(model, "planted", classes, (), SHAPE, torch.device("cpu"), "0" * 64)


class Linear(nn.Module):
    """Margin w.x between class 0 and class 1, times a scale."""

    def __init__(self, scale=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(16, generator=generator))
        self.scale = scale

    def forward(self, pixels):
        margin = (pixels.flatten(1) @ self.weight) * self.scale
        return torch.stack([margin / 2, -margin / 2], dim=1)


def pixels_of(n, seed=0):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 0.4 + 0.3


def run(name, subject, pixels, labels, norm, eps, *, seed=0, steps=40, factor=2.5):
    if name == "fgsm":
        return fgsm(subject, pixels, labels, norm=norm, eps=eps)
    generator = torch.Generator().manual_seed(seed)
    return pgd(
        subject, pixels, labels, norm=norm, eps=eps, steps=steps, step_size=factor * eps / steps, generator=generator
    )


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_linear_model_falls_by_the_dual_norm(name, norm, dual):
    # min over the ball of w.(x + d) is w.x - eps |w|_dual (Hoelder), reached where no pixel touches the box.
    model, eps, pixels = Linear(), 0.05, pixels_of(6)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    candidates = run(name, subject_of(model), pixels, labels, norm, eps)
    sign = 1 - 2 * labels
    change = ((candidates - pixels).flatten(1) @ model.weight) * sign
    best = -eps * model.weight.norm(p=dual)
    # PGD in L2 turns towards the optimum by a factor 1/(1 + 2.5/40) a step; after the about 30 steps that it spends on
    # the sphere an angle of at most 0.15 is left of the random start, which is 1.2 % of the fall.
    assert torch.allclose(change, best.expand(6), rtol=0.012 if (name, norm) == ("pgd", "l2") else 1e-4)
    assert (distance(candidates, pixels, norm) <= radius_with_slack(eps, norm, 16)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_same_seed_same_result(norm):
    subject, pixels, labels = subject_of(Linear()), pixels_of(4), torch.zeros(4, dtype=torch.long)
    torch.manual_seed(1)
    first = run("pgd", subject, pixels, labels, norm, 0.05, seed=7, steps=1, factor=0.1)
    torch.manual_seed(2)
    assert torch.equal(first, run("pgd", subject, pixels, labels, norm, 0.05, seed=7, steps=1, factor=0.1))
    assert not torch.equal(first, run("pgd", subject, pixels, labels, norm, 0.05, seed=8, steps=1, factor=0.1))


def test_global_random_state_is_left_as_found():
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state())  # noqa: NPY002 - the state under test
    run("pgd", subject_of(Linear()), pixels_of(2), torch.tensor([0, 1]), "linf", 0.05)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2][1])  # noqa: NPY002


def test_subject_is_left_as_found():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten(), nn.Linear(12, 2))
    subject = subject_of(model)
    model.training = True  # as some loaders leave it: the root in training mode, its normalisation not
    flags = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for norm in ("linf", "l2"):
        for name in ("fgsm", "pgd"):
            run(name, subject, pixels_of(3), torch.tensor([0, 1, 0]), norm, 0.05)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())


class Fixed(Linear):
    """Refuses to change its mode, as exported programs do."""

    def train(self, mode=True):
        raise NotImplementedError("planted")


def test_engine_never_switches_the_model():
    subject = Subject(Fixed().requires_grad_(False), "planted", 2, (), SHAPE, torch.device("cpu"), "0" * 64)
    run("pgd", subject, pixels_of(2), torch.tensor([0, 1]), "linf", 0.05)
    assert subject.model.training


class Hurt(nn.Module):
    def forward(self, pixels):
        raise RuntimeError("planted")


def test_subject_is_left_as_found_after_an_error():
    model = nn.Sequential(nn.BatchNorm2d(1), Hurt())
    subject = subject_of(model)
    state = torch.get_rng_state()
    with pytest.raises(SubjectError, match="planted"):
        run("pgd", subject, pixels_of(2), torch.tensor([0, 1]), "linf", 0.05)
    assert not any(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


class Wave(nn.Module):
    """Its margin rises and falls many times within the ball, so that the last iterate is seldom the best."""

    def forward(self, pixels):
        margin = torch.cos(40 * pixels.flatten(1).sum(dim=1)) + 0.5
        return torch.stack([margin, torch.zeros_like(margin)], dim=1)


def test_best_iterate_is_kept():
    subject, pixels, labels = subject_of(Wave()), pixels_of(64), torch.zeros(64, dtype=torch.long)
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(0)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        last = engine.PGD(subject.model, eps=0.05, alpha=0.02, steps=10)(pixels, labels)
    generator = torch.Generator().manual_seed(0)
    best = pgd(subject, pixels, labels, norm="linf", eps=0.05, steps=10, step_size=0.02, generator=generator)
    margins = [subject.model(candidates)[:, 0] for candidates in (best, last)]
    assert (margins[0] <= margins[1]).all()
    assert (margins[0] < margins[1] - 0.1).any()
    assert (distance(best, pixels, "linf") <= radius_with_slack(0.05, "linf", 16)).all()


class Brittle(nn.Module):
    """Right about everything, but NaN when the image is a little brighter than it was."""

    def forward(self, pixels):
        mean = pixels.mean(dim=(1, 2, 3))
        margin = torch.where(mean > 0.52, torch.nan, 1 - mean)
        return torch.stack([margin, -margin], dim=1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_iterate_that_breaks_the_model_is_handed_over(norm):
    subject, pixels = subject_of(Brittle()), torch.full((3, *SHAPE), 0.5)
    eps = 0.05 if norm == "linf" else 0.2
    candidates = run("pgd", subject, pixels, torch.zeros(3, dtype=torch.long), norm, eps)
    assert candidates.isfinite().all()
    assert subject.model(candidates).isnan().all()


def test_l2_steps_do_not_shrink_with_the_gradient():
    model = Linear(scale=1e-13)
    pixels, labels = pixels_of(3), torch.zeros(3, dtype=torch.long)
    plain = engine.PGDL2(model, eps=0.1, alpha=0.1, steps=1, random_start=False)(pixels, labels)
    assert distance(plain, pixels, "l2").max() < 0.01  # the quirk
    moved = fgsm(subject_of(model), pixels, labels, norm="l2", eps=0.1)
    assert torch.allclose(distance(moved, pixels, "l2"), torch.full((3,), 0.1, dtype=torch.float64), rtol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_radius_zero(name, norm):
    pixels = pixels_of(2)
    assert torch.equal(run(name, subject_of(Linear()), pixels, torch.tensor([0, 1]), norm, 0.0), pixels)
    quirk = engine.PGDL2(Linear(), eps=0.0, alpha=0.0, steps=1, random_start=False)(pixels, torch.tensor([0, 1]))
    assert quirk.isnan().any()


class ChannelsLast(nn.Module):
    def forward(self, pixels):
        margin = pixels.permute(0, 2, 3, 1).flatten(1).pow(2).sum(dim=1)
        return torch.stack([margin, -margin], dim=1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_channels_last_gradient(norm):
    pixels, labels = torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 0])
    with pytest.raises(RuntimeError, match="view size"):  # the quirk
        engine.PGDL2(ChannelsLast())(pixels, labels)
    for given in (pixels, pixels.contiguous(memory_format=torch.channels_last)):
        moved = run("pgd", subject_of(ChannelsLast()), given, labels, norm, 0.05)
        assert distance(moved, pixels, norm).min() > 0.049


def test_refuses_pixels_outside_the_box():
    for pixels in (torch.full((1, *SHAPE), 1.01), torch.full((1, *SHAPE), torch.nan)):
        with pytest.raises(ValueError, match=r"Expected pixels in \[0, 1\]"):
            fgsm(subject_of(Linear()), pixels, torch.tensor([0]), norm="linf", eps=0.1)


class RobModel(nn.Module):
    """Without parameters, and of the name and attributes that make the engine normalise by itself."""

    mean, std = np.array([0.5]), np.array([0.25])

    def forward(self, pixels):
        margin = pixels.flatten(1).sum(dim=1)
        return torch.stack([margin, -margin], dim=1)


def test_model_without_parameters(capsys):
    pixels = pixels_of(2)
    candidates = fgsm(subject_of(RobModel()), pixels, torch.tensor([0, 1]), norm="linf", eps=0.1)
    assert torch.allclose(candidates - pixels, torch.tensor([-0.1, 0.1]).view(2, 1, 1, 1).expand(2, *SHAPE), atol=1e-6)
    assert capsys.readouterr().out == ""


def test_nothing_to_attack():
    assert fgsm(subject_of(Linear()), pixels_of(0), torch.zeros(0).long(), norm="linf", eps=0.1).shape == (0, *SHAPE)


def test_works_where_the_caller_forbids_gradients():
    pixels = pixels_of(2)
    with torch.no_grad():
        moved = run("pgd", subject_of(Linear()), pixels, torch.tensor([0, 1]), "l2", 0.1)
    assert not moved.requires_grad
    assert (distance(moved, pixels, "l2") > 0.09).all()


def test_absent_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(PrerequisiteError, match=r"Expected the package torchattacks 3\.5\.1.*--no-deps"):
        fgsm(subject_of(Linear()), pixels_of(1), torch.tensor([0]), norm="linf", eps=0.1)
