"""`audit train`: train a classifier, with or without a defence, into safetensors and a record of how.

Size: a parameter an option.
"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import typer

from audit.cli import console, options
from audit.cli import train_options as on
from audit.errors import UsageError

if TYPE_CHECKING:
    from audit.engine.train_request import TrainRequest
    from audit.training.log import Share, TrainingLog
    from audit.training.record import Poisoning, TrainingRecord


def train(
    kind: on.Recipe,
    model: on.Model,
    data: on.DataSpecs,
    out: on.Out,
    begin_with: on.From = None,
    epochs: on.Epochs = None,
    batch_size: on.BatchSize = None,
    learning_rate: on.LearningRate = None,
    eps: on.Eps = None,
    norm: on.NormName = None,
    recipe: on.Method = None,
    temperature: on.Temperature = None,
    teacher: on.Teacher = None,
    teacher_model: on.TeacherModel = None,
    poison: on.Poison = None,
    poisoned_data: on.PoisonedData = None,
    setting: on.Settings = None,
    preprocess: options.Preprocess = "auto",
    samples: on.Samples = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    threads: on.Threads = None,
    budget: on.BudgetText = None,
    weights_key: options.WeightsKey = None,
    strip_prefix: options.StripPrefix = None,
    allow_code: on.AllowCode = False,
    allow_pickle: options.AllowPickle = False,
    fresh: on.Fresh = False,
    force: on.Force = False,
) -> None:
    """Train a classifier into safetensors, and a record of how.

    The same command goes on where it was interrupted, and ends with the same weights. KIND is standard, adversarial
    (Madry et al. 2018; Wong, Rice & Kolter 2020), certified (on interval bounds, Gowal et al. 2018; Shi et al. 2021),
    distill (defensive distillation, Papernot et al. 2016) or poisoned (a victim, to try detectors on).
    """
    from audit.cli.progress import make_reporter
    from audit.engine.budget import parse_duration
    from audit.engine.train_request import TrainRequest
    from audit.engine.training import carry_out
    from audit.loading.models import ModelRequest

    given = {
        "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "eps": eps, "norm": norm,
        "recipe": recipe, "temperature": temperature, "poison": poison,
    }  # fmt: skip
    if teacher_model is not None and teacher is None:
        raise UsageError("Expected --teacher WEIGHTS with --teacher-model, got none. Name the teacher's weights.")
    taught_by = ModelRequest(
        teacher_model or model, teacher, preprocess=preprocess, allow_code=allow_code, allow_pickle=allow_pickle
    )
    request = TrainRequest(
        kind=kind.value,
        model=ModelRequest(model, begin_with, weights_key, strip_prefix, preprocess, allow_code, allow_pickle),
        data=tuple(data),
        out=out,
        given={key: value for key, value in given.items() if value is not None},
        settings=tuple(setting or ()),
        samples=samples,
        seed=seed,
        device=device,
        threads=threads,
        teacher=taught_by if teacher is not None else None,
        poisoned_data=poisoned_data,
        fresh=fresh,
        force=force,
        argv=tuple(sys.argv[1:]),
    )
    seconds = parse_duration(budget) if budget else None
    try:
        record = carry_out(request, seconds, make_reporter())
    except KeyboardInterrupt:
        again = shlex.join(word for word in request.argv if word != "--fresh")
        console.say(f"\nStopped; the epochs that ended are kept. Go on with:\n  audit {again}")
        raise typer.Exit(130) from None
    console.show(told(record, request))


def told(record: TrainingRecord, request: TrainRequest) -> str:
    """What came out, in words."""
    log = record.trainings[-1]
    kept = log.epochs[log.kept_epoch - 1]
    robust = f"; {_quick(log, kept.robust_accuracy)}" if kept.robust_accuracy is not None else ""
    robust += f"; {_bounded(log, kept.certified_accuracy)}" if kept.certified_accuracy is not None else ""
    rows = [
        ("trained", f"{record.subject.spec}, {log.name}: {len(log.epochs)} of {log.config['epochs']} epochs "
                    f"({log.ending.replace('_', ' ')}), on {log.n_train} images"),
        ("kept", f"epoch {log.kept_epoch}, by {log.n_held_out} held-out images: {share_text(log.held_out)}{robust}"),
    ]  # fmt: skip
    if record.test is not None:
        rows.append(("tested", f"{share_text(record.test.accuracy)} of {record.test.data.spec}"))
    rows += _poisoned_rows(record.poisoning)
    rows += [
        ("written", f"{request.out}, {record.weights.bytes:,} bytes, sha256 {record.weights.sha256}"),
        ("record", str(request.record_file)),
        ("next", _next_command(request)),
    ]
    return console.columns(rows)


def _quick(log: TrainingLog, robust: float) -> str:
    """What the attack by which the epoch was chosen says: little, as `audit run` attacks harder and elsewhere."""
    from audit.training.held_out import ATTACKED, STEPS

    n, config = min(ATTACKED, log.n_held_out), log.config
    within = f"{config['norm']} {config['eps']}"
    return f"at most {robust:.1%} of {n} of them withstand {STEPS} steps of PGD within {within}, which chose the epoch"


def _bounded(log: TrainingLog, certified: float) -> str:
    """What the bounds by which the epoch was chosen say: they are computed in float32, and on few images."""
    from audit.training.held_out import BOUNDED

    n, eps = min(BOUNDED, log.n_held_out), log.config["eps"]
    return f"bounds hold for {certified:.1%} of {n} of them within linf {eps}, which chose the epoch"


def _poisoned_rows(poisoning: Poisoning | None) -> list[tuple[str, str]]:
    if poisoning is None:
        return []
    what = f"{poisoning.poison}: {poisoning.poisoned} of {poisoning.n} images"
    what += f", and {poisoning.covers} that hide it" if poisoning.covers else ""
    what += f", to class {poisoning.target}" if poisoning.target is not None else ""
    rows = [("poisoned", what)]
    if poisoning.success is not None:
        rows.append(
            ("trigger", f"leads to class {poisoning.target} with {share_text(poisoning.success)} of other images")
        )
    return rows


def share_text(share: Share) -> str:
    """Such as `91.7% (110 of 120, 85.2% to 95.9%)`."""
    interval = share.interval
    return f"{share.value:.1%} ({share.right} of {share.n}, {interval.low:.1%} to {interval.high:.1%})"


def _next_command(request: TrainRequest) -> str:
    model = request.model
    words = ["audit", "run", "--model", model.spec, "--weights", str(request.out)]
    words += ["--preprocess", model.preprocess] if model.preprocess != "auto" else []
    words += ["--allow-code"] if model.allow_code else []
    words += ["--data", f"train=npz:{request.poisoned_data}"] if request.poisoned_data is not None else []
    return f"{shlex.join(words)} --data SPEC"
