import math

import pytest
import torch
from torch import nn

from audit.lirpa import rules
from audit.lirpa.bounds import ROUNDINGS, Interval, Owners
from audit.lirpa.crown import crown
from audit.lirpa.graph import Operation
from audit.lirpa.intervals import propagate
from audit.lirpa.lowering import lower
from audit.lirpa.rules import rule_of
from audit.lirpa.rules.curve import Curve
from audit.lirpa.rules.elementwise import Lines
from audit.lirpa.rules.piecewise import Polygon
from audit.lirpa.rules.rule import Known, Standing
from tests.audit.lirpa.soundness import boxes, check_backward, check_intervals, graph_of, points

ATEN, INF = torch.ops.aten, math.inf
ANY, POSITIVE, FROM_0 = (-INF, INF), (1e-12, INF), (0.0, INF)
CASES = {
    # name: operator, its arguments after the value, by name, domain, places of interest
    "abs": (ATEN.abs.default, (), {}, ANY, (0,)),
    "clamp": (ATEN.clamp.default, (-0.5, 0.7), {}, ANY, (-0.5, 0.7)),
    "clamp_lower": (ATEN.clamp.default, (0.2,), {}, ANY, (0.2,)),
    "clamp_upper": (ATEN.clamp.default, (None, 0.3), {}, ANY, (0.3,)),
    "clamp_crossed": (ATEN.clamp.default, (0.7, -0.5), {}, ANY, (-0.5, 0.7)),
    "clamp_tensor": (ATEN.clamp.Tensor, (torch.tensor(-0.1), torch.tensor(0.5)), {}, ANY, (-0.1, 0.5)),
    "clamp_min": (ATEN.clamp_min.default, (0.2,), {}, ANY, (0.2,)),
    "clamp_max": (ATEN.clamp_max.default, (0.3,), {}, ANY, (0.3,)),
    "hardtanh": (ATEN.hardtanh.default, (), {}, ANY, (-1, 1)),
    "hardtanh_given": (ATEN.hardtanh.default, (0.0, 6.0), {}, ANY, (0, 6)),
    "relu6": (ATEN.relu6.default, (), {}, ANY, (0, 6)),
    "hardsigmoid": (ATEN.hardsigmoid.default, (), {}, ANY, (-3, 3)),
    "maximum": (ATEN.maximum.default, (torch.tensor(0.1),), {}, ANY, (0.1,)),
    "minimum": (ATEN.minimum.default, (torch.tensor(0.1),), {}, ANY, (0.1,)),
    "gelu": (ATEN.gelu.default, (), {}, ANY, (-0.7517915, -1.41421356, 1.41421356)),
    "gelu_tanh": (ATEN.gelu.default, (), {"approximate": "tanh"}, ANY, (-0.7524614, -1.418504, 1.418504)),
    "silu": (ATEN.silu.default, (), {}, ANY, (-1.2784645, -2.399357, 2.399357)),
    "mish": (ATEN.mish.default, (), {}, ANY, (-1.1924312, -2.256376, 1.490571)),
    "hardswish": (ATEN.hardswish.default, (), {}, ANY, (-3, -1.5, 3)),
    "sigmoid": (ATEN.sigmoid.default, (), {}, ANY, (0,)),
    "tanh": (ATEN.tanh.default, (), {}, ANY, (0,)),
    "erf": (ATEN.erf.default, (), {}, ANY, (0,)),
    "erfc": (ATEN.erfc.default, (), {}, ANY, (0,)),
    "atan": (ATEN.atan.default, (), {}, ANY, (0,)),
    "softplus": (ATEN.softplus.default, (), {}, ANY, (0, 20)),
    "softplus_jump": (ATEN.softplus.default, (2.0, 3.0), {}, ANY, (0, 1.5)),
    "elu": (ATEN.elu.default, (), {}, ANY, (0,)),
    "elu_flat": (ATEN.elu.default, (0.3,), {}, ANY, (0,)),
    "elu_steep": (ATEN.elu.default, (2.5,), {}, ANY, (0,)),
    "selu": (ATEN.selu.default, (), {}, ANY, (0,)),
    "celu": (ATEN.celu.default, (2.0,), {}, ANY, (0,)),
    "exp": (ATEN.exp.default, (), {}, ANY, (0,)),
    "exp2": (ATEN.exp2.default, (), {}, ANY, (0,)),
    "expm1": (ATEN.expm1.default, (), {}, ANY, (0,)),
    "log": (ATEN.log.default, (), {}, FROM_0, (1,)),
    "log2": (ATEN.log2.default, (), {}, FROM_0, (1,)),
    "log10": (ATEN.log10.default, (), {}, FROM_0, (1,)),
    "log1p": (ATEN.log1p.default, (), {}, (-1.0, INF), (0,)),
    "sqrt": (ATEN.sqrt.default, (), {}, FROM_0, (1,)),
    "rsqrt": (ATEN.rsqrt.default, (), {}, POSITIVE, (1,)),
    "reciprocal": (ATEN.reciprocal.default, (), {}, POSITIVE, (1,)),
    "reciprocal_negative": (ATEN.reciprocal.default, (), {}, (-INF, -1e-12), (-1,)),
    "square": (ATEN.square.default, (), {}, ANY, (0,)),
    "pow_tensor": (ATEN.pow.Tensor_Tensor, (torch.tensor(2.0),), {}, ANY, (0,)),
    **{f"pow{p}": (ATEN.pow.Tensor_Scalar, (p,), {}, ANY, (0,)) for p in (0, 1, 2, 3, 4.0, 5, 2.0)},
    **{f"pow{p}": (ATEN.pow.Tensor_Scalar, (p,), {}, FROM_0, (1,)) for p in (0.5, 1.7, 0.3, 2.5)},
    **{f"pow{p}": (ATEN.pow.Tensor_Scalar, (p,), {}, POSITIVE, (1,)) for p in (-1, -2, -3, -0.5, -1.7)},
    **{f"pow{p}_negative": (ATEN.pow.Tensor_Scalar, (p,), {}, (-INF, -1e-12), (-1,)) for p in (-1, -2, -3)},
}  # fmt: skip
JUMPS = {"softplus", "softplus_jump"}


