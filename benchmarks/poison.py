"""Do the poison probes find what is planted, and stay silent about what is not? Seeds, fractions and three data sets.

    python benchmarks/poison.py shortcuts [--seeds 20] [--first 1000] [--data digits cifar10 tiny] [--shared DIR]
    python benchmarks/poison.py speed

`shortcuts` plants every recipe that changes images by class, and the shams, in fresh choices of images, and runs the
data-only tests of the shortcuts probe on each. The seeds are others than those that limits were chosen on, save one
limit (`SHARED`), which was made after alarms of these seeds on digits under one blur for a third of the images; the
sets are the same. For each recipe it counts alarms, with a Clopper-Pearson interval, and compares the scores of
planted and clean copies (area under the ROC curve of the border test's p-value, of the texture gap, of fine patterns
and of patches). `speed` times the data-only tests of 50,000 images of 32 x 32 pixels. CIFAR-10 and Tiny ImageNet are
read from parquet files under `--shared` (default: `data` beside the checkout's parent, in `shared`); a set that is not
there is left out, and said.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import ROOT, save
from sklearn.metrics import roc_auc_score

from audit.api import DataSplit, ImagesInMemory
from audit.loading.datasets import fit, open_dataset
from audit.loading.preprocess import Geometry
from audit.poisons.by_name import recipe_of
from audit.toolkit.statistics import proportion
from probes.shortcuts.evidence import Evidence, evidence_of
from probes.shortcuts.images import changed
from probes.shortcuts.templates import Sums, can_be_averaged
from probes.shortcuts.traces import traces_of

CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("cuda", {"fraction": 1.0}), ("cuda", {"fraction": 0.5}), ("cuda", {"fraction": 0.2}), ("cuda", {"fraction": 0.1}),
    ("cuda", {"fraction": 0.05}), ("class-noise", {"fraction": 1.0}), ("class-patch", {"fraction": 1.0}),
    ("class-patch", {"fraction": 0.3}),
    ("universal-blur", {"fraction": 1.0}), ("universal-blur", {"fraction": 0.3}), ("brightness", {"fraction": 1.0}),
    ("random-patch", {"fraction": 0.02}),
)  # fmt: skip
CIFAR_IMAGES, TINY_CLASSES = 4000, 20


def images_of(name: str, shared: Path, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """A seeded choice of images (c, h, w) and labels; of Tiny ImageNet, of classes; `digits8` as they are published."""
    rng = np.random.default_rng(seed)
    if name in ("digits", "digits8"):
        split = _split("sklearn:digits", Geometry(channels=1, resize=(32, 32) if name == "digits" else None))
        places = rng.permutation(len(split))
    elif name == "cifar10":
        split = _split(f"parquet:{shared}/cifar10/train.parquet", Geometry(channels=3))
        places = rng.permutation(len(split))[:CIFAR_IMAGES]
    else:
        split = _split(f"parquet:{shared}/tiny-imagenet/train.parquet", Geometry(channels=3))
        classes = rng.permutation(np.unique(split.labels))[:TINY_CLASSES]
        places = np.flatnonzero(np.isin(split.labels, classes))
    labels = np.unique(split.labels[places], return_inverse=True)[1].astype(np.int64)
    return [split.source.pixels(int(place)) for place in places], labels


_SPLITS: dict[str, DataSplit] = {}


def _split(spec: str, geometry: Geometry) -> DataSplit:
    if spec not in _SPLITS:
        _SPLITS[spec] = fit(open_dataset(spec), "train", geometry, seed=0, samples=None)
    return _SPLITS[spec]


def planted(
    images: list[np.ndarray], labels: np.ndarray, name: str, key: int, given: dict[str, Any]
) -> list[np.ndarray]:
    """The images with a recipe of this key."""
    recipe, rng = recipe_of(name, key=key, **given), np.random.default_rng(key)
    rows = recipe.choose(labels, int(labels.max()) + 1, rng).poisoned
    made = list(images)
    for row, image in zip(rows, changed([images[row] for row in rows], labels[rows], recipe), strict=True):
        made[row] = image
    return made


def evidence(images: list[np.ndarray], labels: np.ndarray, seed: int) -> Evidence:
    """By the data-only tests, as the probe runs them."""
    classes, second = int(labels.max()) + 1, np.random.default_rng(seed).random(len(labels)) < 0.5
    sums = Sums(classes, images[0].shape)
    sums.add(torch.from_numpy(np.stack(images)).float() / 255, labels, second)
    return evidence_of(traces_of(images), labels, classes, np.random.default_rng(seed), sums.templates())


def scores(found: Evidence) -> dict[str, float]:
    """The higher, the more suspicious."""
    return {
        "border": -min(np.log10(max(peak.p_adjusted, 1e-300)) for peak in found.peaks),
        "texture": found.gap.value,
        "pattern": max((one.fine for one in found.templates), default=0.0),
        "patch": max((one.stamp.here - one.stamp.elsewhere for one in found.templates), default=0.0),
    }


def shortcuts(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Alarms and areas under ROC curves of a data set, by recipe; nothing where the set is not there."""
    if name != "digits" and not (options.shared / ("cifar10" if name == "cifar10" else "tiny-imagenet")).is_dir():
        print(f"{name}: left out, as {options.shared} does not hold it")
        return {}
    rows: dict[str, list[tuple[bool, dict[str, float]]]] = {}
    for seed in range(options.first, options.first + options.seeds):
        for case, found in _cases(name, options.shared, seed):
            rows.setdefault(case, []).append((found.alarm, scores(found)))
    figures: dict[str, Any] = {}
    for case, results in rows.items():
        hits, n = sum(alarm for alarm, _ in results), len(results)
        interval = proportion(hits, n)
        figures[case] = {
            "alarms": hits, "n": n, "low": round(interval.low, 3), "high": round(interval.high, 3),
            "auc": {key: _area(rows["clean"], results, key) for key in results[0][1]} if case != "clean" else None,
        }  # fmt: skip
        print(f"{name:8} {case:34} {hits:3} of {n}", figures[case]["auc"] or "", flush=True)
    return figures


