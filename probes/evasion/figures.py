"""Pictures and tables of what was found."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from audit.api import Curve, DataSplit, Evidence, ImageGrid, ImageTile, RunContext, Series, Subject
from audit.toolkit.curves import banded, drawn_radii
from audit.toolkit.norms import parse_eps
from audit.toolkit.statistics import proportion
from probes.evasion.outcome import Outcome
from probes.evasion.samples import NEVER

Pixels = npt.NDArray[np.float32]
LABELS = {
    "linf": "L-infinity radius, in 1/255 of the pixel range",
    "l2": "L2 radius, pixels in [0, 1]",
    "l1": "L1 radius, pixels in [0, 1]",
}
SMALLEST_SIDE = 64
"""Images below this are enlarged by a whole factor, pixel by pixel."""


def curve(outcome: Outcome) -> Curve:
    """Accuracy against the radius: under attack at every radius up to the largest, under noise at those of the plan."""
    listed = [(index, parse_eps(eps, outcome.norm)) for index, eps in enumerate(outcome.eps)]
    listed = [(index, radius) for index, radius in listed if radius > 0]
    radii = drawn_radii([radius for _, radius in listed])
    robust = {radius: outcome.robust(index) for index, radius in listed}
    standing = [robust.get(radius, outcome.robust_within(radius)) for radius in radii]
    attacked = banded("attacked (at most)", [radius * _unit(outcome) for radius in radii], standing)
    noise = _series([(-1, 0.0), *listed], outcome)
    at = dict(zip(attacked.x, attacked.y, strict=True))
    unit = _unit(outcome)
    points = "; ".join(f"{at[radius * unit]:.1%} at {radius * unit:g}" for radius in (0.0, *(r for _, r in listed)))
    label = LABELS[outcome.norm]
    return Curve(
        id=f"accuracy-{outcome.norm}",
        title=f"Accuracy under attack, {outcome.norm}",
        caption=f"Share of {outcome.n} samples still right at each radius, by each one's nearest adversarial example; "
        "stronger attacks may lower it. The attacked line's 95 % band holds at all radii at once, the noise line's "
        "intervals at one each. Where the noise line falls as well, no adversary is needed.",
        alt=f"Accuracy under attack by {label}: {points}.",
        x_label=label,
        y_label="accuracy",
        series=(attacked, noise),
        y_range=(0, 1),
    )


def _unit(outcome: Outcome) -> float:
    return 255.0 if outcome.norm == "linf" else 1.0


def _series(listed: Sequence[tuple[int, float]], outcome: Outcome) -> Series:
    """What withstands noise at the radii of the plan, each with its interval."""
    masks = [outcome.withstood_noise(index) for index, _ in listed]
    bands = [proportion(int(mask.sum()), len(mask)) for mask in masks]
    return Series(
        name="random noise",
        x=tuple(radius * _unit(outcome) for _, radius in listed),
        y=tuple(float(mask.mean()) for mask in masks),
        low=tuple(band.low for band in bands),
        high=tuple(band.high for band in bands),
    )


def examples(
    outcome: Outcome, subject: Subject, split: DataSplit, ctx: RunContext, most: int
) -> Iterator[Evidence | ImageGrid]:
    """The samples that break nearest to their originals: original, adversarial, amplified difference."""
    rows = outcome.arrays["shown_rows"]
    if not len(rows):
        return
    nearest = np.argsort(outcome.arrays["distance"][rows], kind="stable")[:most]
    names = subject.class_names or split.class_names or tuple(map(str, range(subject.num_classes)))
    tiles = []
    for rank, place in enumerate(nearest):
        row = int(rows[place])
        clean = split.take([row]).pixels[0].numpy()
        adversarial = outcome.arrays["shown_pixels"][place]
        pictures, gain = _pictures(clean, adversarial)
        labels = _labels(outcome, row, names, gain)
        line = []
        for kind, picture, label in zip(("original", "adversarial", "difference"), pictures, labels, strict=True):
            evidence = ctx.evidence(f"{outcome.norm}-{rank}-{kind}.png", _png(picture), "image", label)
            yield evidence
            line.append(ImageTile(path=evidence.path, label=label))
        tiles.append(tuple(line))
    yield ImageGrid(
        id=f"examples-{outcome.norm}",
        title=f"Smallest changes that fool the model, {outcome.norm}",
        caption="Each row: the image, the adversarial one (shown rounded to 8 bits), and their difference around "
        "mid-grey, amplified as said below it.",
        alt=f"{len(tiles)} images beside adversarial copies that look alike: "
        + "; ".join(line[1].label for line in tiles),
        columns=("original", "adversarial", "difference"),
        rows=tuple(tiles),
    )


def _pictures(clean: Pixels, adversarial: Pixels) -> tuple[tuple[Pixels, Pixels, Pixels], float]:
    """The three pictures of a row, and how much the third is amplified."""
    difference = adversarial - clean
    largest = float(np.abs(difference).max())
    gain = max(1.0, np.floor(0.5 / largest)) if largest > 0 else 1.0
    return (clean, adversarial, np.clip(0.5 + difference * gain, 0, 1).astype(np.float32)), float(gain)


def _labels(outcome: Outcome, row: int, names: Sequence[str], gain: float) -> tuple[str, str, str]:
    arrays = outcome.arrays
    true, wrong = int(arrays["labels"][row]), int(arrays["predicted"][row])
    size, unit = float(arrays["distance"][row]), ""
    if outcome.norm == "linf":
        size, unit = size * 255, "/255"
    return (
        f"{_name(names, true)}, confidence {arrays['clean_confidence'][row]:.1%}",
        f"taken for {_name(names, wrong)}, confidence {arrays['confidence'][row]:.1%}, {outcome.norm} {size:.3g}{unit} "
        f"({outcome.attack_name(row)})",
        f"amplified {gain:g} times",
    )


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else str(label)


def _png(pixels: Pixels) -> bytes:
    """Pixels (c, h, w) as PNG; one channel is grey, three are colour, other counts are averaged to grey."""
    values = np.round(pixels * 255).astype(np.uint8)
    if len(values) not in {1, 3}:
        values = np.round(pixels.mean(axis=0, keepdims=True) * 255).astype(np.uint8)
    picture = Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0))
    factor = -(-SMALLEST_SIDE // min(picture.size))
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()


def table(outcome: Outcome, split: DataSplit, ctx: RunContext) -> Evidence:
    """One row a sample, as parquet."""
    arrays = outcome.arrays
    found = np.isfinite(arrays["distance"])
    columns = {
        "position": np.arange(outcome.n),
        "id": split.sample_ids(range(outcome.n)),
        "label": arrays["labels"],
        "clean_correct": outcome.correct,
        "clean_predicted": arrays["clean_predicted"],
        "breaking_eps": [outcome.eps[index] if index != NEVER else None for index in arrays["broken"].tolist()],
        "attack": [outcome.attack_name(row) or None for row in range(outcome.n)],
        "distance": pa.array(arrays["distance"], mask=~found),
        "predicted": pa.array(arrays["predicted"], mask=~found),
        "confidence": pa.array(arrays["confidence"], mask=~found),
        "survives_8bit": pa.array(arrays["survives_8bit"].astype(bool), mask=~found),
        "nan_eps": [outcome.eps[index] if index != NEVER else None for index in arrays["broke_down"].tolist()],
    }
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    text = f"every sample's nearest adversarial example in {outcome.norm}, and what found it"
    return ctx.evidence(f"samples-{outcome.norm}.parquet", stream.getvalue(), "per-sample-table", text)
