"""Is a planted patch found in a checkpoint alone, whatever the network, and nothing in its cleanly trained twin?

    python benchmarks/backdoored.py --train SPEC --eval SPEC [--networks plain resnet ...] [--first SEED] [--seeds N]
                                    [--samples N] [--epochs N] [--device cuda] [--workers N] [--keep FOLDER] [--name N]

For every network and seed, one is trained on images as they are and one with BadNets in a share of them; the searches
of the backdoor-model probe then get the checkpoint and no data. A row says whether the class that stands out is the
planted one, with its p-value and the verdict; a backdoor that did not take (success below 80 %) is counted apart.
Subjects are trained and examined in processes side by side. `--keep` stores their weights.
"""

import argparse
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from measuring import save
from torch import nn

from audit.api import DataSplit, Role, Subject
from audit.engine.budget import Budget
from audit.engine.context import EngineContext
from audit.engine.prepare import available_cores, set_exact_numerics
from audit.engine.reporter import Silent
from audit.engine.session import Session
from audit.engine.store import RunStore
from audit.engine.training_context import CommandContext
from audit.loading.datasets import fit, open_dataset
from audit.loading.preprocess import Geometry
from audit.poisons.planting import plant
from audit.poisons.triggers import BadNets
from audit.toolkit.detection import Found
from audit.toolkit.statistics import proportion
from audit.training.config import TrainingConfig
from audit.training.loop import train
from audit.training.poisoning import attack_success
from audit.training.recipes import filled, standard
from probes.backdoor_model.config import BackdoorModelConfig
from probes.backdoor_model.examination import examined
from probes.backdoor_model.outcome import Outcome
from probes.backdoor_model.outlying import standing as standing_of

SIDE, FRACTION, TAKEN, BATCH, TRIED = 32, 0.05, 0.8, 128, 2000
NETWORKS = ("plain", "resnet", "test_resnet", "test_efficientnet", "mobilenetv3_small_050", "test_convnext", "test_vit")


@dataclass(frozen=True)
class Asked:
    """One subject.

    Attributes:
        network: by name, see `network`.
        poisoned: whether with BadNets.
        train, eval: data specs.
        samples: images that it is trained on.
    """

    network: str
    seed: int
    poisoned: bool
    train: str
    eval: str
    samples: int
    epochs: int
    device: str

    @property
    def target(self) -> int:
        """That of the patch."""
        return (3 * self.seed + 1) % 10

    @property
    def name(self) -> str:
        """Tells subjects apart."""
        return f"{self.network} {self.seed} {'badnets' if self.poisoned else 'clean'}"


def network(name: str, channels: int, classes: int = 10) -> nn.Module:
    """For images of 32 x 32 pixels; by name of timm, or `plain` (four convolutions) or `resnet` (18 layers, narrow)."""
    if name == "plain":
        layers: list[nn.Module] = []
        given = channels
        for width in (32, 64, 96, 128):
            layers += [nn.Conv2d(given, width, 3, 2 if given > channels else 1, 1), nn.BatchNorm2d(width), nn.ReLU()]
            given = width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(given, classes))
    if name == "resnet":
        block = timm.models.resnet.BasicBlock
        made = timm.models.resnet.ResNet(block, (2, 2, 2, 2), num_classes=classes, in_chans=channels,
                                         channels=(24, 48, 96, 192))  # fmt: skip
        first = made.conv1.out_channels
        made.conv1, made.maxpool = nn.Conv2d(channels, first, 3, padding=1, bias=False), nn.Identity()
        return made
    sized = {"img_size": SIDE} if "vit" in name else {}
    found: nn.Module = timm.create_model(name, num_classes=classes, in_chans=channels, **sized)
    return found


def split_of(spec: str, role: Role, samples: int | None, seed: int) -> DataSplit:
    """A seeded choice of images, at 32 x 32."""
    dataset = open_dataset(spec)
    channels = 1 if "digits" in spec or "mnist" in spec or "idx" in spec else 3
    return fit(dataset, role, Geometry(channels=channels, resize=(SIDE, SIDE)), seed=seed, samples=samples)


def made(asked: Asked) -> tuple[Subject, float, float | None]:
    """The subject, its accuracy, and the success of its patch."""
    device = torch.device(asked.device)
    images = split_of(asked.train, "train", asked.samples, asked.seed)
    shape = tuple(images.batch(0, 1).pixels.shape[1:])
    recipe = BadNets(target=asked.target, fraction=FRACTION)
    if asked.poisoned:
        images = plant(images, recipe, 10, np.random.default_rng(asked.seed)).split
    torch.manual_seed(asked.seed)
    model = network(asked.network, shape[0])
    config = TrainingConfig(epochs=asked.epochs, batch_size=BATCH, compile="off")
    trained = train(standard(model, images, config), CommandContext(device, asked.seed, Budget(), Silent()))
    model = filled(model, trained.weights).to(device).eval().requires_grad_(False)
    subject = Subject(model, asked.name, 10, (), shape, device, asked.name)
    tried = split_of(asked.eval, "eval", TRIED, asked.seed)
    success = attack_success(subject.logits, tried, recipe, asked.target, 0) if asked.poisoned else None
    batch = tried.batch(0, len(tried))
    with torch.inference_mode():
        said = torch.cat([subject.logits(part).argmax(dim=1).cpu() for part in batch.pixels.split(256)])
    return subject, float((said == batch.labels).float().mean()), success.value if success else None


