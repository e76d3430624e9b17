"""What is stated and shown of each model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from scipy.special import bdtr

from audit.api import Bars, Claim, Histogram, Interval, Measurement, Table
from audit.toolkit.norms import eps_text
from audit.toolkit.statistics import proportion
from probes.distillation.outcome import Outcome
from probes.distillation.searches import ATTACKS, NORM_OF, Strength

SAID = {
    "fgsm": "FGSM", "pgd": "PGD", "fgsm-scaled": "FGSM, scaled", "pgd-scaled": "PGD, scaled",
    "pgd-margin": "PGD, margin", "cw": "C&W, L2", "square": "Square", "transfer": "transfer",
}  # fmt: skip
BINS = 24


def measurements(
    outcome: Outcome, strength: Strength, model: str, assumptions: tuple[str, ...]
) -> Iterator[Measurement]:
    """Accuracies of a model, its median gap, and what its gradients look like."""
    n, n_correct = outcome.n, outcome.n_correct
    if n_correct:
        yield from _of_right_samples(outcome, model, assumptions)
    yield Measurement(
        metric="distillation.clean_accuracy",
        where={"model": model},
        value=n_correct / n,
        n=n,
        claim=Claim.ESTIMATE,
        interval=proportion(n_correct, n),
    )
    for name in outcome.attacks:
        standing = int((outcome.correct & ~outcome.broken(name)).sum())
        norm = NORM_OF.get(name, "linf")
        yield Measurement(
            metric="distillation.robust_accuracy",
            where={"model": model, "attack": name, "norm": norm, "eps": eps_text(strength.radius(name))},
            value=standing / n,
            n=n,
            claim=Claim.UPPER_BOUND,
            interval=proportion(standing, n),
            assumptions=assumptions,
        )
    ordered = np.sort(outcome.arrays["gap"].astype(float))
    yield Measurement(
        metric="distillation.median_gap",
        where={"model": model},
        value=float(np.median(ordered)),
        n=n,
        claim=Claim.ESTIMATE,
        interval=_median_interval(ordered),
        assumptions=("largest less second logit, on right and wrong samples alike",),
    )


def _of_right_samples(outcome: Outcome, model: str, assumptions: tuple[str, ...]) -> Iterator[Measurement]:
    """Shares of right samples, of which there is at least one; the kind of masking that hides most stands first."""
    n = outcome.n_correct
    for kind, (more, less) in sorted(outcome.hidden().items(), key=lambda hidden: hidden[1][1] - hidden[1][0]):
        yield Measurement(
            metric="distillation.hidden_share",
            where={"model": model, "masking": kind},
            value=max(more - less, 0) / n,
            n=n,
            claim=Claim.ESTIMATE if outcome.random else Claim.LOWER_BOUND,
            interval=_difference(more, less, n),
            assumptions=(
                *assumptions,
                "among right samples",
                "what either breaks alone is set off against the other",
                *(("the model answers at random, so two searches differ by chance as well",) * outcome.random),
            ),
        )
    shares = {
        "zero_gradient_share": int(outcome.arrays["census_ce_zero"].sum()),
        "useless_gradient_share": outcome.flagged()["gradients"],
        "saturated_share": int((outcome.arrays["one"].astype(bool) & outcome.correct).sum()),
    }
    for metric, count in shares.items():
        yield Measurement(
            metric=f"distillation.{metric}",
            where={"model": model},
            value=count / n,
            n=n,
            claim=Claim.ESTIMATE,
            interval=proportion(count, n),
            assumptions=("among right samples", "float32"),
        )


def _difference(more: int, less: int, n: int, level: float = 0.95) -> Interval:
    """Of the share that one search breaks alone less that of the other, 0 at least; covers with at least the level.

    Each share has an exact interval that misses half as often.
    """
    wider = (1 + level) / 2
    ours, theirs = proportion(more, n, wider), proportion(less, n, wider)
    low, high = max(ours.low - theirs.high, 0.0), max(ours.high - theirs.low, 0.0)
    return Interval(low=low, high=high, level=level, method="clopper-pearson-difference")


def _median_interval(ordered: np.ndarray[tuple[int], np.dtype[np.float64]], level: float = 0.95) -> Interval:
    """Between two order statistics: each side is missed with at most half of what is left to the level."""
    n = len(ordered)
    ranks = np.arange(n)
    below = np.flatnonzero(bdtr(ranks, n, 0.5) <= (1 - level) / 2)
    rank = int(below[-1]) if len(below) else 0
    return Interval(low=float(ordered[rank]), high=float(ordered[n - 1 - rank]), level=level, method="order-statistics")


def table(outcomes: Mapping[str, Outcome], strength: Strength) -> Table:
    """Accuracy of every model under every attack."""
    run = [name for name in ATTACKS if any(name in outcome.attacks for outcome in outcomes.values())]
    rows: list[tuple[str | float | None, ...]] = [
        ("no attack", "", *(_percent(outcome.n_correct, outcome.n) for outcome in outcomes.values()))
    ]
    for name in run:
        radius = f"{NORM_OF.get(name, 'linf')} {eps_text(strength.radius(name))}"
        cells = [
            _percent(int((outcome.correct & ~outcome.broken(name)).sum()), outcome.n)
            if name in outcome.attacks
            else None
            for outcome in outcomes.values()
        ]
        rows.append((SAID[name], radius, *cells))
    return Table(
        id="accuracy-by-attack",
        title="Accuracy under attacks that are fooled by a saturated softmax, and under attacks that are not",
        caption="Of the same images. FGSM and PGD climb the cross-entropy of the logits as they are; scaled, of the "
        "logits over their spread; Carlini & Wagner's attack the margin; Square asks for no gradient; transfer takes "
        "images made on the twin. Where the first two leave much more than the others, the gradient is hidden.",
        alt="Accuracy of each model under each attack.",
        columns=("attack", "radius", *outcomes),
        rows=tuple(rows),
    )


def _percent(count: int, n: int) -> str:
    return f"{count / n:.1%}"


def bars(outcome: Outcome, model: str) -> Bars:
    """Accuracy of one model by attack, with intervals."""
    standing = {SAID[name]: int((outcome.correct & ~outcome.broken(name)).sum()) for name in outcome.attacks}
    counts = {"no attack": outcome.n_correct} | standing
    limits = [proportion(count, outcome.n) for count in counts.values()]
    said = ", ".join(f"{name} {count / outcome.n:.1%}" for name, count in counts.items())
    return Bars(
        id=f"accuracy-{model}",
        title=f"Accuracy by attack, {model}",
        caption=f"Of {outcome.n} images, with 95 % intervals; each is at most that, and the lowest counts.",
        alt=f"Accuracy of the {model}: {said}.",
        value_label="accuracy",
        labels=tuple(counts),
        values=tuple(count / outcome.n for count in counts.values()),
        low=tuple(limit.low for limit in limits),
        high=tuple(limit.high for limit in limits),
    )


def gaps(outcomes: Mapping[str, Outcome]) -> Histogram:
    """Largest less second logit of each model, on a logarithmic scale."""
    logs = {
        model: np.log10(np.maximum(outcome.arrays["gap"].astype(float), 1e-3)) for model, outcome in outcomes.items()
    }
    every = np.concatenate(list(logs.values()))
    edges = np.linspace(float(every.min()), float(every.max()) + 1e-6, BINS + 1)
    medians = ", ".join(f"{model} {10 ** float(np.median(found)):.3g}" for model, found in logs.items())
    return Histogram(
        id="logit-gaps",
        title="How far the largest logit lies above the second",
        caption="Powers of ten. Distillation at temperature T makes gaps about T times as large. Beyond about 17 the "
        "largest probability is exactly 1 in float32; beyond about 100 the others are exactly 0.",
        alt=f"Median gaps: {medians}.",
        x_label="log10 of the gap",
        edges=tuple(float(edge) for edge in edges),
        counts={model: tuple(int(count) for count in np.histogram(found, edges)[0]) for model, found in logs.items()},
    )
