"""Losses in the worst case: above the loss of every image, tighter by a backward pass, and with true gradients."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from audit.lirpa.intervals import propagate
from audit.lirpa.losses import fused_cross_entropy, worst_cross_entropy
from audit.lirpa.lowering import lower
from audit.lirpa.margins import bounds_from
from tests.audit.lirpa.networks import Attention, Residual, perceptron
from tests.audit.lirpa.soundness import boxes, points


def smooth():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 2), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.SiLU(),
        nn.Linear(16, 3),
    ).eval()  # fmt: skip


NETWORKS = {
    "perceptron": (perceptron, (2, 4, 4)), "residual": (Residual, (2, 8, 8)), "attention": (Attention, (2, 4, 4)),
    "smooth": (smooth, (2, 8, 8)),
}  # fmt: skip


def losses(graph, region, labels):
    """Both worst cases (n,)."""
    known = propagate(graph, region)
    margins = bounds_from(graph, region, known, labels, relaxed=False)
    return worst_cross_entropy(margins), fused_cross_entropy(graph, region, known, labels, margins)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("eps", [0.0, 0.01, 0.2])
def test_no_image_of_the_region_has_a_greater_loss(name, eps):
    make, shape = NETWORKS[name]
    graph, region, labels = lower(make(), shape).bound(torch.float64), boxes(5, shape, eps), torch.arange(5) % 3
    with torch.no_grad():
        worst = losses(graph, region, labels)
        for images in points(region, 100):
            loss = cross_entropy(graph.run(images), labels, reduction="none")
            for bound in worst:
                assert (loss <= bound + 1e-9).all()
    if eps == 0:
        torch.testing.assert_close(worst[0], loss)
        torch.testing.assert_close(worst[1], loss)


def test_a_backward_pass_is_tighter_than_intervals_where_the_radius_is_small():
    graph, region = lower(perceptron(), (2, 4, 4)).bound(torch.float64), boxes(6, (2, 4, 4), 0.01)
    with torch.no_grad():
        by_intervals, fused = losses(graph, region, torch.arange(6) % 3)
    assert (fused < by_intervals).all()


def test_enormous_margins_overflow_nothing():
    module = perceptron()
    with torch.no_grad():
        module[-1].weight.mul_(1e6)
    weights = dict(module.named_parameters())
    graph = lower(module, (2, 4, 4)).of(weights)
    region = boxes(4, (2, 4, 4), 0.3)
    region = type(region)(type(region.box)(region.box.lo.float(), region.box.hi.float()))
    worst = losses(graph, region, torch.arange(4) % 3)
    (sum(each.sum() for each in worst)).backward()
    assert all(each.isfinite().all() and (each > 1e3).any() for each in worst)
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_the_weights_are_those_of_finite_differences(name):
    make, shape = NETWORKS[name]
    module, region, labels = make().double(), boxes(3, shape, 0.02), torch.arange(3)
    program, weights = lower(module, shape), dict(module.state_dict(keep_vars=True))
    trained = [parameter for parameter in module.parameters() if parameter.dim() > 1]
    for which in (0, 1):

        def loss(which=which):
            return losses(program.of(weights, torch.float64), region, labels)[which].sum()

        gradients = torch.autograd.grad(loss(), trained)
        assert all(gradient.isfinite().all() for gradient in gradients)
        generator = torch.Generator().manual_seed(1)
        ways = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in trained]
        expected = sum(float((gradient * way).sum()) for gradient, way in zip(gradients, ways, strict=True))
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                for parameter, way in zip(trained, ways, strict=True):
                    parameter.add_(sign * 1e-6 * way)
                ends.append(float(loss()))
                for parameter, way in zip(trained, ways, strict=True):
                    parameter.sub_(sign * 1e-6 * way)
        found = (ends[0] - ends[1]) / 2e-6
        if which == 0 or name in ("perceptron", "residual"):  # tangent points are not differentiated
            assert found == pytest.approx(expected, rel=1e-3)


def test_what_never_opens_leaves_finite_gradients():
    """ReLUs that are off for every image, and images without a radius: no 0 / 0 on the way back."""
    module = perceptron()
    with torch.no_grad():
        module[1].bias.fill_(-1e3)
    program, images = lower(module, (2, 4, 4)), torch.rand(4, 2, 4, 4)
    region = boxes(4, (2, 4, 4), 0.0)
    region = type(region)(type(region.box)(images, images))
    for worst in losses(program.of(dict(module.named_parameters())), region, torch.arange(4) % 3):
        module.zero_grad()
        worst.sum().backward(retain_graph=True)
        assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())