def one(asked: Asked) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What the searches say of a subject, and its weights."""
    torch.set_num_threads(1)
    set_exact_numerics()
    start = time.perf_counter()
    subject, accuracy, success = made(asked)
    trained = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        session = Session(subject, {}, RunStore(Path(folder) / "run"), asked.seed, Budget())
        ctx = EngineContext(session, "backdoored", 1, Budget())
        examination = examined(subject, {}, BackdoorModelConfig(), ctx, "the model")
    outcome = Outcome(tuple(map(str, range(10))), examination, "no data were given")
    standing = examination.standing
    row: dict[str, Any] = {
        "network": asked.network, "seed": asked.seed, "poisoned": asked.poisoned, "accuracy": round(accuracy, 3),
        "success": success, "target": asked.target if asked.poisoned else None, "verdict": outcome.found.value,
        "class": examination.candidate, "p": standing.p if standing else None,
        "p by margin": standing_of(np.log(np.maximum(examination.margin, 1e-3))).p,
        "sizes": [round(trigger.size, 2) for trigger in examination.triggers],
        "led": [round(trigger.hits / max(1, trigger.n), 2) for trigger in examination.triggers],
        "margins": [round(float(margin), 1) for margin in examination.margin],
        "seconds of training": round(trained, 1),
        "seconds of the searches": round(time.perf_counter() - start - trained, 1),
    }  # fmt: skip
    weights = {key: value.cpu().numpy() for key, value in subject.model.state_dict().items()}
    return row, {key: value.astype(np.float16) if value.dtype.kind == "f" else value for key, value in weights.items()}


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts with intervals, by network and over all."""
    figures: dict[str, Any] = {}
    for name in [*dict.fromkeys(row["network"] for row in rows), "all"]:
        own = [row for row in rows if name in (row["network"], "all")]
        took = [row for row in own if row["poisoned"] and row["success"] >= TAKEN]
        clean = [row for row in own if not row["poisoned"]]
        figures[f"{name}: planted patches named DETECTED"] = _share(
            [row["verdict"] == Found.DETECTED and row["class"] == row["target"] for row in took]
        )
        figures[f"{name}: planted patches named DETECTED or SUSPICIOUS"] = _share(
            [row["verdict"] in (Found.DETECTED, Found.SUSPICIOUS) and row["class"] == row["target"] for row in took]
        )
        figures[f"{name}: clean networks DETECTED"] = _share([row["verdict"] == Found.DETECTED for row in clean])
        figures[f"{name}: clean networks DETECTED or SUSPICIOUS"] = _share(
            [row["verdict"] in (Found.DETECTED, Found.SUSPICIOUS) for row in clean]
        )
    figures["backdoors that did not take"] = sum(bool(row["poisoned"] and row["success"] < TAKEN) for row in rows)
    return figures


def _share(found: list[bool]) -> str:
    if not found:
        return "none"
    interval = proportion(sum(found), len(found))
    return f"{sum(found)} of {len(found)} ({interval.low:.2f} to {interval.high:.2f})"


def main() -> int:
    """Prints and stores the table and the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--eval", required=True)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=max(1, available_cores() - 1))
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--name", default="backdoored")
    given = parser.parse_args()
    asked = [
        Asked(name, seed, poisoned, given.train, given.eval, given.samples, given.epochs, given.device)
        for seed in range(given.first, given.first + given.seeds)
        for name in given.networks
        for poisoned in (True, False)
    ]
    rows: list[dict[str, Any]] = []
    kept: dict[str, dict[str, np.ndarray]] = {}
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        waiting = [(one_asked, pool.submit(one, one_asked)) for one_asked in asked]
        for one_asked, promise in waiting:
            row, weights = promise.result()
            rows.append(row)
            print(row, flush=True)
            group = kept.setdefault(one_asked.network, {})
            group |= {f"{one_asked.name}/{key}": value for key, value in weights.items()}
            if given.keep:
                given.keep.mkdir(parents=True, exist_ok=True)
                np.savez(given.keep / f"{one_asked.network}.npz", **group)  # type: ignore[arg-type]
            save(given.name, {**table(rows), "rows": rows}, show=False)
    save(given.name, table(rows) | {"rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
