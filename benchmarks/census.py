"""Do bounds hold for the architectures that people use? Interval bounds and CROWN-IBP of 44 networks of timm.

    python benchmarks/census.py [--only PATTERN] [--resume] [--points 12]

Each network has values drawn from a seed and statistics of batch normalisation of its own random images, and the
smallest input that it takes. At two radii, all operations' intervals and the margins' bounds are computed in float64.
Points of the region, half of them corners, then images that a search moves against each margin's bound, must lie within
every one of them. A record is stored as soon as its network is done; the exit code is 1 where anything failed.
"""

import argparse
import fnmatch
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from measuring import COMMIT, RESULTS, machine
from torch import Tensor, nn

from audit.lirpa.graph import Graph
from audit.lirpa.intervals import propagate
from audit.lirpa.lowering import NotExportable, lower
from audit.lirpa.margins import bounds_from, margin_rows
from audit.lirpa.region import Region
from audit.lirpa.rules import NoRule, rule_of
from audit.lirpa.rules.rule import Known

NAMES = (
    "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "resnetrs50", "res2net50_26w_4s", "skresnet18",
    "regnety_002", "vgg11_bn", "densenet121", "inception_v3", "xception41", "dla34", "hrnet_w18_small", "repvgg_a0",
    "ghostnet_100", "mnasnet_small", "mobilenetv2_050", "mobilenetv3_small_050", "efficientnet_b0", "tinynet_e",
    "nasnetalarge", "convnext_atto", "convnextv2_atto", "focalnet_tiny_srf", "poolformer_s12", "mobilevit_xxs",
    "fastvit_t8", "coatnet_pico_rw_224", "maxvit_rmlp_pico_rw_256", "levit_128s", "tiny_vit_5m_224", "davit_tiny",
    "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "vit_tiny_patch16_224", "deit_tiny_patch16_224",
    "beit_base_patch16_224", "cait_xxs24_224", "pit_ti_224", "eva02_tiny_patch14_224", "xcit_nano_12_p16_224",
    "mixer_s32_224", "gmlp_s16_224",
)  # fmt: skip
SIZES = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 299, 331)
RADII = {"1/255": 1 / 255, "1e-7": 1e-7}
IMAGES, CLASSES, STEPS = 2, 10, 10
ROUNDING = 1e-9
"""By how much a value may leave its bound, relative to 1 + its size: float64 in networks of some depth."""


def built(name: str) -> tuple[nn.Module, int]:
    """A network at the smallest input side that it takes."""
    import timm

    for size in SIZES:
        for arguments in ({"img_size": size}, {}):
            torch.manual_seed(0)
            try:
                module = timm.create_model(name, num_classes=CLASSES, **arguments)
                module.train()
                with torch.no_grad():
                    for part in module.modules():
                        if isinstance(part, nn.modules.batchnorm._BatchNorm):
                            part.momentum = None  # the mean over all that it sees
                    module(torch.rand(16, 3, size, size))
                    module.eval()(torch.rand(1, 3, size, size))
            except Exception:
                continue
            _alive(module)
            return module, size
    raise ValueError(f"{name} takes no image of {SIZES[0]} to {SIZES[-1]} pixels a side")


def _alive(module: nn.Module) -> None:
    """Layers that are initialised with zeros, of which nothing would hang on the pixels, draw small values."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1 and not bool(parameter.any()):
                parameter.normal_(std=0.02)


class Checked:
    """Values that were compared with their bounds."""

    def __init__(self) -> None:
        self.points = self.values = 0
        self.worst = -float("inf")
        self.where = ""

    def intervals(self, graph: Graph, known: Known, images: Tensor) -> None:
        """Compares all operations' values on images, one of each region."""
        for op, values in graph.values(images):
            interval = known.intervals[op]
            excess = torch.maximum(interval.lo - values, values - interval.hi) / (1 + values.abs())
            self._note(float(excess.max()), repr(op), values.numel())
        self.points += len(images)

    def margins(self, bounds: Tensor, margins: Tensor, method: str) -> None:
        """Compares margins (n, classes - 1) with their lower bounds."""
        self._note(float(((bounds - margins) / (1 + margins.abs())).max()), method, margins.numel())

    def _note(self, excess: float, where: str, count: int) -> None:
        self.values += count
        if not excess <= self.worst:  # also where it is not a number
            self.worst, self.where = excess, where


