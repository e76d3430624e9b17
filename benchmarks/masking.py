"""Does the distillation probe tell masked models from honest ones? Twenty seeds of known truth.

    python benchmarks/masking.py [--first SEED] [--seeds N] [--threads N]

For every seed, subjects of `fixtures/masked.py`, trained or wrapped for that seed, are examined by the probe under its
default settings. Those with a saturated softmax (distilled at temperature 100, logits times 1,000) should be DETECTED;
those whose gradient says nothing (flat, wrong, quantised, a gate, noise) at least SUSPICIOUS; honest ones (ordinary,
adversarially trained, in 8-bit arithmetic, with a softmax or a log-softmax, logits less 50) NOT DETECTED. A quantised
input with a straight-through gradient is neither: attacks reach the truth, by a gradient that is not the model's. The
exit code is 1 where one is missed, or more than one in fifty honest ones are accused.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import torch
from measuring import save
from selfchecks import as_subject, held_out_digits, subjects

from audit.api import DataSplit
from audit.testing import run_probe
from probes.distillation import distillation

SATURATED = ("distilled", "logits-times-1000")
USELESS = ("flat-gradient", "wrong-gradient", "quantised-input", "gate", "adversarial-gate", "noise-layer")
NEITHER = ("straight-through",)
NO_GRADIENT = ("detached-preprocessing",)
FALSE_ALARMS = 0.02


def verdict(name: str, model: torch.nn.Module, split: DataSplit, seed: int) -> str:
    """What the probe says of a subject."""
    subject = dataclasses.replace(as_subject(model, name), digest=f"{name}/{seed}")
    with tempfile.TemporaryDirectory() as folder:
        result = run_probe(distillation, Path(folder) / "run", subject, {"eval": split}, seed=seed)
    if result.reason is not None:
        return f"{result.status.value}: {result.reason.code}"
    said = next(found.text for found in result.diagnostics if found.code == "masking")
    return said.removeprefix("Masking ").split(":")[0]


def expected(name: str) -> tuple[str, ...]:
    """What it should say."""
    if name in SATURATED:
        return ("DETECTED",)
    if name in NO_GRADIENT:
        return ("inconclusive: no_gradients",)
    if name in NEITHER:
        return ("DETECTED", "SUSPICIOUS", "NOT DETECTED")
    return ("DETECTED", "SUSPICIOUS") if name in USELESS else ("NOT DETECTED",)


def report(found: dict[str, list[str]], seeds: range, seconds: float) -> int:
    """Prints and stores the table of the seeds so far; 1 where it is not as it should be."""
    figures: dict[str, Any] = {"seeds": len(seeds), "first seed": seeds[0], "seconds": round(seconds)}
    missed, accused, honest = [], 0, 0
    for name, verdicts in found.items():
        figures[name] = dict(Counter(verdicts))
        wrong = [said for said in verdicts if said not in expected(name)]
        if expected(name) == ("NOT DETECTED",):
            accused, honest = accused + len(wrong), honest + len(verdicts)
        elif wrong:
            missed.append(f"{name} {len(wrong)}")
    figures["honest ones accused"] = f"{accused} of {honest}"
    figures["masked ones missed"] = ", ".join(missed) or "none"
    save("masking", figures)
    return int(bool(missed) or accused > FALSE_ALARMS * honest)


def main() -> int:
    """Prints and stores the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=10, help="0 and 5 were looked at while it was made")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    split = held_out_digits()
    found: dict[str, list[str]] = defaultdict(list)
    start, failed = time.perf_counter(), 0
    for seed in range(given.first, given.first + given.seeds):
        for name, model in subjects(seed).items():
            found[name].append(verdict(name, model, split, seed))
            print(f"{seed:>3} {name:<24} {found[name][-1]}", flush=True)
        failed = report(found, range(given.first, seed + 1), time.perf_counter() - start)
    return failed


if __name__ == "__main__":
    sys.exit(main())
