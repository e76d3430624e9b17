r"""The poison probes beside what others use, on the same data and the same networks' features and answers.

    python -m pip install --target PEERS --no-deps \
        adversarial-robustness-toolbox==1.20.1 cleanlab==2.9.0 six termcolor pandas
    PYTHONPATH=PEERS python benchmarks/poison_peers.py backdoors [--seeds 20] [--data digits cifar10] [--shared DIR]
    PYTHONPATH=PEERS python benchmarks/poison_peers.py labels [--seeds 20] [--data digits cifar10]

`backdoors`: the backdoor-data probe without canaries, against spectral signatures and activation clustering as the
Adversarial Robustness Toolbox has them, both with its defaults and on features of the network that the probe trained.
For each recipe: how often the probe names the target, how often it is silent on clean copies and shams; of the peers,
which share of poisoned and of other images they flag, and the area under the ROC curve of spectral scores over
images of the target's class, which no threshold changes. `labels`: the bound that the label-noise probe states and
what it flags, against what `cleanlab.filter.find_label_issues` flags of the same out-of-sample probabilities. Both
libraries answer another question than the probe (which images to remove, given that there is poison): what is
compared is what a user would read off each. Seeds are others than those that limits were chosen on.
"""

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import ROOT, save
from poison import images_of
from sklearn.metrics import roc_auc_score

from audit.api import DataSplit, ImagesInMemory, Subject
from audit.engine.budget import Budget
from audit.engine.context import EngineContext
from audit.engine.session import Session
from audit.engine.store import RunStore
from audit.poisons.by_name import recipe_of
from audit.poisons.planting import plant
from audit.toolkit.detection import Found
from audit.toolkit.statistics import proportion
from audit.training.quick import QuickNet, cross_fitted
from probes.backdoor_data.config import BackdoorDataConfig
from probes.backdoor_data.samples import gathered
from probes.backdoor_data.search import Search
from probes.backdoor_data.taught import trained
from probes.label_noise.confident import confident_learning, probabilities
from probes.label_noise.config import LabelNoiseConfig
from probes.label_noise.judging import _judged

BACKDOORS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("clean", {}), ("random-patch", {"fraction": 0.02}), ("badnets", {"fraction": 0.01}),
    ("badnets", {"fraction": 0.05}), ("blended", {"fraction": 0.05}),
)  # fmt: skip
RATES = (0.0, 0.02, 0.1, 0.3)
IMAGES = {"digits": 898, "cifar10": 2000}


def split_of(name: str, shared: Path, seed: int) -> DataSplit:
    """A seeded choice of images; digits as published, of 8 x 8 pixels."""
    images, labels = images_of("digits8" if name == "digits" else name, shared, seed)
    images, labels = images[: IMAGES[name]], labels[: IMAGES[name]]
    ids = [f"{seed}-{place}" for place in range(len(labels))]
    return DataSplit(ImagesInMemory(images), labels, ids, np.arange(len(labels)), "train", f"{name}-{seed}")


def context(split: DataSplit, seed: int) -> tuple[Subject, EngineContext]:
    """An untrained subject, of which nothing is asked, and a run of its own."""
    shape = tuple(split.batch(0, 1).pixels.shape[1:])
    torch.manual_seed(seed)
    model = QuickNet(shape[0], shape[1], 10, 4).eval().requires_grad_(False)
    subject = Subject(model, "net", 10, (), shape, torch.device("cpu"), "net")
    store = RunStore(Path(tempfile.mkdtemp()))
    return subject, EngineContext(Session(subject, {"train": split}, store, seed, Budget()), "peers", 1, Budget())


def backdoors(options: argparse.Namespace) -> dict[str, Any]:
    """Verdicts of the probe, flags of peers."""
    rows: dict[str, list[dict[str, float]]] = {}
    for name in options.data:
        for seed in range(options.first, options.first + options.seeds):
            for case, found in _backdoors(name, options.shared, seed):
                rows.setdefault(f"{name} / {case}", []).append(found)
                print(name, seed, case, found, flush=True)
    return {case: summed(found) for case, found in rows.items()}


