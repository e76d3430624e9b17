"""Training on bounds: the loss is what it can be at most, for any image within a radius of each one.

Source: Gowal et al. 2018, arXiv 1810.12715 (ibp); Zhang et al. 2020, arXiv 1906.06316, with the fused loss of Xu et al.
2020, arXiv 2002.12920 (crown-ibp); Müller et al. 2023, arXiv 2210.04871 (sabr); De Palma et al. 2024, arXiv 2305.13991
(mtl-ibp); the initial weights and the penalty are of Shi et al. 2021, arXiv 2103.17268.
Differs from source: the network is bounded with the statistics of the batch that its images were just normalised with,
    which for sabr and mtl-ibp are the attacked ones; attacks inside a step see it in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from audit.errors import TrainingError
from audit.lirpa.bounds import Interval
from audit.lirpa.certify import Certifier
from audit.lirpa.graph import Graph
from audit.lirpa.intervals import propagate
from audit.lirpa.losses import fused_cross_entropy, worst_cross_entropy
from audit.lirpa.lowering import NotExportable, Program, lower
from audit.lirpa.margins import bounds_from
from audit.lirpa.region import Region
from audit.lirpa.rules import NoRule
from audit.lirpa.rules.rule import Known
from audit.lirpa.trial import tried
from audit.toolkit.modes import evaluating
from audit.training.batch_statistics import recorded
from audit.training.config import CertifiedConfig
from audit.training.inner import worst_case
from audit.training.objectives import Shown
from audit.training.placing import Placed
from audit.training.preparing import penalty, weights_of
from audit.training.widening import share_of_radius


def program_of(model: torch.nn.Module, shape: tuple[int, ...]) -> Program:
    """The model as a graph of which every operator can be bounded.

    Raises:
        TrainingError: when it is none.
    """
    try:
        program = lower(model, shape)
        infinite = tried(program.of({}))
    except (NotExportable, NoRule) as error:
        raise TrainingError(
            f"Expected a network whose bounds can be trained, got one without: {error}. Train it with "
            "`audit train adversarial`, or change what is named."
        ) from error
    if infinite:
        raise TrainingError(
            f"Expected finite bounds to train on, got infinite ones from {infinite} on, for two random images within a "
            "small radius. Replace that operator, or begin with other weights."
        )
    return program


def graph_of(program: Program, model: torch.nn.Module, statistics: Mapping[str, Tensor]) -> Graph:
    """The graph with a model's weights as they are, and other statistics of batch normalisation where given."""
    return program.of({**model.state_dict(keep_vars=True), **statistics})


@dataclass(frozen=True, slots=True)
class Bounded:
    """Cross-entropy in the worst case; see the head of the file."""

    config: CertifiedConfig
    program: Program
    """Of the model that is trained, with whichever weights."""

    def loss(self, placed: Placed, shown: Shown) -> tuple[Tensor, Tensor]:
        """See `Objective`."""
        config, labels = self.config, shown.labels
        share = share_of_radius(shown.done, config.warm_up, config.ramp)
        eps = share * config.radius
        images = shown.pixels
        if eps > 0 and config.recipe in ("sabr", "mtl-ibp"):
            images = self._attacked(placed, shown, eps)
        with recorded(placed.model) as statistics:
            logits = placed.exact(images)
        usual = cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        hits = logits.argmax(dim=1) == labels
        if eps == 0:
            return usual + self._magnitude(placed), hits
        graph = graph_of(self.program, placed.model, statistics)
        region = self._region(shown.pixels, images, eps)
        known = propagate(graph, region, rounded=False)
        loss = self._worst(graph, region, known, labels, share)
        if config.recipe == "mtl-ibp":
            loss = config.weight * loss + (1 - config.weight) * usual
        if config.penalty and share < 1:
            loss = loss + config.penalty * (1 - share) * penalty(graph, known)
        return loss + self._magnitude(placed), hits

    def held_out(self, logits: Tensor, pixels: Tensor, labels: Tensor) -> Tensor:
        """See `Objective`."""
        return cross_entropy(logits, labels, reduction="sum")

    def certified(self, placed: Placed, pixels: Tensor, labels: Tensor) -> Tensor:
        """Which images (n,) keep their label within the whole radius, by bounds in float32: a signal, no proof."""
        graph = graph_of(self.program, placed.model, {})
        eps, slack = pixels.new_full((len(pixels),), self.config.radius), pixels.new_zeros(len(pixels))
        return Certifier(graph, "linf", ("ibp", "crown-ibp")).certified(pixels, labels, eps, slack)

    def _worst(self, graph: Graph, region: Region, known: Known, labels: Tensor, share: float) -> Tensor:
        margins = bounds_from(graph, region, known, labels, relaxed=False)
        by_intervals = worst_cross_entropy(margins).mean()
        if self.config.recipe != "crown-ibp" or share == 1:
            return by_intervals
        tighter = fused_cross_entropy(graph, region, known, labels, margins).mean()
        return share * by_intervals + (1 - share) * tighter

    def _region(self, pixels: Tensor, images: Tensor, eps: float) -> Region:
        """All images within the radius; for sabr a smaller box around the attacked ones, inside of that."""
        if self.config.recipe != "sabr":
            return Region.ball(pixels, "linf", eps)
        small = self.config.box * eps
        centre = torch.minimum(torch.maximum(images, pixels - (eps - small)), pixels + (eps - small))
        return Region(Interval((centre - small).clamp(0, 1), (centre + small).clamp(0, 1)))

    def _attacked(self, placed: Placed, shown: Shown, eps: float) -> Tensor:
        config = self.config
        with evaluating(placed.model):
            return worst_case(
                placed.exact, shown.pixels, shown.labels, norm="linf", eps=eps, steps=config.steps, step=config.step,
                generator=shown.generator,
            )  # fmt: skip

    def _magnitude(self, placed: Placed) -> Tensor | float:
        if not self.config.l1:
            return 0.0
        return self.config.l1 * torch.stack([weight.abs().sum() for weight in weights_of(placed.model)]).sum()
