"""Runs the command line within the test process."""

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
FIXTURE = ROOT / "fixtures/digits.safetensors"
MODEL = "timm:test_efficientnet?num_classes=10&in_chans=1"
PREPROCESS = "mean=0.5/std=0.5/size=32"
DIGITS = "sklearn:digits?split=test"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def audit(monkeypatch, capsys, *words):
    """The command's exit code and what it said."""
    from audit.cli import main

    monkeypatch.setattr(sys, "argv", ["audit", *map(str, words)])
    capsys.readouterr()
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    said = capsys.readouterr()
    return Ended(code or 0, said.out, said.err)


def digits_run(folder, *more, weights=FIXTURE, data=DIGITS, model=MODEL):
    """Arguments of a quick audit of the digits fixture: accuracy alone, on few images."""
    words = ["run", "--model", model, "--weights", weights, "--preprocess", PREPROCESS, "--data", data]
    return [*words, "--probe", "accuracy", "--samples", "60", "--threads", "1", "--out", folder, *more]
