"""Temperature scaling: one number T that divides the logits, fitted by maximum likelihood.

NLL(b) = mean(logsumexp(b z) - b z_y) is convex in b = 1/T; it is minimised by safeguarded Newton steps in float64 to a
relative step of 1e-9, so that nothing depends on a learning rate. T > 1: over-confident, T < 1: under-confident.

Source: Guo et al. 2017, arXiv:1706.04599, section 4.2 (temperature); Royall & Tsou 2003, JRSS B 65(2) and Kent 1982,
Biometrika 69(1) (likelihood ratios scaled by the sandwich ratio, valid where temperature scaling is not true).
Differs from source: the scaling only ever widens the interval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtri, ndtri

from audit.api import Interval
from probes.calibration.scores import Floats, Ints, Logits, Scores, chunks, score

T_MIN, T_MAX = 0.01, 1000.0
"""Temperatures that are searched; where the optimum lies beyond, the bound is reported with a diagnostic."""
METHOD = "profile-likelihood-robust"


@dataclass(frozen=True, slots=True, eq=False)
class Slopes:
    """Per-sample log loss and its first two derivatives in the inverse temperature, each (n,)."""

    nll: Floats
    first: Floats
    second: Floats


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted temperature.

    Attributes:
        temperature: T*, in [T_MIN, T_MAX].
        nll: mean log loss at T*.
        identified: False where every temperature fits equally well (constant logits).
    """

    temperature: float
    nll: float
    identified: bool

    @property
    def at_bound(self) -> bool:
        """Whether T* is an end of the searched range."""
        return not T_MIN * 1.001 < self.temperature < T_MAX / 1.001


def slopes(logits: Logits, labels: Ints, beta: float, rows: Ints | None = None) -> Slopes:
    """Log loss and derivatives at inverse temperature beta, of all samples or of those in `rows`."""
    chosen = np.arange(len(labels)) if rows is None else rows
    nll, first, second = (np.empty(len(chosen)) for _ in range(3))
    for part in chunks(len(chosen), logits.shape[1]):
        places = chosen[part]
        z = logits[places].astype(np.float64)
        z -= z.max(axis=1, keepdims=True)
        own = z[np.arange(len(z)), labels[places]]
        weights = np.exp(beta * z)
        total = weights.sum(axis=1)
        weights *= z
        mean = weights.sum(axis=1) / total
        nll[part] = np.log(total) - beta * own
        first[part] = mean - own
        second[part] = np.maximum(np.einsum("ij,ij->i", weights, z) / total - mean**2, 0.0)
    return Slopes(nll, first, second)


def fit(logits: Logits, labels: Ints, rows: Ints | None = None, start: float = 1.0) -> Fit:
    """Maximum-likelihood temperature on all samples or on those in `rows`, searched from T = `start`."""
    chosen = np.arange(len(labels)) if rows is None else rows
    if _flat(logits, chosen):
        return Fit(1.0, float(np.log(logits.shape[1])), identified=False)
    beta = _extreme(logits, labels, chosen)
    if beta is None:
        beta = _newton(lambda b: _mean_slopes(logits, labels, b, chosen), 1 / start)
    return Fit(1 / beta, float(slopes(logits, labels, beta, chosen).nll.mean()), identified=True)


def interval(logits: Logits, labels: Ints, fitted: Fit, level: float) -> Interval:
    """All T whose log-likelihood is close to the best: 2 n (NLL(T) - NLL(T*)) min(1, H/V) <= chi2 quantile.

    H is the curvature and V the variance of the score at T*; H/V = 1 where temperature scaling is the true model.
    """
    if not fitted.identified:
        return Interval(low=T_MIN, high=T_MAX, level=level, method=METHOD)
    n, best = len(labels), 1 / fitted.temperature
    at_best = slopes(logits, labels, best)
    curvature, variance = float(at_best.second.mean()), float(np.mean(at_best.first**2))
    ratio = min(1.0, curvature / variance) if variance > 0 else 1.0
    allowed = float(chdtri(1, 1 - level))

    def excess(log_beta: float) -> float:
        loss = float(slopes(logits, labels, float(np.exp(log_beta))).nll.mean())
        return 2 * n * (loss - fitted.nll) * ratio - allowed

    wald = ndtri((1 + level) / 2) * np.sqrt(max(variance, curvature) / n) / max(curvature * best, 1e-12)
    step = float(np.clip(wald, 1e-4, 1.0))
    low = _crossing(excess, np.log(best), -step, -np.log(T_MAX))
    high = _crossing(excess, np.log(best), step, -np.log(T_MIN))
    return Interval(low=float(np.exp(-high)), high=float(np.exp(-low)), level=level, method=METHOD)


def cross_fit(
    logits: Logits, labels: Ints, folds: int, start: float, rng: np.random.Generator
) -> tuple[Scores, Floats]:
    """Scores of every sample under the temperature fitted on the other folds, and each fold's temperature (folds,).

    No sample's label took part in its own temperature. Folds are a seeded random partition; at least 2 samples.
    """
    n = len(labels)
    folds = min(folds, n)
    fold = rng.permutation(n) % folds
    found = [fit(logits, labels, np.flatnonzero(fold != k), start).temperature for k in range(folds)]
    temperatures = np.asarray(found, dtype=np.float64)
    return score(logits, labels, 1 / temperatures[fold]), temperatures


def _flat(logits: Logits, rows: Ints) -> bool:
    parts = (logits[rows[part]] for part in chunks(len(rows), logits.shape[1]))
    return all(bool(np.all(z == z[:, :1])) for z in parts)


def _extreme(logits: Logits, labels: Ints, rows: Ints) -> float | None:
    """The inverse temperature at a bound where the likelihood is monotone, else None."""
    above, ahead = 0.0, True
    for part in chunks(len(rows), logits.shape[1]):
        z = logits[rows[part]].astype(np.float64)
        own = z[np.arange(len(z)), labels[rows[part]]]
        above += float((own - z.mean(axis=1)).sum())
        ahead = ahead and bool(np.all(own == z.max(axis=1)))
    if ahead:
        return 1 / T_MIN
    return 1 / T_MAX if above <= 0 else None


def _mean_slopes(logits: Logits, labels: Ints, beta: float, rows: Ints) -> tuple[float, float]:
    found = slopes(logits, labels, beta, rows)
    return float(found.first.mean()), float(found.second.mean())


def _newton(derivatives: Callable[[float], tuple[float, float]], beta: float) -> float:
    """Zero of an increasing derivative in [1/T_MAX, 1/T_MIN], by Newton steps in log beta kept inside a bracket."""
    low, high = 1 / T_MAX, 1 / T_MIN
    beta = float(np.clip(beta, low, high))
    for _ in range(80):
        first, second = derivatives(beta)
        low, high = (low, beta) if first > 0 else (beta, high)
        step = -first / (second * beta) if second * beta > 0 else np.inf
        proposed = beta * float(np.exp(np.clip(step, -5, 5)))
        if not low < proposed < high:
            proposed = float(np.sqrt(low * high))
        if abs(np.log(proposed / beta)) < 1e-9:
            return proposed
        beta = proposed
    return beta


def _crossing(excess: Callable[[float], float], start: float, step: float, bound: float) -> float:
    """Where `excess` turns positive on the way from start towards the bound, in growing steps; else the bound."""
    sign, inside = np.sign(step), float(start)
    while True:
        outside = inside + step
        if sign * outside >= sign * bound:
            outside = float(bound)
        if excess(outside) > 0:
            return float(brentq(excess, inside, outside, xtol=1e-5))
        if outside == bound:
            return float(bound)
        inside, step = outside, 2 * step
