import pytest
import torch
from torch import nn

from audit.lirpa import rules
from audit.lirpa.bounds import Interval
from audit.lirpa.crown import crown
from audit.lirpa.intervals import propagate
from audit.lirpa.rules.relu import Bent
from audit.lirpa.rules.rule import Pulled
from tests.audit.lirpa.soundness import boxes, check_backward, check_intervals, graph_of, points


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.LeakyReLU(0.1), nn.Flatten(),
        nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 3),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("find", [propagate, crown])
@pytest.mark.parametrize("eps", [0.0, 0.01, 0.1, 1.0])
def test_no_point_leaves_its_bounds(find, eps):
    graph, region = graph_of(convolutional(), (2, 8, 8)), boxes(4, (2, 8, 8), eps)
    known = find(graph, region)

    check_intervals(graph, known, points(region, 100))
    check_backward(graph, region, known)


class LowLine(Bent):
    """A ReLU whose upper line lies a little too low."""

    def backward(self, op, rows, at):
        pulled = super().backward(op, rows, at)
        return Pulled(pulled.rows, pulled.rest * 0.99)


class NarrowInterval(Bent):
    """A ReLU whose interval ends a little too early."""

    def interval(self, op, *operands):
        found = super().interval(op, *operands)
        return Interval(found.lo, found.hi * 0.99)


@pytest.mark.parametrize("wrong", [LowLine(), NarrowInterval()])
def test_a_wrong_rule_is_caught(monkeypatch, wrong):
    monkeypatch.setitem(rules._ALONE, "relu", wrong)
    region = boxes(4, (2, 4, 4), 0.5, low=-1)
    graph = graph_of(nn.ReLU(), (2, 4, 4))
    known = propagate(graph, region)

    def check():
        check_intervals(graph, known, points(region, 100))
        check_backward(graph, region, known)

    with pytest.raises(AssertionError, match=r"a bound is exceeded by|values leave their intervals"):
        check()
