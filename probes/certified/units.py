"""One unit of work: certify and attack a chunk of samples in one norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from audit.api import DataSplit, Inconclusive, RunContext, Subject, Tally, Unit
from audit.attacks.fmn import FMN
from audit.attacks.losses import logit_scale
from audit.attacks.pgd import PGD
from audit.attacks.pool import Attack, Pool, rows_at_once
from audit.attacks.rows import Jobs
from audit.attacks.target import Target, opened
from audit.lirpa.certify import Certifier, Norm
from audit.lirpa.graph import Graph
from audit.lirpa.lowering import NotExportable, lower
from audit.lirpa.region import Region
from audit.lirpa.rules import NoRule
from audit.lirpa.trial import tried
from audit.toolkit.norms import widest
from audit.toolkit.verification import decide, verify
from probes.certified.config import CertifiedConfig

SAME_GRAPH = 1e-3
"""By how much the graph's logits may differ from the model's, relative to the largest: float32 in deep networks."""
SAFETY = 4.0
"""The slack of a margin, in differences between the graph's logits and the model's on the clean image."""
BLURRED, LOST = 1.0, 4.0
"""Bounds say little where the median width of an operation's intervals is at least so many standard deviations of its
values between images, and so many times what it is, in those, of the pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What all chunks share."""

    subject: Subject
    split: DataSplit
    graph: Graph
    config: CertifiedConfig


def graph_of(subject: Subject) -> Graph:
    """The subject's graph, in float64, with a rule for every operator.

    Raises:
        Inconclusive: `no_graph` where it has none, `no_rule` where an operator has no bounds.
    """
    try:
        with subject.untouched() as model:
            graph = lower(model, subject.input_shape).bound(torch.float64)
        tried(graph)
    except NotExportable as error:
        text = f"The model is no fixed graph of operators, so no bounds follow: {error}. Mend what is named."
        raise Inconclusive("no_graph", text) from error
    except NoRule as error:
        text = f"Nothing is certified, as {error}. `smoothing` certifies a classifier by its answers alone."
        raise Inconclusive("no_rule", text) from error
    return graph


def chunks(config: CertifiedConfig, n: int, size: int) -> list[Unit]:
    """The units of n samples; norms alternate, so that a budget that ends cuts both alike."""
    return [
        Unit(f"{norm}/{start}-{min(start + size, n)}", {"norm": norm}, range(start, min(start + size, n)))
        for start in range(0, n, size)
        for norm in config.norms
    ]


def certify_chunk(work: Work, unit: Unit, ctx: RunContext) -> Tally:
    """The largest certified radius of every sample, and the distance of the nearest adversarial image found.

    Returns:
        Arrays of one row a sample: `labels`; `correct`; `radius`, 0 where nothing is certified; `distance`, infinite
        where no attack succeeded. Value `blurred`: where bounds stop saying much at the smallest radius.

    Raises:
        Inconclusive: `other_graph` when the graph's answers are not the model's.
    """
    norm: Norm = unit.params["norm"]
    batch = work.split.take(unit.positions)
    correct = decide(work.subject, batch.pixels, batch.labels).correct
    rows = correct.nonzero().flatten()
    radius = torch.zeros(len(correct), dtype=torch.float64)
    distance = torch.full_like(radius, torch.inf)
    blurred = ""
    if len(rows):
        pixels, labels = batch.pixels[rows], batch.labels[rows]
        images = pixels.double().to(work.subject.device)
        config = work.config
        certifier = Certifier(work.graph, norm, config.methods, config.steps, config.most)
        slack = _slack(work, pixels, images)
        on_device = labels.to(images.device)
        listed = config.above_zero(norm)
        radius[rows] = certifier.radius(images, on_device, slack, listed, config.halvings).cpu()
        distance[rows] = _attacked(work, pixels, labels, norm, listed, ctx)
        blurred = _blurred(certifier, images, listed[0])
    arrays = {"labels": batch.labels, "correct": correct, "radius": radius, "distance": distance}
    return Tally(values={"blurred": blurred}, arrays={name: tensor.numpy() for name, tensor in arrays.items()})


def _slack(work: Work, pixels: Tensor, images: Tensor) -> Tensor:
    """By how much each margin (n,) must exceed 0 so that rounding in the model's own float32 cannot matter."""
    with torch.no_grad():
        exact = work.graph.run(images)
        logits = work.subject.logits(pixels).to(exact)
    difference = (exact - logits).abs().amax(1)
    if not bool((difference <= SAME_GRAPH * (1 + logits.abs().amax(1))).all()):
        text = (
            f"The graph of the model gives logits that differ by up to {float(difference.max()):.3g} from the model's "
            "own, so nothing that holds for the one is known of the other. Is the model random, or does it keep state?"
        )
        raise Inconclusive("other_graph", text)
    return SAFETY * difference


def _attacked(work: Work, pixels: Tensor, labels: Tensor, norm: Norm, listed: list[float], ctx: RunContext) -> Tensor:
    """Distances (n,) of verified adversarial images: the nearest of all, then by PGD within each radius."""
    steps, n = work.config.attack_steps, len(labels)
    seeds = torch.randint(2**62, (n,), generator=ctx.torch_generator("attacks"))
    found = torch.full((n,), torch.inf, dtype=torch.float64)
    seed = int(torch.randint(2**31, (), generator=ctx.torch_generator("subject")))
    with opened(work.subject, seed=seed) as target:
        searches: list[tuple[Attack[Any], float]] = [(FMN(norm, steps + 1), torch.inf)]
        searches += [(PGD.of(norm, "margin", steps), eps) for eps in listed]
        for attack, eps in searches:
            left = ((found > eps) | found.isinf()).nonzero().flatten()
            if not len(left):
                continue
            candidates = _candidates(target, attack, pixels[left], labels[left], seeds[left], eps)
            ball = min(eps, widest(norm, work.subject.input_shape))
            verified = verify(work.subject, pixels[left], labels[left], candidates, norm, ball)
            better = torch.where(verified.success, verified.distance, torch.inf)
            found[left] = torch.minimum(found[left], better)
    return found


def _candidates(
    target: Target, attack: Attack[Any], pixels: Tensor, labels: Tensor, seeds: Tensor, eps: float
) -> Tensor:
    """What an attack proposes for each image, on the CPU."""
    scale = logit_scale(target.logits(pixels))
    jobs = Jobs.untargeted(pixels, labels, eps, seeds, scale).to(target.subject.device)
    enough = 0.0 if eps == torch.inf else torch.inf
    return Pool(target, attack, jobs, batch=rows_at_once(target.subject), enough=enough).run().images.cpu()


def _blurred(certifier: Certifier, images: Tensor, eps: float) -> str:
    """Where, from the pixels upwards, intervals first are much wider than their values differ between images."""
    if len(images) < 2:
        return ""
    region = Region.ball(images, certifier.norm, eps)
    limit = BLURRED
    with torch.no_grad():
        intervals = certifier.known(region, certifier.methods[-1]).intervals
        for op, values in certifier.graph.values(images):
            width = float((intervals[op].hi - intervals[op].lo).flatten(1).median())
            spread = float(values.flatten(1).std(0).median())
            if op is certifier.graph.pixels:
                limit = max(BLURRED, LOST * width / spread if spread else torch.inf)
            elif not width <= limit * spread:
                return f"{op.kind} in {op.module}" if op.module else op.kind
    return ""
