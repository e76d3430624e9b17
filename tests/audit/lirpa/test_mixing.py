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
from audit.lirpa.graph import Operation
from audit.lirpa.intervals import propagate
from audit.lirpa.rules import NoRule, rule_of
from audit.lirpa.rules.bilinear import Matrices, Multiplied, Planes
from audit.lirpa.rules.normalisation import Layer
from audit.lirpa.rules.pooling import Windows
from audit.lirpa.rules.rule import Known, Standing
from audit.lirpa.rules.softmax import Softmax
from audit.lirpa.rules.statistics import Deviations
from tests.audit.lirpa.networks import Attention
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
        values = [
            each(flat).unflatten(1, shape) + self.shift for each, shape in zip(self.maps, self.shapes, strict=True)
        ]
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
    "local_response": (nn.LocalResponseNorm(3, 0.3, 0.75, 1.0), (4, 2, 2)),
}
PRELUS = {
    "prelu": (lambda a: functional.prelu(a, torch.tensor([0.3, -0.2, 1.4])), (3, 2, 2)),
    "prelu_one": (lambda a: functional.prelu(a, torch.tensor([0.1])), (5,)),
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
    "max_over": (lambda a: a.max(1).values, (4, 3)),
    "min_over": (lambda a: a.min(2, keepdim=True).values, (4, 3)),
    "max_pool_line": (lambda a: functional.max_pool1d(a, 3, 2, 1), (2, 6)),
    "max_pool_adaptive": (lambda a: functional.adaptive_max_pool2d(a, (2, 3)), (2, 5, 4)),
    "max_pool_global": (lambda a: functional.adaptive_max_pool2d(a, 1), (2, 3, 3)),
    "maximum": (torch.maximum, (3, 2), (3, 2)),
    "maximum_spread": (torch.maximum, (3, 1), (1, 2)),
    "minimum": (torch.minimum, (3, 2), (3, 2)),
    "minimum_self": (lambda a: torch.minimum(a, a), (3,)),
}
FILTERS = {
    "conv1d": (weighted(nn.Conv1d(2, 4, 3, 2, 1, groups=2)), (2, 5)),
    "conv3d": (weighted(nn.Conv3d(2, 2, 2)), (2, 2, 3, 3)),
    "conv_transpose1d": (weighted(nn.ConvTranspose1d(2, 3, 2, 2)), (2, 3)),
    "conv_transpose2d": (weighted(nn.ConvTranspose2d(2, 4, 3, 2, 1, 1, 2)), (2, 2, 2)),
}
CASES = {**PRODUCTS, **QUOTIENTS, **SOFTMAX, **NORMS, **PRELUS, **POOLS, **FILTERS}
SMOOTH = {**PRODUCTS, **QUOTIENTS, **SOFTMAX, **NORMS}


def built(name, **settings):
    function, *shapes = CASES[name]
    return graph_of(Applied(function, *shapes, **settings), SHAPE)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("eps", "find"),
    [
        pytest.param(0.0, propagate, marks=pytest.mark.slow),
        pytest.param(1e-3, propagate, marks=pytest.mark.slow),
        (0.05, crown),
        pytest.param(0.3, propagate, marks=pytest.mark.slow),
        pytest.param(1.0, propagate, marks=pytest.mark.slow),
    ],
)
def test_no_point_leaves_its_bounds(name, eps, find):
    graph, region = built(name), boxes(3, SHAPE, eps)
    known = find(graph, region)

    check_intervals(graph, known, points(region, 60))
    gaps = check_backward(graph, region, known, rows=12, steps=9)

    assert gaps.isfinite().all()
    assert eps or (gaps < 1e-8).all()


@pytest.mark.slow
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