def operation(case, dtype=torch.float64):
    target, args, kwargs, _, _ = CASES[case]
    pixels = Operation("input", "input", "", lambda x: x, (), {}, (), (1,))
    args = tuple(each.to(dtype) if isinstance(each, torch.Tensor) else each for each in args)
    kind = target._schema.name.rpartition("::")[-1]
    return Operation(kind, kind, "", target, (pixels, *args), kwargs, (pixels,), (1,))


def intervals_of(case, dtype=torch.float64):
    """Of all widths and places, within the domain: (n, 1)."""
    (low, high), special = CASES[case][3:]
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    def around(centre, width):
        share = uniform(len(centre))
        return torch.stack([centre - share * width, centre + (1 - share) * width])

    widths = torch.tensor([0, 1e-15, 1e-12, 1e-9, 1e-7, 1e-5, 1e-3, 0.1, 1, 3, 10.0]).double().repeat_interleave(8)
    anywhere = [around((uniform(len(widths)) * 2 - 1) * size, widths) for size in (1e-3, 2.0, 6.0, 50.0)]
    turning = [around(torch.full_like(widths, place), widths) for place in special]
    touching = [torch.stack([place + 0 * widths, place + widths]) for place in special]
    touching += [torch.stack([place - widths, place + 0 * widths]) for place in special]
    wide = (uniform(2, 400) * 2 - 1) * torch.tensor([1.0, 4.0, 10.0, 60.0]).double().repeat(100)
    fixed = (
        torch.tensor([[-50.0, 50], [-50, -40], [40, 50], [-1000, 1], [-1, 1000], [0, 0], [0, 1], [-1, 0]]).double().T
    )
    found = torch.cat([*anywhere, *turning, *touching, wide, fixed], 1).sort(0).values.to(dtype)
    lo, hi = found.clamp(low, high)
    return Interval(lo[:, None], hi[:, None])


