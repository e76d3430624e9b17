"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="SPEC",
        help="timm:NAME?num_classes=10, torchvision:NAME, hf:DIR, onnx:FILE, script:FILE, export:FILE, "
        "py:FILE.py:FACTORY, or a path, sniffed by content.",
    ),
]
Weights = Annotated[
    Path | None, typer.Option("--weights", metavar="FILE", help="Weights: safetensors, or .pt/.pth/.th read as data.")
]
WeightsKey = Annotated[
    str | None, typer.Option("--weights-key", metavar="K", help="Where in the file the weights lie, such as model_ema.")
]
StripPrefix = Annotated[
    str | None, typer.Option("--strip-prefix", metavar="P", help="Prefix to take off the keys, such as module.")
]
Preprocess = Annotated[
    str,
    typer.Option(
        "--preprocess",
        metavar="HOW",
        help="auto, none, imagenet, cifar, or mean=a,b,c/std=d,e,f[/size=N][/crop=N][/interpolation=bicubic].",
    ),
]
DataSpecs = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="[ROLE=]SPEC",
        help="imagefolder:DIR, parquet:FILE, npz:FILE, csv:FILE, wds:SHARDS, cifar10:DIR, cifar100:DIR, "
        "tinyimagenet:DIR, mnist:DIR, fashion-mnist:DIR or sklearn:digits; may be repeated, once a role: eval (the "
        "default) to measure on, train (what the model was trained on), clean (trusted images).",
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Root of all randomness.")]
Device = Annotated[str, typer.Option("--device", metavar="D", help="auto, cpu or cuda:0.")]
AllowCode = Annotated[
    bool,
    typer.Option("--allow-code", help="Let py:, script: and export: run their code; the report's header says so."),
]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Read weights out of pickles that hold more than tensors, apart and with placeholders; also shown.",
    ),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as `audit run` leaves it.")]
PolicyFile = Annotated[Path | None, typer.Option("--policy", metavar="FILE", help="Policy (TOML); see `audit init`.")]