WHOLE = {
    # operator, its arguments, "x" and "y" being operands of these shapes
    "mul": (ATEN.mul.Tensor, ("x", "y"), (1, 3), (1, 3)),
    "square": (ATEN.mul.Tensor, ("x", "x"), (1, 3)),
    "matmul": (ATEN.matmul.default, ("x", "y"), (1, 2, 3), (1, 3, 2)),
    "matmul_self": (ATEN.matmul.default, ("x", "x"), (1, 3, 3)),
    "div": (ATEN.div.Tensor, ("x", "y"), (1, 3), (1, 3)),
    "div_itself": (ATEN.div.Tensor, ("x", "x"), (1, 3)),
    "div_constant": (ATEN.div.Tensor, (torch.tensor([-2.0, 0.0, 1.0]).double(), "x"), (1, 3)),
    "softmax": (ATEN.softmax.int, ("x", 1), (1, 5)),
    "softmax_pair": (ATEN._softmax.default, ("x", -1, False), (1, 2)),
    "log_softmax": (ATEN._log_softmax.default, ("x", 1, False), (1, 4)),
    "layer_norm": (ATEN.layer_norm.default, ("x", [5], normal(5).double(), normal(5, seed=3).double(), 1e-3), (1, 5)),
    "layer_norm_plain": (ATEN.layer_norm.default, ("x", [3]), (1, 3)),
    "group_norm": (ATEN.group_norm.default, ("x", 2, normal(4).double()), (1, 4, 2)),
    "var": (ATEN.var.correction, ("x", [1]), (1, 5)),
    "norm": (ATEN.linalg_vector_norm.default, ("x", 2, [1]), (1, 4)),
    "max_pool": (ATEN.max_pool2d.default, ("x", [2, 2], [1, 1], [1, 1]), (1, 1, 2, 3)),
    "amin": (ATEN.amin.default, ("x", [1]), (1, 4)),
    "maximum": (ATEN.maximum.default, ("x", "y"), (1, 3), (1, 3)),
    "minimum": (ATEN.minimum.default, ("x", "y"), (1, 3), (1, 3)),
}


def alone(name):
    """An operator with operands that are free of one another."""
    target, given, *shapes = WHOLE[name]
    operands = {
        letter: Operation("input", letter, "", lambda x: x, (), {}, (), shape)
        for letter, shape in zip("xy", shapes, strict=False)
    }
    args = tuple(operands.get(each, each) if isinstance(each, str) else each for each in given)
    kind, used = target._schema.name.rpartition("::")[-1], tuple(operands.values())
    value = target(*(torch.ones(each.shape).double() if isinstance(each, Operation) else each for each in args))
    return Operation(kind, kind, "", target, args, {}, used, tuple(value.shape))


