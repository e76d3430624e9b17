"""What searches compute coarsely, as on a GPU's tensor cores: here in bfloat16, with even fewer bits than TF32."""

import contextlib

import pytest
import torch
from torch import nn

from audit.attacks import target as targets
from audit.attacks.fmn import FMN
from audit.attacks.pool import Pool
from audit.attacks.target import opened, tensor_cores
from tests.probes.evasion.conftest import subject_of

COARSE = [False]


@contextlib.contextmanager
def in_bfloat16():
    COARSE[0] = True
    try:
        yield
    finally:
        COARSE[0] = False


class Rounded(nn.Module):
    """A network whose activations lose their last bits within `in_bfloat16`, and counts its passes in either."""

    def __init__(self, layers, *, views=False):
        super().__init__()
        self.layers, self.passes, self.views = layers, {True: 0, False: 0}, views
        self.last = []

    def forward(self, pixels):
        self.passes[COARSE[0]] += len(pixels)
        if COARSE[0]:
            self.last.append(pixels.is_contiguous(memory_format=torch.channels_last))
        if self.views:
            pixels = pixels.view(len(pixels), -1).view(pixels.shape)
        for layer in self.layers:
            pixels = layer(pixels)
            pixels = pixels.bfloat16().float() if COARSE[0] else pixels
        return pixels


@pytest.fixture
def coarse(monkeypatch):
    """As if the CPU had tensor cores."""
    monkeypatch.setattr(targets, "tensor_cores", in_bfloat16)
    monkeypatch.setattr(targets, "has_tensor_cores", lambda device: True)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 4)
    )


def found(model, jobs_for, *, fast):
    pixels = torch.rand(200, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    subject = subject_of(model, (2, 4, 4), 4)
    with torch.no_grad():
        labels = subject.logits(pixels).argmax(dim=1)
    with opened(subject, fast=fast) as target:
        result = Pool(target, FMN("linf", 100), jobs_for(subject, pixels, labels), batch=64, enough=0.0).run()
    with torch.no_grad():
        truly = subject.logits(result.images).argmax(dim=1) != labels
    return result, truly


def test_what_a_coarse_search_finds_holds_exactly_and_is_as_near(coarse, jobs_for):
    model = Rounded(network())
    exact, _ = found(model, jobs_for, fast=False)
    assert model.passes[True] == 0
    quick, truly = found(model, jobs_for, fast=True)
    assert model.passes[True] == 200 * 100
    assert torch.equal(quick.fooled, exact.fooled)
    assert torch.equal(quick.fooled, truly)
    assert (quick.distance / exact.distance).median() == pytest.approx(1, abs=0.01)
    assert (quick.distance < 1.05 * exact.distance).float().mean() > 0.95


@pytest.mark.parametrize("views", [False, True])
def test_tensor_cores_are_given_the_memory_format_they_take_unless_the_model_needs_another(coarse, jobs_for, views):
    model = Rounded(network(), views=views)
    quick, truly = found(model, jobs_for, fast=True)
    assert torch.equal(quick.fooled, truly)
    assert set(model.last[1:]) == {not views}
    assert model.last[0], "it is tried, once"


def test_without_looking_again_a_coarse_search_would_claim_what_does_not_hold(coarse, jobs_for, monkeypatch):
    """So that the test above can fail."""
    monkeypatch.setattr(
        targets.Target, "search", lambda self, images, loss, labels, *, gradient: coarsely(self, images, loss, gradient)
    )

    def coarsely(target, images, loss, gradient):
        with in_bfloat16():
            return target.look(images, loss, gradient=gradient)

    quick, truly = found(Rounded(network()), jobs_for, fast=True)
    assert (quick.fooled & ~truly).sum() > 10


def test_a_model_that_answers_at_random_is_searched_exactly(coarse, jobs_for):
    model = Rounded(network())
    subject = subject_of(model, (2, 4, 4), 4)
    with opened(subject, fast=True, draws=2) as target:
        pixels = torch.rand(5, 2, 4, 4)
        target.search(pixels, lambda z, rows: z[:, 0], torch.zeros(5, dtype=torch.long), gradient=True)
    assert model.passes == {True: 0, False: 10}


def test_on_a_cpu_nothing_is_coarse(jobs_for):
    with opened(subject_of(network(), (2, 4, 4), 4), fast=True) as target:
        assert not target.fast


@pytest.mark.parametrize("before", [False, True])
def test_settings_are_put_back(before):
    settings = torch.backends.cuda.matmul, torch.backends.cudnn
    kept = [setting.allow_tf32 for setting in settings]
    try:
        for setting in settings:
            setting.allow_tf32 = before
        with contextlib.suppress(ZeroDivisionError), tensor_cores():
            assert all(setting.allow_tf32 for setting in settings)
            raise ZeroDivisionError
        assert [setting.allow_tf32 for setting in settings] == [before, before]
    finally:
        for setting, value in zip(settings, kept, strict=True):
            setting.allow_tf32 = value
