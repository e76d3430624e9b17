"""Label noise: how many labels of the training data can be wrong, and which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from audit.api import Data, DataSplit, Fact, Inconclusive, MetricSpec, RunContext, Subject, probe
from audit.errors import AuditError
from probes.label_noise.aum import areas
from probes.label_noise.canary import flipped
from probes.label_noise.config import FEWEST_IMAGES, LabelNoiseConfig, cost
from probes.label_noise.duplicates import Contradictions, contents, contradictions, distinct
from probes.label_noise.figures import contradicting, mixed, scores, worst
from probes.label_noise.judging import judged
from probes.label_noise.outcome import (
    Outcome,
    at_least,
    certain,
    conclude,
    contradicted,
    control,
    measurements,
    only_certain,
)

__all__ = ["LabelNoiseConfig", "label_noise"]


@probe(
    id="label-noise",
    version=2,
    question="How many labels of the training images can be wrong, and which are they likely to be?",
    config=LabelNoiseConfig,
    needs={"data:train"},
    metrics=[
        MetricSpec(
            id="label-noise.rate",
            meaning="Share of labels that are wrong. Of different images, but for those that a trigger explains: at "
            "most so many, or with trusted images an estimate. Where identical images with different labels alone show "
            "more than matter: at least so many of all.",
            better="lower",
            low=0,
            high=1,
        ),
        MetricSpec(
            id="label-noise.flagged",
            meaning="Share of labels that confident learning flags; hard images are flagged as well.",
            better="lower",
            low=0,
            high=1,
        ),
        MetricSpec(
            id="label-noise.contradictions",
            meaning="Share of labels that are certainly wrong, since identical images have another.",
            better="lower",
            low=0,
            high=1,
        ),
        MetricSpec(
            id="label-noise.recall",
            meaning="Share of labels flipped in a copy that are flagged there.",
            better="higher",
            where={"flipped": "uniform: to any other class; confused: to the class most confused with it"},
            low=0,
            high=1,
        ),
    ],
    how_to_read="Small networks judge each label without having seen its image. Where the same images score as wrong "
    "labels would, labels may be wrong: since an image can be given any wrong label on purpose, it is known how these "
    "score, and no more labels can be wrong than score so. That is an upper bound. What hard images add to it is only "
    "known with trusted images, which turn the bound into an estimate with both ends. Identical images under different "
    "labels are counted exactly. The list of worst labels is where to look first.",
    limits=[
        "An upper bound of ten per cent says that networks as small cannot tell more, and not that ten per cent are "
        "wrong.",
        "Without trusted images hard images raise suspicion as wrong labels do, where networks are right on 80 % and "
        "more.",
        "Wrong labels that look right, because annotators agreed on them, are not found.",
        "Backdoors with wrong labels are label noise as well, which networks learn easily: see backdoor-data.",
        "Near copies, as crops and recompressed images are, let networks learn a wrong label, and then hide it.",
    ],
    references=[
        "Northcutt, Jiang & Chuang 2021, Confident Learning, arXiv 1911.00068",
        "Pleiss et al. 2020, Identifying Mislabeled Data using the Area Under the Margin Ranking, arXiv 2001.10528",
        "Blanchard, Lee & Scott 2010, Journal of Machine Learning Research 11",
        "Clopper & Pearson 1934, Biometrika 26(4), doi:10.1093/biomet/26.4.404",
    ],
    cost=cost,
)
def label_noise(subject: Subject, data: Data, config: LabelNoiseConfig, ctx: RunContext) -> Iterator[Fact]:
    """What identical images show; then labels as they are, copies with flipped ones, and margins while training."""
    split = data["train"].first(config.samples)
    names = subject.class_names or split.class_names or tuple(map(str, range(subject.num_classes)))
    if ctx.seconds_left() <= 0:
        raise Inconclusive("budget", "The budget ended before labels were judged. Raise --budget.")
    keys = contents(split)
    same = contradictions(keys, split.labels[split.order])
    yield contradicted(same)
    yield from contradicting(same, split, names, config)
    if config.source == "fresh" and len(set(keys)) < len(keys):
        text = f"{len(keys) - len(set(keys))} of {len(keys)} images are copies of others; of these one each was judged"
        split = distinct(split, keys)
        ctx.diagnose("copies", text, "info")
    try:
        outcome = _judged(subject, data, split, names, same, config, ctx)
    except Inconclusive as unknown:
        if not certain(same, config):
            raise
        yield at_least(same)
        only_certain(same, unknown.text, ctx)
        return
    if outcome.flipped:
        yield control(outcome)
    yield from measurements(outcome)
    yield scores(outcome)
    matrix = mixed(outcome)
    yield from [matrix] if matrix is not None else []
    yield from worst(outcome, split, ctx)
    conclude(outcome, ctx)


def _judged(
    subject: Subject, data: Data, split: DataSplit, names: Sequence[str], same: Contradictions,
    config: LabelNoiseConfig, ctx: RunContext,
) -> Outcome:  # fmt: skip
    """By networks.

    Raises:
        Inconclusive: where there are too few images, no time, or no network that could be trained.
    """
    classes = len(set(split.labels[split.order].tolist()))
    if len(split) < FEWEST_IMAGES or classes < 2:
        text = f"Expected {FEWEST_IMAGES} different images of two classes at least, got {len(split)} of {classes}."
        raise Inconclusive("few_images", f"{text} Give more.")
    try:
        first = judged(subject, data, split, config, ctx, "label-noise")
        copies = flipped(subject, data, split, first, config, ctx) if config.source == "fresh" else []
        margins = areas(split, subject.num_classes, config.training(len(split)), ctx) if config.aum else None
    except Inconclusive:
        raise
    except AuditError as error:
        raise Inconclusive("not_trained", f"No network could be trained to judge the labels: {error}") from error
    if margins is not None:
        both = int((margins.suspects & first.confident.suspects).sum())
        text = f"The area under the margin flags {int(margins.suspects.sum())} labels, {both} of which confident "
        ctx.diagnose("aum", f"{text}learning flags too", "info")
    return Outcome(names, first, same, copies, margins, config)
