"""Whole commands, as a user starts them: the demo's seconds, `--help` against typer, and memory against data size.

    python benchmarks/whole_commands.py [--rounds 3] [--data parquet:FILE]

- `audit demo` into a fresh folder: seconds from start to end.
- `audit --help` against `python -c "import typer"`: ratio of medians of alternating runs.
- Peak memory of auditing 10,000 images less that of auditing 1,000 of them: generated CIFAR-size JPEGs in
  parquet unless --data names others.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import ROOT, save
from prediction_pass import make_images

AUDIT = [str(Path(sys.executable).with_name("audit"))]
MODEL = ["--model", "timm:test_efficientnet?num_classes=10", "--preprocess", "none/size=32"]
PROBES = ["--probe", "accuracy", "--probe", "calibration", "--probe", "evasion", "--set", "evasion.samples=64"]


def spent(command: list[str]) -> tuple[float, float]:
    """Seconds and peak resident MB of a command; its exit code must be 0."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return time.perf_counter() - start, usage.ru_maxrss / unit


def demo(rounds: int, folder: Path) -> dict[str, object]:
    """Seconds of the whole demo."""
    seconds = [spent([*AUDIT, "demo", "--out", str(folder / f"demo-{place}")])[0] for place in range(rounds)]
    return {
        "audit demo, seconds, median": round(statistics.median(seconds), 1),
        "audit demo, seconds, most": round(max(seconds), 1),
    }


def help_against_typer(rounds: int) -> dict[str, object]:
    """How much dearer --help is than typer itself."""
    pairs = [
        (spent([*AUDIT, "--help"])[0], spent([sys.executable, "-c", "import typer"])[0]) for _ in range(3 * rounds)
    ]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "audit --help, seconds": round(ours, 3),
        "import typer, seconds": round(theirs, 3),
        "ratio": round(ours / theirs, 2),
    }


def memory(folder: Path, data: str | None) -> dict[str, object]:
    """Peak memory at 1,000 and at 10,000 images."""
    if data is None:
        make_images(folder / "images.parquet", 10_000)
        data = f"parquet:{folder / 'images.parquet'}"
    peaks = {}
    for samples in (1_000, 10_000):
        words = [
            *AUDIT,
            "run",
            *MODEL,
            "--data",
            data,
            "--samples",
            str(samples),
            *PROBES,
            "--out",
            str(folder / str(samples)),
        ]
        peaks[samples] = spent(words)[1]
    return {
        "peak MB, 1,000 images": round(peaks[1_000]),
        "peak MB, 10,000 images": round(peaks[10_000]),
        "difference in MB": round(peaks[10_000] - peaks[1_000]),
    }


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", help="spec of at least 10,000 CIFAR-size images")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = {**demo(given.rounds, folder), **help_against_typer(given.rounds), **memory(folder, given.data)}
    save("whole_commands", {"rounds": given.rounds, **figures})


if __name__ == "__main__":
    main()
