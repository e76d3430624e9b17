"""Whether texture tells the class better than content does, as it does where a filter or a pattern gives it away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from audit.api import FloatArray, IntArray
from audit.schema import Interval
from audit.toolkit.statistics import proportion
from audit.training.quick import folds_of
from probes.shortcuts.traces import Traces

FOLDS = 3
Hits = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Gap:
    """How often two classifiers name the given label of images that they were not fitted on.

    Attributes:
        texture, content: (n,) which images each has right.
    """

    texture: Hits
    content: Hits

    @property
    def value(self) -> float:
        """Accuracy by texture above that by content."""
        return float(self.texture.mean() - self.content.mean())

    def interval(self, level: float = 0.95) -> Interval:
        """Of the gap: paired, normal."""
        difference = self.texture.astype(np.float64) - self.content
        half = float(ndtri(1 - (1 - level) / 2) * max(difference.std(), 1 / len(difference)) / np.sqrt(len(difference)))
        return Interval(low=self.value - half, high=self.value + half, level=level, method="normal, paired")

    def accuracy(self, hits: Hits, level: float = 0.95) -> Interval:
        """Of one of the two."""
        return proportion(int(hits.sum()), len(hits), level)


def gap(traces: Traces, labels: IntArray, rng: np.random.Generator) -> Gap:
    """Discriminants with shrunk covariances, each image judged by those fitted without its fold.

    Source: the shrinkage is Ledoit & Wolf's, 2004, Journal of Multivariate Analysis 88(2).
    """
    fold = folds_of(labels, FOLDS, rng)
    texture = np.concatenate([traces.spectrum, traces.texture], axis=1)
    return Gap(_judged(texture, labels, fold) == labels, _judged(traces.content, labels, fold) == labels)


def _judged(features: FloatArray, labels: IntArray, fold: IntArray) -> IntArray:
    said = np.full(len(labels), np.bincount(labels).argmax(), dtype=np.int64)  # where nothing tells images apart
    moving = features.std(axis=0) > 1e-6
    if not moving.any():
        return said
    for place in range(FOLDS):
        rest, mine = fold != place, fold == place
        if len(np.unique(labels[rest])) < 2 or not mine.any():
            continue
        judge = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(features[rest][:, moving], labels[rest])
        said[mine] = judge.predict(features[mine][:, moving])
    return said
