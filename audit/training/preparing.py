"""What helps a network to be trained by intervals: where it begins, and what keeps its layers alive on the way.

Weights of the usual size widen intervals from layer to layer. With a normal distribution of standard deviation
sqrt(2 pi) / fan-in, a layer's mean width is that of the layer before. While the radius widens, two penalties hold
intervals narrow and keep both sides of each ReLU in use.

Source: Shi et al. 2021, sections 3.2 and 3.3, arXiv 2103.17268, and the code published with it.
Differs from source: intervals are compared with those that the first layer takes, so that a normalisation before it
    does not count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from audit.lirpa.bounds import Interval
from audit.lirpa.graph import Graph, Operation
from audit.lirpa.rules import rule_of
from audit.lirpa.rules.relu import Bent
from audit.lirpa.rules.rule import Known

TOLERANCE = 0.5
SMALLEST = 1e-12
_LAYERS = frozenset({"conv1d", "conv2d", "linear"})


def begin_narrow(model: nn.Module, graph: Graph, generator: torch.Generator) -> None:
    """Draws the weights of all layers but the last anew, in place.

    A layer that follows a sum of two branches, and a ReLU, takes half of them, as the sum is twice as wide.

    Args:
        model: whose parameters are written.
        graph: of the model, bound to these very parameters.
        generator: on the CPU.
    """
    parameters = {id(parameter) for parameter in model.parameters()}
    layers = [op for op in graph.operations if op.kind in _LAYERS and id(op.args[1]) in parameters]
    with torch.no_grad():
        for op in layers[:-1]:
            weight: Tensor = op.args[1]
            spread = math.sqrt(2 * math.pi) / weight[0].numel() / (2 if _follows_a_sum(op) else 1)
            weight.copy_(spread * torch.randn(weight.shape, generator=generator))


def penalty(graph: Graph, known: Known) -> Tensor:
    """Of all ReLUs, the mean of how much wider their operands are than the images, and of how one-sided they are."""
    relus = [known.intervals[op.operands[0]] for op in graph.operations[1:] if isinstance(rule_of(op), Bent)]
    given = known.intervals[_first_taken(graph)].radius.mean()
    found = [_widened(given, operand) + _one_sided(operand) for operand in relus]
    return torch.stack(found).mean() if found else given.new_zeros(())


def _widened(given: Tensor, operand: Interval) -> Tensor:
    return (TOLERANCE - given / operand.radius.mean().clamp(min=SMALLEST)).relu() / TOLERANCE


def _one_sided(operand: Interval) -> Tensor:
    """How far the means, and the variances, of what is always on and of what is always off are apart."""
    centre = operand.centre
    off_centre = (centre - centre.mean()).square()
    on, off = operand.lo > 0, operand.hi < 0
    over = torch.stack([(centre * on).mean(), (off_centre * on).mean()])
    under = torch.stack([-(centre * off).mean(), (off_centre * off).mean()])
    comparable = ((over > 0) & (under > 0)).all()  # else one side has none; kept on the device, which would wait
    over, under = (torch.where(comparable, side, 1.0) for side in (over, under))
    ratio = torch.minimum(over, under) / torch.maximum(over, under)
    return ((TOLERANCE - ratio).relu() / TOLERANCE).sum()


def _first_taken(graph: Graph) -> Operation:
    """What the first layer takes."""
    return next((op.operands[0] for op in graph.operations if op.kind in _LAYERS), graph.pixels)


def _follows_a_sum(op: Operation) -> bool:
    before = op.operands[0]
    return bool(before.operands) and isinstance(rule_of(before), Bent) and _sums(before.operands[0])


def _sums(op: Operation) -> bool:
    return op.kind == "add" and len(op.operands) > 1


def weights_of(model: nn.Module) -> Iterator[Tensor]:
    """The matrices and kernels that are trained."""
    return (parameter for parameter in model.parameters() if parameter.dim() > 1 and parameter.requires_grad)
