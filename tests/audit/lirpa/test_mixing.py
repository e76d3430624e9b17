import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from audit.lirpa import rules
from audit.lirpa.backward import Rows, lower_bounds
from audit.lirpa.bounds import Interval, Owners
from audit.lirpa.crown import crown
from audit.lirpa.graph import Graph, Operation
from audit.lirpa.intervals import propagate
from audit.lirpa.rules import NoRule, rule_of
from audit.lirpa.rules.bilinear import Matrices
from audit.lirpa.rules.normalisation import Layer
from audit.lirpa.rules.pooling import Windows
from audit.lirpa.rules.rule import Known, Standing
from audit.lirpa.rules.softmax import Softmax
from audit.lirpa.rules.statistics import Deviations
from tests.audit.lirpa.soundness import boxes, check_backward, check_intervals, graph_of, points

SHAPE, ATEN = (1, 4, 4), torch.ops.aten


class Applied(nn.Module):
    """A function of linear images of the pixels, in given shapes."""

    def __init__(self, function, *shapes, scale=1.0, shift=0.0, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.function, self.shapes, self.shift = function, shapes, shift
        self.maps = nn.ModuleList(nn.Linear(16, math.prod(shape)) for shape in shapes)
        with torch.no_grad():
            for each in self.maps:
                each.weight.mul_(3 * scale)

    def forward(self, pixels):
        flat = pixels.flatten(1)
        values = [each(flat).unflatten(1, shape) + self.shift for each, shape in zip(self.maps, self.shapes, strict=True)]
        return self.function(*values).flatten(1)


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weighted(layer, seed=2):
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed + number))
    return layer


PRODUCTS = {
    "mul": (lambda a, b: a * b, (3, 2, 2), (3, 2, 2)),
    "mul_gate": (lambda a, b: a.sigmoid() * b, (3, 1, 1), (3, 2, 3)),
    "mul_crossed": (lambda a, b: a * b, (3, 1, 2), (1, 4, 2)),
    "mul_rank": (lambda a, b: a[0] * b, (2, 3), (3, 1, 1)),
    "mul_square": (lambda a: a * a, (5,)),
    "matmul": (lambda a, b: a @ b, (2, 3, 4), (2, 4, 2)),
    "matmul_self": (lambda a: a @ a, (3, 3)),
    "matmul_heads": (lambda a, b: a @ b.transpose(-1, -2), (2, 3, 4), (2, 3, 4)),
    "matmul_spread": (lambda a, b: a @ b, (1, 2, 3), (4, 3, 2)),
    "matmul_rank": (lambda a, b: a @ b[0], (2, 3, 3), (3, 2)),
    "matmul_vector": (lambda a, b: a @ b[0], (3, 4), (4,)),
    "matmul_from_vector": (lambda a, b: a[0] @ b, (4,), (4, 3)),
    "bmm": (lambda a, b: torch.bmm(a[0], b[0])[None], (2, 2, 3), (2, 3, 2)),
    "mm": (lambda a, b: torch.mm(a[0], b[0])[None], (2, 3), (3, 2)),
    "einsum": (lambda a, b: torch.einsum("bchw,bdhw->bcd", a, b), (2, 2, 2), (3, 2, 2)),
}
QUOTIENTS = {
    "div": (lambda a, b: a / (b.exp() + 0.5), (3, 2), (3, 2)),
    "div_negative": (lambda a, b: a / (-0.5 - b.exp()), (3, 2), (3, 2)),
    "div_spread": (lambda a, b: a / (b.exp() + 0.5), (3, 2, 2), (1, 2, 1)),
    "div_spread_above": (lambda a, b: a / (b.exp() + 0.5), (1, 2, 1), (3, 2, 2)),
    "div_constant": (lambda b: torch.arange(-2.0, 4.0).view(2, 3) / (b.exp() + 0.5), (2, 3)),
    "div_by_size": (lambda a: a / (a.exp().sum(1, keepdim=True) + 0.5), (4,)),
    "div_itself": (lambda a: (a.exp() + 1) / (a.exp() + 1), (4,)),
    "normalize": (lambda a: functional.normalize(a + 2, dim=1), (4, 2)),
}
SOFTMAX = {
    "softmax": (lambda a: a.softmax(1), (5,)),
    "softmax_wide": (lambda a: (10 * a).softmax(1), (5,)),
    "softmax_inner": (lambda a: a.softmax(1), (3, 2, 2)),
    "softmax_last": (lambda a: a.softmax(-1), (2, 3, 4)),
    "softmax_pair": (lambda a: a.softmax(1), (2,)),
    "softmax_single": (lambda a: a.softmax(1), (1, 3)),
    "log_softmax": (lambda a: a.log_softmax(1), (5,)),
    "log_softmax_inner": (lambda a: (4 * a).log_softmax(-2), (2, 3, 2)),
}
NORMS = {
    "layer_norm": (nn.LayerNorm(6, elementwise_affine=False), (2, 6)),
    "layer_norm_scaled": (weighted(nn.LayerNorm(6)), (2, 6)),
    "layer_norm_dims": (weighted(nn.LayerNorm([2, 3])), (2, 2, 3)),
    "layer_norm_steep": (nn.LayerNorm(2, eps=1e-2), (3, 2)),
    "layer_norm_single": (weighted(nn.LayerNorm(1)), (3, 1)),
    "group_norm": (weighted(nn.GroupNorm(2, 4)), (4, 2, 2)),
    "group_norm_flat": (nn.GroupNorm(1, 4, affine=False), (4, 3)),
    "instance_norm": (weighted(nn.InstanceNorm2d(3, affine=True)), (3, 2, 2)),
    "instance_norm_stored": (weighted(nn.InstanceNorm2d(3, affine=True, track_running_stats=True)), (3, 2, 2)),
    "var": (lambda a: a.var((2, 3)), (3, 2, 2)),
    "var_uncorrected": (lambda a: a.var(1, correction=0, keepdim=True), (3, 2, 2)),
    "std": (lambda a: (a.var(1) + 0.1).sqrt(), (4, 3)),
}
POOLS = {
    "max_pool": (lambda a: functional.max_pool2d(a, 2), (2, 4, 4)),
    "max_pool_padded": (lambda a: functional.max_pool2d(a, 3, 2, 1), (2, 5, 4)),
    "max_pool_ceil": (lambda a: functional.max_pool2d(a, 2, 2, ceil_mode=True), (1, 5, 3)),
    "max_pool_dilated": (lambda a: functional.max_pool2d(a, (2, 3), (1, 2), (0, 1), (2, 1)), (2, 4, 5)),
    "amax": (lambda a: a.amax((2, 3)), (3, 2, 3)),
    "amin": (lambda a: a.amin(1, keepdim=True), (3, 2, 2)),
    "amax_all": (lambda a: a.amax()[None, None], (4,)),
    "max_all": (lambda a: a.max()[None, None], (4,)),
    "maximum": (lambda a, b: torch.maximum(a, b), (3, 2), (3, 2)),
    "maximum_spread": (lambda a, b: torch.maximum(a, b), (3, 1), (1, 2)),
    "minimum": (lambda a, b: torch.minimum(a, b), (3, 2), (3, 2)),
    "minimum_self": (lambda a: torch.minimum(a, a), (3,)),
}
CASES = {**PRODUCTS, **QUOTIENTS, **SOFTMAX, **NORMS, **POOLS}
SMOOTH = {**PRODUCTS, **QUOTIENTS, **SOFTMAX, **NORMS}


