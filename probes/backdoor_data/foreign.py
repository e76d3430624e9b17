"""Images whose coarse content is of another class than their label, where one class has far more of them than the rest.

A backdoor that relabels images gathers other classes' content in one class. Each image's neighbours say what class its
content is of (`content`); by the rule of confident learning its label is doubted where another class is about as
likely as for that class's own images. Mistaken labels are doubted in every class alike, and where contents hardly tell
classes apart, images of every class are: so a class is of interest only for what it has beyond the others.

Source: Northcutt, Jiang & Chuang 2021 (confident learning, arXiv 1911.00068).
Differs from source: probabilities are shares among neighbours, of which less is asked, since images that were
relabelled alike take from one another's shares; classes are compared with one another.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from audit.api import FloatArray, IntArray
from audit.toolkit.detection import ALPHA
from probes.backdoor_data.config import FEWEST_CARRIERS
from probes.backdoor_data.content import NEIGHBOURS, Content, apart, neighbours

BEYOND = 0.5
"""Share of a class's doubted images that must be beyond what the other classes' shares would give it."""
FEWEST_LEFT, LEFT = 20, 0.2
"""Images of a class, and share of it, that must not be doubted: what the others are foreign to."""
LIKELY = 0.7
"""Share that another class must have near an image, of that near its own. With the whole of it, six in ten of a tenth
of digits that were relabelled showed; with this nine in ten, and 99 % of what showed were of them."""


def gathered_in_one_class(content: Content) -> list[tuple[int, IntArray]]:
    """Classes with far more doubted images than the others: each with these, the most doubtful first.

    Near-copies count once. The most significant class comes first; by a p-value that takes images as independent and
    the others' share as known, and is never to be printed.
    """
    doubts, own = doubted(content)
    labels, features = content.labels, content.without(None)
    found: list[tuple[float, int]] = []
    for label in np.unique(labels).tolist():
        mine = labels == label
        rows, n = np.flatnonzero(doubts & mine), int(mine.sum())
        usual = (int(doubts[~mine].sum()) + 1) / (int((~mine).sum()) + 2)
        if len(rows) - n * usual < BEYOND * len(rows):
            continue  # as in most classes: copies need not be told
        hits = len(apart(features, rows, np.arange(len(labels))))
        p = float(binom.sf(hits - 1, n, usual)) * content.classes
        enough = n - hits >= max(FEWEST_LEFT, LEFT * n)
        if hits >= FEWEST_CARRIERS and enough and hits - n * usual >= BEYOND * hits and p <= ALPHA:
            found.append((p, label))
    sets = []
    for _, label in sorted(found):
        rows = np.flatnonzero(doubts & (labels == label))
        sets.append((label, rows[np.argsort(own[rows], kind="stable")]))
    return sets


def doubted(content: Content) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Whether each image's content is of another class than its label, and the share of its own class near it."""
    labels, n = content.labels, len(content.labels)
    near = neighbours(content.without(None), np.arange(n), np.arange(n), NEIGHBOURS)
    shares = np.zeros((n, content.classes))
    for column in near.T:
        shares[np.arange(n), labels[column]] += 1 / near.shape[1]
    usual = np.array([shares[labels == c, c].mean() if (labels == c).any() else 0.0 for c in range(content.classes)])
    usual[usual == 0] = np.inf  # of a class whose images have none of it near them, nothing is known
    own = shares[np.arange(n), labels]
    likely = np.where(shares >= LIKELY * usual, shares, -1.0)
    best = likely.argmax(axis=1)
    return (likely.max(axis=1) >= 0) & (best != labels), own
