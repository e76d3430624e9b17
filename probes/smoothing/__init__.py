"""Randomised smoothing: how far a classifier that answers by majority under Gaussian noise is certified, in L2."""

from __future__ import annotations

from collections.abc import Iterator

from audit.api import Data, Fact, Inconclusive, MetricSpec, RunContext, Subject, probe
from probes.smoothing.config import SmoothingConfig, cost
from probes.smoothing.contradiction import contradicted
from probes.smoothing.control import control_units, count_control, known_radius
from probes.smoothing.figures import curve, table
from probes.smoothing.notices import conclude, independent, notice
from probes.smoothing.outcome import Outcome, measurements
from probes.smoothing.units import Work, chunks, count_chunk

__all__ = ["SmoothingConfig", "smoothing"]

SIGMA = {"sigma": "standard deviation of the noise, in units of the pixel range"}
WHERE = {**SIGMA, "norm": "how a change is measured: l2", "eps": "L2 radius, pixels in [0, 1]"}


@probe(
    id="smoothing",
    version=1,
    question="If not the model answered but its smoothed classifier, with the class that most noisy copies of an image "
    "get, for how many images is it certified that no small change alters that answer?",
    config=SmoothingConfig,
    needs={"logits", "data:eval"},
    metrics=[
        MetricSpec(
            id="smoothing.certified_accuracy",
            meaning="Share of samples for which the smoothed classifier, not the model as deployed, is certified to "
            "give the label for every image within the radius; more noisy copies may raise it.",
            better="higher",
            where=WHERE,
            low=0,
            high=1,
        ),
        MetricSpec(
            id="smoothing.accuracy",
            meaning="Share of samples of which it is certain enough that the smoothed classifier, not the model as "
            "deployed, gives the label: right and not abstained.",
            better="higher",
            where=SIGMA,
            low=0,
            high=1,
        ),
        MetricSpec(
            id="smoothing.abstained",
            meaning="Share of samples of which so many noisy copies do not tell what the smoothed classifier answers.",
            better="lower",
            where=SIGMA,
            low=0,
            high=1,
        ),
    ],
    threat_model="Goal: another answer of the smoothed classifier for a given image. Knowledge and budget: without "
    "limit, save that the noise of each answer is not known beforehand; what is certified holds for every image within "
    "the L2 ball, however it was found.",
    how_to_read="The smoothed classifier answers with the class that the model gives to most copies of an image under "
    "Gaussian noise. It is another classifier than the model as it is deployed: these numbers hold for whoever would "
    "deploy the model in that way. Certified accuracy at 0.25 says for how many images no change of an L2 length up to "
    "0.25 alters its right answer. It is a lower bound. A model that was not trained on noise does badly under it, so "
    "low figures are expected, and say nothing of its own robustness.",
    limits=[
        "It is no certificate of the model as deployed, which may change its answer within the radius.",
        "L2 alone: an L2 radius r covers Linf radii up to r over the root of the number of an image's values.",
        "Certificates hold with a probability that is stated (alpha), over the noise that was drawn.",
        "The number of noisy copies n caps the radius, at sigma * Phi^-1(alpha^(1/n)) for the alpha of one "
        "certificate.",
        "The model is asked about pixels outside of [0, 1], where noise leads. One that clips or rounds them by itself "
        "does so as a part of what is smoothed.",
        "Noise and sums are those of exact arithmetic; a model made for it could gain a false certificate from "
        "rounding in float32 (Voráček & Hein 2023).",
        "Of a model that answers at random, draws must be independent of one another; whether they are is looked at, "
        "and not proven.",
        "Intervals cover the choice of samples.",
    ],
    references=[
        "Cohen, Rosenfeld & Kolter 2019, Certified Adversarial Robustness via Randomized Smoothing, arXiv 1902.02918",
        "Clopper & Pearson 1934, Biometrika 26(4), doi:10.1093/biomet/26.4.404",
        "Voráček & Hein 2023, Sound Randomized Smoothing in Floating-Point Arithmetic, arXiv 2207.07209",
    ],
    cost=cost,
)
def smoothing(subject: Subject, data: Data, config: SmoothingConfig, ctx: RunContext) -> Iterator[Fact]:
    """Controls first, then chunks of samples; whatever the budget cuts, it cuts samples and never draws."""
    split = data["eval"]
    n = min(config.samples, len(split))
    alpha = config.alpha_each(n)
    work = Work(subject, split, config, ctx.rng)
    counted = ctx.map(lambda unit, _: count_control(work, unit), control_units(config), "planted truth")
    tallies = ctx.map(lambda unit, _: count_chunk(work, unit), chunks(config, n))
    places = range(len(config.sigmas))
    if len(tallies) < len(places):
        raise Inconclusive("budget", "The budget ended before one sample was certified at each sigma. Raise it.")
    outcomes = [
        Outcome.join(sigma, alpha, config.n, tallies[place :: len(places)]) for place, sigma in enumerate(config.sigmas)
    ]
    controls = [known_radius(tally, sigma, alpha, config) for tally, sigma in zip(counted, config.sigmas, strict=True)]
    controls += [found for found in (contradicted(work, outcome, ctx) for outcome in outcomes) if found is not None]
    drawn = independent(outcomes, ctx)
    controls += [drawn] if drawn is not None else []
    yield from controls
    for outcome in outcomes:
        notice(outcome, config, n, ctx)
        yield from measurements(outcome, config)
        yield table(outcome, split, ctx)
    yield curve(outcomes, config)
    conclude(outcomes, [control.name for control in controls if not control.passed], ctx)
