"""Pictures: scores of labels beside those of wrong ones, which classes are mixed up, and the worst labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from audit.api import DataSplit, Evidence, Histogram, ImageGrid, ImageTile, Matrix, RunContext, Table
from audit.toolkit.images import encode_png
from probes.label_noise.config import LabelNoiseConfig
from probes.label_noise.duplicates import Contradictions
from probes.label_noise.outcome import Outcome

BINS, MOST_CLASSES = 20, 30


def scores(outcome: Outcome) -> Histogram:
    """Of labels as they are, and of labels made wrong."""
    judged = outcome.judged
    edges = np.linspace(-1, 1, BINS + 1)
    kinds = {
        "as they are": judged.confident.margin,
        "made wrong": judged.wrong[0],
        "made the likeliest other": judged.wrong[2],
    }
    counts = {name: np.histogram(values, edges)[0] for name, values in kinds.items()}
    return Histogram(
        id="scores",
        title="How well labels fit",
        caption="Probability of the label less that of the likeliest other class, by networks that did not see the "
        "image; and what the same images score under labels that are wrong on purpose. Where the first has as much at "
        "the left end as wrong labels would, it may be wrong labels.",
        alt=f"{int((judged.confident.margin < 0).sum())} of {len(judged.labels)} labels score below nothing.",
        x_label="score",
        edges=tuple(edges.tolist()),
        counts={name: tuple(int(one) for one in found) for name, found in counts.items()},
    )


def mixed(outcome: Outcome) -> Matrix | None:
    """The calibrated confident joint."""
    joint, names = outcome.judged.confident.joint, outcome.names
    if len(names) > MOST_CLASSES:
        return None
    return Matrix(
        id="joint",
        title="Labels that networks confidently contradict",
        caption="Share of all images that are labelled as the row says and, as far as networks are sure, are of the "
        "column's class (confident joint). Hard images count as well where networks are mediocre.",
        alt=f"{outcome.judged.confident.rate:.1%} of the images lie off the diagonal.",
        row_label="label",
        column_label="likely class",
        rows=tuple(names),
        columns=tuple(names),
        values=tuple(tuple(float(one) for one in row) for row in joint),
    )


def contradicting(
    same: Contradictions, split: DataSplit, names: Sequence[str], config: LabelNoiseConfig
) -> Iterator[Table]:
    """Images that are there under several labels, those with the most copies first; nothing where there are none."""
    if not same.groups:
        return
    shown = sorted(same.groups, key=len, reverse=True)[: config.shown]
    labels = split.labels[split.order]
    rows = []
    for group in shown:
        counts = Counter(names[int(labels[place])] for place in group).most_common()
        said = ", ".join(f"{name} ({count})" for name, count in counts)
        first = [group[0]]
        rows.append((split.sample_ids(first)[0], split.rows(first)[0], len(group), said, len(group) - counts[0][1]))
    yield Table(
        id="contradictions",
        title="Identical images under different labels",
        caption=f"Content hash, row of the first in the data as given, from 0, and labels of {len(shown)} of "
        f"{len(same.groups)} such images, those with the most copies first. If an image has one right label, all its "
        "other ones are wrong.",
        alt=f"{len(same.groups)} images have copies with another label.",
        columns=("id", "row", "copies", "labels", "wrong at least"),
        rows=tuple(rows),
    )


def worst(outcome: Outcome, split: DataSplit, ctx: RunContext) -> Iterator[Table | Evidence | ImageGrid]:
    """The labels that fit least; images only where asked for, as they are of the training data."""
    judged, config = outcome.judged, outcome.config
    order = np.argsort(judged.confident.margin, kind="stable")[: config.shown]
    likely = judged.given.argmax(axis=1)
    ids, resisted = split.sample_ids(order.tolist()), outcome.areas.suspects if outcome.areas is not None else None
    yield Table(
        id="worst",
        title="Labels that fit least",
        caption="Content hash, row in the data as given, from 0, label and likely class; flagged: by confident "
        "learning; resisted: by the area under the margin, as networks resist the label while they are trained on it.",
        alt=f"{len(order)} images with the lowest scores.",
        columns=("id", "row", "label", "likely class", "score", "flagged", "resisted"),
        rows=tuple(
            (identity, place, outcome.names[judged.labels[row]], outcome.names[likely[row]],
             round(float(judged.confident.margin[row]), 3), "yes" if judged.confident.suspects[row] else "no",
             None if resisted is None else "yes" if resisted[row] else "no")
            for identity, place, row in zip(ids, split.rows(order.tolist()), order, strict=True)
        ),
    )  # fmt: skip
    if not config.show_images or not len(order):
        return
    tiles = []
    for place, row in enumerate(order.tolist()):
        text = f"labelled {outcome.names[judged.labels[row]]}, likely {outcome.names[likely[row]]}"
        evidence = ctx.evidence(f"worst-{place}.png", encode_png(split.take([row]).pixels[0]), "image", text)
        yield evidence
        tiles.append(ImageTile(path=evidence.path, label=text))
    yield ImageGrid(
        id="worst-images",
        title="Images whose labels fit least",
        caption="Training images, shown on request.",
        alt=f"{len(tiles)} training images with their labels and likely classes.",
        columns=("image",) * min(4, len(tiles)),
        rows=tuple(tuple(tiles[at : at + 4]) for at in range(0, len(tiles), 4)),
    )
