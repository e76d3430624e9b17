"""Pictures: each class's evidence, the estimated filters and patterns, and which images carry them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from audit.api import Bars, DataSplit, Evidence, ImageGrid, ImageTile, RunContext, Table
from audit.toolkit.images import encode_png, enlarged
from probes.shortcuts.outcome import Outcome
from probes.shortcuts.templates import COMPARED

MOST_CLASSES, MOST_LISTED = 40, 50
SIDE = 96


def bars(outcome: Outcome) -> Iterator[Bars]:
    """Of every class, or of those that stand out most, the share of images in a second peak of its borders.

    Nothing where no class has a second peak.
    """
    tested = [peak for peak in outcome.evidence.peaks if peak.side]
    if not any(peak.share for peak in tested):
        return
    shown = sorted(sorted(tested, key=lambda peak: -peak.share)[:MOST_CLASSES], key=lambda peak: peak.label)
    yield Bars(
        id="borders",
        title="Images whose borders are shifted alike",
        caption="Estimated share of each class's images in the fullest second peak of its border contrasts. Natural "
        "images have one peak; a filter over black borders makes another, at a place of the class's own.",
        alt="; ".join(f"{outcome.names[peak.label]} {peak.share:.0%}" for peak in shown),
        value_label="share of the class's images",
        labels=tuple(outcome.names[peak.label] for peak in shown),
        values=tuple(peak.share for peak in shown),
    )


def table(outcome: Outcome) -> Table:
    """Class by class."""
    gap, labels, level = outcome.evidence.gap, outcome.evidence.labels, outcome.evidence.traces.level
    templates = {template.label: template for template in outcome.evidence.templates}
    gains = {gain.label: gain for gain in outcome.gains}
    trusted = {one.gain.label: one for one in outcome.evidence.compared}
    rows = []
    for peak in sorted(outcome.evidence.peaks, key=lambda peak: peak.p_adjusted)[:MOST_CLASSES]:
        mine = labels == peak.label
        if not mine.any():
            continue
        template, gain, other = templates.get(peak.label), gains.get(peak.label), trusted.get(peak.label)
        rows.append((
            outcome.names[peak.label], int(mine.sum()), peak.side or "framed",
            round(peak.shift, 2) if peak.side else None, f"{peak.p_adjusted:.2g}" if peak.side else None,
            f"{peak.share:.1%}" if peak.side else None, f"{gap.texture[mine].mean():.0%}",
            f"{gap.content[mine].mean():.0%}", f"{(level[mine, 0] >= 1).mean():.0%}",
            round(template.fine * 255, 2) if template else None,
            f"{template.stamp.here:.0%}" if template else None,
            f"{template.stamp.elsewhere:.0%}" if template else None,
            f"{gain.explained:.0%}" if gain is not None and gain.against != "all" else None,
            f"{other.p:.2g}" if other else None, f"{other.share:.0%}" if other and other.filtered else None,
        ))  # fmt: skip
    return Table(
        id="classes",
        title="Class by class",
        caption="Borders: where the fullest second peak lies, in logarithms of light, the chance of one as full if "
        "densities were smooth (adjusted for all classes, Holm), and the estimated share of images in it. Texture and "
        "content: how often a discriminant on either names the label. At the top: images that use the highest level, "
        "as those do that were scaled to it. Fine pattern: in grey levels. Alike: how far images "
        "agree on sharp detail at one place (100% where all have the same), and at most elsewhere. Filter: how much of "
        "the difference between marked and other images of the class, or trusted ones, a 3 x 3 filter explains. "
        "Against trusted: the "
        "chance of spectra as different if trusted images could be exchanged for these (adjusted for all classes and "
        "bins), and the share of images beyond nearly all trusted ones, where a filter explains the difference.",
        alt=f"{len(rows)} classes with what their borders, textures, contents and patterns show.",
        columns=(
            "class", "images", "side", "shift", "p", "share", "by texture", "by content", "at the top", "fine pattern",
            "alike at one place", "alike elsewhere", "filter explains", "p against trusted", "share against trusted",
        ),
        rows=tuple(rows),
    )  # fmt: skip


def pictures(outcome: Outcome, ctx: RunContext) -> Iterator[Evidence | ImageGrid]:
    """The estimated filters, and the patterns."""
    tiles = []
    for gain in outcome.gains[:MOST_CLASSES]:
        scale = SIDE // len(gain.taps)
        picture = torch.from_numpy(np.kron(gain.taps / gain.taps.max(), np.ones((scale, scale)))).float()[None]
        name = outcome.names[gain.label]
        evidence = ctx.evidence(f"filter-{gain.label}.png", encode_png(picture), "image", f"filter of {name}")
        yield evidence
        taps = "; ".join(" ".join(f"{tap:.2f}" for tap in row) for row in gain.taps)
        tiles.append(ImageTile(path=evidence.path, label=f"{name}: {taps}"))
    if tiles:
        yield ImageGrid(
            id="filters",
            title="Estimated filters",
            caption="Of each marked class, the 3 x 3 filter that turns spectra of other images into those of its own; "
            "light is a large tap. A turn by 180 degrees is decided by the borders.",
            alt=f"{len(tiles)} filters as small grids of grey.",
            columns=("filter",) * min(5, len(tiles)),
            rows=tuple(tuple(tiles[at : at + 5]) for at in range(0, len(tiles), 5)),
        )
    tiles = []
    for template in outcome.evidence.patterned[:MOST_CLASSES]:
        largest = float(np.abs(template.pattern).max())
        picture = torch.from_numpy(0.5 + template.pattern / (2 * max(largest, 1e-6)))
        name = outcome.names[template.label]
        evidence = ctx.evidence(
            f"pattern-{template.label}.png", encode_png(enlarged(picture, SIDE)), "image", f"pattern of {name}"
        )
        yield evidence
        tiles.append(ImageTile(path=evidence.path, label=f"{name}, up to {largest * 255:.0f} levels"))
    if tiles:
        yield ImageGrid(
            id="patterns",
            title="Patterns of classes",
            caption="What the images of each marked class have in common and those of other classes lack, around "
            "mid-grey, amplified: of a patch its pixels, else the fine part alone.",
            alt=f"{len(tiles)} mean images with fine patterns.",
            columns=("pattern",) * min(5, len(tiles)),
            rows=tuple(tuple(tiles[at : at + 5]) for at in range(0, len(tiles), 5)),
        )


def suspects(outcome: Outcome, split: DataSplit) -> Table | None:
    """Which images are marked, in the order in which they were examined; never their pictures."""
    counts = np.bincount(outcome.evidence.labels)
    marked = [(gain.label, np.flatnonzero(gain.rows), int(counts[gain.label])) for gain in outcome.gains]
    filtered = {label for label, places, _ in marked if len(places)}
    marked += [(one.label, one.places, one.n) for one in outcome.evidence.carried if one.label not in filtered]
    marked = [one for one in marked if len(one[1])]
    if not marked:
        return None
    rows: list[tuple[str, str, int, float]] = []
    for label, places, n in marked:
        share = round(len(places) / n, 3)
        some = places[: max(1, MOST_LISTED // len(marked))].tolist()
        rows += [
            (outcome.names[label], identity, row, share)
            for identity, row in zip(split.sample_ids(some), split.rows(some), strict=True)
        ]
    return Table(
        id="suspects",
        title="Images that are marked",
        caption="Content hashes of some marked images of each class, their rows in the data as given, from 0, and the "
        f"share of its images that is marked. Of a pattern, those of the first {COMPARED} images that are more like it "
        "than 19 in 20 images of other classes are.",
        alt=f"{len(rows)} content hashes.",
        columns=("class", "id", "row", "share of the class marked"),
        rows=tuple(rows),
    )