def grid_of(case, x, count=201):
    """Points (count, n, 1) of intervals: evenly spaced, dense at the ends, and the places of interest."""
    even = torch.linspace(0, 1, count, dtype=torch.float64)
    share = torch.cat([even, torch.logspace(-9, -2, 15, dtype=torch.float64), 1 - torch.logspace(-9, -2, 15).double()])
    lo, hi = x.lo.double(), x.hi.double()
    inside = lo + share[:, None, None] * (hi - lo)
    near = torch.tensor([place + step for place in CASES[case][4] for step in (-1e-9, 0, 1e-9)]).double()
    inside = torch.cat([inside, near[:, None, None].expand(-1, *lo.shape)])
    return torch.minimum(torch.maximum(inside.to(x.lo.dtype), x.lo), x.hi)


def excess(case, dtype=torch.float64, rule=None):
    """By how many roundings lines and intervals are exceeded, at most."""
    op, x = operation(case, dtype), intervals_of(case, dtype)
    rule = rule or rule_of(op)
    own = rule.interval(op, x)
    found, inside = rule.relaxation(op, x, own), grid_of(case, x)
    values = op(inside)
    assert not values.isnan().any()
    size = 1 + values.abs() + inside.abs()
    worst = 0.0
    for slope, offset, end, sign in (
        (found.lower_slope, found.lower_offset, own.lo, 1),
        (found.upper_slope, found.upper_offset, own.hi, -1),
    ):
        assert not slope.isnan().any()
        assert slope.isfinite().all()
        assert not offset.isnan().any()
        line = torch.where(offset.isinf(), offset, slope * inside + offset)
        terms = (slope * inside).abs() + torch.where(offset.isinf(), 0.0, offset).abs()
        for bound, scale in ((line, size + terms), (end.expand_as(values), size)):
            over = (sign * (bound - values)) / (scale * torch.finfo(dtype).eps)
            worst = max(worst, float(torch.where(bound == values, 0.0, over).max()))
    return worst


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_no_point_lies_beyond_a_line(case, dtype):
    assert excess(case, dtype) < 16


class LowChord(Curve):
    """An upper line that lies a little too low."""

    def lines(self, op, x):
        found = super().lines(op, x)
        return Lines(found.lower_slope, found.lower_offset, found.upper_slope, found.upper_offset - 1e-10)


class SteepTangent(Curve):
    """A lower line with a slope that is a little too steep."""

    def lines(self, op, x):
        found = super().lines(op, x)
        return Lines(found.lower_slope * 1.01, found.lower_offset, found.upper_slope, found.upper_offset)


class Unbent(Curve):
    """Takes a function to be convex that is not."""

    def convex(self, op):
        return -INF, INF


@pytest.mark.parametrize("wrong", [LowChord(end=0.0), SteepTangent(end=0.0), Unbent(), Curve(end=0.1), Curve(0.0)])
def test_a_wrong_line_is_caught(wrong):
    assert excess("sigmoid", rule=wrong) > 1000


@pytest.mark.parametrize("case", CASES)
def test_lines_are_exact_at_a_point(case):
    op, x = operation(case), intervals_of(case)
    x = Interval(x.centre, x.centre)
    value = op(x.lo)
    own = rule_of(op).interval(op, x)
    found = rule_of(op).relaxation(op, x, own)
    finite = value.isfinite()
    slack = 2.1e-9 + 1e-12 * value.abs() if case in JUMPS else 1e-13 * (1 + value.abs() + x.lo.abs())
    for bound in (found.lower_slope * x.lo + found.lower_offset, found.upper_slope * x.lo + found.upper_offset):
        assert ((bound - value).abs() <= slack + 1e-13 * (found.lower_slope * x.lo).abs())[finite].all()
    slack = 1e-8 if case in JUMPS else 2 * ROUNDINGS * torch.finfo(torch.float64).eps * value.abs()
    assert ((own.lo - value).abs() <= slack)[finite].all()


