"""What training and attacks take on a GPU, and whether they find there what they should: all in one call.

    python benchmarks/gpu.py [--suite training,unlearnable,evasion,bounds,proofs,strength,distillation,selfchecks,
                                     numerics]
                             [--device cuda] [--train SPEC] [--eval SPEC] [--samples N] [--train-samples N]
                             [--recipes labels,fgsm-rs] [--seconds S] [--seeds N] [--quick]

- `training`: a ResNet-18 for 32x32 images by labels and by FGSM-RS, as `auto` has it on a GPU: seconds an epoch, what
  the first one takes longer, and the held-out accuracy.
- `unlearnable`: the same network by labels on images with a filter of each class's own (CUDA), and what it is right
  on then: clean images, those with their own class's filter, and those with another's.
- `numerics`: the same for a few epochs in float32, in bfloat16 and channels-last, and so compiled.
- `evasion`: of the network that FGSM-RS gave, the whole Linf curve up to 8/255 with all self-checks.
- `bounds`: the CNN-7 of certified training for a few epochs, in TF32 and in float32: seconds an epoch; then the probe
  `certified` on what that gave.
- `proofs`: the CNN-7 by interval bounds at 8/255 and at 2/255, as many epochs as take `--seconds` each, the curve, and
  what the probe `certified` proves of the result.
- `strength`: the same at 8/255, and sample by sample the standard protocol of `benchmarks/evasion.py`, on 1,000 images.
- `distillation`: the probe on the network that labels gave, with its teacher, student and twin.
- `selfchecks`: `benchmarks/selfchecks.py` at Linf 0.1 with every subject on the device, a process a subject.

Images come from any data specs of `audit run`, or else are seeded patterns with noise, which are no data set: their
times mean something, their accuracies only that training works. A suite that fails says so in the table and leaves the
others alone; the exit code is 1. `--quick` takes a few images and a small network, to try the same code on a CPU.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import selfchecks
import timm
import torch
from evasion import peer, standard, suite
from measuring import save
from networks import cnn7, small
from torch import Tensor, nn
from unlearnable import looked_at, poisoned

from audit.api import DataSplit, ImagesInMemory, Probe, ProbeConfig, Role, Subject
from audit.engine.budget import Budget
from audit.engine.plan import Step
from audit.engine.prepare import available_cores, set_exact_numerics
from audit.engine.reporter import Silent
from audit.engine.run import run_step
from audit.engine.session import Session
from audit.engine.store import RunStore
from audit.engine.training_context import CommandContext
from audit.loading.datasets import fit, open_dataset
from audit.loading.preprocess import Geometry
from audit.schema import where_text
from audit.toolkit.norms import parse_eps
from audit.training.config import AdversarialConfig, CertifiedConfig, TrainingConfig
from audit.training.log import Epoch
from audit.training.loop import Task, Trained, train
from audit.training.recipes import adversarial, certified, filled
from audit.training.recipes import standard as by_labels
from probes.certified import CertifiedConfig as CertifiedProbeConfig
from probes.certified import certified as certified_probe
from probes.distillation import DistillationProbeConfig, distillation
from probes.evasion import EvasionConfig, evasion

CLASSES, SIDE, NOISE, COMPARED, PROVEN, TIMED_SHARE = 10, 32, 0.2, 1000, 1024, 4
EPS, EPS_OF_BOUNDS, EPS_OF_DIGITS = "8/255", "2/255", "0.1"
NUMERICS: dict[str, dict[str, Any]] = {
    "exact": {"precision": "float32", "channels_last": "off", "compile": "off"},
    "eager": {"compile": "off"},
    "compiled": {"compile": "on"},
    "auto": {},
}
SHOWN = ("epoch", "train_loss", "held_out_accuracy", "certified_accuracy")
EPOCHS, TIMED_EPOCHS, BATCH = {"labels": 5, "fgsm-rs": 8}, 3, 256
EPOCHS_FILTERED = 20


@dataclass
class Bench:
    """What the suites share.

    Attributes:
        train: what networks are trained on.
        eval: what they are attacked on.
        models: networks by the recipe that trained them.
        recipes: of the suite `training`; what it leaves out is attacked untrained.
        seconds: of each training of the suite `proofs`.
        figures: the table.
    """

    device: torch.device
    train: DataSplit
    eval: DataSplit
    quick: bool
    seeds: int
    recipes: tuple[str, ...]
    seconds: float
    models: dict[str, nn.Module] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def keep(self, *, show: bool = False) -> None:
        """Stores what there is so far: the machine may be lent for minutes."""
        save(f"gpu{'_quick' if self.quick else ''}", self.figures, show=show)

    def subject(self, recipe: str, model: nn.Module | None = None) -> Subject:
        """A network as a probe is handed it; untrained where none is given and the suite `training` left it out."""
        model = model or self.models.get(recipe) or network(quick=self.quick)
        return Subject(
            model.to(self.device).eval().requires_grad_(False), recipe, CLASSES, (), (3, SIDE, SIDE), self.device,
            "0" * 64, untrained=lambda seed: network(quick=self.quick),
        )  # fmt: skip

    def probe(
        self, probe: Probe, config: ProbeConfig, subject: Subject, data: dict[Role, DataSplit], name: str = ""
    ) -> None:
        """Runs a probe as `audit run` does; its outcome and what it measured, without intervals."""
        with tempfile.TemporaryDirectory() as folder:
            session = Session(subject, data, RunStore(Path(folder) / "run"), 0, Budget())
            (result, _), seconds = timed(lambda: run_step(Step(probe, config, 0.0), session, session.budget))
        name, said = name or probe.id, [f"{note.code}: {note.text}" for note in result.diagnostics]
        self.figures |= {f"{name}: status": result.status.value, f"{name}: seconds": seconds, f"{name}: said": said}
        if result.reason:
            self.figures[f"{name}: reason"] = result.reason.text
        for fact in result.measurements:
            self.figures[f"{name}: {fact.metric} {where_text(fact.where)}".rstrip()] = round(fact.value, 4)


def network(*, quick: bool) -> nn.Module:
    """A ResNet-18 with the first layers of the CIFAR kind; one of a few thousand parameters for `--quick`."""
    torch.manual_seed(0)
    if quick:
        layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(128, CLASSES))
    model: nn.Module = timm.create_model("resnet18", num_classes=CLASSES)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


def split_of(spec: str | None, role: Role, n: int | None) -> DataSplit:
    """The first n images of a seeded order; seeded patterns with noise where no data are named."""
    if spec is not None:
        return fit(open_dataset(spec), role, Geometry(3), seed=0, samples=n)
    rng, n = np.random.default_rng(0 if role == "train" else 1), n or 10_000
    patterns = np.random.default_rng(2).uniform(0.2, 0.8, (CLASSES, 3, 4, 4)).repeat(SIDE // 4, 2).repeat(SIDE // 4, 3)
    labels = rng.integers(0, CLASSES, n)
    drawn = [patterns[label] + rng.normal(0, NOISE, (3, SIDE, SIDE)) for label in labels]
    images = np.stack([np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8) for image in drawn])
    ids = [f"{role}-{place}" for place in range(n)]
    return DataSplit(ImagesInMemory(images), labels, ids, np.arange(n), role, f"{role}-{n}")


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What the work gives, and its seconds."""
    start = time.perf_counter()
    found = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return found, round(time.perf_counter() - start, 2)


