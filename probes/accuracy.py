"""Accuracy: how often the model is right, for whom it is not, and what it confuses.

The simplest probe, and the one to read first: it asks for the shared predictions, counts, and yields facts.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from pydantic import Field
from scipy.special import ndtri

from audit.api import (
    Bars,
    Claim,
    Data,
    Fact,
    Figure,
    ImageGrid,
    ImageTile,
    IntArray,
    Interval,
    Matrix,
    Measurement,
    MetricSpec,
    PositiveControl,
    Predictions,
    ProbeConfig,
    RunContext,
    Subject,
    Table,
    probe,
)
from audit.toolkit.images import encode_png
from audit.toolkit.statistics import proportion

CONTROL_IMAGES = 64


class AccuracyConfig(ProbeConfig):
    """Settings of the accuracy probe."""

    level: float = Field(default=0.95, gt=0, lt=1)
    """Confidence level of the intervals."""
    worst_examples: int = Field(default=8, ge=0, le=32)
    """Confidently wrong images to show."""
    confusions: int = Field(default=10, ge=1)
    """Pairs to list."""
    classes_drawn: int = Field(default=20, ge=2)
    """More classes than this are listed from the worst, not drawn."""


METRICS = (
    MetricSpec(id="accuracy.top1", meaning="Share of images whose highest-scored class is the label.",
               better="higher", low=0, high=1),
    MetricSpec(id="accuracy.top5", meaning="Share of images whose label is among the five highest-scored classes.",
               better="higher", low=0, high=1),
    MetricSpec(id="accuracy.balanced", meaning="Mean over classes of the accuracy within each class.",
               better="higher", low=0, high=1),
    MetricSpec(id="accuracy.per_class", meaning="Accuracy on the images of one class.", better="higher",
               where={"class": "name or number of the class"}, low=0, high=1),
    MetricSpec(id="accuracy.worst_class", meaning="Lowest accuracy of any class; its interval holds for all classes "
               "at once, since the worst was picked after looking.", better="higher", low=0, high=1),
)  # fmt: skip


@probe(
    id="accuracy",
    version=1,
    question="How often is the model right?",
    config=AccuracyConfig,
    needs={"logits", "data:eval"},
    metrics=METRICS,
    how_to_read="Of all images, the share that the model names correctly. The interval says how far the figure could "
    "move with another sample of the same kind of images; it says nothing about other kinds.",
    limits=(
        "The interval covers sampling from this data set, not a shift between it and deployment.",
        "Labels are taken as true; label errors count against the model.",
    ),
    references=("Clopper & Pearson 1934, Biometrika 26(4), doi:10.1093/biomet/26.4.404",),
)
def accuracy(subject: Subject, data: Data, config: AccuracyConfig, ctx: RunContext) -> Iterable[Fact]:
    """Yields overall, balanced, worst-class and per-class accuracy with the confusions behind them."""
    predictions = ctx.predictions("eval")
    names = class_names(subject, data["eval"].class_names)
    guesses = predictions.logits.argmax(axis=1)
    hits = guesses == predictions.labels
    _diagnose_chance(predictions.labels, hits, config, ctx)
    yield from _overall(predictions, hits, config)
    yield from _by_class(predictions.labels, hits, names, config)
    yield _control(subject, predictions, data, ctx)
    yield from _confusions(predictions.labels, guesses, names, config)
    yield from _worst_examples(predictions, hits, names, data, config, ctx)


def class_names(subject: Subject, found: tuple[str, ...]) -> tuple[str, ...]:
    """Names to show: the model's, else the data's, else numbers."""
    for names in (subject.class_names, found):
        if len(names) == subject.num_classes:
            return names
    return tuple(str(number) for number in range(subject.num_classes))


def _diagnose_chance(labels: IntArray, hits: np.ndarray, config: AccuracyConfig, ctx: RunContext) -> None:
    """Says so when the model is no better than the commonest label: then labels or preprocessing are likely wrong."""
    n, right = len(labels), int(hits.sum())
    commonest = float(np.bincount(labels).max() / n)
    if proportion(right, n, config.level).low <= commonest:
        text = (
            f"{right} of {n} right is not clearly better than always answering the commonest label ({commonest:.1%})."
        )
        advice = "Check that labels are numbered as the model's outputs are, and the preprocessing."
        ctx.diagnose("near_chance", f"{text} {advice}")


def _overall(predictions: Predictions, hits: np.ndarray, config: AccuracyConfig) -> Iterator[Fact]:
    n = len(predictions)
    yield _rate("accuracy.top1", int(hits.sum()), n, config)
    if predictions.logits.shape[1] > 5:
        best = np.argpartition(-predictions.logits, 5, axis=1)[:, :5]
        yield _rate("accuracy.top5", int((best == predictions.labels[:, None]).any(axis=1).sum()), n, config)


def _by_class(labels: IntArray, hits: np.ndarray, names: tuple[str, ...], config: AccuracyConfig) -> Iterator[Fact]:
    totals = np.bincount(labels, minlength=len(names))
    right = np.bincount(labels, weights=hits, minlength=len(names)).astype(int)
    present = np.flatnonzero(totals)
    rates = right[present] / totals[present]
    yield Measurement(
        metric="accuracy.balanced", value=float(rates.mean()), n=len(labels), claim=Claim.ESTIMATE,
        interval=_balanced_interval(right[present], totals[present], config.level),
        assumptions=() if len(present) == len(names) else (f"{len(names) - len(present)} classes had no image",),
    )  # fmt: skip
    per_class = []
    for place in present:
        where = {"class": names[place]}
        per_class.append(_rate("accuracy.per_class", int(right[place]), int(totals[place]), config, where))
    seen = [names[place] for place in present]
    yield _worst(right[present], totals[present], rates, seen, len(names) - len(seen), config)
    yield from per_class
    yield _class_figure(per_class, config)


def _balanced_interval(right: IntArray, totals: IntArray, level: float) -> Interval:
    """Normal interval of a mean of independent proportions.

    The variance takes one added success and failure a class, so that classes at 0 or 1 do not count as certain
    (Agresti & Caffo 2000, The American Statistician 54(4), do so for a difference of two proportions). Coverage is
    tested by simulation.
    """
    smoothed = (right + 1) / (totals + 2)
    deviation = np.sqrt((smoothed * (1 - smoothed) / (totals + 2)).sum()) / len(totals)
    reach = float(ndtri(1 - (1 - level) / 2) * deviation)
    value = float((right / totals).mean())
    low, high = max(0.0, value - reach), min(1.0, value + reach)
    return Interval(low=low, high=high, level=level, method="stratified-normal")


def _worst(
    right: IntArray, totals: IntArray, rates: np.ndarray, names: list[str], absent: int, config: AccuracyConfig
) -> Measurement:
    level = 1 - (1 - config.level) / len(totals)
    joint = [proportion(int(k), int(n), level) for k, n in zip(right, totals, strict=True)]
    place = int(rates.argmin())
    assumptions = [f"the class is {names[place]}"]
    if absent:
        assumptions.append(f"{absent} classes had no image, and may do as badly as can be")
    low = 0.0 if absent else min(found.low for found in joint)
    high = min(found.high for found in joint)
    return Measurement(
        metric="accuracy.worst_class", value=float(rates[place]), n=int(totals[place]), claim=Claim.ESTIMATE,
        interval=Interval(low=low, high=high, level=config.level, method="clopper-pearson-bonferroni"),
        assumptions=tuple(assumptions),
    )  # fmt: skip


def _rate(
    metric: str, successes: int, n: int, config: AccuracyConfig, where: dict[str, str] | None = None
) -> Measurement:
    return Measurement(
        metric=metric, where=dict(where or {}), value=successes / n, n=n, claim=Claim.ESTIMATE,
        interval=proportion(successes, n, config.level),
    )  # fmt: skip


def _class_figure(per_class: list[Measurement], config: AccuracyConfig) -> Figure:
    ranked = sorted(per_class, key=lambda found: found.value)[: config.classes_drawn]
    shown = [found for found in per_class if found in ranked] if len(per_class) <= config.classes_drawn else ranked
    intervals = [found.interval for found in shown if found.interval is not None]
    title = "Accuracy by class" if len(shown) == len(per_class) else f"The {len(shown)} classes with lowest accuracy"
    worst = ranked[0]
    return Bars(
        id="per-class", title=title, value_label="accuracy",
        caption=f"Whiskers are {config.level:.0%} intervals for each class by itself; classes with few images have "
        "long ones, and an order among overlapping ones means little.",
        alt=f"Bars of accuracy by class; lowest {worst.where['class']} at {worst.value:.1%} of {worst.n} images, "
        f"highest among those shown {max(found.value for found in shown):.1%}.",
        labels=tuple(str(found.where["class"]) for found in shown),
        values=tuple(found.value for found in shown),
        low=tuple(interval.low for interval in intervals), high=tuple(interval.high for interval in intervals),
    )  # fmt: skip


def _control(subject: Subject, predictions: Predictions, data: Data, ctx: RunContext) -> PositiveControl:
    """Images read again and asked about alone must get the answers that were counted.

    Fails where stored answers belong to other images or another model, and where an image's answer depends on the
    images beside it. A tenth may differ, for subjects that answer at random.
    """
    n = len(predictions)
    places = ctx.rng("control").choice(n, size=min(n, CONTROL_IMAGES), replace=False)
    batch = data["eval"].take([int(place) for place in places])
    with torch.inference_mode():
        again = torch.cat([subject.logits(image).cpu() for image in torch.split(batch.pixels, 1)]).argmax(dim=1).numpy()
    same_label = batch.labels.numpy() == predictions.labels[places]
    agreeing = int(((again == predictions.logits[places].argmax(axis=1)) & same_label).sum())
    return PositiveControl(
        name="images asked about again, one by one",
        passed=agreeing >= 0.9 * len(places),
        expected=f"at least 90% of {len(places)} answered as they were counted",
        observed=f"{agreeing} of {len(places)} answered so",
    )


def _confusions(labels: IntArray, guesses: IntArray, names: tuple[str, ...], config: AccuracyConfig) -> Iterator[Fact]:
    k = len(names)
    counts = np.bincount(labels * k + guesses, minlength=k * k).reshape(k, k)
    off = counts.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[: config.confusions]
    pairs = [(int(place) // k, int(place) % k) for place in order if off.flat[place]]
    rows = tuple(
        (names[true], names[said], int(counts[true, said]), float(counts[true, said] / counts[true].sum()))
        for true, said in pairs
    )
    if rows:
        yield Table(
            id="confusions", title="Most frequent confusions", rows=rows,
            columns=("label", "model says", "images", "share of the label's images"),
            caption="Picked after looking at the data, so the shares are exploratory.",
            alt=f"Table of confusions; the most frequent is {rows[0][0]} called {rows[0][1]}, {rows[0][2]} times.",
        )  # fmt: skip
    if k <= config.classes_drawn:
        yield Matrix(
            id="confusion-matrix", title="Confusion matrix", row_label="label", column_label="model says",
            rows=names, columns=names, values=tuple(tuple(float(cell) for cell in row) for row in counts),
            caption="Number of images; the diagonal is right.",
            alt=f"Matrix of labels against predictions; {int(np.trace(counts))} of {len(labels)} on the diagonal.",
        )  # fmt: skip


def _worst_examples(
    predictions: Predictions, hits: np.ndarray, names: tuple[str, ...], data: Data,
    config: AccuracyConfig, ctx: RunContext,
) -> Iterator[Fact]:  # fmt: skip
    shifted = predictions.logits.astype(np.float64) - predictions.logits.max(axis=1, keepdims=True)
    confidence = 1 / np.exp(shifted).sum(axis=1)
    wrong = np.flatnonzero(~hits)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][: config.worst_examples]
    if not len(worst):
        return
    batch = data["eval"].take([int(place) for place in worst])
    tiles = []
    for rank, place in enumerate(worst):
        said, label = names[predictions.logits[place].argmax()], names[predictions.labels[place]]
        text = f"label {label}, model says {said} ({confidence[place]:.1%} sure)"
        image = ctx.evidence(f"images/wrong-{rank:02d}.png", encode_png(batch.pixels[rank]), "image", text)
        tiles.append(ImageTile(path=image.path, label=text))
        yield image
    yield ImageGrid(
        id="worst-examples", title="Confidently wrong", columns=("",) * 4,
        rows=tuple(tuple(tiles[start : start + 4]) for start in range(0, len(tiles), 4)),
        caption="The wrong answers of which the model was surest; often label errors, or a class it has not learnt.",
        alt=f"{len(tiles)} images that the model names wrongly with the highest confidence; first: {tiles[0].label}.",
    )  # fmt: skip
