"""`audit train`: train a classifier, with or without a defence, into safetensors and a record of how."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit.cli import console, options
from audit.errors import UsageError

if TYPE_CHECKING:
    from audit.loading.models import ModelRequest
    from audit.training.log import Share
    from audit.training.record import TrainingRecord


class Recipe(StrEnum):
    """What is trained on."""

    STANDARD = "standard"
    ADVERSARIAL = "adversarial"
    DISTILL = "distill"


def train(
    recipe: Annotated[
        Recipe,
        typer.Argument(
            help="On labels, on worst-case images (PGD or FGSM), or on a teacher's answers.", metavar="KIND"
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model", metavar="SPEC", help="timm:NAME?num_classes=10, torchvision:NAME or py:FILE.py:FACTORY."
        ),
    ],
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            metavar="ROLE=SPEC",
            help="train=SPEC, of which a part is held out to choose the epoch; and eval=SPEC where you have it, on "
            "which the result is tested once.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE.safetensors", help="What to write; its record lies beside it.")
    ],
    begin_with: Annotated[
        Path | None, typer.Option("--from", metavar="WEIGHTS", help="Weights to begin with; else initial ones by seed.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", metavar="N", help="At most; 30 by default.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", metavar="N", help="128 by default.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", metavar="X", help="Highest; 2e-3 with adamw, 0.1 with sgd.")
    ] = None,
    eps: Annotated[
        str | None, typer.Option("--eps", metavar="R", help="adversarial: radius, such as 8/255 (the default) or 0.3.")
    ] = None,
    norm: Annotated[
        str | None, typer.Option("--norm", metavar="NORM", help="adversarial: linf (the default), l2 or l1.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--recipe", metavar="HOW", help="adversarial: pgd (the default), or fgsm-rs, several times faster."
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", metavar="T", help="distill: of teacher and student; 100 by default."),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            "--teacher", metavar="WEIGHTS", help="distill: a trained one; else one of the same form is trained."
        ),
    ] = None,
    teacher_model: Annotated[
        str | None,
        typer.Option(
            "--teacher-model", metavar="SPEC", help="distill: the teacher's architecture where it is another."
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any further setting, such as augmentation=flip-crop."),
    ] = None,
    preprocess: options.Preprocess = "auto",
    samples: Annotated[
        int | None, typer.Option("--samples", metavar="N", min=1, help="At most N images, a seeded random choice.")
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, help="CPU threads; by default the cores there are.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="TIME", help="Such as 2h: no epoch is begun after it.")
    ] = None,
    weights_key: options.WeightsKey = None,
    strip_prefix: options.StripPrefix = None,
    allow_code: Annotated[bool, typer.Option("--allow-code", help="Let py: run its code; the record says so.")] = False,
    allow_pickle: options.AllowPickle = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what an interrupted training left.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing weights.")] = False,
) -> None:
    """Train a classifier into safetensors, and a record of how.

    The same command goes on where it was interrupted, and ends with the same weights. KIND is standard, adversarial
    (Madry et al. 2018; Wong, Rice & Kolter 2020) or distill (defensive distillation, Papernot et al. 2016).
    """
    from audit.cli.progress import make_reporter
    from audit.engine.budget import Budget, parse_duration
    from audit.engine.training import TrainRequest, carry_out
    from audit.loading.models import ModelRequest

    given = {
        "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "eps": eps, "norm": norm,
        "recipe": method, "temperature": temperature,
    }  # fmt: skip
    if teacher_model is not None and teacher is None:
        raise UsageError("Expected --teacher WEIGHTS with --teacher-model, got none. Name the teacher's weights.")
    taught_by = ModelRequest(
        teacher_model or model, teacher, preprocess=preprocess, allow_code=allow_code, allow_pickle=allow_pickle
    )
    request = TrainRequest(
        kind=recipe.value,
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
        fresh=fresh,
        force=force,
        argv=tuple(sys.argv[1:]),
    )
    seconds = parse_duration(budget) if budget else None
    try:
        record = carry_out(request, Budget.of(seconds), make_reporter())
    except KeyboardInterrupt:
        again = shlex.join(word for word in request.argv if word not in ("--fresh", "--force"))
        console.say(f"\nStopped; the epochs that ended are kept. Go on with:\n  audit {again}")
        raise typer.Exit(130) from None
    console.show(told(record, request.out, request.record_file, request.model))


def told(record: TrainingRecord, out: Path, record_file: Path, model: ModelRequest) -> str:
    """What came out, in words."""
    log = record.trainings[-1]
    kept = log.epochs[log.kept_epoch - 1]
    robust = "" if kept.robust_accuracy is None else f", {kept.robust_accuracy:.1%} under a quick attack"
    rows = [
        ("trained", f"{record.subject.spec}, {log.name}: {len(log.epochs)} of {log.config['epochs']} epochs "
                    f"({log.ending.replace('_', ' ')}), on {log.n_train} images"),
        ("kept", f"epoch {log.kept_epoch}, by {log.n_held_out} held-out images: {share_text(log.held_out)}{robust}"),
    ]  # fmt: skip
    if record.test is not None:
        rows.append(("tested", f"{share_text(record.test.accuracy)} of {record.test.data.spec}"))
    rows += [
        ("written", f"{out}, {record.weights.bytes:,} bytes, sha256 {record.weights.sha256}"),
        ("record", str(record_file)),
        ("next", _next_command(out, model)),
    ]
    return console.columns(rows)


def share_text(share: Share) -> str:
    """Such as `91.7% (110 of 120, 85.2% to 95.9%)`."""
    interval = share.interval
    return f"{share.value:.1%} ({share.right} of {share.n}, {interval.low:.1%} to {interval.high:.1%})"


def _next_command(out: Path, model: ModelRequest) -> str:
    words = ["audit", "run", "--model", model.spec, "--weights", str(out)]
    words += ["--preprocess", model.preprocess] if model.preprocess != "auto" else []
    words += ["--allow-code"] if model.allow_code else []
    return f"{shlex.join(words)} --data SPEC"