def _backdoors(name: str, shared: Path, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    for recipe, given in BACKDOORS:
        split, poisoned, target = split_of(name, shared, seed), np.zeros(IMAGES[name], dtype=bool), -1
        if recipe != "clean":
            target = seed % 10
            settings = given if recipe == "random-patch" else {"target": target, **given}
            made = plant(split, recipe_of(recipe, key=seed, **settings), 10, np.random.default_rng(seed))
            split = made.split
            poisoned = made.poisoned if recipe != "random-patch" else poisoned
        subject, ctx = context(split, seed)
        config = BackdoorDataConfig(canaries=())
        samples = gathered(split, 10, len(split), ctx)
        outcome = Search(subject, split, samples, None, config, ctx).run()
        named = [one for one in outcome.findings if one.found is not Found.NOT_DETECTED]
        network = trained(split, 10, config.epochs, ctx, "own")  # the one that the search has trained
        features = network.answers(samples)[1].numpy()
        right = {one.label for one in named} == {target}
        yield (
            f"{recipe} {given.get('fraction', '')}".strip(),
            {
                "alarm": float(bool(named)),
                "detected": float(outcome.found is Found.DETECTED),
                **({"target named": float(right)} if poisoned.any() else {}),  # shams have no target
                **_art(features, samples.images, samples.labels, poisoned),
            },
        )


def _art(features: np.ndarray, images: np.ndarray, labels: np.ndarray, poisoned: np.ndarray) -> dict[str, float]:
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

    model = torch.nn.Linear(1, 10)
    classifier = Known(model, torch.nn.CrossEntropyLoss(), images.shape[1:], 10)
    onehot = np.eye(10, dtype=np.float32)[labels]
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


def labels(options: argparse.Namespace) -> dict[str, Any]:
    """Rates of wrong labels as stated, and as flagged."""
    rows: dict[str, list[dict[str, float]]] = {}
    for name in options.data:
        for seed in range(options.first, options.first + options.seeds):
            for rate in RATES:
                found = _labels(split_of(name, options.shared, seed), rate, seed)
                rows.setdefault(f"{name} / {rate:g}", []).append(found)
                print(name, seed, rate, found, flush=True)
    return {case: summed(found) for case, found in rows.items()}


def _labels(split: DataSplit, rate: float, seed: int) -> dict[str, float]:
    wrong = np.zeros(len(split), dtype=bool)
    if rate:
        made = plant(split, recipe_of("flips", fraction=rate), 10, np.random.default_rng(seed))
        split, wrong = made.split, made.poisoned
    _, ctx = context(split, seed)
    config = LabelNoiseConfig()
    said, _, _ = cross_fitted(split, 10, config.folds, config.training(len(split)), ctx, "peers")
    given, own = probabilities(said.logits), split.labels[split.order]
    judged = _judged(given, own, None, np.random.default_rng(seed))
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


def summed(found: list[dict[str, float]]) -> dict[str, Any]:
    """Means over seeds; of what is yes or no, counts with an interval."""
    made: dict[str, Any] = {"n": len(found)}
    for key in found[0]:
        values = [one[key] for one in found]
        if key in ("alarm", "detected", "target named", "bound holds"):
            interval = proportion(int(sum(values)), len(values))
            made[key] = {"count": int(sum(values)), "low": round(interval.low, 3), "high": round(interval.high, 3)}
        else:
            made[key] = round(float(np.mean(values)), 3)
    return made


SUITES = {"backdoors": backdoors, "labels": labels}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=3000)
    parser.add_argument("--data", nargs="+", default=list(IMAGES), choices=list(IMAGES))
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared/data")
    asked = parser.parse_args()
    save(f"poison_peers_{asked.suite}", SUITES[asked.suite](asked))
