"""Certified accuracy of the smoothed classifiers against the radius, and the tables behind it."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audit.api import Curve, DataSplit, Evidence, RunContext
from audit.toolkit.curves import banded, drawn_radii
from audit.toolkit.norms import parse_eps
from probes.smoothing.config import SmoothingConfig
from probes.smoothing.noise import NO_CLASS
from probes.smoothing.outcome import Outcome


def curve(outcomes: Sequence[Outcome], config: SmoothingConfig) -> Curve:
    """A line for each sigma; each falls to zero at the largest radius that its draws can give."""
    listed = [parse_eps(text, "l2") for text in config.eps_l2]
    radii = drawn_radii(sorted({*listed, *(outcome.cap for outcome in outcomes)}))
    said = "; ".join(
        f"sigma {outcome.sigma:g}: "
        + ", ".join(f"{outcome.certified(eps).mean():.1%} at {eps:g}" for eps in sorted({0.0, *listed}))
        for outcome in outcomes
    )
    caps = ", ".join(f"{outcome.cap:.3g} at sigma {outcome.sigma:g}" for outcome in outcomes)
    return Curve(
        id="certified-accuracy",
        title="Certified accuracy of the smoothed classifier, l2",
        caption="Share of samples for which the smoothed classifier (not the model as deployed) is certified to give "
        f"the label within the radius, at least. {config.n} draws reach no further than {caps}. Each line's 95 % band, "
        "for the choice of samples, holds at all radii at once.",
        alt=f"Certified accuracy of the smoothed classifier by L2 radius: {said}.",
        x_label="L2 radius, pixels in [0, 1]",
        y_label="certified accuracy",
        series=tuple(
            banded(f"sigma {outcome.sigma:g} (at least)", radii, [outcome.certified(eps) for eps in radii])
            for outcome in outcomes
        ),
        y_range=(0, 1),
    )


def table(outcome: Outcome, split: DataSplit, ctx: RunContext) -> Evidence:
    """One row a sample, as parquet."""
    arrays = outcome.arrays
    columns = {
        "position": np.arange(outcome.n),
        "id": split.sample_ids(range(outcome.n)),
        "label": arrays["labels"],
        "predicted_without_noise": pa.array(arrays["clean"], mask=arrays["clean"] == NO_CLASS),
        "chosen": pa.array(arrays["chosen"], mask=arrays["chosen"] == NO_CLASS),
        "successes": arrays["successes"],
        "draws": np.full(outcome.n, outcome.draws),
        "unanswered": arrays["unanswered"],
        "certified_radius": pa.array(outcome.radius, mask=outcome.abstained),
    }
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    text = (
        f"every sample's class and certified L2 radius under noise of sigma {outcome.sigma:g}; no radius where the "
        "smoothed classifier abstains"
    )
    return ctx.evidence(f"samples-{outcome.sigma:g}.parquet", stream.getvalue(), "per-sample-table", text)
