"""The bracket between what is certified and what was broken, and the table behind it."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audit.api import Curve, DataSplit, Evidence, RunContext
from audit.toolkit.curves import banded, drawn_radii
from audit.toolkit.norms import parse_eps
from probes.certified.config import CertifiedConfig
from probes.certified.outcome import Outcome


def bracket(outcome: Outcome, config: CertifiedConfig) -> Curve:
    """Certified and attacked accuracy against the radius."""
    listed = [parse_eps(text, outcome.norm) for text in config.listed(outcome.norm)]
    radii = drawn_radii(listed)
    unit, words = (255.0, "L-infinity radius, in 1/255 of the pixel range") if outcome.norm == "linf" else (
        1.0, "L2 radius, pixels in [0, 1]",
    )  # fmt: skip
    certified = [outcome.certified(eps) for eps in radii]
    standing = [outcome.standing(eps) for eps in radii]
    said = "; ".join(
        f"{outcome.certified(eps).mean():.1%} to {outcome.standing(eps).mean():.1%} at {eps * unit:g}" for eps in listed
    )
    return Curve(
        id=f"bracket-{outcome.norm}",
        title=f"Between proof and attack, {outcome.norm}",
        caption=f"Of {outcome.n} samples, the share proven to stay right for every image within the radius (at least), "
        "and the share that no attack tried here broke (at most): the truth for these samples lies between. Each "
        "line's 95 % band, for the choice of samples, holds at all radii at once.",
        alt=f"Certified and attacked accuracy by {words}: {said}.",
        x_label=words,
        y_label="accuracy",
        series=(
            banded("attacked (at most)", [eps * unit for eps in radii], standing),
            banded("certified (at least)", [eps * unit for eps in radii], certified),
        ),
        y_range=(0, 1),
    )


def table(outcome: Outcome, split: DataSplit, ctx: RunContext) -> Evidence:
    """One row a sample, as parquet."""
    columns = {
        "position": np.arange(outcome.n),
        "id": split.sample_ids(range(outcome.n)),
        "clean_correct": outcome.correct,
        "certified_radius": outcome.radius,
        "adversarial_distance": pa.array(outcome.distance, mask=~np.isfinite(outcome.distance)),
    }
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    text = f"every sample's certified radius in {outcome.norm}, and the distance of the nearest image that fooled it"
    return ctx.evidence(f"samples-{outcome.norm}.parquet", stream.getvalue(), "per-sample-table", text)
