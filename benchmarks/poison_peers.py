r"""The poison probes beside what others use, on the same data and the same networks' features and answers.

    python -m pip install --target PEERS --no-deps \
        adversarial-robustness-toolbox==1.20.1 cleanlab==2.9.0 six termcolor pandas
    PYTHONPATH=PEERS python benchmarks/poison_peers.py backdoors [--seeds 20] [--data digits cifar10 tiny]
                                                                 [--shared DIR] [--workers N] [--device cuda]
                                                                 [--seconds S]
    PYTHONPATH=PEERS python benchmarks/poison_peers.py labels [the same]

`backdoors`: the backdoor-data probe without canaries, against spectral signatures and activation clustering as the
Adversarial Robustness Toolbox has them, both with its defaults and on features of the network that the probe trained.
For each recipe and fraction: how often the probe names the target, how often it is silent on clean copies and shams,
the area under the ROC curve of its strongest finding against clean copies, and which share of the poisoned images it
lists; of the peers, which share of poisoned and of other images they flag, and the area under the ROC curve of spectral
scores over images of the target's class, which no threshold changes. `labels`: the bound that the label-noise probe
states and what it flags, against what `cleanlab.filter.find_label_issues` flags of the same out-of-sample
probabilities. Both
libraries answer another question than the probe (which images to remove, given that there is poison): what is
compared is what a user would read off each. Seeds are others than those that limits were chosen on; all cases of a
seed come before those of the next one, and after `--seconds` no other seed is begun. Of Tiny ImageNet, 20 classes of
a seeded choice, at 32 x 32 pixels; digits of 8 x 8, and for SIG and WaNet, which need more, of 32 x 32 (`digits32`).

A try takes a minute of a core or more. Each is kept as a line of `results/poison_peers_<suite>.jsonl` when it ends,
with the commit and the device that made it, and is not made again; the table is made of all lines there are. To
measure other code, remove that file; the table names all commits and devices of its lines.
"""

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import COMMIT, RESULTS, ROOT, save
from poison import images_of
from sklearn.metrics import roc_auc_score

from audit.api import DataSplit, ImagesInMemory, Subject
from audit.engine.budget import Budget
from audit.engine.context import EngineContext
from audit.engine.prepare import available_cores
from audit.engine.session import Session
from audit.engine.store import RunStore
from audit.poisons.by_name import recipe_of
from audit.poisons.planting import plant
from audit.toolkit.detection import Found
from audit.toolkit.statistics import proportion
from audit.training.quick import QuickNet, cross_fitted
from probes.backdoor_data.config import BackdoorDataConfig
from probes.backdoor_data.findings import Finding
from probes.backdoor_data.samples import gathered
from probes.backdoor_data.search import Search
from probes.backdoor_data.taught import trained
from probes.label_noise.confident import confident_learning, probabilities
from probes.label_noise.config import LabelNoiseConfig
from probes.label_noise.judging import judged_scores

BACKDOORS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("clean", {}), ("random-patch", {"fraction": 0.02}), ("badnets", {"fraction": 0.003}),
    ("badnets", {"fraction": 0.01}), ("badnets", {"fraction": 0.05}), ("badnets", {"fraction": 0.3}),
    ("blended", {"fraction": 0.02}), ("blended", {"fraction": 0.1}), ("sig", {"fraction": 0.3}),
    ("wanet", {"fraction": 0.1}),
)  # fmt: skip
RATES = (0.0, 0.003, 0.02, 0.1, 0.3)
IMAGES = {"digits": 898, "digits32": 898, "cifar10": 2000, "tiny": 2000}
CLASSES = {"digits": 10, "digits32": 10, "cifar10": 10, "tiny": 20}
LARGE = ("sig", "wanet")
"""Recipes that 8 x 8 pixels have no room for; these and clean copies are what is tried on digits of 32 x 32."""
COUNTED = ("alarm", "detected", "target named", "bound holds")
RANK = {Found.NOT_DETECTED: 0, Found.CANNOT_TELL: 0, Found.SUSPICIOUS: 10, Found.DETECTED: 20}
"""Of a finding; below it, up to nine orders of magnitude of its p-value."""


def split_of(name: str, shared: Path, seed: int) -> DataSplit:
    """A seeded choice of images; digits as published, of 8 x 8 pixels."""
    images, labels = images_of({"digits": "digits8", "digits32": "digits"}.get(name, name), shared, seed)
    chosen = np.random.default_rng(seed).permutation(len(labels))[: IMAGES[name]]
    images, labels = [images[place] for place in chosen], labels[chosen]
    if name == "tiny":
        images = [_halved(image) for image in images]
    ids = [f"{seed}-{place}" for place in range(len(labels))]
    return DataSplit(ImagesInMemory(images), labels, ids, np.arange(len(labels)), "train", f"{name}-{seed}")


