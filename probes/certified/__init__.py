"""Certified bounds: for how many samples no image within a radius can change the answer, by proof."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from audit.api import Data, Fact, Inconclusive, MetricSpec, RunContext, Subject, probe
from audit.toolkit.norms import eps_text
from probes.certified.config import CertifiedConfig, cost
from probes.certified.control import known_truth
from probes.certified.figures import bracket, table
from probes.certified.outcome import Outcome, consistent, measurements
from probes.certified.second_opinion import asked
from probes.certified.units import Work, certify_chunk, chunks, graph_of

__all__ = ["CertifiedConfig", "certified"]

WHERE = {"norm": "how a change is measured: linf or l2", "eps": "radius in units of the pixel range, such as 8/255"}


@probe(
    id="certified",
    version=1,
    question="For how many images is it proven that no small change of pixels alters the answer?",
    config=CertifiedConfig,
    needs={"weights", "logits", "gradients", "data:eval"},
    metrics=[
        MetricSpec(
            id="certified.certified_accuracy",
            meaning="Share of samples that are right for every image within the radius, by proof; tighter bounds may "
            "raise it.",
            better="higher",
            where=WHERE,
            low=0,
            high=1,
        ),
        MetricSpec(
            id="certified.attacked_accuracy",
            meaning="Share of the same samples that stay right under the attacks tried beside; a stronger attack may "
            "lower it. The probe `evasion` attacks harder.",
            better="higher",
            where=WHERE,
            low=0,
            high=1,
        ),
    ],
    threat_model="Goal: any wrong class for a given image. Knowledge and budget: without limit, as what is certified "
    "holds for every image within the ball around it (Linf or L2) and [0, 1], however it was found.",
    how_to_read="Certified accuracy at 2/255 says for how many images it is proven that no change of up to 2 of 255 "
    "levels a pixel makes the model wrong. It is a lower bound: zero does not mean that the model is weak, often only "
    "that the proof does not reach. The truth lies between it and the attacked accuracy.",
    limits=[
        "A certificate covers a ball around one image and nothing else: no rotations, no patches, no other images.",
        "Of networks not trained for it, and of all large ones, bounds are vacuous at radii that matter.",
        "It is of the network in exact arithmetic. Margins exceed what float32 was seen to change on clean images, "
        "which is no proof for every image.",
        "Intervals cover the choice of samples.",
    ],
    references=[
        "Zhang et al. 2018, Efficient Neural Network Robustness Certification (CROWN), arXiv 1811.00866",
        "Gowal et al. 2018, On the Effectiveness of Interval Bound Propagation, arXiv 1810.12715",
        "Xu et al. 2020, Automatic Perturbation Analysis on General Computational Graphs, arXiv 2002.12920",
        "Xu et al. 2021, Fast and Complete (alpha-CROWN), arXiv 2011.13824",
    ],
    cost=cost,
)
def certified(subject: Subject, data: Data, config: CertifiedConfig, ctx: RunContext) -> Iterator[Fact]:
    """Controls first, then chunks of samples; whatever the budget cuts, it cuts samples and never tightness."""
    split = data["eval"]
    n, size = min(config.samples, len(split)), config.at_once(subject.device.type)
    work = Work(subject, split, graph_of(subject), config)
    tallies = ctx.map(partial(certify_chunk, work), chunks(config, n, size))
    count = len(config.norms)
    if len(tallies) < count:
        text = f"The budget ended before {min(size, n)} samples were certified in each norm. Raise it, or lower "
        raise Inconclusive("budget", text + "certified.chunk.")
    pixels = math.prod(subject.input_shape)
    outcomes = [Outcome.join(norm, pixels, tallies[place::count]) for place, norm in enumerate(config.norms)]
    for outcome in outcomes:
        yield known_truth(subject, outcome.norm, config, ctx)
        yield consistent(outcome)
        opinion = asked(work, outcome, ctx)
        if opinion is not None:
            yield opinion
        _diagnose(outcome, config, n, ctx)
        yield from measurements(outcome, config)
        yield bracket(outcome, config)
        yield table(outcome, split, ctx)


def _diagnose(outcome: Outcome, config: CertifiedConfig, n: int, ctx: RunContext) -> None:
    """What a reader should know of the bounds in one norm."""
    norm, smallest = outcome.norm, config.above_zero(outcome.norm)[0]
    if not outcome.correct.any():
        text = f"None of {outcome.n} samples is right without a change, so nothing was bounded or attacked in {norm}."
        ctx.diagnose(f"nothing-right-{norm}", text)
    if outcome.n < n:
        ctx.diagnose("budget", f"The budget ended after {outcome.n} of {n} samples.")
    if outcome.correct.any() and not outcome.certified(smallest).any():
        reached = float(np.median(outcome.radius[outcome.correct]))
        largest = float(outcome.radius.max())
        found = f"Certified radii are at most {largest:.2g}, {reached:.2g} at the median of right samples."
        if not largest:
            found = "No radius that was tried is certified."
        where = f" Bounds first say little at {outcome.blurred}." if outcome.blurred else ""
        text = (
            f"Vacuous in {norm} at every radius from {eps_text(smallest)} on: nothing is certified there, which says "
            f"nothing of the model. {found}{where}"
        )
        ctx.diagnose(f"vacuous-{norm}", text)
