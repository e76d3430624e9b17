from math import prod

import pytest
import torch
from torch import nn

from audit.lirpa import backward as backward_module
from audit.lirpa import crown as crown_module
from audit.lirpa.backward import Rows, lower_bounds
from audit.lirpa.bounds import Owners
from audit.lirpa.certify import METHODS, Certifier
from audit.lirpa.crown import crown
from audit.lirpa.intervals import exact_operations, propagate
from audit.lirpa.margins import bounds_from, margin_bounds, margin_rows
from audit.lirpa.region import Region
from tests.audit.lirpa.networks import Residual, perceptron
from tests.audit.lirpa.soundness import boxes, check_backward, check_intervals, graph_of, points

SHAPE = (2, 4, 4)


def margins(graph, region, labels, method, **settings):
    certifier = Certifier(graph, "linf", (method,), **settings)
    return certifier.margins(region, labels, method)


@pytest.fixture(scope="module")
def graph():
    return graph_of(perceptron(), SHAPE)


def labels_of(graph, region):
    return graph.run(region.box.centre).argmax(1)


@pytest.mark.parametrize("eps", [0.02, 0.1])
def test_each_method_is_tighter_than_the_one_before(graph, eps):
    region = boxes(8, SHAPE, eps)
    labels = labels_of(graph, region)

    found = [margins(graph, region, labels, method) for method in METHODS]

    ibp, crown_ibp, crown, alpha = (each.mean() for each in found)
    assert ibp < crown_ibp < crown < alpha
    assert bool((found[3] >= found[2] - 1e-9).all()), "ascent keeps the best"


def test_optimised_slopes_raise_every_margin_of_a_network_with_open_relus(graph):
    region = boxes(8, SHAPE, 0.1)
    labels = labels_of(graph, region)
    known = crown(graph, region)
    opened = sum(int(((interval.lo < 0) & (interval.hi > 0)).sum()) for interval in known.intervals.values())
    assert opened > 100

    plain = bounds_from(graph, region, known, labels)
    raised = bounds_from(graph, region, known, labels, steps=10)

    assert float((raised - plain).min()) >= 0
    assert float((raised - plain).median()) > 0.05 * float(plain.abs().median())


@pytest.mark.parametrize("steps", [0, 5])
def test_no_point_leaves_intervals_whose_slopes_were_optimised(steps):
    graph, region = graph_of(Residual(), (2, 8, 8)), boxes(3, (2, 8, 8), 0.1)

    known = crown(graph, region, steps)

    check_intervals(graph, known, points(region, 100))
    check_backward(graph, region, known)


def geometric(seed=0):
    """Convolutions of every geometry, with a shortcut past some of them, on 2x9x7 images."""

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.long = nn.Sequential(
                nn.Conv2d(4, 8, 3, (2, 1), (2, 1), dilation=(2, 1)), nn.Sigmoid(),
                nn.Conv2d(8, 4, (1, 3), 1, (0, 2), groups=4), nn.ReLU(),
            )  # fmt: skip
            self.short = nn.Conv2d(4, 4, 1, (2, 1), (0, 1))

        def forward(self, values):
            return self.long(values) * 0.5 + self.short(values).abs() + self.long(values)

    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 2, 1, 4), nn.BatchNorm2d(4), nn.ReLU(), Branches(), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3, 2),
        nn.ReLU(), nn.Flatten(), nn.LazyLinear(6), nn.ReLU(), nn.Linear(6, 3),
    )  # fmt: skip


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_rows_about_a_part_of_an_image_have_the_bounds_of_whole_ones(monkeypatch, steps, norm):
    module, images = geometric(), torch.rand(3, 2, 9, 7, dtype=torch.float64)
    module.double()(images)
    graph = graph_of(module, (2, 9, 7))
    region = Region.ball(images, norm, 0.05 if norm == "linf" else 0.4)

    parts = crown(graph, region, steps)
    told = crown_module._units
    monkeypatch.setattr(crown_module, "_units", lambda *args: spread(told(*args), args[3]))
    wholes = crown(graph, region, steps)

    opened = [op for op in graph.operations if len(op.shape) == 4 and (parts.intervals[op].lo < 0).any()]
    assert len(opened) > 5
    for op in graph.operations:
        for end in ("lo", "hi"):
            ours, theirs = (getattr(known.intervals[op], end) for known in (parts, wholes))
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, msg=lambda text, op=op: f"{op}: {text}")
    if norm == "linf":
        check_intervals(graph, parts, points(region, 60))


