"""Pictures of calibration, as data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from audit.api import Curve, Figure, Histogram, Measurement, Reliability, ReliabilityBin, Series, Subject, Table
from audit.toolkit.statistics import proportion
from probes.calibration import classwise, selective
from probes.calibration.study import Study

HISTOGRAM_BINS = 20
CURVE_POINTS = 100
MOST_CLASSES = 30


def figures(study: Study, measured: Sequence[Measurement], subject: Subject) -> Iterator[Figure]:
    """Reliability diagram, confidence histogram, risk-coverage curve and tables."""
    yield reliability(study)
    yield histogram(study)
    yield risk_coverage(study)
    yield estimators(measured)
    table = per_class(study, subject)
    if table is not None:
        yield table


def reliability(study: Study) -> Reliability:
    """Accuracy against confidence in equal-width bins, with the band of a calibrated model."""
    bins, tail = study.width, (1 - study.config.level) / 2
    null_accuracy = study.noise.null.in_bins(bins.starts) / bins.count
    low, high = np.quantile(null_accuracy, [tail, 1 - tail], axis=0)
    outside = int(np.sum((bins.accuracy < low) | (bins.accuracy > high)))
    words = "over-confident" if study.top.gap > 0 else "under-confident"
    alt = (
        f"Reliability diagram over {len(bins.count)} non-empty bins of {len(study)} samples. {outside} bins lie "
        f"outside the {study.config.level:.0%} band of a calibrated model. Mean confidence "
        f"{study.top.confidence.mean():.3f}, accuracy {study.top.correct.mean():.3f}: on average {words} by "
        f"{abs(study.top.gap):.3f}."
    )
    rows = zip(bins.confidence, bins.accuracy, bins.count, low, high, strict=True)
    return Reliability(
        id="calibration-reliability",
        title="Reliability diagram",
        caption="Points below the diagonal are over-confident. A calibrated model keeps each point inside its band "
        f"{study.config.level:.0%} of the time.",
        alt=alt,
        bins=tuple(
            ReliabilityBin(confidence=float(c), accuracy=float(a), n=int(n), null_low=float(lo), null_high=float(hi))
            for c, a, n, lo, hi in rows
        ),
        null_level=study.config.level,
    )


def histogram(study: Study) -> Histogram:
    """Confidences of correct and of wrong predictions."""
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    confidence, correct = study.scores.confidence, study.scores.correct
    counts = {
        name: tuple(int(count) for count in np.histogram(confidence[chosen], edges)[0])
        for name, chosen in (("correct", correct), ("wrong", ~correct))
    }
    sure = int(np.sum(confidence[~correct] > 0.9))
    return Histogram(
        id="calibration-confidence",
        title="Confidence of correct and wrong predictions",
        caption="Wrong predictions should sit to the left; those at the right are confident mistakes.",
        alt=f"Histogram of the confidence of {len(study) - study.errors} correct and {study.errors} wrong predictions; "
        f"{sure} wrong ones have a confidence above 0.9.",
        x_label="confidence",
        edges=tuple(float(edge) for edge in edges),
        counts=counts,
    )


def risk_coverage(study: Study) -> Curve:
    """Error rate among the most confident share, with pointwise Clopper-Pearson limits."""
    n = len(study)
    kept = np.unique(np.ceil(np.linspace(1 / CURVE_POINTS, 1, CURVE_POINTS) * n - 1e-9).astype(np.int64).clip(1, n))
    hits = selective.hits_kept(study.ranking, kept)
    found = [selective.accuracy_interval(float(h), int(k), study.config.level) for h, k in zip(hits, kept, strict=True)]
    risk = np.clip(1 - hits / kept, 0, 1)
    half = int(np.argmin(np.abs(kept - n / 2)))
    return Curve(
        id="calibration-risk-coverage",
        title="Risk-coverage curve",
        caption="Error rate among the samples answered, when only the most confident share is answered. It should fall "
        f"to the left. Band: pointwise {study.config.level:.0%} Clopper-Pearson.",
        alt=f"The error rate is {risk[-1]:.3f} when all {n} samples are answered and {risk[half]:.3f} when the most "
        "confident half is.",
        x_label="coverage",
        y_label="error rate",
        series=(
            Series(
                name="by confidence",
                x=tuple(float(k) for k in kept / n),
                y=tuple(float(r) for r in risk),
                low=tuple(1 - interval.high for interval in found),
                high=tuple(1 - interval.low for interval in found),
            ),
        ),
    )


def estimators(measured: Sequence[Measurement]) -> Table:
    """Every calibration error side by side: they answer different questions and differ."""
    rows = []
    for fact in measured:
        if "ece" in fact.metric or fact.metric.endswith(".mce"):
            assert fact.interval is not None
            setting = ", ".join(str(value) for value in fact.where.values())
            rows.append((fact.metric, setting, fact.value, fact.interval.low, fact.interval.high, fact.n))
    values = [row[2] for row in rows]
    return Table(
        id="calibration-estimators",
        title="Calibration errors by estimator",
        caption="The same answers under different estimators. Where they differ, bins or noise decide, not the model: "
        "compare with null_ece, which a perfectly calibrated model would show.",
        alt=f"Table of {len(rows)} calibration errors between {min(values):.4f} and {max(values):.4f}, with intervals.",
        columns=("estimator", "setting", "value", "low", "high", "n"),
        rows=tuple(rows),
    )


def per_class(study: Study, subject: Subject) -> Table | None:
    """Gap within each predicted class that has at least 30 samples; None where there is no such class."""
    found = classwise.by_predicted_class(study.scores, study.classes)
    if not found:
        return None
    rows = []
    for row in found[:MOST_CLASSES]:
        accuracy = proportion(row.hits, row.n, study.config.level)
        name = subject.class_names[row.label] if row.label < len(subject.class_names) else str(row.label)
        rows.append((name, row.n, row.confidence, row.hits / row.n, row.gap, accuracy.low, accuracy.high))
    worst = rows[0]
    shown = (
        f"the {len(rows)} largest gaps of {len(found)} such classes" if len(found) > len(rows) else "all such classes"
    )
    return Table(
        id="calibration-per-class",
        title="Calibration by predicted class",
        caption=f"Classes predicted at least 30 times; {shown}. Among many classes some gaps are large by chance.",
        alt=f"The largest gap is that of predicted class {worst[0]}: mean confidence {worst[2]:.3f}, accuracy "
        f"{worst[3]:.3f}, over {worst[1]} samples.",
        columns=("predicted class", "n", "mean confidence", "accuracy", "gap", "accuracy low", "accuracy high"),
        rows=tuple(rows),
    )