def built(name, **settings):
    function, *shapes = CASES[name]
    return graph_of(Applied(function, *shapes, **settings), SHAPE)


def by_hand(target, *args, shape, **kwargs):
    """A graph of one operator on the pixels, which the lowering would take apart."""
    pixels = Operation("input", "pixels", "", lambda x: x, (), {}, (), (1, *SHAPE))
    kind = target._schema.name.rpartition("::")[-1]
    return Graph((pixels, Operation(kind, kind, "", target, (pixels, *args), kwargs, (pixels,), (1, *shape))))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("eps", "find"), [(0.0, propagate), (1e-3, propagate), (0.05, crown), (0.3, propagate), (1.0, propagate)])
def test_no_point_leaves_its_bounds(name, eps, find):
    graph, region = built(name), boxes(3, SHAPE, eps)
    known = find(graph, region)

    check_intervals(graph, known, points(region, 60))
    gaps = check_backward(graph, region, known, rows=12, steps=9)

    assert gaps.isfinite().all()
    assert eps or (gaps < 1e-8).all()


@pytest.mark.parametrize("name", CASES)
def test_bounds_hold_on_every_width_of_single_operands(name):
    graph = built(name, scale=4.0, shift=0.3)
    for eps in (0.01, 0.1, 0.6):
        region = boxes(2, SHAPE, eps, seed=3, low=-1)
        known = propagate(graph, region)
        check_intervals(graph, known, points(region, 40, seed=1))
        check_backward(graph, region, known, rows=8, steps=9, seed=1)


@pytest.mark.parametrize("name", SMOOTH)
def test_gaps_are_of_second_order(name):
    graph, gaps = built(name), []
    for eps in (1e-3, 1e-4):
        region = boxes(3, SHAPE, eps, low=0.2, high=0.8)
        gaps.append(float(check_backward(graph, region, propagate(graph, region), rows=12, steps=2).max()))

    assert gaps[1] < 0.015 * gaps[0] + 1e-12
    assert gaps[0] < 5e-3, "the values change by up to 0.1"