def training(bench: Bench) -> None:
    """The networks that the other suites attack."""
    for recipe in bench.recipes:
        trained = _train(bench, recipe, "auto", EPOCHS[recipe])
        bench.models[recipe] = filled(network(quick=bench.quick), trained.weights)


def unlearnable(bench: Bench) -> None:
    """The network that labels give, where filters give the labels away."""
    few = TrainingConfig(epochs=EPOCHS_FILTERED, batch_size=BATCH, augmentation="flip-crop")
    model = network(quick=bench.quick)
    task = by_labels(model, poisoned(bench.train, CLASSES), few)
    trained = _carried_out(bench, task, f"unlearnable, {EPOCHS_FILTERED} epochs")
    found = filled(model, trained.weights).to(bench.device)
    bench.figures |= looked_at(found, bench.eval, CLASSES, bench.device)


def numerics(bench: Bench) -> None:
    """The same trainings otherwise, for a few epochs each."""
    for how in ("exact", "eager", "compiled"):
        for recipe in EPOCHS:
            _train(bench, recipe, how, TIMED_EPOCHS)


def _train(bench: Bench, recipe: str, how: str, epochs: int) -> Trained:
    """Trains by a recipe from the same beginning."""
    plain = TrainingConfig(epochs=epochs, batch_size=BATCH, augmentation="flip-crop", **NUMERICS[how])
    hard = AdversarialConfig(recipe="fgsm-rs", **plain.model_dump(exclude={"recipe"}))
    model = network(quick=bench.quick)
    task = by_labels(model, bench.train, plain) if recipe == "labels" else adversarial(model, bench.train, hard)
    return _carried_out(bench, task, f"{recipe}, {how}, {epochs} epochs")


