"""What units keep of tiles and findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from audit.api import FloatArray, Tally
from probes.backdoor_data.content import Agreement
from probes.backdoor_data.examine import Tile
from probes.backdoor_data.findings import Finding
from probes.backdoor_data.tiles import Group
from probes.backdoor_data.transfer import Transfer


def stored_tiles(tiles: Sequence[Tile]) -> Tally:
    """Tiles, with the rows of their carriers."""
    values = []
    for tile in tiles:
        group = asdict(tile.group)
        del group["carriers"]
        values.append({"group": group, "agreement": asdict(tile.agreement)})
    arrays = {f"rows-{place}": tile.group.carriers for place, tile in enumerate(tiles)}
    return Tally(values={"tiles": values}, arrays=arrays)


def restored_tiles(tally: Tally) -> list[Tile]:
    """What `stored_tiles` keeps."""
    return [
        Tile(Group(**value["group"], carriers=tally.arrays[f"rows-{place}"]), Agreement(**value["agreement"]))
        for place, value in enumerate(tally.values["tiles"])
    ]


def stored(findings: Sequence[Finding], gains: FloatArray) -> Tally:
    """What one network found, as a unit keeps it: before Holm and before any retraining."""
    values: list[dict[str, Any]] = []
    arrays: dict[str, npt.NDArray[Any]] = {"gains": np.asarray(gains, dtype=np.float64)}
    for place, found in enumerate(findings):
        values.append({
            "network": found.network, "label": found.label, "of": found.of, "place": found.place, "p": found.p,
            "agreement": asdict(found.agreement), "hits": found.transfer.hits, "n": found.transfer.n,
            "alone": found.transfer.p,
        })  # fmt: skip
        arrays |= {
            f"rows-{place}": found.rows,
            f"residual-{place}": found.residual.numpy(),
            f"floats-{place}": np.array([found.gain, found.transfer.rival]),
        }
    return Tally(values={"findings": values}, arrays=arrays)


def restored(tally: Tally) -> tuple[list[Finding], FloatArray]:
    """What `stored` keeps."""
    findings = []
    for place, value in enumerate(tally.values["findings"]):
        gain, rival = tally.arrays[f"floats-{place}"].tolist()
        tile = value["place"]
        findings.append(
            Finding(
                network=value["network"],
                label=value["label"],
                rows=tally.arrays[f"rows-{place}"],
                of=value["of"],
                place=None if tile is None else (tile[0], tile[1], tile[2]),
                gain=gain,
                agreement=Agreement(**value["agreement"]),
                residual=torch.from_numpy(np.array(tally.arrays[f"residual-{place}"])),
                transfer=Transfer(value["hits"], value["n"], rival, value["alone"]),
                p=value["p"],
            )
        )
    return findings, tally.arrays["gains"]