class Forked(nn.Module):
    """Branches of one stride whose parts begin at other places and are of other sizes, to be added."""

    def __init__(self, order):
        super().__init__()
        torch.manual_seed(0)
        kinds = [(2, 0), (3, 1), (4, 1), ((3, 1), (1, 0))]
        self.first = nn.Conv2d(2, 3, 3, padding=1)
        self.branches = nn.ModuleList(nn.Conv2d(3, 3, kinds[k][0], 2, kinds[k][1]) for k in order)
        self.last = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))

    def forward(self, images):
        first = self.first(images).relu()
        return self.last(sum(branch(first) for branch in self.branches))


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 2, 3), (3, 2, 0)])
def test_parts_that_branches_look_at_are_added_where_they_lie(monkeypatch, order):
    module, images = Forked(order).double(), torch.rand(2, 2, 12, 12, dtype=torch.float64)
    module(images)
    graph, region, merged = graph_of(module, (2, 12, 12)), Region.ball(images, "linf", 0.05), []
    added, told = backward_module._added, crown_module._units

    def watched(op, first, second):
        merged.append(first[1] is not None and second[1] is not None)
        return added(op, first, second)

    monkeypatch.setattr(backward_module, "_added", watched)
    parts = crown(graph, region)
    assert any(merged)
    monkeypatch.setattr(crown_module, "_units", lambda *args: spread(told(*args), args[3]))
    wholes = crown(graph, region)

    for op in graph.operations:
        for end in ("lo", "hi"):
            ours, theirs = (getattr(known.intervals[op], end) for known in (parts, wholes))
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, msg=lambda text, op=op: f"{op}: {text}")


def spread(rows, op):
    """Rows about all of a value in place of those about a part."""
    return rows if rows.window is None else Rows(rows.window.spread(rows.values, *op.shape[-2:]), rows.owners)


def test_a_sample_s_bounds_do_not_hang_on_the_others(graph):
    region = boxes(6, SHAPE, 0.05)
    labels = labels_of(graph, region)

    together = margins(graph, region, labels, "alpha-crown", steps=3, most=20)
    alone = torch.cat(
        [
            margins(graph, region.only(slice(i, i + 1)), labels[i : i + 1], "alpha-crown", steps=3, most=20)
            for i in range(6)
        ]
    )

    torch.testing.assert_close(together, alone)


def test_a_limit_on_what_is_bounded_again_goes_from_crown_to_crown_ibp(graph):
    region = boxes(8, SHAPE, 0.03)
    labels = labels_of(graph, region)
    by_name = {op.name: interval for op, interval in propagate(graph, region).intervals.items()}
    opened = ((by_name["linear_1"].lo < 0) & (by_name["linear_1"].hi > 0)).flatten(1).sum(1)
    most = int(opened.median())
    none, some, every = (margins(graph, region, labels, "crown", most=most) for most in (0, most, None))

    torch.testing.assert_close(none, margins(graph, region, labels, "crown-ibp"))
    within = opened <= most
    assert 0 < int(within.sum()) < 8
    torch.testing.assert_close(some[within], every[within])
    torch.testing.assert_close(some[~within], none[~within])
    assert none.mean() < some.mean() < every.mean()


def test_without_any_room_bounds_are_the_margins_themselves(graph):
    region = boxes(4, SHAPE, 0.0)
    labels = labels_of(graph, region)
    logits = graph.run(region.box.centre)
    wanted = (margin_rows(labels, 3, torch.float64) * logits[:, None]).sum(2)

    for method in METHODS:
        torch.testing.assert_close(margins(graph, region, labels, method), wanted, rtol=1e-9, atol=1e-9)


class First(nn.Module):
    """A first layer behind a normalisation, which spreads grey pixels over three channels where it is asked to."""

    def __init__(self, layer, channels):
        super().__init__()
        self.layer = layer
        self.mean, self.std = torch.rand(channels, 1, 1), 0.2 + torch.rand(channels, 1, 1)

    def forward(self, pixels):
        return self.layer((pixels - self.mean) / self.std).flatten(1)