def _carried_out(bench: Bench, task: Task, name: str) -> Trained:
    """Carries out a training; the figures are kept at once, and what there is after every epoch of one with bounds."""
    ends, curve = [time.perf_counter()], []

    def watch(epoch: Epoch, _epochs: int) -> None:
        ends.append(time.perf_counter())
        if epoch.certified_accuracy is not None:
            curve.append({key: round(getattr(epoch, key), 4) for key in SHOWN})
            bench.figures[f"{name}: curve"] = curve
            bench.keep()

    context = CommandContext(bench.device, 0, Budget(), Silent())
    trained = train(task, context, watch=watch)
    took = np.diff(ends)
    usual = float(np.median(took[1:]))
    bench.figures |= {
        f"{name}: seconds an epoch": round(usual, 2),
        f"{name}: first epoch's extra seconds": round(float(took[0]) - usual, 2),
        f"{name}: held-out accuracy": round(trained.log.held_out.value, 4),
        f"{name}: settings": trained.log.settings,
        f"{name}: kept epoch": trained.log.kept_epoch,
        f"{name}: notes": [note.text for note in context.notices.values()],
    }
    bench.keep()
    return trained


def attacking(bench: Bench) -> None:
    """The probe, as `audit run` has it."""
    config = EvasionConfig(norms="linf", samples=len(bench.eval))  # type: ignore[arg-type]
    config = config.model_copy(update={"steps": 10, "queries": 100}) if bench.quick else config
    bench.probe(evasion, config, bench.subject("fgsm-rs"), {"eval": bench.eval})


def bounding(bench: Bench) -> None:
    """Bounds in every step from the first one on; then what float64 says of the last training's result."""
    model = (small if bench.quick else cnn7)(3, SIDE, CLASSES)
    for recipe, precision in (("ibp", "float32"), ("ibp", "tf32"), ("crown-ibp", "tf32")):
        config = CertifiedConfig.model_validate({
            "recipe": recipe, "precision": precision, "eps": EPS_OF_BOUNDS, "epochs": TIMED_EPOCHS, "batch_size": BATCH,
            "augmentation": "flip-crop", "warm_up": 0, "ramp": 1,
        })  # fmt: skip
        task = certified(model, bench.train, config)
        trained = _carried_out(bench, task, f"{recipe}, {precision}, {TIMED_EPOCHS} epochs")
    subject = bench.subject("ibp", filled(model, trained.weights))
    probe = CertifiedProbeConfig(eps_linf=("1/255", EPS_OF_BOUNDS), samples=min(128, len(bench.eval)))
    bench.probe(certified_probe, probe, subject, {"eval": bench.eval})


