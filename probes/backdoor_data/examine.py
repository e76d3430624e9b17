"""Everything that is asked of one data set by one network: tiles and clusters, then what their residuals do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from audit.api import FloatArray, IntArray
from audit.toolkit.detection import ALPHA, holm
from probes.backdoor_data.clusters import Cluster, Splits, separate
from probes.backdoor_data.config import FEWEST_CARRIERS, BackdoorDataConfig
from probes.backdoor_data.content import Agreement, Content, agreement
from probes.backdoor_data.findings import Finding
from probes.backdoor_data.foreign import gathered_in_one_class
from probes.backdoor_data.network import Network
from probes.backdoor_data.samples import Samples
from probes.backdoor_data.tiles import Bytes, Group, distinct, merged, representatives, scan
from probes.backdoor_data.transfer import Change, added, compared, pasted, residuals

Streams = Callable[[str], np.random.Generator]
"""Random streams by purpose."""


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """A group of images that carry a tile against their content."""

    group: Group
    agreement: Agreement


def planted_tiles(samples: Samples, rng: np.random.Generator) -> list[Tile]:
    """Tiles that hang on the class and neither by chance nor by content; equal images count once.

    Both of the tests are adjusted for the number of tiles that were looked at.
    """
    kept = distinct(samples.images)
    images, labels = samples.images[kept], samples.labels[kept]
    groups, tests = scan(images, labels, samples.classes, rng)
    content: Content | None = None
    found = []
    for together in merged([group for group in groups if group.p * tests <= ALPHA]):
        content = content or Content.of(images, labels, samples.classes)
        judged = [
            Tile(group, agreement(content, group.carriers, group.label, rng, (group.top, group.left, group.side)))
            for group in representatives(together)
        ]
        odd = [tile for tile in judged if tile.agreement.p * tests <= ALPHA and tile.agreement.contradicts]
        if odd:
            best = max(odd, key=lambda tile: (len(tile.group.carriers), tile.group.side))
            carriers = best.group.carriers[labels[best.group.carriers] == best.group.label]
            found.append(replace(best, group=replace(best.group, carriers=kept[carriers])))
    return found


def carried(tiles: Sequence[Tile], count: int) -> list[Cluster]:
    """The carriers of tiles among the first samples, as clusters without a gain: they may share more than that.

    A faint pattern over whole images repeats exactly where images are black, and such a part of it does nothing.
    """
    found = []
    for tile in tiles:
        rows = tile.group.carriers[tile.group.carriers < count]
        if len(rows) >= FEWEST_CARRIERS:
            found.append(Cluster(tile.group.label, rows, math.nan, math.nan, tile.agreement))
    return found


def relabelled(splits: Splits, groups: Sequence[Cluster], rng: np.random.Generator) -> list[Cluster]:
    """Images of other classes' content that are gathered in one class, as clusters without a gain.

    Groups of the class whose content is foreign altogether belong to it.
    """
    found = []
    for label, doubted in gathered_in_one_class(splits.content):
        rows = doubted
        for group in (group for group in groups if group.label == label and group.agreement.foreign):
            rows = np.concatenate([rows, np.setdiff1d(group.rows, rows)])
        if any(set(rows) == set(group.rows) for group in groups):
            continue
        found.append(Cluster(label, rows, math.nan, math.nan, agreement(splits.content, rows, label, rng)))
    return found


def named(
    splits: Splits, carriers: Sequence[Cluster], config: BackdoorDataConfig, rng: np.random.Generator
) -> list[tuple[str, Cluster]]:
    """All clusters that are put to the test, at most so many of each kind, by names for their random streams."""
    carriers = carriers[: config.groups]
    doubted = relabelled(splits, [*carriers, *splits.clusters], rng)[: config.groups]
    return [
        *((f"carriers/{place}", cluster) for place, cluster in enumerate(carriers)),
        *((f"cluster/{cluster.label}", cluster) for cluster in splits.clusters),
        *((f"relabelled/{cluster.label}", cluster) for cluster in doubted),
    ]


def examined(
    network: Network, samples: Samples, whole: Samples, tiles: Sequence[Tile], held: Samples | None,
    config: BackdoorDataConfig, networks: int, streams: Streams,
) -> tuple[list[Finding], FloatArray]:  # fmt: skip
    """All that a network says of some samples.

    Args:
        network: that was trained on them, or may have been.
        samples: the images whose features are split.
        whole: these and those that follow on them.
        tiles: found before, in the whole; each is put to the test as well.
        held: other images to which residuals are added; None takes samples that are under no suspicion.
        config: how much is tried.
        networks: that are asked in all; p-values are adjusted for them.
        streams: random streams.

    Returns:
        The findings, and the gain of every class.
    """
    logits, features = network.answers(samples)
    usable = bool(logits.isfinite().all() and features.isfinite().all())
    splits: Splits | None = None
    clusters: list[tuple[str, Cluster]] = []
    if usable:
        content = Content.of(samples.images, samples.labels, samples.classes)
        splits = separate(samples, features.numpy(), content, config, streams("clusters"))
        clusters = named(splits, carried(tiles, len(samples)), config, streams("relabelled"))
    count = controls_for(networks * (len(tiles) + len(clusters)), config.controls)
    suspected = [*(tile.group.carriers for tile in tiles), *(cluster.rows for _, cluster in clusters)]

    def targets(label: int, name: str) -> Tensor:
        source = held if held is not None else samples
        taken = np.concatenate([np.empty(0, dtype=np.int64), *suspected]) if held is None else ()
        rows = np.setdiff1d(np.flatnonzero(source.labels != label), taken)
        return source.pixels(streams(f"targets/{name}").permutation(rows)[: config.targets])

    found = []
    for tile in tiles:
        name = f"tile/{tile.group.top}-{tile.group.left}-{tile.group.side}-{tile.group.label}"
        found.append(tile_tested(network, whole, tile, targets(tile.group.label, name), count, streams(name)))
    for name, cluster in clusters:
        assert splits is not None
        asked = targets(cluster.label, name)
        found.append(cluster_tested(network, samples, splits, cluster, asked, count, config.candidates, streams(name)))
    gains = splits.gains if splits is not None else np.full(samples.classes, np.nan)
    return adjusted(found, networks), gains


def _window(images: Bytes, rows: IntArray, place: tuple[int, int, int]) -> Bytes:
    top, left, side = place
    return images[rows, :, top : top + side, left : left + side]


def _distinct(
    images: Bytes, rows: IntArray, place: tuple[int, int, int], own: Bytes, rng: np.random.Generator
) -> Bytes:
    """What the rows have at a place, but for one tile, in random order; what many have counts once."""
    found = np.unique(_window(images, rows, place), axis=0) if len(rows) else own[:0]
    found = found[(found != own).any(axis=(1, 2, 3))]
    shuffled: Bytes = found[rng.permutation(len(found))]
    return shuffled


def tile_picture(samples: Samples, tile: Tile) -> Tensor:
    """The tile's pixels on grey, (c, h, w)."""
    group = tile.group
    rows, columns = slice(group.top, group.top + group.side), slice(group.left, group.left + group.side)
    shown = torch.full(samples.images.shape[1:], 0.5)
    shown[:, rows, columns] = samples.pixels([int(group.carriers[0])])[0][:, rows, columns]
    return shown


