"""Scores of labels by networks that never saw the images: given ones, wrong ones given on purpose, and trusted ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from audit.api import Data, DataSplit, Inconclusive, IntArray, RunContext, Subject
from audit.training.quick import QuickNet, answers, cross_fitted
from probes.label_noise.bounds import Floats, Trusted, Upper, chosen_threshold, trusted, upper
from probes.label_noise.confident import Confident, Mask, confident_learning, margins, probabilities
from probes.label_noise.config import LabelNoiseConfig

CONFIDENCE = 0.95
FEWEST_TRUSTED = 50


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What is known of the labels of n images.

    Attributes:
        given: (n, k) out-of-sample probabilities.
        labels: (n,).
        confident: what confident learning says.
        second: (n,) which images limits are counted on; a region is chosen on the others.
        wrong: (n,) scores of wrong labels, an array a kind: of any other class alike, of the class most confused with
            the label's, and of the likeliest other class of the image itself.
        bound: upper bound on the rate of wrong labels.
        trusted: what trusted images add; None without them.
    """

    given: Floats
    labels: IntArray
    confident: Confident
    second: Mask
    wrong: tuple[Floats, ...]
    bound: Upper
    trusted: Trusted | None

    @property
    def accuracy(self) -> float:
        """How often the likeliest class is the label."""
        return float((self.given.argmax(axis=1) == self.labels).mean())

    @property
    def commonest(self) -> float:
        """Share of the commonest label."""
        return float(np.bincount(self.labels).max() / len(self.labels))


def judged(
    subject: Subject, data: Data, split: DataSplit, config: LabelNoiseConfig, ctx: RunContext, name: str
) -> Judged:
    """Of the split's labels.

    Raises:
        Inconclusive: when time ended before networks were trained.
        AuditError: when they cannot be trained.
    """
    labels, classes = split.labels[split.order], subject.num_classes
    clean = data.get("clean")
    clean = clean if clean is not None and len(clean) >= FEWEST_TRUSTED else None
    if config.source == "subject":
        logits = ctx.predictions("train").logits[: len(split)]
        if len(logits) < len(split):
            raise Inconclusive("budget", "The budget ended before the model answered for all images. Raise --budget.")
        given = probabilities(logits)
        right = probabilities(ctx.predictions("clean").logits) if clean is not None else None
    else:
        said, nets, _ = cross_fitted(split, classes, config.folds, config.training(len(split)), ctx, name)
        given = probabilities(said.logits)
        right = _by_turns(nets, clean, ctx) if clean is not None else None
    scores = None if clean is None or right is None else margins(right, clean.labels[clean.order])
    return judged_scores(given, labels, scores, ctx.shared().rng(f"label-noise/{name}"))


def _by_turns(nets: Sequence[QuickNet], split: DataSplit, ctx: RunContext) -> Floats:
    """Each image by one of the networks, as each of the others was judged by one."""
    found = np.empty((len(split), nets[0].head.out_features))
    for place, net in enumerate(nets):
        rows = np.arange(place, len(split), len(nets))
        if len(rows):
            found[rows] = probabilities(answers(net, replace(split, order=split.order[rows]), ctx).logits)
    return found


def judged_scores(given: Floats, labels: IntArray, right: Floats | None, rng: np.random.Generator) -> Judged:
    """By out-of-sample probabilities (n, classes) of labels (n,), and the margins of trusted ones if there are any."""
    second: Mask = rng.random(len(labels)) < 0.5
    scores, wrong = margins(given, labels), wrong_scores(given, labels, rng)
    threshold = chosen_threshold(scores[~second], [each[~second] for each in wrong], CONFIDENCE)
    bound = upper(scores[second], [each[second] for each in wrong], threshold, CONFIDENCE)
    against = None if right is None else trusted(scores[second], right, bound, CONFIDENCE)
    return Judged(given, labels, confident_learning(given, labels), second, wrong, bound, against)


def wrong_scores(given: Floats, labels: IntArray, rng: np.random.Generator) -> tuple[Floats, ...]:
    """Scores that the images would have under wrong labels, see `Judged.wrong`.

    The last kind is the hardest to tell: of noise that always leads to the same class networks learn a part.
    """
    classes = given.shape[1]
    drawn = (labels + rng.integers(1, max(2, classes), len(labels))) % classes
    others = given.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    kinds = (drawn, confused(given, labels)[labels], others.argmax(axis=1))
    return tuple(margins(given, kind) for kind in kinds)


def confused(given: Floats, labels: IntArray) -> IntArray:
    """For each class the other one that its images are most taken for, (k,)."""
    classes = given.shape[1]
    sums = np.zeros((classes, classes))
    np.add.at(sums, labels, given)
    np.fill_diagonal(sums, -np.inf)
    found: IntArray = sums.argmax(axis=1).astype(np.int64)
    return found