def _halved(image: np.ndarray) -> np.ndarray:
    channels, height, width = image.shape
    parts = image.reshape(channels, height // 2, 2, width // 2, 2).astype(np.float64)
    return np.rint(parts.mean(axis=(2, 4))).astype(np.uint8)


@dataclass(frozen=True)
class Place:
    """Where a try is made: where data lie, where what it stores goes, and the device that trains."""

    shared: Path
    folder: Path
    device: str


def context(split: DataSplit, classes: int, seed: int, place: Place) -> tuple[Subject, EngineContext]:
    """An untrained subject, of which nothing is asked, and a run of its own."""
    shape = tuple(split.batch(0, 1).pixels.shape[1:])
    torch.manual_seed(seed)
    model = QuickNet(shape[0], shape[1], classes, 4).eval().requires_grad_(False)
    device = torch.device(place.device)
    subject = Subject(model.to(device), "net", classes, (), shape, device, "net")
    session = Session(subject, {"train": split}, RunStore(place.folder / "run"), seed, Budget())
    return subject, EngineContext(session, "peers", 1, Budget())


def backdoors(name: str, seed: int, case: tuple[str, dict[str, Any]], place: Place) -> dict[str, float]:
    """Verdict of the probe, flags of peers."""
    recipe, given = case
    split, classes, target = split_of(name, place.shared, seed), CLASSES[name], -1
    poisoned = np.zeros(len(split), dtype=bool)
    if recipe != "clean":
        target = seed % classes
        settings = given if recipe == "random-patch" else {"target": target, **given}
        made = plant(split, recipe_of(recipe, key=seed, **settings), classes, np.random.default_rng(seed))
        split = made.split
        poisoned = made.poisoned if recipe != "random-patch" else poisoned
    subject, ctx = context(split, classes, seed, place)
    config = BackdoorDataConfig(canaries=())
    samples = gathered(split, classes, len(split), ctx)
    outcome = Search(subject, split, samples, None, config, ctx).run()
    named = [one for one in outcome.findings if one.found is not Found.NOT_DETECTED]
    network = trained(split, classes, config.epochs, ctx, "own")  # the one that the search has trained
    features = network.answers(samples)[1].numpy()
    found = {"alarm": float(bool(named)), "detected": float(outcome.found is Found.DETECTED),
             "score": max((_strength(one) for one in outcome.findings), default=0.0)}  # fmt: skip
    listed = np.zeros(len(split), dtype=bool)
    for one in named:
        listed[one.rows] = True
    if poisoned.any():  # shams have no target
        found["target named"] = float({one.label for one in named} == {target})
        found["lists poisoned"] = float(listed[poisoned].mean())
    found["lists others"] = float(listed[~poisoned].mean())
    return {**found, **_art(features, samples.images, samples.labels, poisoned, classes)}


def _strength(one: Finding) -> float:
    return RANK[one.found] + min(9.0, -float(np.log10(max(one.p, 1e-9)))) if one.p is not None else RANK[one.found]


def _art(
    features: np.ndarray, images: np.ndarray, labels: np.ndarray, poisoned: np.ndarray, classes: int
) -> dict[str, float]:
    """Spectral signatures and activation clustering with ART's defaults; empty without ART."""
    try:
        from art.defences.detector.poison import ActivationDefence, SpectralSignatureDefense
        from art.estimators.classification import PyTorchClassifier
    except ImportError:
        return {}

    class Known(PyTorchClassifier):
        """A classifier whose activations are known."""

        layer_names = ["features"]

        def get_activations(self, x: np.ndarray, *_: object, **__: object) -> np.ndarray:
            return features

    classifier = Known(torch.nn.Linear(1, classes), torch.nn.CrossEntropyLoss(), images.shape[1:], classes)
    onehot = np.eye(classes, dtype=np.float32)[labels]
    pixels = images.astype(np.float32) / 255
    spectral = SpectralSignatureDefense(classifier, pixels, onehot)
    clustering = ActivationDefence(classifier, pixels, onehot)
    found: dict[str, float] = {}
    for name, clean in (("spectral", spectral.detect_poison()[1]), ("clustering", clustering.detect_poison()[1])):
        flagged = np.asarray(clean) == 0
        found[f"{name} flags others"] = float(flagged[~poisoned].mean())
        if poisoned.any():
            found[f"{name} flags poisoned"] = float(flagged[poisoned].mean())
    if poisoned.any():
        mine = labels == labels[poisoned][0]
        scores = SpectralSignatureDefense.spectral_signature_scores(features[mine]).ravel()
        found["spectral auc"] = float(roc_auc_score(poisoned[mine], scores))
    return found


def labels(name: str, seed: int, rate: float, place: Place) -> dict[str, float]:
    """The rate of wrong labels as stated, and what is flagged."""
    split, classes = split_of(name, place.shared, seed), CLASSES[name]
    wrong = np.zeros(len(split), dtype=bool)
    if rate:
        made = plant(split, recipe_of("flips", fraction=rate), classes, np.random.default_rng(seed))
        split, wrong = made.split, made.poisoned
    _, ctx = context(split, classes, seed, place)
    config = LabelNoiseConfig()
    said, _, _ = cross_fitted(split, classes, config.folds, config.training(len(split)), ctx, "peers")
    given, own = probabilities(said.logits), split.labels[split.order]
    judged = judged_scores(given, own, None, np.random.default_rng(seed))
    ours = confident_learning(given, own).suspects
    found = {"upper bound": judged.bound.limit, "bound holds": float(judged.bound.limit >= wrong.mean()),
             "flagged": float(ours.mean()), **_right("flagged", ours, wrong)}  # fmt: skip
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        return found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = np.asarray(find_label_issues(own, given, n_jobs=1), dtype=bool)
    return {**found, "cleanlab flagged": float(theirs.mean()), **_right("cleanlab flagged", theirs, wrong)}


def _right(name: str, flagged: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    if not wrong.any():
        return {}
    precision = float(wrong[flagged].mean()) if flagged.any() else 0.0
    return {f"{name}: recall": float(flagged[wrong].mean()), f"{name}: precision": precision}


def summed(found: list[dict[str, float]], clean: list[dict[str, float]]) -> dict[str, Any]:
    """Means over seeds; of what is yes or no, counts with an interval; of a score, the area against clean copies."""
    made: dict[str, Any] = {"n": len(found)}
    for key in found[0]:
        values = [one[key] for one in found]
        if key in COUNTED:
            interval = proportion(int(sum(values)), len(values))
            made[key] = {"count": int(sum(values)), "low": round(interval.low, 3), "high": round(interval.high, 3)}
        elif key == "score" and clean:
            others = [one[key] for one in clean]
            made["auc"] = float(roc_auc_score([0] * len(others) + [1] * len(values), others + values))
        else:
            made[key] = round(float(np.mean(values)), 3)
    return made


def asked_of(options: argparse.Namespace) -> list[tuple[str, int, Any]]:
    """What is tried: set, seed and case, seed after seed."""
    cases: tuple[Any, ...] = BACKDOORS if options.suite == "backdoors" else RATES
    seeds = range(options.first, options.first + options.seeds)
    return [(name, seed, case) for seed in seeds for name in options.data for case in cases if _fits(name, case)]


def _fits(name: str, case: Any) -> bool:
    if isinstance(case, float):
        return name != "digits32"
    return case[0] not in LARGE if name == "digits" else name != "digits32" or case[0] in ("clean", *LARGE)


def one(
    suite: str, name: str, seed: int, case: Any, shared: Path, device: str, until: float
) -> dict[str, float] | None:
    """What came of one try; None after the end."""
    torch.set_num_threads(1)
    if time.time() > until:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return SUITES[suite](name, seed, case, Place(shared, Path(folder), device))


def called(case: Any) -> str:
    """A case's name."""
    return f"{case:g}" if isinstance(case, float) else f"{case[0]} {case[1].get('fraction', '')}".strip()


SUITES: dict[str, Callable[..., dict[str, float]]] = {"backdoors": backdoors, "labels": labels}


def main() -> None:
    """Prints every try, and stores their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=3000)
    parser.add_argument("--data", nargs="+", default=list(IMAGES), choices=list(IMAGES))
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--workers", type=int, default=available_cores())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    options = parser.parse_args()
    until, kept = time.time() + options.seconds, RESULTS / f"poison_peers_{options.suite}.jsonl"
    made = read(kept)
    known = {(row["data"], row["seed"], row["case"]) for row in made}
    asked = [each for each in asked_of(options) if (each[0], each[1], called(each[2])) not in known]
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        tries = {pool.submit(one, options.suite, *each, options.shared, options.device, until): each for each in asked}
        for promise in as_completed(tries):
            (name, seed, case), found = tries[promise], promise.result()
            if found is not None:
                said = {key: round(value, 4) for key, value in found.items()}
                row = {"data": name, "seed": seed, "case": called(case), "found": said}
                made.append({**row, "commit": COMMIT, "device": options.device})
                with kept.open("a") as file:
                    print(json.dumps(made[-1]), file=file)
                print(name, seed, called(case), made[-1]["found"], flush=True)
    save(f"poison_peers_{options.suite}", table(made))


def read(kept: Path) -> list[dict[str, Any]]:
    """Tries that were made before."""
    return [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []


def table(made: list[dict[str, Any]]) -> dict[str, Any]:
    """A row a set and case."""
    rows = dict[tuple[str, str], list[dict[str, Any]]]()
    for row in made:
        rows.setdefault((row["data"], row["case"]), []).append(row)
    found = {key: [row["found"] for row in of] for key, of in rows.items()}
    return {
        f"{name} / {case}": {
            **summed(found[name, case], found.get((name, "clean"), [])),
            "made by": sorted({f"{row['commit']}, {row['device']}" for row in of}),
        }
        for (name, case), of in rows.items()
    }


if __name__ == "__main__":
    main()