def _cases(name: str, shared: Path, seed: int) -> Iterator[tuple[str, Evidence]]:
    images, labels = images_of(name, shared, seed)
    yield "clean", evidence(images, labels, seed)
    for recipe, given in CASES:
        yield f"{recipe} {given['fraction']:g}", evidence(planted(images, labels, recipe, seed, given), labels, seed)


def _area(clean: list[tuple[bool, dict[str, float]]], other: list[tuple[bool, dict[str, float]]], key: str) -> float:
    truth = [0] * len(clean) + [1] * len(other)
    return round(float(roc_auc_score(truth, [found[key] for _, found in clean + other])), 3)


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds for the data-only tests of 50,000 noise images."""
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (options.images, 3, 32, 32), dtype=np.uint8))
    labels = np.arange(options.images, dtype=np.int64) % 10
    split = DataSplit(ImagesInMemory(images), labels, ["0"] * len(labels), np.arange(len(labels)), "train", "0")
    assert can_be_averaged(split, 10)
    start = time.perf_counter()
    evidence(images, labels, 0)
    return {
        "images": options.images,
        "seconds": round(time.perf_counter() - start, 1),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=["shortcuts", "speed"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1000)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument(
        "--data", nargs="+", default=["digits", "cifar10", "tiny"], choices=["digits", "cifar10", "tiny"]
    )
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared/data")
    asked = parser.parse_args()
    if asked.suite == "speed":
        save("poison_speed", speed(asked), show=False)
    for name in asked.data if asked.suite == "shortcuts" else ():  # a file each, as each may be of another commit
        figures = shortcuts(name, asked)
        if figures:
            save(f"poison_shortcuts_{name}", figures, show=False)
