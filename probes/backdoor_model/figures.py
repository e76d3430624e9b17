"""Pictures: how far each class stands out, and the triggers of those that do most."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from audit.api import Bars, Evidence, ImageGrid, ImageTile, RunContext, Table
from audit.toolkit.detection import ALPHA
from audit.toolkit.images import encode_png
from probes.backdoor_model.outcome import Outcome
from probes.backdoor_model.outlying import critical

MOST_CLASSES, PICTURED, SIDE = 40, 4, 96


def bars(outcome: Outcome) -> Bars:
    """Scores, with the value from which a class stands out."""
    examination = outcome.examination
    order = np.sort(np.argsort(-examination.score)[:MOST_CLASSES])
    rest = np.delete(examination.score, examination.score.argmax())
    limit = None
    if len(rest) >= 2:
        limit = float(rest.mean() + critical(len(examination.score), ALPHA) * rest.std(ddof=1))
    names = [outcome.names[label] for label in order]
    both = len(examination.inverted) == len(outcome.names)
    return Bars(
        id="classes",
        title="How far classes can be preferred",
        caption="Logarithm of the largest margin that a search reaches for the class"
        + (", less that of its smallest trigger's size" if both else "")
        + ". A backdoor's target stands out; above the line with less than one chance in a hundred, for this number of "
        "classes of one normal law.",
        alt="; ".join(f"{name} {value:.2f}" for name, value in zip(names, examination.score[order], strict=True)),
        value_label="score",
        labels=tuple(names),
        values=tuple(float(value) for value in examination.score[order]),
        reference=limit,
        reference_label="1 % of chance" if limit is not None else "",
    )


def table(outcome: Outcome) -> Table:
    """Class by class."""
    examination = outcome.examination
    rows = []
    for label in np.argsort(-examination.score)[:MOST_CLASSES].tolist():
        trigger = examination.trigger_of(label)
        rows.append((
            outcome.names[label], round(float(examination.margin[label]), 2), round(float(examination.score[label]), 2),
            round(trigger.size, 1) if trigger else None,
            f"{trigger.hits} of {trigger.n}" if trigger else None,
        ))  # fmt: skip
    return Table(
        id="searches",
        title="What searches reached",
        caption="Largest margin over all other classes; score; size in pixels of the smallest trigger that leads "
        "images "
        "of other classes there, and how many images that it was not made on it leads there.",
        alt=f"{len(rows)} classes with margins and triggers.",
        columns=("class", "margin", "score", "trigger size", "led there"),
        rows=tuple(rows),
    )


def triggers(outcome: Outcome, ctx: RunContext) -> Iterator[Evidence | ImageGrid]:
    """Of the classes with the smallest ones; made from the model, and no training images."""
    examination = outcome.examination
    found = sorted(zip(examination.inverted, examination.triggers, strict=True), key=lambda pair: pair[1].size)
    rows = []
    for label, trigger in found[:PICTURED]:
        line = []
        shown = {"mask": trigger.mask[None], "trigger": trigger.mask * trigger.pattern + (1 - trigger.mask) * 0.5}
        for kind, picture in shown.items():
            text = f"{outcome.names[label]}: {kind}, {trigger.size:.1f} pixels"
            evidence = ctx.evidence(f"{kind}-{label}.png", encode_png(_large(picture)), "image", text)
            yield evidence
            line.append(ImageTile(path=evidence.path, label=text))
        rows.append(tuple(line))
    yield ImageGrid(
        id="triggers",
        title="Smallest triggers",
        caption="Where each covers an image (white) and what it puts there, on grey.",
        alt=f"Triggers of {len(rows)} classes: " + "; ".join(line[0].label for line in rows),
        columns=("mask", "trigger"),
        rows=tuple(rows),
    )


def _large(picture: torch.Tensor) -> torch.Tensor:
    times = max(1, SIDE // picture.shape[-1])
    return picture.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)