def operands_of(op, centre, width, n=40, seed=0):
    """Intervals of a mean width around a mean place; half of them are of one width, and a few values are fixed."""
    generator, found = torch.Generator().manual_seed(seed), []
    for operand in op.operands:
        middle = centre * torch.randn(n, *operand.shape, generator=generator, dtype=torch.float64)
        radius = width * torch.rand(n, *operand.shape, generator=generator, dtype=torch.float64)
        radius[: n // 2] = width
        radius[torch.rand(radius.shape, generator=generator) < 0.1] = 0
        if op.kind == "div" and operand is op.args[1]:
            middle = middle.sign() * (middle.abs() + radius + 0.05)
        found.append(Interval.around(middle, radius))
    return found


def check_planes(op, operands, count=300, seed=0):
    """The planes of single values and of combinations lie below, at corners and at points within."""
    n, generator = len(operands[0].lo), torch.Generator().manual_seed(seed)
    rule = rule_of(op)
    known = Known(dict(zip(op.operands, operands, strict=True)))
    known.intervals[op] = own = rule.interval(op, *operands).said()
    size = math.prod(op.shape)
    rows = torch.cat([torch.eye(size).double(), torch.randn(4, size, generator=generator, dtype=torch.float64)])
    rows = torch.cat([rows, -rows]).view(-1, *op.shape)
    owners = Owners.all_of(n, len(rows), rows.device)
    pulled = rule.backward(op, rows.repeat(n, *(1,) * len(op.shape)), Standing(known, owners))
    worst = -math.inf
    for place in range(count):
        shares = [torch.rand(x.lo.shape, generator=generator, dtype=torch.float64) for x in operands]
        shares = [share.round() if place % 2 else share for share in shares]
        values = [x.lo + share * (x.hi - x.lo) for x, share in zip(operands, shares, strict=True)]
        value = op.each(*values)
        plane = pulled.rest.clone()
        for each, coefficients in zip(values, pulled.rows, strict=True):
            if coefficients is not None:
                plane = plane + (owners.pick(each) * coefficients).flatten(1).sum(1)
        wanted = (owners.pick(value).flatten(1) * rows.flatten(1).repeat(n, 1)).sum(1)
        excess = ((plane - wanted) / (1 + wanted.abs() + value.abs().max())).nan_to_num(-1)
        outside = torch.maximum(own.lo - value, value - own.hi) / (1 + value.abs())
        worst = max(worst, float(excess.max()), float(outside.max()))
    assert worst < 1e-9, f"a bound is exceeded by {worst:.3g}"


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("centre", [0.0, 1.0, pytest.param(8.0, marks=pytest.mark.slow)])
def test_planes_of_single_operators_lie_below_at_every_point(name, centre):
    op = alone(name)
    for width in (0.0, 1e-7, 1e-3, 0.1, 0.5, 2.0, 20.0):
        check_planes(op, operands_of(op, centre, width), count=60)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("end", ["lo", "hi", "both"])
def test_infinite_intervals_lead_to_no_claim(name, end):
    op = alone(name)
    operands = operands_of(op, 1.0, 0.5)
    points_within = [x.centre for x in operands]
    for x, place in itertools.product(operands, ((0, 0), (1, -1))):
        flat_lo, flat_hi = x.lo.flatten(1), x.hi.flatten(1)
        flat_lo[place] = flat_lo[place] if end == "hi" else -torch.inf
        flat_hi[place] = flat_hi[place] if end == "lo" else torch.inf
    rule = rule_of(op)
    known = Known(dict(zip(op.operands, operands, strict=True)))
    known.intervals[op] = own = rule.interval(op, *operands).said()
    value = op.each(*points_within)
    for sign in (1, -1):
        rows = torch.full((len(value), *op.shape), float(sign)).double()
        pulled = rule.backward(op, rows, Standing(known, Owners.all_of(len(value), 1, rows.device)))
        plane = pulled.rest
        for each, coefficients in zip(points_within, pulled.rows, strict=True):
            if coefficients is not None:
                plane = plane + (each * coefficients).flatten(1).sum(1)
        assert not (plane > (rows * value).flatten(1).sum(1) + 1e-9).any()
        assert plane[2:].isfinite().all(), "other samples are bounded as ever"
    assert not ((own.lo > value + 1e-9) | (own.hi < value - 1e-9)).any()


def corners_of(op, operands):
    """All corners' values: (corners, n, *shape)."""
    sizes = [x.lo[0].numel() for x in operands]
    found = []
    for bits in itertools.product((0.0, 1.0), repeat=sum(sizes)):
        shares = torch.tensor(bits, dtype=torch.float64).split(sizes)
        found.append(
            op.each(
                *(x.lo + share.view(x.lo.shape[1:]) * (x.hi - x.lo) for x, share in zip(operands, shares, strict=True))
            )
        )
    return torch.stack(found)


@pytest.mark.parametrize(
    "name", ["mul", "square", "div", "softmax", "softmax_pair", "log_softmax", "maximum", "amin", "max_pool"]
)
def test_intervals_are_attained(name):
    op = alone(name)
    for width in (0.1, 3.0):
        operands = operands_of(op, 1.0, width)
        found, values = rule_of(op).interval(op, *operands), corners_of(op, operands)
        if name == "square":  # its least value may lie within
            values = torch.cat(
                [values, torch.zeros_like(values[:1]).where(operands[0].lo * operands[0].hi < 0, values[0])]
            )
        torch.testing.assert_close(found.lo, values.amin(0))
        torch.testing.assert_close(found.hi, values.amax(0))


def test_products_of_matrices_have_nearly_the_intervals_of_their_terms():
    op = alone("matmul")
    for centre, width, most in ((3.0, 0.2, 1.02), (0.5, 0.5, 1.25), (0.0, 1.0, 1.0 + 1e-9)):
        operands = operands_of(op, centre, width, n=8)
        found, values = rule_of(op).interval(op, *operands), corners_of(op, operands)
        wanted = values.amax(0) - values.amin(0)
        given = found.hi - found.lo
        assert float(given.sum() / wanted.sum()) < most
        assert bool((given < 1.5 * wanted + 1e-9).all())
    probabilities = Interval(operands[0].lo.abs(), operands[0].lo.abs() + 0.5)
    found = rule_of(op).interval(op, probabilities, operands[1])
    values = corners_of(op, [probabilities, operands[1]])
    torch.testing.assert_close(found.lo, values.amin(0))  # one factor does not change its sign
    torch.testing.assert_close(found.hi, values.amax(0))


def test_softmax_is_bounded_where_a_difference_of_sums_would_vanish():
    op = alone("softmax")
    lo = torch.tensor([[[-50.0, -46.0, -60.0, -70.0, -80.0]], [[0.0, 800.0, -800.0, 3.0, 3.0]]]).double()[:, 0]
    x = Interval(lo[:, None].view(2, 1, 5), (lo + torch.tensor([50.0, 0, 0, 0, 0])).view(2, 1, 5))

    found, values = rule_of(op).interval(op, x), corners_of(op, [x])

    torch.testing.assert_close(found.lo, values.amin(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.hi, values.amax(0), rtol=1e-12, atol=0)


def test_margins_pass_log_softmax_without_loss():
    graph, region = built("log_softmax"), boxes(3, SHAPE, 0.5)
    plain = graph_of(Applied(lambda a: a, (5,)), SHAPE)
    rows = Rows(
        (torch.eye(5)[:1] - torch.eye(5)[1:]).double()[:, None].repeat(3, 1, 1),
        Owners.all_of(3, 4, torch.device("cpu")),
    )

    found = lower_bounds(graph, region, propagate(graph, region), graph.logits, rows)
    wanted = lower_bounds(plain, region, propagate(plain, region), plain.logits, rows)

    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", ["layer_norm_plain", "softmax", "div", "matmul", "max_pool"])
def test_planes_are_nearer_than_constants_at_the_centre(name):
    op = alone(name)
    for width in (0.01, 0.3):
        operands = operands_of(op, 1.0, width)
        known = Known(dict(zip(op.operands, operands, strict=True)))
        known.intervals[op] = own = rule_of(op).interval(op, *operands)
        rows = torch.eye(math.prod(op.shape)).double().view(-1, *op.shape)
        owners = Owners.all_of(len(own.lo), len(rows), rows.device)
        pulled = rule_of(op).backward(op, rows.repeat(len(own.lo), *(1,) * len(op.shape)), Standing(known, owners))
        heights = pulled.rest
        for x, coefficients in zip(operands, pulled.rows, strict=True):
            heights = heights + (owners.pick(x.centre) * coefficients).flatten(1).sum(1)
        assert float((heights - own.lo.flatten()).mean()) > 0
        assert bool((heights >= own.lo.flatten() - 1e-9).double().mean() > 0.9)


def test_a_variance_is_bounded_from_below_where_all_values_may_meet_but_do_not():
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(20, 64, generator=generator, dtype=torch.float64)
    found = Deviations.of(Interval(centre - 0.9, centre + 0.9), (-1,))
    simple = (found.middle.sqrt() - 0.9).clamp(min=0) ** 2
    mean = torch.linspace(-3, 3, 2001, dtype=torch.float64)[:, None, None]
    exact = (((centre - mean).abs() - 0.9).clamp(min=0) ** 2).mean(-1).amin(0)[:, None]

    assert bool((found.least <= exact + 1e-6).all())
    assert bool((found.least > 0.85 * exact).all())
    assert float(found.least.mean()) > 5 * float(simple.mean())


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (-1.0, 0.0)])
def test_a_divisor_that_may_be_0_says_nothing(low, high):
    op = alone("div")
    one = Interval(torch.ones(1, 1, 3).double(), torch.full((1, 1, 3), 2.0).double())
    below = Interval(torch.full((1, 1, 3), low).double(), torch.full((1, 1, 3), high).double())
    known = Known({op.operands[0]: one, op.operands[1]: below})
    known.intervals[op] = found = rule_of(op).interval(op, one, below).said()
    pulled = rule_of(op).backward(
        op, torch.ones(1, *op.shape).double(), Standing(known, Owners(torch.zeros(1).long(), 1))
    )

    assert bool((found.lo == -torch.inf).all())
    assert bool((found.hi == torch.inf).all())
    assert not bool(pulled.rest.isfinite() & pulled.rows[0].isfinite().all() & pulled.rows[1].isfinite().all())


