"""Pictures of what was found, and tables of who is suspected."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from audit.api import Bars, DataSplit, Evidence, Figure, ImageGrid, ImageTile, RunContext
from audit.api import Table as TableFigure
from audit.toolkit.detection import Found
from audit.toolkit.images import encode_png
from probes.backdoor_data.config import GAIN
from probes.backdoor_data.findings import Finding
from probes.backdoor_data.outcome import Outcome

MOST_BARS = 30
MOST_IDS = 50
MOST_SHOWN = 6
WHO = {"suspect": "suspect model", "own": "network trained here"}


def drawn(outcome: Outcome, split: DataSplit, show_images: bool, ctx: RunContext) -> Iterator[Figure | Evidence]:
    """All figures; training images only where that is allowed."""
    if outcome.findings:
        yield _groups(outcome)
        yield from _triggers(outcome, ctx)
    suspected = [finding for finding in outcome.findings if finding.found is not Found.NOT_DETECTED]
    if suspected:
        yield _ids(outcome, suspected, split)
        yield _listed(outcome, suspected, split, ctx)
        if show_images:
            yield from _images(outcome, suspected, split, ctx)
    if outcome.tries:
        yield _canaries(outcome)
    for network, gains in outcome.gains.items():
        if np.isfinite(gains).any():
            yield _gains(outcome, network)


def _short(found: Finding) -> str:
    return found.kind.partition(" (")[0].partition(",")[0]


def _groups(outcome: Outcome) -> TableFigure:
    rows = tuple(
        (
            outcome.names[found.label],
            str(found.found) if found.found is not Found.NOT_DETECTED else "not confirmed",
            len(found.rows), _short(found), found.network,
            None if np.isnan(found.gain) else round(found.gain, 2), round(found.agreement.contradiction, 2),
            round(found.agreement.scatter, 2),
            f"{found.transfer.hits} of {found.transfer.n}",
            None if np.isnan(found.transfer.rival) else found.transfer.rival,
            found.p,
            None if found.taught is None else f"{found.taught.shown} and {found.taught.unshown} of {found.taught.n}",
        )
        for found in outcome.findings
    )  # fmt: skip
    return TableFigure(
        id="groups",
        title="Groups of training images that were put to the test",
        caption="Network: the suspect model, or one of the probe's own. Gain: log-likelihood an image that a second "
        "cluster adds. Contradiction: 0 where the group's coarse content is like the class's other images, 1 where it "
        "is like that of other classes. Scatter: the same with the group's own images among the neighbours; near 0 "
        "where they are like one another, as a natural part of a class is. Transfer: images of other classes that go "
        "to the class when they get what the group has in common. Median rival: the share that follows other coherent "
        "parts of the class. p: of the transfer, against random parts of the class. Taught: kept images that get the "
        "class when a network is shown the others of the group, and when not.",
        alt=f"{len(rows)} groups; verdicts: {', '.join(str(row[1]) for row in rows)}.",
        columns=("class", "verdict", "images", "what they share", "network", "gain", "contradiction", "scatter",
                 "transfer", "median rival", "p", "taught"),
        rows=rows,
    )  # fmt: skip


def _triggers(outcome: Outcome, ctx: RunContext) -> Iterator[Figure | Evidence]:
    tiles = []
    for place, finding in enumerate(outcome.findings):
        if finding.found is Found.NOT_DETECTED:
            continue
        label = f"{outcome.names[finding.label]}, {WHO[finding.network]}"
        evidence = ctx.evidence(f"trigger-{place}.png", encode_png(_visible(finding)), "image", label)
        yield evidence
        tiles.append((ImageTile(path=evidence.path, label=label),))
    if tiles:
        yield ImageGrid(
            id="triggers",
            title="Estimated triggers",
            caption="What the images of a group have in common and images of like content lack, amplified around grey; "
            "of a tile its own pixels. No training image is shown.",
            alt=f"{len(tiles)} estimated triggers, of the classes {', '.join(row[0].label for row in tiles)}.",
            columns=("estimated trigger",),
            rows=tuple(tiles),
        )


def _visible(finding: Finding) -> Tensor:
    image = finding.residual
    if finding.place is None:
        image = 0.5 + 0.5 * image / image.abs().max().clamp(min=1e-6)
    return image if len(image) in (1, 3) else image.mean(dim=0, keepdim=True)


def _ids(outcome: Outcome, suspected: list[Finding], split: DataSplit) -> TableFigure:
    rows = []
    for number, finding in enumerate(suspected):
        ids = split.sample_ids(finding.rows[:MOST_IDS].tolist())
        places = split.rows(finding.rows[:MOST_IDS].tolist())
        said = (number, outcome.names[finding.label], str(finding.found))
        rows += [(*said, identity, place) for identity, place in zip(ids, places, strict=True)]
    return TableFigure(
        id="suspects",
        title="Suspected images",
        caption="Content hashes of the suspected images and their rows in the data as given, from 0; the first "
        f"{MOST_IDS} of each group. An image may be in several; all are in the table of evidence.",
        alt=f"{len(rows)} ids of suspected images, of {len(suspected)} groups.",
        columns=("group", "label", "verdict", "id", "row"),
        rows=tuple(rows),
    )


def _listed(outcome: Outcome, suspected: list[Finding], split: DataSplit, ctx: RunContext) -> Evidence:
    names = ("group", "row", "position", "id", "label", "network", "verdict")
    columns: dict[str, list[object]] = {name: [] for name in names}
    for number, finding in enumerate(suspected):
        positions = finding.rows.tolist()
        for position, row, identity in zip(positions, split.rows(positions), split.sample_ids(positions), strict=True):
            line = (number, row, position, identity, outcome.names[finding.label], finding.network, str(finding.found))
            for name, value in zip(columns, line, strict=True):
                columns[name].append(value)
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return ctx.evidence("suspects.parquet", stream.getvalue(), "per-sample-table", "every suspected image")


def _images(
    outcome: Outcome, suspected: list[Finding], split: DataSplit, ctx: RunContext
) -> Iterator[Figure | Evidence]:
    lines = []
    for number, finding in enumerate(suspected):
        line = []
        for place, position in enumerate(finding.rows[:MOST_SHOWN].tolist()):
            pixels = split.take([position]).pixels[0]
            image = pixels if len(pixels) in (1, 3) else pixels.mean(dim=0, keepdim=True)
            label = f"{split.sample_ids([position])[0][:12]}, labelled {outcome.names[finding.label]}"
            evidence = ctx.evidence(f"suspect-{number}-{place}.png", encode_png(image), "image", label)
            yield evidence
            line.append(ImageTile(path=evidence.path, label=label))
        lines.append(tuple(line))
    width = max(len(line) for line in lines)
    yield ImageGrid(
        id="suspected-images",
        title="Some suspected training images",
        caption="The first images of each group, as they are in the data. Shown since show_images asks for it.",
        alt=f"Images of {len(lines)} suspected groups.",
        columns=tuple(f"image {place + 1}" for place in range(width)),
        rows=tuple(lines),
    )


def _canaries(outcome: Outcome) -> TableFigure:
    rows = tuple(
        (each.name, round(each.amount, 4), each.rate, each.took, each.found if each.took else None)
        for each in outcome.tries
    )
    return TableFigure(
        id="canaries",
        title="Backdoors planted in copies",
        caption="Each copy with its recipe, the share of images that were changed, how many triggered images a network "
        "trained on the copy sends to the target (empty for badnets, where no network is trained), whether that is "
        "enough to be a backdoor, and whether the probe named the target, at least as suspicious; for badnets, whether "
        "the search for recurring tiles held half of the changed images in one.",
        alt=f"{sum(bool(row[4]) for row in rows)} of {len(rows)} planted backdoors were found.",
        columns=("recipe", "share of images", "triggered images to the target", "took", "found"),
        rows=rows,
    )


def _gains(outcome: Outcome, network: str) -> Bars:
    gains = outcome.gains[network]
    known = np.flatnonzero(np.isfinite(gains))
    first = known[np.argsort(-gains[known], kind="stable")][:MOST_BARS]
    values = tuple(round(float(gains[label]), 4) for label in first)
    return Bars(
        id=f"gains-{network}",
        title=f"How far each class falls into two clusters, {WHO[network]}",
        caption="Log-likelihood an image that a second cluster of features adds, the most separate classes first. "
        "Natural classes have clusters as well: from the line on one is put to the test, and it is what it does that "
        "decides.",
        alt="Gain by class: " + ", ".join(f"{outcome.names[c]} {v}" for c, v in zip(first, values, strict=True)) + ".",
        value_label="gain, nats an image",
        labels=tuple(outcome.names[label] for label in first),
        values=values,
        reference=GAIN,
        reference_label="put to the test",
    )