def tile_tested(
    network: Network, samples: Samples, tile: Tile, targets: Tensor, count: int, rng: np.random.Generator
) -> Finding:
    """Pastes a tile, against the same place's pixels of other images of the class."""
    group = tile.group
    place = (group.top, group.left, group.side)
    own = _window(samples.images, group.carriers[:1], place)
    within = samples.labels == group.label
    others = _distinct(samples.images, np.flatnonzero(within), place, own, rng)
    if len(others) < count:  # then what any image has there
        others = np.concatenate([others, _distinct(samples.images, np.flatnonzero(~within), place, own, rng)])

    def of(pixels: Bytes) -> Change:
        return pasted(torch.from_numpy(pixels).float() / 255, group.top, group.left)

    transfer = compared(network, targets, group.label, of(own[0]), (of(pixels) for pixels in others[:count]), [])
    shown = tile_picture(samples, tile)
    return Finding(
        network.name, group.label, group.carriers, len(samples), place, float("nan"), tile.agreement, shown, transfer
    )


def cluster_tested(
    network: Network, samples: Samples, splits: Splits, cluster: Cluster, targets: Tensor, count: int, most: int,
    rng: np.random.Generator,
) -> Finding:  # fmt: skip
    """Adds a cluster's residual, against residuals of other images of the class."""
    made = residuals(
        samples, splits.content.without(None), splits.values, cluster.rows, cluster.label, most, count, rng
    )
    controls, rivals = (added(residual) for residual in made.controls), [added(residual) for residual in made.rivals]
    transfer = compared(network, targets, cluster.label, added(made.group), controls, rivals)
    return Finding(
        network.name, cluster.label, np.sort(cluster.rows), len(samples), None, cluster.gain, cluster.agreement,
        made.group, transfer,
    )  # fmt: skip


def adjusted(findings: Sequence[Finding], networks: int) -> list[Finding]:
    """With p-values for all groups that were put to the test together, and for all networks.

    Those too weak to be compared count as 1.
    """
    p = holm([1.0 if found.transfer.p is None else found.transfer.p for found in findings]) if findings else ()
    return [
        replace(found, p=None if found.transfer.p is None else float(min(1.0, networks * each)))
        for found, each in zip(findings, p, strict=True)
    ]


def controls_for(tests: int, each: int) -> int:
    """Controls of every group, so that the adjusted p-value of the strongest can still reach 1 / (each + 1)."""
    return (each + 1) * max(1, tests) - 1
