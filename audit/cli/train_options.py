"""Options of `audit train`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Kind(StrEnum):
    """What is trained on."""

    STANDARD = "standard"
    ADVERSARIAL = "adversarial"
    CERTIFIED = "certified"
    DISTILL = "distill"
    POISONED = "poisoned"


Recipe = Annotated[
    Kind,
    typer.Argument(
        help="On labels, on worst-case images (PGD or FGSM), on bounds (IBP and others), on a teacher's answers, or on "
        "data that are poisoned first.",
        metavar="KIND",
    ),
]
Model = Annotated[
    str,
    typer.Option("--model", metavar="SPEC", help="timm:NAME?num_classes=10, torchvision:NAME or py:FILE.py:FACTORY."),
]
DataSpecs = Annotated[
    list[str],
    typer.Option(
        "--data",
        metavar="ROLE=SPEC",
        help="train=SPEC, of which a part is held out to choose the epoch; and eval=SPEC where you have it, on which "
        "the result is tested once.",
    ),
]
Out = Annotated[
    Path, typer.Option("--out", metavar="FILE.safetensors", help="What to write; its record lies beside it.")
]
From = Annotated[
    Path | None, typer.Option("--from", metavar="WEIGHTS", help="Weights to begin with; else initial ones by seed.")
]
Epochs = Annotated[int | None, typer.Option("--epochs", metavar="N", help="At most; 30 by default.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", metavar="N", help="128 by default.")]
LearningRate = Annotated[
    float | None, typer.Option("--learning-rate", metavar="X", help="Highest; 2e-3 with adamw, 0.1 with sgd.")
]
Eps = Annotated[
    str | None,
    typer.Option("--eps", metavar="R", help="adversarial, certified: radius, such as 8/255 (the default) or 0.3."),
]
NormName = Annotated[
    str | None, typer.Option("--norm", metavar="NORM", help="adversarial: linf (the default), l2 or l1.")
]
Method = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="HOW",
        help="adversarial: pgd (the default), or fgsm-rs, several times faster; certified: ibp (the default), "
        "crown-ibp, mtl-ibp or sabr.",
    ),
]
Temperature = Annotated[
    float | None, typer.Option("--temperature", metavar="T", help="distill: of teacher and student; 100 by default.")
]
Teacher = Annotated[
    Path | None,
    typer.Option("--teacher", metavar="WEIGHTS", help="distill: a trained one; else one of the same form is trained."),
]
TeacherModel = Annotated[
    str | None,
    typer.Option("--teacher-model", metavar="SPEC", help="distill: the teacher's architecture where it is another."),
]
Poison = Annotated[
    str | None,
    typer.Option(
        "--poison",
        metavar="NAME",
        help="poisoned: cuda, badnets (the default), blended, sig, wanet, flips, class-noise, class-patch, or a sham.",
    ),
]
PoisonedData = Annotated[
    Path | None,
    typer.Option("--poisoned-data", metavar="FILE.npz", help="poisoned: also write the data as they were trained on."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any further setting, such as augmentation=flip-crop."),
]
Samples = Annotated[
    int | None, typer.Option("--samples", metavar="N", min=1, help="At most N images, a seeded random choice.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, help="CPU threads; by default the cores there are.")
]
BudgetText = Annotated[
    str | None, typer.Option("--budget", metavar="TIME", help="Such as 2h: no epoch is begun after it.")
]
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Let py: run its code; the record says so.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget what an interrupted training left.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite existing weights.")]
