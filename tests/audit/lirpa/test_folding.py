"""Layers that take in what scales and moves their channels: the same network with the same bounds."""

import pytest
import torch
from torch import nn

from audit.lirpa.crown import crown
from audit.lirpa.extent import VALUES, batching
from audit.lirpa.intervals import propagate
from audit.lirpa.lowering import lower
from tests.audit.lirpa.networks import Residual
from tests.audit.lirpa.soundness import boxes


def with_statistics(norm, seed=1):
    """A batch normalisation with statistics, factors and terms of its own, some of the factors negative."""
    generator = torch.Generator().manual_seed(seed)
    for name, values in norm.state_dict().items():
        if values.is_floating_point():
            drawn = torch.randn(values.shape, generator=generator)
            norm.state_dict()[name].copy_(drawn.square() + 0.5 if name == "running_var" else drawn)
    return norm


class Moved(nn.Module):
    """Scales and moves what a convolution gives."""

    def __init__(self, factor, term, bias=True):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.Conv2d(2, 4, 3, bias=bias), nn.Linear(4 * 36, 3)
        self.factor, self.term = factor, term

    def forward(self, pixels):
        return self.head((self.layer(pixels) * self.factor + self.term).relu().flatten(1))


class Shared(Moved):
    """The convolution's value is also used as it is."""

    def forward(self, pixels):
        value = self.layer(pixels)
        return self.head((value * self.factor + value).relu().flatten(1))


class InOneProduct(Moved):
    """Multiplied with itself after it was scaled."""

    def forward(self, pixels):
        value = self.layer(pixels)
        return self.head((value * value).flatten(1))


class Asked(nn.Module):
    """A layer whose weights, or whose bias, depend on the pixels, and what scales its values."""

    def __init__(self, *, weight):
        super().__init__()
        torch.manual_seed(0)
        self.own, self.head, self.weight = nn.Linear(128, 32), nn.Linear(8, 3), weight

    def forward(self, pixels):
        flat = pixels.flatten(1)
        made = self.own(flat)[0]
        weight, bias = (made.view(8, 4), None) if self.weight else (self.head.weight.t()[:, :1].expand(8, 4), made[:8])
        return self.head(nn.functional.linear(flat[:, :4], weight, bias) * torch.arange(1.0, 9.0))


