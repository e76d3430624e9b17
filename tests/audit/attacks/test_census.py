"""What the census says of models whose logits and gradients are known."""

import pytest
import torch
from torch import nn

from audit.api import Inconclusive
from audit.attacks.census import take_census
from audit.attacks.target import opened
from tests.probes.evasion.conftest import subject_of


def taken(model, pixels, labels, classes=4):
    with opened(subject_of(model, tuple(pixels.shape[1:]), classes)) as target:
        return take_census(target, pixels, labels)


def test_of_a_linear_model_everything_is_known(linear):
    model, _, pixels, labels = linear()
    found = taken(model, pixels, labels)
    assert not (found.ce_zero | found.margin_zero | found.nonfinite | found.random).any()
    with torch.no_grad():
        top = model(pixels).topk(2, dim=1).values
    assert torch.allclose(found.gap, top[:, 0] - top[:, 1], atol=1e-5)
    # Exactly so where the second class stays the same one; another may overtake it, and the margin rises more.
    assert found.rose.shape == (40, 3)
    assert (found.rose >= 1 - 5e-3).all()
    assert torch.isclose(found.rose[:, 1:], torch.ones(()), rtol=5e-3).float().mean() > 0.8


def test_a_saturated_softmax_has_no_gradient_of_the_cross_entropy_but_one_of_the_margin(linear):
    model, _, pixels, labels = linear(scale=1e4)
    found = taken(model, pixels, labels)
    certain = found.gap > 110
    assert certain.float().mean() > 0.5
    assert found.ce_zero[certain].all()
    assert not found.margin_zero.any()
    assert not found.ce_zero[found.gap < 80].any()


class Planted(nn.Module):
    """A linear model with something done to its logits."""

    def __init__(self, inner, change):
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, pixels):
        return self.change(self.inner, pixels)


class _NanBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pixels):
        return pixels.clone()

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone()
        gradient[:, 0, 0, 0] = torch.nan
        return gradient


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda inner, pixels: inner(pixels.detach()) + 0 * pixels.sum(), "margin_zero"),
        (lambda inner, pixels: inner(_NanBackward.apply(pixels)), "nonfinite"),
        (lambda inner, pixels: inner(pixels + 0.1 * torch.randn_like(pixels)), "random"),
    ],
)
def test_each_kind_of_masking_is_seen_alone(linear, change, field):
    model, _, pixels, labels = linear()
    found = taken(Planted(model, change), pixels, labels)
    for name in ("margin_zero", "nonfinite", "random"):
        assert getattr(found, name).all() if name == field else not getattr(found, name).any(), name


def test_a_gradient_that_lies_predicts_what_does_not_happen(linear):
    model, _, pixels, labels = linear()
    sham = Planted(model, lambda inner, x: inner(x.detach()) + 50 * (inner(x.flip(2)) - inner(x.flip(2)).detach()))
    found = taken(sham, pixels, labels)
    assert found.rose.abs().median() < 0.2


def test_8_bit_preprocessing_lets_one_of_the_steps_through(linear):
    model, _, pixels, labels = linear()
    grid = (pixels * 255).round() / 255
    rounding = Planted(model, lambda inner, x: inner(x + ((x * 255).round() / 255 - x).detach()))
    found = taken(rounding, grid, labels)
    assert torch.isclose(found.rose[:, 1], torch.ones(()), rtol=0.05).float().mean() > 0.8
    assert (found.rose[:, 2] == 0).all()


def test_no_image_and_no_gradient(linear):
    model, _, pixels, labels = linear()
    assert len(taken(model, pixels[:0], labels[:0])) == 0
    with pytest.raises(Inconclusive) as error:
        taken(Planted(model, lambda inner, pixels: inner(pixels.detach())), pixels, labels)
    assert error.value.code == "no_gradients"