def audited(name: str, points: int) -> dict[str, Any]:
    """The record of a network."""
    start = time.process_time()
    module, size = built(name)
    record: dict[str, Any] = {"name": name, "size": size, "commit": COMMIT, "unsupported": [], "radii": {}}
    try:
        graph = lower(module, (3, size, size)).bound(torch.float64)
    except NotExportable as error:
        return record | {"error": str(error)}
    record["operations"] = len(graph.operations)
    record["kinds"] = sorted({op.kind for op in graph.operations[1:]})
    for op in graph.operations[1:]:
        try:
            rule_of(op)
        except NoRule as error:
            record["unsupported"].append(str(error))
    if record["unsupported"]:
        return record
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(IMAGES, 3, size, size, generator=generator).double()
    with torch.no_grad():
        logits = graph.run(images)
        differs = float((logits - module(images.float())).abs().max() / (1e-6 + logits.abs().max()))
    record["graph_differs"] = differs
    for text, eps in RADII.items():
        record["radii"][text] = _at(graph, images, logits.argmax(1), eps, points, generator)
    return record | {"seconds": round(time.process_time() - start, 1)}


def _at(
    graph: Graph, images: Tensor, labels: Tensor, eps: float, points: int, generator: torch.Generator
) -> dict[str, Any]:
    region, checked, seconds = Region.ball(images, "linf", eps), Checked(), {}
    with torch.no_grad():
        start = time.process_time()
        known = propagate(graph, region)
        bounds = {"ibp": bounds_from(graph, region, known, labels, relaxed=False)}
        seconds["ibp"], start = time.process_time() - start, time.process_time()
        bounds["crown-ibp"] = bounds_from(graph, region, known, labels)
        seconds["crown-ibp"] = time.process_time() - start
        lo, hi = region.box.lo, region.box.hi
        for place in range(points):
            shares = torch.rand(lo.shape, generator=generator, dtype=lo.dtype)
            checked.intervals(graph, known, lo + (shares.round() if place % 2 else shares) * (hi - lo))
    units = margin_rows(labels, CLASSES, images.dtype)

    def compared(moved: Tensor) -> Tensor:
        margins = (units @ graph.run(moved)[:, :, None])[..., 0]
        for method, found in bounds.items():
            checked.margins(found, margins.detach(), method)
        return margins

    for against in range(CLASSES - 1):
        moved = images
        for step in range(STEPS):
            moved = moved.detach().requires_grad_(True)
            margins = compared(moved)
            (gradient,) = torch.autograd.grad(margins[:, against].sum(), moved)
            moved = torch.minimum(torch.maximum(moved - (hi - lo) / (1 + step) * gradient.sign(), lo), hi)
        with torch.no_grad():
            compared(moved)
            checked.intervals(graph, known, moved)
        checked.points += STEPS * len(images)
    return {
        "margins": {method: float(found.min()) for method, found in bounds.items()},
        "finite": {method: bool(found.isfinite().all()) for method, found in bounds.items()},
        "seconds": {method: round(spent, 2) for method, spent in seconds.items()},
        "points": checked.points, "values": checked.values, "worst": checked.worst, "worst_in": checked.where,
    }  # fmt: skip


def failed(record: dict[str, Any]) -> bool:
    """Whether something has no bounds, or left them."""
    found = record["radii"].values()
    return bool(
        record.get("error") or record["unsupported"] or not found or any(not at["worst"] <= ROUNDING for at in found)
    )


def main() -> int:
    """0 where all passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="pattern of names")
    parser.add_argument("--resume", action="store_true", help="keep the records that are there")
    parser.add_argument("--points", type=int, default=12, help="of each region, beside those of the search")
    parser.add_argument("--out", type=Path, default=RESULTS / "census.json")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    records: dict[str, dict[str, Any]] = {}
    if given.resume and given.out.exists():
        records = {record["name"]: record for record in json.loads(given.out.read_text())["networks"]}
    for name in (name for name in NAMES if fnmatch.fnmatch(name, given.only) and name not in records):
        record = records[name] = audited(name, given.points)
        word = "FAILED" if failed(record) else "passed"
        print(f"{word}  {name:<32} {record.get('seconds', '')} s  {record.get('error', '')}", flush=True)
        _save(given.out, list(records.values()))
    return int(any(map(failed, records.values())))


def _save(target: Path, records: list[dict[str, Any]]) -> None:
    radii = [at for record in records for at in record["radii"].values()]
    figures = {
        "networks": len(records),
        "failed": [record["name"] for record in records if failed(record)],
        "points": sum(at["points"] for at in radii),
        "values compared with their bounds": sum(at["values"] for at in radii),
        "farthest outside, relative": max((at["worst"] for at in radii), default=None),
    }
    command = "census.py"
    content = {
        "benchmark": "census", "command": command, "figures": figures, "machine": machine(), "networks": records,
    }  # fmt: skip
    target.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())
