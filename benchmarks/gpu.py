"""What training and evasion take on a GPU: builds, checks and measures in one call, and prints a table.

    python benchmarks/gpu.py [--suite training,evasion] [--device cuda] [--images FILE.npz] [--samples N] [--quick]

- `training`: seconds an epoch of a ResNet-18 for 32x32 images on 50,000, by labels and by FGSM-RS, in float32 and
  as `auto` has it on a GPU (bfloat16, channels-last, compiled), with the held-out accuracy that both come to.
- `evasion`: the whole Linf curve up to 8/255 of the network so trained on 10,000 images, by the default attacks.

Images are those of an npz with `images` (n, h, w, 3) uint8 and `labels`, or else seeded patterns with noise, which are
no data set: their times mean something, their accuracies only that training works. `--quick` takes a few images and a
small network, to try the same code on a CPU.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from measuring import save
from torch import nn

from audit.api import DataSplit, Role, Subject
from audit.engine.budget import Budget
from audit.engine.plan import Step
from audit.engine.prepare import set_exact_numerics
from audit.engine.reporter import Silent
from audit.engine.run import run_step
from audit.engine.session import Session
from audit.engine.store import RunStore
from audit.engine.training_context import CommandContext
from audit.schema import ProbeResult
from audit.testing import ArraySource
from audit.training.config import AdversarialConfig, TrainingConfig
from audit.training.loop import Trained, train
from audit.training.recipes import adversarial, filled, standard
from probes.evasion import EvasionConfig, evasion

CLASSES, SIDE, NOISE = 10, 32, 0.2
EXACT = {"precision": "float32", "channels_last": "off", "compile": "off"}


def network(*, quick: bool) -> nn.Module:
    """A ResNet-18 with the first layers of the CIFAR kind; one of a few thousand parameters for `--quick`."""
    torch.manual_seed(0)
    if quick:
        layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(128, CLASSES))
    model: nn.Module = timm.create_model("resnet18", num_classes=CLASSES)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


def images(path: Path | None, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, h, w) uint8 and labels."""
    if path is not None:
        with np.load(path) as found:
            return found["images"][:n].transpose(0, 3, 1, 2).copy(), found["labels"][:n].astype(np.int64)
    rng = np.random.default_rng(0)
    patterns = rng.uniform(0.2, 0.8, (CLASSES, 3, 4, 4)).repeat(SIDE // 4, axis=2).repeat(SIDE // 4, axis=3)
    labels = rng.integers(0, CLASSES, n)
    drawn = [patterns[label] + rng.normal(0, NOISE, (3, SIDE, SIDE)) for label in labels]
    return np.stack([np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8) for image in drawn]), labels


def split_of(pixels: np.ndarray, labels: np.ndarray, role: Role) -> DataSplit:
    """In the order given."""
    ids = [f"{place:064x}" for place in range(len(labels))]
    return DataSplit(ArraySource(pixels), labels, ids, np.arange(len(labels)), role, f"{role}-{len(labels)}")


def timed(device: torch.device, work: Any) -> tuple[Any, float]:
    """What the work gives, and its seconds."""
    start = time.perf_counter()
    found = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return found, time.perf_counter() - start


def trainings(model: nn.Module, split: DataSplit, device: torch.device, figures: dict[str, Any]) -> Trained:
    """Trains by either recipe in either numerics; what labels gave in the fast ones is handed on."""
    kept: Trained | None = None
    for name, numerics in (("auto", {}), ("exact", EXACT)):
        for recipe in ("labels", "fgsm-rs"):
            seconds = []
            for epochs in (1, 3):  # the difference is two epochs without what is done once, such as compiling
                context = CommandContext(device, 0, Budget(), Silent())
                plain = TrainingConfig(epochs=epochs, batch_size=256, augmentation="flip-crop", **numerics)
                hard = AdversarialConfig(recipe="fgsm-rs", **plain.model_dump(exclude={"recipe"}))
                task = standard(model, split, plain) if recipe == "labels" else adversarial(model, split, hard)
                trained, took = timed(device, lambda task=task, context=context: train(task, context))
                seconds.append(took)
            figures[f"{recipe}, {name}: seconds an epoch"] = round((seconds[1] - seconds[0]) / 2, 2)
            figures[f"{recipe}, {name}: held-out accuracy"] = round(trained.log.held_out.value, 4)
            figures[f"{recipe}, {name}: settings"] = trained.log.settings
            kept = trained if (recipe, name) == ("labels", "auto") else kept
    assert kept is not None
    return kept


def attacked(model: nn.Module, split: DataSplit, device: torch.device, figures: dict[str, Any], *, quick: bool) -> None:
    """The whole curve of the evasion probe."""
    subject = Subject(
        model.to(device).eval().requires_grad_(False), "resnet18", CLASSES, (), (3, SIDE, SIDE), device, "0" * 64
    )
    config = EvasionConfig(norms="linf", samples=len(split), chunk=min(len(split), 2500))  # type: ignore[arg-type]
    config = config.model_copy(update={"steps": 10, "queries": 100}) if quick else config
    with tempfile.TemporaryDirectory() as folder:
        session = Session(subject, {"eval": split}, RunStore(Path(folder) / "run"), 0, Budget())
        step = Step(evasion, config, 0.0)
        (result, _), seconds = timed(device, lambda: run_step(step, session, session.budget))
    figures["evasion: images"] = len(split)
    figures["evasion: seconds for the whole curve"] = round(seconds, 1)
    figures["evasion: status"] = _said(result)
    figures |= {
        f"evasion: robust accuracy at {fact.where['eps']}": round(fact.value, 4)
        for fact in result.measurements
        if fact.metric == "evasion.robust_accuracy"
    }


def _said(result: ProbeResult) -> str:
    found = next((said.text for said in result.diagnostics if said.code == "evaluation"), "")
    return f"{result.status.value}; {found or (result.reason.text if result.reason else '')}"


def main() -> None:
    """Prints and stores the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="training,evasion")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--train", type=int, default=50_000)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    device = torch.device(given.device)
    if given.quick:
        given.train, given.samples = 400, 48
    set_exact_numerics()
    pixels, labels = images(given.images, given.train + given.samples)
    train_split = split_of(pixels[: given.train], labels[: given.train], "train")
    eval_split = dataclasses.replace(
        split_of(pixels[given.train :], labels[given.train :], "eval"), digest=f"eval-{given.samples}"
    )
    model, figures = network(quick=given.quick), {"images": str(given.images or "seeded patterns")}
    if "training" in given.suite:
        model = filled(model, trainings(model, train_split, device, figures).weights)
    if "evasion" in given.suite:
        attacked(model, eval_split, device, figures, quick=given.quick)
    save(f"gpu{'_quick' if given.quick else ''}", figures)


if __name__ == "__main__":
    sys.exit(main())