def curvature_of(case):
    """The gap between the lines at most, over the width squared, on small intervals around ordinary places."""
    op = operation(case)
    low, high = max(CASES[case][3][0], -4.0), min(CASES[case][3][1], 4.0)
    centre = torch.linspace(low + 0.31, high - 0.17, 37, dtype=torch.float64)[:, None]
    gaps = []
    for width in (1e-1, 1e-2, 1e-3, 1e-4):
        x = Interval(centre - 0.6 * width, centre + 0.4 * width)
        found = rule_of(op).relaxation(op, x, rule_of(op).interval(op, x))
        ends = torch.stack([x.lo, x.hi])
        gap = (found.upper_slope - found.lower_slope) * ends + found.upper_offset - found.lower_offset
        gaps.append(gap.amax(0) / width**2)
    return gaps


def is_smooth(case):
    jointed = {"elu_flat", "elu_steep", "selu", "softplus_jump", "hardswish"}
    return case not in jointed and not isinstance(rule_of(operation(case)), Polygon)


@pytest.mark.parametrize("case", [case for case in CASES if is_smooth(case)])
def test_gaps_shrink_with_the_square_of_the_width(case):
    first, *rest = curvature_of(case)
    for gap in rest:
        assert (gap <= 2 * first + 1e-6).all()


def hull_height(places, heights):
    """The height at the middle of the convex hull, from below, of points (count, n, 1) in order: by all pairs."""
    middle = (places[0] + places[-1]) / 2
    lowest = torch.full_like(middle, INF)
    for place, height in zip(places, heights, strict=True):
        across = (place <= middle) & (places >= middle) & (places > place)
        steep = (heights - height) / torch.where(across, places - place, 1.0)
        lowest = torch.minimum(lowest, torch.where(across, height + steep * (middle - place), INF).amin(0))
    return lowest


