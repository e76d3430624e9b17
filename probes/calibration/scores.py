"""From logits to what is scored: confidence, hit, log loss and Brier score of every sample, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Logits = npt.NDArray[np.float32] | npt.NDArray[np.float64]

CHUNK_ELEMENTS = 2**18
"""Logits that are held as float64 at a time (2 MiB a temporary); memory does not grow with n times K."""


def chunks(n: int, columns: int) -> Iterator[slice]:
    """Slices over n rows such that each holds about `CHUNK_ELEMENTS` values."""
    step = max(1, CHUNK_ELEMENTS // max(columns, 1))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What each of n samples was given.

    Attributes:
        confidence: probability of the predicted class, (n,) in (0, 1].
        predicted: class with the largest logit, the first of equals, (n,).
        correct: whether it is the label, (n,).
        nll: minus the log-probability of the label, (n,), finite even where the probability underflows.
        brier: squared error summed over classes, (n,) in [0, 2].
    """

    confidence: Floats
    predicted: Ints
    correct: Bools
    nll: Floats
    brier: Floats

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.confidence)


def score(logits: Logits, labels: Ints, inverse_temperature: Floats | float = 1.0) -> Scores:
    """Scores of `softmax(inverse_temperature * logits)`, computed in float64 by log-softmax.

    Args:
        logits: (n, K), finite.
        labels: (n,) in 0..K-1.
        inverse_temperature: one number, or one a sample (n,); positive.
    """
    n, classes = logits.shape
    beta = np.broadcast_to(np.asarray(inverse_temperature, dtype=np.float64), (n,))
    confidence, nll, brier = np.empty(n), np.empty(n), np.empty(n)
    predicted = logits.argmax(axis=1).astype(np.int64)
    for rows in chunks(n, classes):
        shifted = logits[rows].astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        shifted *= beta[rows, None]
        own = shifted[np.arange(len(shifted)), labels[rows]]
        weights = np.exp(shifted, out=shifted)
        total = weights.sum(axis=1)
        confidence[rows] = 1.0 / total
        nll[rows] = np.log(total) - own
        squares = np.einsum("ij,ij->i", weights, weights) / total**2
        brier[rows] = np.maximum(squares + 1.0 - 2.0 * np.exp(own) / total, 0.0)
    return Scores(confidence, predicted, predicted == labels, nll, brier)


def sample_labels(logits: Logits, temperature: float, rng: np.random.Generator) -> Ints:
    """Labels drawn from `softmax(logits / temperature)`, (n,): of these the truth about calibration is known."""
    n, classes = logits.shape
    uniform = rng.random((n,))
    drawn = np.empty(n, dtype=np.int64)
    for rows in chunks(n, classes):
        shifted = logits[rows].astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        cumulative = np.exp(shifted / temperature, out=shifted).cumsum(axis=1)
        below = cumulative <= uniform[rows, None] * cumulative[:, -1:]
        drawn[rows] = np.minimum(below.sum(axis=1), classes - 1)
    return drawn


@dataclass(frozen=True, slots=True, eq=False)
class TopLabel:
    """Confidences in ascending order, with their hits: all that a top-label calibration error looks at.

    Attributes:
        confidence: (n,) ascending in [0, 1].
        correct: (n,) 0.0 or 1.0, in the same order.
    """

    confidence: Floats
    correct: Floats

    @classmethod
    def ordered(cls, confidence: Floats, correct: npt.NDArray[np.bool_] | Floats) -> TopLabel:
        """From samples in any order."""
        order = np.argsort(confidence, kind="stable")
        return cls(confidence[order].astype(np.float64), correct[order].astype(np.float64))

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.confidence)

    @property
    def gap(self) -> float:
        """Mean confidence minus accuracy; positive when over-confident."""
        return float(self.confidence.mean() - self.correct.mean())