@pytest.mark.parametrize("mode", ["floor", "trunc"])
@pytest.mark.parametrize("constant", [False, True])
def test_rounded_quotients_are_bounded_by_intervals(mode, constant):
    def function(above, below):
        return torch.div(5 * above, 0.3 if constant else below.exp() + 0.2, rounding_mode=mode)

    graph, region = graph_of(Applied(function, (3,), (3,)), SHAPE), boxes(3, SHAPE, 0.2)
    known, rows = propagate(graph, region), Rows(torch.ones(3, 1, 3).double(), Owners(torch.arange(3), 3))
    check_intervals(graph, known, points(region, 60))
    found = lower_bounds(graph, region, known, graph.logits, rows)
    for images in points(region, 60):
        assert bool((found <= graph.run(images).sum(1)).all())


class Gated(nn.Module):
    """Convolutions that are multiplied place by place, and by a gate a channel."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other, self.last = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 3)
        self.head = nn.Linear(2, 3)

    def forward(self, pixels):
        mixed = self.one(pixels) * self.other(pixels)
        mixed = mixed * mixed.mean((2, 3), keepdim=True).sigmoid() + mixed * mixed
        return self.head(functional.max_pool2d(self.last(mixed).relu(), 2).mean((2, 3)))


def test_parts_of_images_pass_products_as_whole_images_do(monkeypatch):
    graph, region = graph_of(Gated(), (1, 10, 10)), boxes(2, (1, 10, 10), 0.05)
    parts = crown(graph, region)
    check_intervals(graph, parts, points(region, 40))
    check_backward(graph, region, parts)

    raised = crown(graph, region, steps=2)
    check_backward(graph, region, raised)
    assert bool((raised.intervals[graph.logits].lo >= parts.intervals[graph.logits].lo - 1e-9).all())

    monkeypatch.setattr(Multiplied, "local", lambda self, op: False)
    whole = crown(graph, region)

    torch.testing.assert_close(parts.intervals[graph.logits].lo, whole.intervals[graph.logits].lo)
    for op in graph.operations:
        torch.testing.assert_close(parts.intervals[op].hi, whole.intervals[op].hi)


@pytest.mark.parametrize("steps", [0, 2])
def test_a_block_of_attention_is_bounded_closely(steps):
    graph, region = graph_of(Attention(), (2, 4, 4)), boxes(2, (2, 4, 4), 0.02)
    known = crown(graph, region, steps)
    check_intervals(graph, known, points(region, 40))
    gaps = check_backward(graph, region, known, rows=6)
    assert float(gaps.max()) < 0.25


class Flat(Softmax):
    """A softmax whose remainders are forgotten."""

    def _remainders(self, op, centre, radius):
        return torch.zeros_like(centre), torch.zeros_like(centre)


class Loose(Matrices):
    """Products whose planes touch in the middle."""

    def planes(self, op, first, second):
        found = super().planes(op, first, second)
        return Planes(found.first, found.second, found.middle, 0.9 * found.spread)


class Early(Windows):
    """Pooling whose windows end early."""

    def candidates(self, op, device):
        return super().candidates(op, device)[:, :-1]


class Swapped(Layer):
    """Normalisation with the constant of another eps."""

    def constants(self, op):
        weight, bias, eps = super().constants(op)
        return weight, bias, eps + 0.01


@pytest.mark.parametrize(
    ("table", "kind", "name", "wrong"),
    [
        (rules._ALONE, "softmax", "softmax", Flat()),
        (rules._TOGETHER, "matmul", "matmul", Loose()),
        (rules._ALONE, "max_pool2d", "max_pool", Early(1)),
        (rules._ALONE, "layer_norm", "layer_norm", Swapped()),
    ],
)
def test_a_wrong_rule_is_caught(monkeypatch, table, kind, name, wrong):
    op = alone(name)
    monkeypatch.setitem(table, kind, wrong)
    with pytest.raises(AssertionError, match="a bound is exceeded by"):
        check_planes(op, operands_of(op, 1.0, 0.3))


def test_wrong_products_are_caught_in_a_network(monkeypatch):
    monkeypatch.setitem(rules._TOGETHER, "matmul", Loose())
    module = type("Pixels", (nn.Module,), {"forward": lambda self, x: (x @ x.flip(3).transpose(-1, -2)).flatten(1)})
    graph, region = graph_of(module(), (1, 1, 2)), boxes(3, (1, 1, 2), 0.3, low=-1)
    with pytest.raises(AssertionError, match="a bound is exceeded by"):
        check_backward(graph, region, propagate(graph, region), rows=32)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda a, b: torch.clamp(a, max=b), ((3,), (3,))),
        (lambda a, b: functional.linear(a, b[0]), ((4,), (3, 4))),
        (lambda a: a.sort(1)[0], ((3, 2),)),
    ],
)
def test_what_nothing_is_known_of_is_named(function, shapes):
    graph, region = graph_of(Applied(function, *shapes), SHAPE), boxes(2, SHAPE, 0.1)
    with pytest.raises(NoRule, match="no bounds are known for the operator"):
        crown(graph, region)


@pytest.mark.parametrize("name", ["matmul", "div", "softmax_wide", "layer_norm_scaled", "max_pool_padded", "maximum"])
def test_bounds_of_single_precision_are_near(name):
    function, *shapes = CASES[name]
    region, module = boxes(3, SHAPE, 0.1), Applied(function, *shapes)
    exact, graph = graph_of(module, SHAPE), graph_of(module, SHAPE, torch.float32)
    coarse = type(region)(Interval(region.box.lo.float(), region.box.hi.float()))
    size = exact.logits.shape[-1]
    rows = torch.eye(size)[None].repeat(3, 1, 1).view(-1, 1, size)
    owners = Owners.all_of(3, size, rows.device)

    found = lower_bounds(graph, coarse, propagate(graph, coarse), graph.logits, Rows(rows, owners))
    wanted = lower_bounds(exact, region, propagate(exact, region), exact.logits, Rows(rows.double(), owners))

    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)