def proving(bench: Bench) -> None:
    """How far bounds come in the time that there is."""
    few = dataclasses.replace(bench.train, order=bench.train.order[: len(bench.train) // TIMED_SHARE])
    model = (small if bench.quick else cnn7)(3, SIDE, CLASSES)
    usual: dict[str, Any] = {"recipe": "ibp", "batch_size": BATCH, "augmentation": "flip-crop"}
    for eps in (EPS, EPS_OF_BOUNDS):
        timed_with = CertifiedConfig(eps=eps, epochs=2, warm_up=0, ramp=1, **usual)
        _carried_out(bench, certified(model, few, timed_with), f"ibp at {eps}, a share of the images")
        took = bench.figures[f"ibp at {eps}, a share of the images: seconds an epoch"] * TIMED_SHARE
        epochs = max(4, int(bench.seconds / max(took, 1e-3))) if not bench.quick else 4
        name = f"ibp at {eps}, {epochs} epochs"
        trained = _carried_out(
            bench, certified(model, bench.train, CertifiedConfig(eps=eps, epochs=epochs, **usual)), name
        )
        subject = bench.subject("ibp", filled(model, trained.weights))
        probe = CertifiedProbeConfig(eps_linf=(eps,), method="crown-ibp", samples=min(PROVEN, len(bench.eval)),
                                     second_opinion=0)  # fmt: skip
        bench.probe(certified_probe, probe, subject, {"eval": bench.eval}, f"certified, trained at {eps}")
        bench.keep()


def strength(bench: Bench) -> None:
    """The standard protocol and the suite on the first images, sample by sample."""
    subject, n = bench.subject("fgsm-rs"), min(COMPARED, len(bench.eval))
    pixels = torch.stack([as_pixels(bench.eval, place) for place in range(n)])
    labels = torch.from_numpy(bench.eval.labels[bench.eval.order[:n]]).long()
    (ours,), seconds = timed(lambda: suite(subject, pixels, labels, [EPS]))
    bench.figures |= {
        "strength: images": n,
        f"strength: robust accuracy at {EPS}, suite": round(float(ours.float().mean()), 4),
        "strength: seconds, suite": seconds,
    }
    bench.keep()
    on_device, radius = (pixels.to(bench.device), labels.to(bench.device)), parse_eps(EPS, "linf")
    attacks = standard(subject.model, radius)
    theirs, longer = timed(lambda: peer(subject, *on_device, radius, attacks).cpu())
    bench.figures |= {
        f"strength: robust accuracy at {EPS}, standard protocol": round(float(theirs.float().mean()), 4),
        "strength: broken only by the suite": int((theirs & ~ours).sum()),
        "strength: broken only by the standard protocol": int((ours & ~theirs).sum()),
        "strength: time of the standard protocol over the suite's": round(longer / seconds, 2),
    }


def as_pixels(split: DataSplit, place: int) -> Tensor:
    """One image (c, h, w) in [0, 1]."""
    found = torch.from_numpy(split.source.pixels(int(split.order[place])))
    return found.float() / 255 if found.dtype == torch.uint8 else found.float()


def distilling(bench: Bench) -> None:
    """With the data that the probe's reference models are trained on."""
    config = DistillationProbeConfig()
    if bench.quick:
        config = DistillationProbeConfig(steps=5, cw_steps=10, queries=50, epochs=2, train_samples=200)
    data: dict[Role, DataSplit] = {"eval": bench.eval, "train": bench.train}
    bench.probe(distillation, config, bench.subject("labels"), data)


def checking(bench: Bench) -> None:
    """Seeds that nothing was chosen on; subjects side by side, as each waits for one small kernel after another."""
    seeds = range(selfchecks.NEXT_SEED, selfchecks.NEXT_SEED + (1 if bench.quick else bench.seeds))
    samples, start = 24 if bench.quick else 64, time.perf_counter()
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with ProcessPoolExecutor(max(1, available_cores() - 1), mp_context=get_context("spawn")) as pool:
        for seed in seeds:
            for name, run in selfchecks.one_seed(seed, samples, str(bench.device), EPS_OF_DIGITS, pool).items():
                found[name].append(run)
    table = selfchecks.figures_of(found, seeds, samples, time.perf_counter() - start)
    bench.figures |= {f"selfchecks: {name}": value for name, value in table.items()}
    if selfchecks.judged(table):
        raise AssertionError("a masked subject was believed, or too many honest ones were not")


SUITES: dict[str, Callable[[Bench], None]] = {
    "training": training,
    "unlearnable": unlearnable,
    "evasion": attacking,
    "bounds": bounding,
    "proofs": proving,
    "strength": strength,
    "distillation": distilling,
    "selfchecks": checking,
    "numerics": numerics,
}


def main() -> int:
    """Prints and stores the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default=",".join(SUITES))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--train")
    parser.add_argument("--eval")
    parser.add_argument("--samples", type=int, default=10_000, help="images that are attacked")
    parser.add_argument("--train-samples", type=int, help="images that are trained on; all by default")
    parser.add_argument("--recipes", default=",".join(EPOCHS), help="of the suite training")
    parser.add_argument("--seconds", type=float, default=600, help="of each training of the suite proofs")
    parser.add_argument("--seeds", type=int, default=8, help="of the self-checks")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    set_exact_numerics()
    n_train, n_eval = (400, 48) if given.quick else (given.train_samples, given.samples)
    splits = split_of(given.train, "train", n_train), split_of(given.eval, "eval", n_eval)
    bench = Bench(torch.device(given.device), *splits, quick=given.quick, seeds=given.seeds,
                  recipes=tuple(given.recipes.split(",")), seconds=given.seconds)  # fmt: skip
    bench.figures["images"] = [spec.partition(":")[0] if spec else "patterns" for spec in (given.train, given.eval)]
    failed = 0
    for name in (name for name in SUITES if name in given.suite.split(",")):
        try:
            _, bench.figures[f"{name}: seconds in all"] = timed(lambda name=name: SUITES[name](bench))  # type: ignore[misc]
        except Exception as error:  # what else can be measured is
            traceback.print_exc()
            bench.figures[f"{name}: failed"], failed = repr(error), 1
        bench.keep()
    bench.keep(show=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
