"""Pictures: how far each class stands out, and the triggers of those that do most."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from audit.api import Bars, Evidence, ImageGrid, ImageTile, RunContext, Table
from audit.toolkit.detection import ALPHA
from audit.toolkit.images import encode_png, enlarged
from probes.backdoor_model.outcome import Outcome
from probes.backdoor_model.outlying import unusual_below

MOST_CLASSES, PICTURED, SIDE = 40, 4, 96


def bars(outcome: Outcome) -> Bars:
    """Trigger sizes, with the size below which a class stands out."""
    examination = outcome.examination
    sizes = np.array([one.size for one in examination.triggers], dtype=np.float64)
    shown = sorted(np.argsort(sizes, kind="stable")[:MOST_CLASSES].tolist())
    names = [outcome.names[examination.inverted[place]] for place in shown]
    limit = unusual_below(sizes, ALPHA) if examination.standing is not None else None
    return Bars(
        id="classes",
        title="The smallest trigger of each class",
        caption="Pixels that the smallest trigger covers that leads images of other classes to the class. A backdoor's "
        "target needs far fewer than others; fewer than the line with less than one chance in a hundred, for this "
        "number of classes of one normal law of logarithms.",
        alt="; ".join(f"{name} {sizes[place]:.1f}" for name, place in zip(names, shown, strict=True)),
        value_label="pixels",
        labels=tuple(names),
        values=tuple(float(sizes[place]) for place in shown),
        reference=limit,
        reference_label="1 % of chance" if limit is not None else "",
    )


def table(outcome: Outcome) -> Table:
    """Class by class: those with triggers, and of the others those with the largest margins."""
    examination = outcome.examination
    order = np.argsort(-examination.margin, kind="stable").tolist()
    order.sort(key=lambda label: trigger.size if (trigger := examination.trigger_of(label)) else math.inf)
    rows = []
    for label in order[:MOST_CLASSES]:
        trigger = examination.trigger_of(label)
        rows.append((
            outcome.names[label],
            round(trigger.size, 1) if trigger else None,
            f"{trigger.hits} of {trigger.n}" if trigger else None,
            round(float(examination.margin[label]), 2),
        ))  # fmt: skip
    return Table(
        id="searches",
        title="What searches reached",
        caption="Size in pixels of the smallest trigger that leads images of other classes to the class, how many "
        f"{examination.bases.origin} that it was not made on it leads there, and the largest margin over all other "
        "classes.",
        alt=f"{len(rows)} classes with triggers and margins.",
        columns=("class", "trigger size", "led there", "largest margin"),
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
            evidence = ctx.evidence(f"{kind}-{label}.png", encode_png(enlarged(picture, SIDE)), "image", text)
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