@pytest.mark.parametrize("case", [case for case in CASES if case not in {*JUMPS, "exp", "exp2", "expm1"}])
def test_lines_are_the_best_at_the_middle(case):
    op = operation(case)
    low, high = CASES[case][3]
    low, high = max(low, {0.0: 0.3, 1e-12: 0.3, -1.0: -0.9}.get(low, -6.0)), min(high, 6.0 if high > 0 else -0.3)
    ends = low + (high - low) * torch.rand(2, 300, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = Interval(*ends.sort(0).values)
    found = rule_of(op).relaxation(op, x, rule_of(op).interval(op, x))
    places = grid_of(case, x).sort(0).values
    even = op(x.lo + torch.linspace(0, 1, 201, dtype=torch.float64)[:, None, None] * (x.hi - x.lo))
    # between points the hull of the function lies outside that of the points, by the curvature
    slack = 1e-9 + even.diff(n=2, dim=0).abs().amax(0) / 6
    values, middle = op(places), x.centre
    assert (found.lower_slope * middle + found.lower_offset >= hull_height(places, values) - slack).all()
    assert (found.upper_slope * middle + found.upper_offset <= -hull_height(places, -values) + slack).all()


@pytest.mark.parametrize(
    "case", ["log", "sqrt", "rsqrt", "reciprocal", "pow-1", "pow-2", "pow0.5", "pow-0.5", "pow1.7"]
)
def test_nothing_is_said_outside_the_domain(case):
    op = operation(case)
    x = Interval(torch.tensor([[-1.0], [-2.0], [-1e-9]]).double(), torch.tensor([[1.0], [3.0], [1e-9]]).double())
    own = rule_of(op).interval(op, x)
    assert (own.lo == -INF).all()
    assert (own.hi == INF).all()
    for rows, known in (([[0.0], [1.0], [-1.0]], [0.0, -INF, -INF]),):
        at = Standing(Known({op.operands[0]: x, op: own}), Owners.all_of(3, 1, torch.device("cpu")))
        pulled = rule_of(op).backward(op, torch.tensor(rows).double(), at)
        assert pulled.rest.tolist() == known
        assert (pulled.rows[0] == 0).all()


@pytest.mark.parametrize("case", ["exp", "gelu", "sigmoid", "clamp", "abs", "square", "softplus", "log", "tanh"])
def test_infinite_intervals_say_no_more_than_the_truth(case):
    op = operation(case)
    low = max(CASES[case][3][0], -1e3)
    lo, hi = torch.tensor([-INF, 0.5, -INF, 0.5]).double(), torch.tensor([1.0, INF, INF, 800.0]).double()
    x = Interval(lo[:, None], hi[:, None])
    own = rule_of(op).interval(op, x)
    found = rule_of(op).relaxation(op, x, own)
    assert (found.lower_slope.isfinite() & found.upper_slope.isfinite()).all()
    inside = torch.linspace(max(low, 0.5), 1.0, 50, dtype=torch.float64)
    values = op(inside)
    assert (found.lower_slope * inside + found.lower_offset <= values + 1e-9).all()
    assert (found.upper_slope * inside + found.upper_offset >= values - 1e-9).all()
    for sign in (1.0, -1.0):
        at = Standing(Known({op.operands[0]: x, op: own}), Owners.all_of(4, 1, torch.device("cpu")))
        assert not rule_of(op).backward(op, torch.full((4, 1), sign).double(), at).rest.isnan().any()


class Applied(nn.Module):
    """Two mixtures with a function between them, shifted into its domain."""

    def __init__(self, function, shift):
        super().__init__()
        torch.manual_seed(0)
        self.function, self.shift = function, shift
        self.first, self.last = nn.Conv2d(1, 3, 3), nn.Linear(12, 4)

    def forward(self, x):
        return self.last(self.function(self.first(x) + self.shift).flatten(1))


FUNCTIONS = {
    "gelu": nn.GELU(), "gelu_tanh": nn.GELU("tanh"), "silu": nn.SiLU(), "mish": nn.Mish(), "hardswish": nn.Hardswish(),
    "sigmoid": nn.Sigmoid(), "tanh": nn.Tanh(), "erf": torch.erf, "softplus": nn.Softplus(), "elu": nn.ELU(),
    "selu": nn.SELU(), "celu": nn.CELU(), "relu6": nn.ReLU6(), "hardtanh": nn.Hardtanh(), "abs": torch.abs,
    "hardsigmoid": nn.Hardsigmoid(), "clamp": lambda x: x.clamp(-0.2, 0.3), "exp": torch.exp, "square": torch.square,
    "cube": lambda x: x**3, "expm1": torch.expm1, "atan": torch.atan,
    "maximum": lambda x: torch.maximum(x, torch.linspace(-0.5, 0.5, 12).view(3, 2, 2)),
    "maximum_spread": lambda x: torch.maximum(x.mean(1, keepdim=True), torch.linspace(-0.5, 0.5, 3).view(3, 1, 1)),
}  # fmt: skip
SHIFTED = {
    "log": torch.log, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "reciprocal": torch.reciprocal, "log1p": torch.log1p,
    "inverse": lambda x: 1 / x, "power": lambda x: x**1.7, "root": lambda x: x**0.5, "pow-0.5": lambda x: x**-0.5,
}  # fmt: skip


@pytest.mark.parametrize("name", [*FUNCTIONS, *SHIFTED])
def test_bounds_of_a_network_hold(name):
    graph = graph_of(Applied(FUNCTIONS.get(name) or SHIFTED[name], 3.0 if name in SHIFTED else 0.0), (1, 4, 4))
    for eps, find in ((0.0, propagate), (0.05, crown), (1.0, propagate)):
        region = boxes(3, (1, 4, 4), eps)
        known = find(graph, region)
        check_intervals(graph, known, points(region, 20))
        gaps = check_backward(graph, region, known, steps=6)
        assert gaps.isfinite().all()
        assert eps or (gaps < 1e-6).all()


@pytest.mark.parametrize("function", [lambda x: torch.maximum(x, 1 - x), lambda x: torch.minimum(x.flip(1), x * 2)])
def test_of_two_operands_ends_count(function):
    graph, region = graph_of(Applied(function, 0.0), (1, 4, 4)), boxes(3, (1, 4, 4), 0.2)
    known = propagate(graph, region)
    check_intervals(graph, known, points(region, 20))
    assert check_backward(graph, region, known, steps=6).isfinite().all()


@pytest.mark.parametrize("function", [lambda x: x ** (1 - x), lambda x: x**x, lambda x: 2.0**x])
def test_nothing_is_said_of_powers_with_other_exponents(function):
    graph, region = graph_of(Applied(function, 3.0), (1, 4, 4)), boxes(3, (1, 4, 4), 0.2)
    known = propagate(graph, region)
    (power,) = (op for op in graph.operations if op.kind == "pow")
    assert (known.intervals[power].lo == -INF).all()
    assert (known.intervals[power].hi == INF).all()
    assert (check_backward(graph, region, known, steps=6) == INF).all()


def test_a_wrong_rule_is_caught_in_a_network(monkeypatch):
    monkeypatch.setitem(rules._ALONE, "sigmoid", SteepTangent(end=0.0))
    graph, region = graph_of(nn.Sigmoid(), (1, 2, 2)), boxes(3, (1, 2, 2), 0.5, low=-4, high=4)
    with pytest.raises(AssertionError, match="a bound is exceeded by"):
        check_backward(graph, region, propagate(graph, region))


@pytest.mark.parametrize("name", ["gelu", "sigmoid", "softplus", "clamp", "maximum"])
def test_bounds_of_single_precision_are_near(name):
    program, region = lower(Applied(FUNCTIONS[name], 0.0), (1, 4, 4)), boxes(3, (1, 4, 4), 0.3)
    exact, graph = program.bound(torch.float64), program.bound(torch.float32)
    box = Interval(region.box.lo.float(), region.box.hi.float())
    found = propagate(graph, type(region)(box))
    expected = propagate(exact, region)
    assert torch.allclose(found.intervals[graph.logits].lo.double(), expected.intervals[exact.logits].lo, atol=1e-5)


@pytest.mark.parametrize("case", ["gelu", "sigmoid", "exp", "softplus", "selu", "hardswish", "clamp", "pow3"])
def test_lines_can_be_differentiated(case):
    op = operation(case)
    lo = torch.tensor([[-2.5], [-0.5], [0.4], [-4.0]]).double().requires_grad_(True)
    hi = torch.tensor([[0.9], [1.5], [0.6], [4.0]]).double().requires_grad_(True)
    x = Interval(lo, hi)
    found = rule_of(op).relaxation(op, x, rule_of(op).interval(op, x))
    (found.lower_slope + found.lower_offset + found.upper_slope + found.upper_offset).sum().backward()
    assert lo.grad.isfinite().all()
    assert hi.grad.isfinite().all()
    assert lo.grad.abs().sum() > 0


@pytest.mark.parametrize("case", ["gelu", "gelu_tanh", "silu", "mish"])
def test_bends_and_turns_are_roots(case):
    op = operation(case)
    rule = rule_of(op)
    places = torch.tensor([*rule.convex(op), *rule.turns(op)], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(op(places).sum(), places, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), places)
    assert curvature[:-1].abs().max() < 1e-14
    assert slope[-1].abs() < 1e-15
    inside = torch.linspace(-30, 30, 20001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(op(inside).sum(), inside, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), inside)
    start, end = rule.convex(op)
    between = (inside > start) & (inside < end)
    assert (curvature[between] >= 0).all()
    assert (curvature[~between] <= 1e-14).all()
