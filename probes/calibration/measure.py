"""The probe's measurements, made from a study."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from audit.api import Interval, Measurement, RunContext
from audit.toolkit.statistics import proportion
from probes.calibration import binned, bootstrap, classwise, intervals, null, selective, smooth, temperature
from probes.calibration.binned import Bins
from probes.calibration.intervals import Noise
from probes.calibration.scores import Scores, TopLabel
from probes.calibration.smooth_limits import smooth_interval
from probes.calibration.study import Study, estimate, partitions, prepared
from probes.calibration.temperature import Fit

NO_ERRORS = "no error was seen: the upper end rests on what the model's confidence makes one cost"
SMALLEST_REST = 1e-12
"""Least probability that is left to the other classes, when an error is priced."""


def recalibrated(study: Study, fitted: Fit, ctx: RunContext) -> Scores | None:
    """Scores with cross-fitted temperatures; None with too few samples to split, or with a best one out of range."""
    if len(study) < 2 or fitted.at_bound:
        return None
    scores, found = temperature.cross_fit(
        study.logits, study.labels, study.config.folds, fitted.temperature, ctx.rng("folds")
    )
    if found.max() > 1.5 * found.min():
        text = f"Fitted on different folds, the temperature runs from {found.min():.3g} to {found.max():.3g}."
        ctx.diagnose("temperature_unstable", text)
    return scores


def averages(study: Study, after: Scores | None, ctx: RunContext) -> Iterator[Measurement]:
    """NLL, Brier, confidence gap, AURC, AUGRC, and NLL after temperature scaling, with bootstrap intervals."""
    n, scores = len(study), study.scores
    order = np.argsort(-scores.confidence, kind="stable")
    gap = scores.confidence - scores.correct
    columns = np.stack([scores.nll, scores.brier, gap, after.nll if after else scores.nll], axis=1)
    draws = bootstrap.replicates(
        columns[order],
        lambda weights: selective.areas(study.ranking, weights),
        study.config.bootstrap,
        ctx.rng("bootstrap"),
    )
    values = [*columns.mean(axis=0), *selective.areas(study.ranking)]
    found = [
        bootstrap.percentile_interval(draws[:, k], float(value), study.config.level) for k, value in enumerate(values)
    ]
    unseen = (NO_ERRORS,) if study.errors == 0 else ()
    yield estimate("nll", values[0], n, _nll_interval(scores, found[0]), assumptions=unseen)
    brier = _brier_interval(study, found[1])
    yield estimate("brier", values[1], n, brier, {"variant": "sum-over-classes"})
    yield estimate("confidence_gap", values[2], n, _gap_interval(study, found[2]))
    ties = ("equal confidences in random order, in expectation",)
    for name, k in (("aurc", 4), ("augrc", 5)):
        wide = selective.widened(found[k], values[k], study.errors, n, name == "augrc")
        yield estimate(name, values[k], n, wide, assumptions=ties)
    if after is not None:
        wide = _nll_interval(after, found[3])
        yield estimate("nll_after_temperature", values[3], n, wide, assumptions=(*_cross_fitted(study), *unseen))


def _nll_interval(scores: Scores, found: Interval) -> Interval:
    """The bootstrap cannot resample errors that are rare or unseen, and one of them costs a confident model dearly.

    So the upper end is at least the mean with as many errors as Clopper-Pearson allows. Each costs the mean of those
    seen or, with fewer than ten of them, what the model's confidence makes an error cost at the least, where that is
    more.
    """
    n, hit = len(scores.nll), scores.correct.astype(bool)
    errors = int(n - hit.sum())
    share = proportion(errors, n, found.level).high
    cost = float(scores.nll[~hit].mean()) if errors else 0.0
    if errors < selective.FEW_ERRORS:
        cost = max(cost, float(-np.log(np.maximum(1 - scores.confidence, SMALLEST_REST)).mean()))
    hits = float(scores.nll[hit].mean()) if hit.any() else 0.0
    high = max(found.high, (1 - share) * hits + share * cost)
    return Interval(low=found.low, high=high, level=found.level, method=f"{found.method}+clopper-pearson")


def _gap_interval(study: Study, found: Interval) -> Interval:
    """With fewer than ten errors or hits the bootstrap is too sure; then also what Clopper-Pearson allows."""
    if min(study.errors, len(study) - study.errors) >= selective.FEW_ERRORS:
        return found
    accuracy = proportion(len(study) - study.errors, len(study), study.config.level)
    confidence = float(study.scores.confidence.mean())
    low, high = min(found.low, confidence - accuracy.high), max(found.high, confidence - accuracy.low)
    return Interval(low=low, high=high, level=found.level, method=f"{found.method}+clopper-pearson")


def _brier_interval(study: Study, found: Interval) -> Interval:
    """With fewer than ten errors: as many more as Clopper-Pearson allows, each at the worst cost of 2."""
    if study.errors >= selective.FEW_ERRORS:
        return found
    errors = proportion(study.errors, len(study), study.config.level)
    high = min(2.0, found.high + 2 * (errors.high - study.errors / len(study)))
    return Interval(low=found.low, high=high, level=found.level, method=f"{found.method}+clopper-pearson")


def calibration_errors(study: Study) -> Iterator[Measurement]:
    """Binned, debiased, sweep, smooth, classwise and maximum calibration error."""
    n, noise = len(study), study.noise
    yield from _eces("ece", study.width, study.mass, study, noise, ())
    found = intervals.debiased_interval(study.mass, noise)
    where = {**study.binning("equal-mass"), "norm": "l2"}
    fewer = (f"{len(study.mass.count)} bins hold samples",) if len(study.mass.count) < study.config.bins else ()
    yield estimate("ece_debiased", binned.debiased_rms(study.mass), n, found, where, fewer)
    swept = binned.sweep(study.top)
    found = intervals.ece_interval(swept, noise, exact_null=False)
    chosen = (f"{len(swept.count)} equal-mass bins, chosen by the outcomes; the interval takes them as given",)
    yield estimate("ece_sweep", binned.ece(swept), n, found, assumptions=chosen)
    value = smooth.smooth_ece(study.top)
    kernel = ("reflected Gaussian kernel of a width equal to the value; not logit-scaled",)
    yield estimate("smooth_ece", value, n, smooth_interval(noise, value), assumptions=kernel)
    yield _classwise(study)
    yield _worst_bin(study)


def _eces(
    metric: str, width: Bins, mass: Bins, study: Study, noise: Noise, assumptions: tuple[str, ...]
) -> Iterator[Measurement]:
    for kind, bins in (("equal-width", width), ("equal-mass", mass)):
        shown = float(noise.null.ece(bins).mean())
        bias = (
            f"plug-in, biased upward: a perfectly calibrated model with these confidences shows {shown:.4f} at this n"
        )
        found = intervals.ece_interval(bins, noise)
        yield estimate(metric, binned.ece(bins), len(study), found, study.binning(kind), (bias, *assumptions))


def _classwise(study: Study) -> Measurement:
    cells = classwise.cells(study.logits, study.labels, study.config.bins)
    found = classwise.interval(cells, study.scores, study.config.level)
    bias = f"plug-in, biased upward; mean over {study.classes} classes, most of whose probabilities are near 0"
    return estimate("classwise_ece", cells.value, len(study), found, study.binning("equal-width"), (bias,))


def _worst_bin(study: Study) -> Measurement:
    bins = study.width
    worst = int(np.argmax(np.abs(bins.difference)))
    edge = int(np.clip(np.ceil(study.top.confidence[bins.starts[worst]] * study.config.bins), 1, study.config.bins))
    low, high = (edge - 1) / study.config.bins, edge / study.config.bins
    held = f"bin ({low:.3f}, {high:.3f}] holds {bins.count[worst]} of {len(study)} samples; empty bins are left out"
    return estimate(
        "mce",
        float(np.abs(bins.difference[worst])),
        int(bins.count[worst]),
        intervals.mce_interval(bins, study.config.level),
        study.binning("equal-width"),
        (held, "plug-in: the largest of noisy differences, biased upward"),
    )


def null_test(study: Study) -> Iterator[Measurement]:
    """What a perfectly calibrated model would show, and how often it shows as much as was observed."""
    values, n = study.null_ece, len(study)
    low, high = np.quantile(values, [(1 - study.config.level) / 2, (1 + study.config.level) / 2])
    mean = float(values.mean())
    found = Interval(
        low=min(float(low), mean), high=max(float(high), mean), level=study.config.level, method="null-quantiles"
    )
    given = ("confidences as they are, hits drawn from them",)
    yield estimate("null_ece", mean, n, found, study.binning("equal-width"), given)
    observed = binned.ece(study.width)
    reached = null.exceedances(observed, values)
    error = proportion(reached, len(values), study.config.level)
    p = null.p_value(observed, values)
    found = Interval(low=min(error.low, p), high=max(error.high, p), level=error.level, method=error.method)
    where = {"statistic": "ece", **study.binning("equal-width")}
    monte_carlo = (f"{len(values)} draws; the interval is their Monte Carlo error alone",)
    yield estimate("p_value", p, n, found, where, monte_carlo)


def temperature_facts(study: Study, fitted: Fit, after: Scores | None, ctx: RunContext) -> Iterator[Measurement]:
    """The best temperature, and the calibration error that is left with it."""
    found = temperature.interval(study.logits, study.labels, fitted, study.config.level)
    found = found.model_copy(
        update={"low": min(found.low, fitted.temperature), "high": max(found.high, fitted.temperature)}
    )
    searched = (f"searched in [{temperature.T_MIN:g}, {temperature.T_MAX:g}]",)
    yield estimate("temperature", fitted.temperature, len(study), found, assumptions=searched)
    if after is None:
        return
    top = TopLabel.ordered(after.confidence, after.correct)
    noise = prepared(top, study.config, study.noise.normal, ctx.rng("null-after-temperature"))
    width, mass = partitions(top, study.config.bins)
    yield from _eces("ece_after_temperature", width, mass, study, noise, _cross_fitted(study))


def _cross_fitted(study: Study) -> tuple[str, ...]:
    folds = min(study.config.folds, len(study))
    return (f"each sample's temperature was fitted on the other {folds - 1} of {folds} folds; folds taken as given",)


def selective_facts(study: Study) -> Iterator[Measurement]:
    """Accuracy of the most confident share of the samples."""
    for coverage in study.config.coverages:
        kept = selective.kept_at(coverage, len(study))
        hits = float(selective.hits_kept(study.ranking, np.array([kept]))[0])
        found = selective.accuracy_interval(hits, kept, study.config.level)
        value = min(max(hits / kept, found.low), found.high)
        yield estimate("accuracy_at_coverage", value, kept, found, {"coverage": coverage})