class Times(nn.Module):
    """A product with a constant."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, values):
        return values * self.factor


CHANNEL = torch.tensor([2.0, -1.0, 0.5, 3.0])[:, None, None]
torch.manual_seed(5)
NETWORKS = {
    "residual": (Residual(), 1),
    "no bias": (nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), with_statistics(nn.BatchNorm2d(4)), nn.ReLU(),
                              nn.Flatten(), nn.Linear(144, 3)), 1),
    "groups": (nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), with_statistics(nn.BatchNorm2d(4)), nn.ReLU(),
                             nn.Flatten(), nn.Linear(144, 3)), 1),
    "linear": (nn.Sequential(nn.Flatten(), nn.Linear(128, 9), with_statistics(nn.BatchNorm1d(9)), nn.ReLU(),
                             nn.Linear(9, 3)), 1),
    "logits": (nn.Sequential(nn.Flatten(), nn.Linear(128, 3), with_statistics(nn.BatchNorm1d(3))), 1),
    "channels": (Moved(CHANNEL, -CHANNEL), 1),
    "one number": (Moved(torch.tensor([-2.0]), torch.tensor(0.25), bias=False), 1),
    "integers": (Moved(torch.tensor([[[2]], [[-1]], [[3]], [[1]]]), torch.tensor([4]), bias=False), 1),
    "same": (nn.Sequential(nn.Conv2d(2, 4, 3, padding="same"), with_statistics(nn.BatchNorm2d(4)), nn.ReLU(),
                           nn.Flatten(), nn.Linear(256, 3)), 1),
    "tokens": (nn.Sequential(nn.Flatten(2), nn.Linear(64, 4), Times(torch.rand(4)), nn.ReLU(), nn.Flatten(),
                             nn.Linear(8, 3)), 0.5),  # a factor alone
    "places": (Moved(torch.rand(1, 6), torch.rand(6, 1)), 0),
    "shared": (Shared(CHANNEL, 0), 0),
    "itself": (InOneProduct(0, 0), 0),
}  # fmt: skip


@pytest.mark.parametrize(("network", "folds"), NETWORKS.values(), ids=NETWORKS)
def test_it_is_the_same_network_with_the_same_bounds(network, folds):
    network.eval()
    program, region = lower(network, (2, 8, 8)), boxes(3, (2, 8, 8), 0.02)
    apart, whole = (program.of(network.state_dict(), torch.float64, fold=fold) for fold in (False, True))
    assert len(apart.operations) - len(whole.operations) == 2 * folds
    for bounds in (propagate, crown):
        with torch.no_grad():
            one, other = (bounds(graph, region).intervals[graph.logits] for graph in (apart, whole))
        torch.testing.assert_close(one.lo, other.lo, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(one.hi, other.hi, rtol=1e-9, atol=1e-9)
    images = torch.rand(5, 2, 8, 8)
    torch.testing.assert_close(whole.run(images.double()).float(), network(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weight", [True, False])
def test_a_layer_that_depends_on_the_pixels_is_left_alone(weight):
    network = Asked(weight=weight).eval()
    program = lower(network, (2, 8, 8))
    assert len(program.of({}).operations) == len(program.of({}, fold=False).operations)
    image = torch.rand(1, 2, 8, 8)
    torch.testing.assert_close(program.of({}).run(image), network(image), rtol=1e-4, atol=1e-4)


def test_gradients_through_folded_layers_are_those_through_layers_apart():
    network = NETWORKS["no bias"][0]
    program, region = lower(network, (2, 8, 8)), boxes(3, (2, 8, 8), 0.02)
    found = []
    for fold in (False, True):
        graph = program.of(network.state_dict(keep_vars=True), torch.float64, fold=fold)
        interval = propagate(graph, region, rounded=False).intervals[graph.logits]
        found.append(
            torch.autograd.grad((interval.hi - interval.lo).sum(), list(network.parameters()), allow_unused=True)
        )
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_weights_are_the_very_ones_given_where_nothing_is_folded():
    network = NETWORKS["linear"][0]
    program = lower(network, (2, 8, 8))
    parameters = {id(parameter) for parameter in network.parameters()}
    for fold in (False, True):
        graph = program.of(network.state_dict(keep_vars=True), fold=fold)
        first = next(op for op in graph.operations if op.kind == "linear")
        assert (id(first.args[1]) in parameters) is not fold
        assert first.args[1].requires_grad, "it can be trained through"


def test_intervals_without_rounding_lie_within_those_with_it_and_hardly_apart():
    graph, region = lower(Residual(), (2, 8, 8)).bound(torch.float64), boxes(3, (2, 8, 8), 0.02)
    plain, wide = (propagate(graph, region, rounded=rounded).intervals for rounded in (False, True))
    for op in graph.operations[1:]:
        assert bool((wide[op].lo <= plain[op].lo).all()), op
        assert bool((wide[op].hi >= plain[op].hi).all()), op
        torch.testing.assert_close(wide[op].lo, plain[op].lo, rtol=1e-10, atol=1e-10)
    assert not torch.equal(wide[graph.logits].lo, plain[graph.logits].lo)


def test_a_pass_holds_as_many_rows_as_the_operations_that_it_meets_leave_room_for():
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 16), nn.ReLU(),
                            nn.Linear(16, 3))  # fmt: skip
    graph, cpu, gpu = lower(network, (1, 8, 8)).bound(torch.float64), torch.device("cpu"), torch.device("cuda")
    assert batching(graph, cpu).most == VALUES["cpu"] // 512
    assert batching(graph, cpu, relaxed=False).most == VALUES["cpu"] // 16, "it ends at the last ReLU"
    assert batching(graph, gpu).most == VALUES["cuda"] // 512


def test_a_pass_about_parts_of_an_image_holds_as_many_rows_as_these_parts_leave_room_for():
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Conv2d(4, 2, 3, padding=2, dilation=2), nn.Flatten(), nn.Linear(128, 3))
    graph, cpu = lower(network, (1, 16, 16)).bound(torch.float64), torch.device("cpu")
    _, second, third = (op for op in graph.operations if op.kind == "conv2d")

    assert batching(graph, cpu, second).most == VALUES["cpu"] // (4 * 3 * 3)
    assert batching(graph, cpu, third).most == VALUES["cpu"] // (4 * 11 * 11), "five by five places, two apart"
    assert batching(graph, cpu).most == VALUES["cpu"] // (4 * 16 * 16), "from the logits all of it"
    assert batching(graph, cpu, graph.logits).most == VALUES["cpu"] // (4 * 16 * 16)
    own = 4 * (4 * 8 * 8 + 4 * 16 * 16)
    assert batching(graph, cpu, ascent=True).most == 8 * VALUES["cpu"] // (4 * 16 * 16 + own), "slopes of both ReLUs"
