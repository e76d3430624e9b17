"""Cross-entropy in the worst case: an upper bound of the loss over all images of a region, to be trained on.

With d_j = f_j - f_y, how far each logit lies above the label's, the loss is the logarithm of the sum of exp(d_j) over
all classes, where d_y = 0. It is greatest where each d_j is, so upper bounds of these give one of the loss.

Fused, the sum is bounded as a whole: on [l, u] the exponential lies below its chord a d + b, so that one linear
combination of the logits, and one backward pass an image in place of one a class, bounds the sum.

Source: Gowal et al. 2018, section 3, arXiv 1810.12715; Zhang et al. 2020 (CROWN-IBP), arXiv 1906.06316; Xu et al. 2020,
section 3.3 (loss fusion), arXiv 2002.12920.
"""

from __future__ import annotations

import torch
from torch import Tensor

from audit.lirpa.backward import Rows, lower_bounds
from audit.lirpa.bounds import Owners
from audit.lirpa.graph import Graph
from audit.lirpa.margins import margin_rows
from audit.lirpa.region import Region
from audit.lirpa.rules.rule import Known

LEAST = 1e-30
"""Of a sum of exponentials, one of which is that of 0 less a shift: rounding may leave none of it."""


def worst_cross_entropy(margins: Tensor) -> Tensor:
    """The greatest loss (n,) that lower bounds of the margins (n, classes - 1) leave possible."""
    return torch.cat([margins.new_zeros(len(margins), 1), -margins], 1).logsumexp(1)


def fused_cross_entropy(graph: Graph, region: Region, known: Known, labels: Tensor, margins: Tensor) -> Tensor:
    """The same, by one backward pass an image down to the pixels (CROWN-IBP).

    Args:
        graph: of the network.
        region: of n images.
        known: of all operations.
        labels: (n,).
        margins: their lower bounds (n, classes - 1) by intervals, of which the chords are made.

    Returns:
        (n,).
    """
    units = margin_rows(labels, graph.logits.shape[-1], margins.dtype)
    one_each = Owners.all_of(len(labels), 1, labels.device)
    high, low = -margins, _least_differences(graph, region, known, units)
    shift = high.detach().amax(1, keepdim=True).clamp(min=0)
    top, bottom = (high - shift).exp(), (low - shift).exp()
    wide = high > low
    slope = torch.where(wide, (top - bottom) / torch.where(wide, high - low, 1.0), top)
    offset = top - slope * high
    row = (slope[:, :, None] * units).sum(1)  # d_j is minus the margin, so this is minus the combination
    raised = -lower_bounds(graph, region, known, graph.logits, Rows(row[:, None], one_each))
    total = (-shift[:, 0]).exp() + offset.sum(1) + raised
    return total.clamp(min=LEAST).log() + shift[:, 0]


def _least_differences(graph: Graph, region: Region, known: Known, units: Tensor) -> Tensor:
    """Lower bounds (n, classes - 1) of f_j - f_y by intervals with the last layers merged."""
    n, others, _ = units.shape
    rows = Rows(-units.flatten(0, 1)[:, None], Owners.all_of(n, others, units.device))
    return lower_bounds(graph, region, known, graph.logits, rows, relaxed=False).view(n, others)
