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


class Crops(nn.Module):
    """The quarters of an image as a batch of their own, through convolutions and a layer; the answers are averaged."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Conv2d(2, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.Linear(16, 3)

    def forward(self, pixels):
        halves = torch.cat(pixels.split(4, 2), 0)
        quarters = torch.cat(halves.split(4, 3), 0)
        found = self.head(self.second(self.first(quarters).relu()).relu().flatten(1))
        return found.view(4, -1, 3).mean(0)


@pytest.mark.parametrize("find", [propagate, crown])
def test_parts_of_an_image_that_become_a_batch_stay_with_their_image(find):
    graph, region = graph_of(Crops(), (2, 8, 8)), boxes(3, (2, 8, 8), 0.05)
    known = find(graph, region)

    check_intervals(graph, known, points(region, 100))
    check_backward(graph, region, known)
    alone = find(graph, region.only(slice(1, 2)))
    torch.testing.assert_close(known.intervals[graph.logits].lo[1:2], alone.intervals[graph.logits].lo)