@pytest.mark.parametrize("name", ["conv", "grouped", "linear", "spread"])
def test_a_first_layer_s_intervals_over_a_ball_are_those_of_a_backward_pass(name):
    torch.manual_seed(0)
    layer, channels, shape = {
        "conv": (nn.Conv2d(2, 5, 3, 2, 1), 2, (2, 6, 6)),
        "grouped": (nn.Conv2d(2, 4, 3, 1, 2, 2, 2, bias=False), 2, (2, 6, 6)),
        "linear": (nn.Sequential(nn.Flatten(), nn.Linear(72, 7)), 2, (2, 6, 6)),
        "spread": (nn.Conv2d(3, 5, 3), 3, (1, 6, 6)),  # three weights lie on one pixel
    }[name]
    module = nn.Sequential(First(layer, channels), nn.ReLU())
    graph, images = graph_of(module, shape), torch.rand(3, *shape, dtype=torch.float64)
    for eps in (0.3, 5.0):
        region = Region.ball(images, "l2", eps)
        known = propagate(graph, region)
        layer_op = next(op for op in graph.operations if op.kind in {"conv2d", "linear"})
        rows = torch.eye(prod(layer_op.shape), dtype=torch.float64).view(-1, *layer_op.shape)
        owners = Owners.all_of(3, len(rows), rows.device)
        lo, hi = (
            sign
            * lower_bounds(
                graph, region, known, layer_op, Rows(sign * rows.repeat(3, *(1,) * len(layer_op.shape)), owners)
            )
            for sign in (1, -1)
        )
        found = known.intervals[layer_op]
        if name == "spread":
            assert bool((found.lo.flatten() <= lo + 1e-9).all())
            assert bool((found.hi.flatten() >= hi - 1e-9).all())
        else:
            torch.testing.assert_close(found.lo.flatten(), lo, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(found.hi.flatten(), hi, rtol=1e-9, atol=1e-9)


def test_an_l2_ball_is_bounded_by_the_ball_and_by_the_box(graph):
    images = boxes(6, SHAPE, 0.0).box.lo
    labels = graph.run(images).argmax(1)
    small, large = (Region.ball(images, "l2", eps) for eps in (0.1, 1e6))
    everything = Region.ball(images, "linf", 1.0)

    within = margin_bounds(graph, small, labels, "crown")
    around = margin_bounds(graph, Region.ball(images, "linf", 0.1), labels, "crown")

    assert bool((within > around).all()), "a ball is smaller than its box"
    torch.testing.assert_close(
        margin_bounds(graph, large, labels, "crown-ibp"), margin_bounds(graph, everything, labels, "crown-ibp")
    )
    directions = torch.randn(500, *images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions *= 0.1 / directions.flatten(2).norm(dim=2)[..., None, None, None]
    rows = margin_rows(labels, 3, torch.float64)
    for moved in (images + directions).clamp(0, 1):
        assert bool(((rows * graph.run(moved)[:, None]).sum(2) >= within - 1e-9).all())


def test_relus_that_are_never_open_cost_nothing_and_bounds_are_exact(graph):
    region = boxes(4, SHAPE, 1e-6)
    labels = labels_of(graph, region)
    known = propagate(graph, region)

    least = points(region, 1)[0]
    rows = margin_rows(labels, 3, torch.float64)
    gradients = []
    for place in range(2):
        images = region.box.centre.clone().requires_grad_(True)
        value = (rows[:, place] * graph.run(images)).sum()
        gradients.append(torch.autograd.grad(value, images)[0])
    bounds = bounds_from(graph, region, known, labels)
    for place, gradient in enumerate(gradients):
        least = region.box.centre - region.box.radius * gradient.sign()
        torch.testing.assert_close(bounds[:, place], (rows[:, place] * graph.run(least)).sum(1), rtol=1e-9, atol=1e-9)


class Deep(torch.nn.Module):
    """Grows until float64 overflows."""

    def forward(self, pixels):
        value = pixels.flatten(1)
        for _ in range(12):
            value = (value * 1e30).relu() - value
        return value


def test_what_overflows_says_nothing():
    graph, region = graph_of(Deep(), (1, 2, 2)), boxes(2, (1, 2, 2), 0.1)

    for method in METHODS[:3]:
        assert not bool((margins(graph, region, torch.tensor([0, 1]), method) > -torch.inf).any())


class Normalising(nn.Module):
    """Exchanges and scales both channels, by a 1x1 convolution or by a product; then a convolution and a ReLU."""

    def __init__(self, *, by_convolution, mixes=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
        self.scale = torch.tensor([2.0, -3.0])[:, None, None]
        self.first = nn.Conv2d(2, 2, 1) if by_convolution else None
        if self.first is not None:
            with torch.no_grad():
                self.first.weight.copy_(torch.tensor([[mixes, 2.0], [-3.0, 0.0]])[:, :, None, None])
                self.first.bias.fill_(0.5)

    def forward(self, pixels):
        found = pixels.flip(1) * self.scale + 0.5 if self.first is None else self.first(pixels)
        return self.layers(found)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_normalisation_written_as_a_convolution_leaves_the_first_layer_exact(norm):
    one, other, mixed = (
        graph_of(Normalising(by_convolution=which, mixes=mixes), SHAPE)
        for which, mixes in ((True, 0.0), (False, 0.0), (True, 0.1))
    )
    kinds = [[op.kind for op in exact_operations(graph)].count("conv2d") for graph in (one, other, mixed)]
    assert kinds == [2, 1, 1], "of what mixes channels, that alone is exact"
    region = Region.ball(boxes(4, SHAPE, 0.1).box.centre, norm, 0.1)
    labels = labels_of(other, region)
    for method in ("ibp", "crown-ibp", "crown"):
        torch.testing.assert_close(*(margin_bounds(graph, region, labels, method) for graph in (one, other)))
