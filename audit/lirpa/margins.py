"""Margins: by how much the label's logit stays above each other one, at least, for every image of a region."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from audit.lirpa.backward import Rows, lower_bounds
from audit.lirpa.bounds import Owners
from audit.lirpa.crown import crown
from audit.lirpa.extent import batching
from audit.lirpa.graph import Graph
from audit.lirpa.intervals import propagate
from audit.lirpa.optimised import raised_bounds
from audit.lirpa.region import Region
from audit.lirpa.rules.rule import Known

Method = Literal["ibp", "crown-ibp", "crown"]


def others_of(labels: Tensor, classes: int) -> Tensor:
    """All classes but the label's, ascending: (n, classes - 1) for labels (n,)."""
    found = torch.arange(classes, device=labels.device).expand(len(labels), classes)
    return found[found != labels[:, None]].view(len(labels), classes - 1)


def margin_rows(labels: Tensor, classes: int, dtype: torch.dtype, others: Tensor | None = None) -> Tensor:
    """The label's logit less those of other classes (n, k), by default of all: rows (n, k, classes)."""
    unit = torch.eye(classes, dtype=dtype, device=labels.device)
    others = others_of(labels, classes) if others is None else others
    return unit[labels][:, None] - unit[others]


def margin_bounds(graph: Graph, region: Region, labels: Tensor, method: Method) -> Tensor:
    """Lower bounds (n, classes - 1) of all margins; -inf where nothing can be said.

    Raises:
        NoRule: for an operator that nothing is known of.
    """
    known = crown(graph, region) if method == "crown" else propagate(graph, region)
    return bounds_from(graph, region, known, labels, relaxed=method != "ibp")


def bounds_from(
    graph: Graph,
    region: Region,
    known: Known,
    labels: Tensor,
    steps: int = 0,
    others: Tensor | None = None,
    *,
    relaxed: bool = True,
) -> Tensor:
    """The same with intervals that are known, or (n, k) against some other classes.

    Args:
        graph: of the network.
        region: of images.
        known: of every operation.
        labels: (n,).
        steps: as in `raised_bounds`.
        others: (n, k), the classes of the margins; by default all but the label's.
        relaxed: as in `lower_bounds`.
    """
    unflattened = margin_rows(labels, graph.logits.shape[-1], region.box.lo.dtype, others)
    n, k = unflattened.shape[:2]
    rows, owners = unflattened.flatten(0, 1)[:, None], Owners.all_of(n, k, labels.device)

    def part(place: slice) -> Tensor:
        mine = Rows(rows[place], owners.part(place))
        if steps:
            return raised_bounds(graph, region, known, graph.logits, mine, steps)
        return lower_bounds(graph, region, known, graph.logits, mine, relaxed=relaxed)

    return torch.cat(batching(graph, rows.device, relaxed=relaxed, ascent=steps > 0).parts(len(rows), part)).view(n, k)
