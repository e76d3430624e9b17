"""Certificates: for which images every image within a radius is given the same, right, class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from audit.lirpa.crown import crown, open_values
from audit.lirpa.graph import Graph
from audit.lirpa.intervals import propagate
from audit.lirpa.margins import bounds_from, others_of
from audit.lirpa.region import Region
from audit.lirpa.rules.rule import Known

Norm = Literal["linf", "l2"]
Method = Literal["ibp", "crown-ibp", "crown", "alpha-crown"]
METHODS: tuple[Method, ...] = get_args(Method)
"""From the cheapest to the tightest."""
_BOUND_AGAIN = ("crown", "alpha-crown")
DESCENT = 4
"""By how much a radius shrinks while nothing is certified."""


@dataclass(frozen=True, slots=True, eq=False)
class Certifier:
    """A network, and how hard its bounds are computed.

    Attributes:
        graph: in float64 where something shall be called certified.
        norm: of the ball around each image, cut to the pixels of [0, 1].
        methods: tried in this order on what the ones before left open.
        steps: of gradient ascent, for `alpha-crown`.
        most: a sample of which intervals leave more values open is not bounded again by `crown` and `alpha-crown`.
    """

    graph: Graph
    norm: Norm
    methods: Sequence[Method] = METHODS
    steps: int = 20
    most: int | None = None

    def certified(self, images: Tensor, labels: Tensor, eps: Tensor, slack: Tensor) -> Tensor:
        """Whether each image keeps its label within its radius: (n,) bool.

        Args:
            images: (n, c, h, w), in the graph's precision.
            labels: (n,).
            eps: (n,).
            slack: (n,), by how much margins must exceed 0, as the network is run in coarser arithmetic than its bounds.
        """
        holds = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        others = self._nearest_first(images, labels)
        region = Region.ball(images, self.norm, eps)
        with torch.no_grad():
            intervals = propagate(self.graph, region)
        few = torch.ones_like(holds)
        if self.most is not None:
            few = open_values(self.graph, region, intervals) <= self.most
        for method in self.methods:
            again = method in _BOUND_AGAIN
            rows = (~holds & few if again else ~holds).nonzero().flatten()
            if len(rows):
                mine = region.only(rows)
                known = self._bound_again(mine, method) if again else intervals.only(rows)
                holds[rows] = self._hold(mine, known, labels[rows], others[rows], slack[rows], method)
        return holds

    def _nearest_first(self, images: Tensor, labels: Tensor) -> Tensor:
        """The other classes (n, classes - 1), by how near their logits come to the label's."""
        with torch.no_grad():
            logits = self.graph.run(images)
        others = others_of(labels, logits.shape[1])
        return others.gather(1, logits.gather(1, others).argsort(stable=True, dim=1, descending=True))

    def _hold(
        self, region: Region, known: Known, labels: Tensor, others: Tensor, slack: Tensor, method: Method
    ) -> Tensor:
        """Whether all margins (n,) exceed the slack; where the nearest class's does not, no other one is asked."""
        holds = torch.ones_like(labels, dtype=torch.bool)
        for some in (others[:, :1], others[:, 1:]):
            rows = holds.nonzero().flatten()
            if len(rows) and some.shape[1]:
                every = len(rows) == len(labels)
                mine, theirs = (region, known) if every else (region.only(rows), known.only(rows))
                margins = self._margins(mine, theirs, labels[rows], method, some[rows])
                holds[rows] = margins.amin(1) > slack[rows]
        return holds

    def margins(self, region: Region, labels: Tensor, method: Method) -> Tensor:
        """Lower bounds (n, classes - 1) of the label's logit less each other one."""
        return self._margins(region, self.known(region, method), labels, method)

    def _margins(
        self, region: Region, known: Known, labels: Tensor, method: Method, others: Tensor | None = None
    ) -> Tensor:
        with torch.no_grad():
            steps = self.steps if method == "alpha-crown" else 0
            return bounds_from(self.graph, region, known, labels, steps, others, relaxed=method != "ibp")

    def known(self, region: Region, method: Method) -> Known:
        """All operations' intervals, by a method."""
        with torch.no_grad():
            if method not in _BOUND_AGAIN:
                return propagate(self.graph, region)
        return self._bound_again(region, method, self.most)

    def _bound_again(self, region: Region, method: Method, most: int | None = None) -> Known:
        return crown(self.graph, region, self.steps if method == "alpha-crown" else 0, most)

    def radius(self, images: Tensor, labels: Tensor, slack: Tensor, radii: Sequence[float], halvings: int) -> Tensor:
        """The largest radius (n,) float64 found at which each image keeps its label; 0 where none was.

        Radii are tried in ascending order until one fails; then the gap below it is halved. Every radius that is
        returned was certified as it is, so that nothing rests on bounds being monotone.

        Args:
            images: (n, c, h, w), right without a change.
            labels: (n,).
            slack: (n,), see `certified`.
            radii: ascending, above 0; nothing beyond the last is tried.
            halvings: of the gap; while nothing is certified, the radius shrinks to a quarter instead.
        """
        low = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        high = torch.full_like(low, torch.inf)
        for eps in radii:
            rows = high.isinf().nonzero().flatten()
            if len(rows):
                tried = torch.full((len(rows),), eps, dtype=low.dtype, device=low.device)
                holds = self.certified(images[rows], labels[rows], tried, slack[rows])
                low[rows[holds]] = eps
                high[rows[~holds]] = eps
        for _ in range(halvings):
            rows = high.isfinite().nonzero().flatten()
            if len(rows):
                below = torch.where(low[rows] > 0, (low[rows] + high[rows]) / 2, high[rows] / DESCENT)
                holds = self.certified(images[rows], labels[rows], below, slack[rows])
                low[rows[holds]] = below[holds]
                high[rows[~holds]] = below[~holds]
        return low
