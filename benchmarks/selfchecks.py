"""Do the evasion self-checks tell honest evaluations from blind ones? Twenty seeds of known truth.

    python benchmarks/selfchecks.py [--first SEED] [--seeds N] [--samples N] [--threads N]

For every seed, subjects of `fixtures/masked.py` (trained or wrapped for that seed) are audited by the evasion probe
with its default strength at Linf 0.05, 0.1 and 0.2. The honest ones (ordinary, adversarially trained, both with 8-bit
arithmetic, a softmax after long training) should come out RELIABLE; each masked one should be called
SUSPECT or BROKEN-EVALUATION, be refused, or be attacked down to the truth, where the truth is the robust accuracy of
the network behind it. The table counts the outcomes, the checks that failed, and how far robust accuracy stayed above
the truth. The exit code is 1 where a masked model came out RELIABLE above the truth, or more than one in fifty honest
ones did not.
"""

import argparse
import sys
import time
import zlib
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from measuring import save
from torch import nn

from audit.api import DataSplit, Inconclusive, Measurement, PositiveControl, Subject
from audit.loading.preprocess import Normalisation
from audit.loading.wrapper import Normalised
from probes.evasion import EvasionConfig, evasion

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))
import masked

RADII = "0.05,0.1,0.2"
HONEST = ("ordinary", "adversarial", "int8", "adversarial-int8", "softmax-long")
FALSE_ALARMS = 0.02
ABOVE = 0.02
"""Robust accuracy this much above the truth is not "attacked down to it": 2 of 96 samples."""


def subjects(seed: int) -> dict[str, nn.Module]:
    """All of a seed."""
    base, robust = masked.ordinary(seed), masked.adversarial(seed)
    found = {"ordinary": base, "adversarial": robust, "distilled": masked.distilled(seed)}
    found |= masked.honest_versions(base) | {"adversarial-int8": masked.Int8(robust)}
    found["softmax-long"] = nn.Sequential(masked.ordinary(seed, epochs=60), nn.Softmax(dim=1))
    found["adversarial-gate"] = masked.Gate(robust, seed)
    return found | masked.masked_versions(base, seed)


def as_subject(model: nn.Module, name: str) -> Subject:
    """As the tool loads it: probabilities are brought to logits."""
    output: Any = (
        "probabilities" if name.startswith("softmax") else "log-probabilities" if name == "log-softmax" else "logits"
    )
    wrapped = Normalised(model, Normalisation((0.0,), (1.0,)), output).eval().requires_grad_(False)
    return Subject(wrapped, name, 10, (), (1, 8, 8), torch.device("cpu"), "0" * 64, output=output)


def held_out_digits() -> DataSplit:
    """Those that no network of `fixtures/masked.py` is trained on."""
    pixels, labels = masked.digits()
    source: Any = SimpleNamespace(pixels=lambda index: pixels[masked.TRAINING + index].numpy())
    ids = [f"{place:064x}" for place in range(len(labels) - masked.TRAINING)]
    return DataSplit(source, labels[masked.TRAINING :].numpy(), ids, np.arange(len(ids)), "eval", "0" * 64)


class Context:
    """Runs units at once; random numbers by seed and purpose."""

    def __init__(self, seed: int) -> None:
        self.seed, self.said, self.unit = seed, {}, ""

    def torch_generator(self, purpose: str) -> torch.Generator:
        """See `audit.api.RunContext`."""
        return torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{self.unit}/{purpose}".encode()))

    def map(self, function: Any, units: Any) -> list[Any]:
        """See `audit.api.RunContext`."""
        done = []
        for unit in units:
            self.unit = unit.name
            done.append(function(unit, self))
        return done

    def diagnose(self, code: str, text: str, severity: str = "warning") -> None:
        """See `audit.api.RunContext`."""
        self.said[code] = text

    def evidence(self, name: str, content: bytes, kind: str, text: str = "") -> Any:
        """See `audit.api.RunContext`."""
        return SimpleNamespace(path=name)


def audit(subject: Subject, split: DataSplit, seed: int, samples: int) -> dict[str, Any]:
    """Verdict, failed checks and robust accuracy by radius."""
    context: Any = Context(seed)
    config = EvasionConfig(norms="linf", eps_linf=RADII, samples=samples, chunk=samples)  # type: ignore[arg-type]
    try:
        facts = list(evasion.run(subject, {"eval": split}, config, context))
    except Inconclusive as refused:
        return {"verdict": f"refused: {refused.code}", "failed": [], "robust": {}}
    return {
        "verdict": context.said["evaluation"].split(":")[0].removeprefix("Evaluation "),
        "failed": [fact.name for fact in facts if isinstance(fact, PositiveControl) and not fact.passed],
        "robust": {
            fact.where["eps"]: fact.value
            for fact in facts
            if isinstance(fact, Measurement) and fact.metric == "evasion.robust_accuracy"
        },
    }


def main() -> int:
    """Prints and stores the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=3, help="the first seed; 0 to 2 were looked at while it was made")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    split = held_out_digits()
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    start, failed = time.perf_counter(), 0
    for seed in range(given.first, given.first + given.seeds):
        for name, model in subjects(seed).items():
            found[name].append(audit(as_subject(model, name), split, seed, given.samples))
            print(f"{seed:>3} {name:<24} {found[name][-1]}", flush=True)
        failed = report(found, range(given.first, seed + 1), time.perf_counter() - start)
    return failed


def report(found: dict[str, list[dict[str, Any]]], seeds: range, seconds: float) -> int:
    """Prints and stores the table of the seeds so far; 1 where it is not as it should be."""
    figures: dict[str, Any] = {"seeds": len(seeds), "first seed": seeds[0], "seconds": round(seconds)}
    wrong: list[str] = []
    for name, runs in found.items():
        figures[name] = {
            "outcomes": dict(Counter(run["verdict"] for run in runs)),
            "failed checks": dict(Counter(check for run in runs for check in run["failed"])),
        }
        truth = {**dict.fromkeys(masked.SAME_DECISIONS, "ordinary"), "adversarial-gate": "adversarial"}.get(name)
        above = [_above(run, base) for run, base in zip(runs, found[truth or name], strict=True)]
        if truth:
            figures[name]["most above the truth"] = round(max(above), 4)
        believed = [run["verdict"] == "RELIABLE" and (truth is None or above[place] > ABOVE)
                    for place, run in enumerate(runs)]  # fmt: skip
        wrong += [f"{name} {seed}" for seed, bad in zip(seeds, believed, strict=True) if bad and name not in HONEST]
    honest = [run["verdict"] for name in HONEST for run in found[name]]
    alarms = sum(verdict != "RELIABLE" for verdict in honest)
    figures["honest ones not RELIABLE"] = f"{alarms} of {len(honest)}"
    figures["masked ones RELIABLE above the truth"] = ", ".join(wrong) or "none"
    save("selfchecks", figures)
    return int(bool(wrong) or alarms > FALSE_ALARMS * len(honest))


def _above(run: dict[str, Any], base: dict[str, Any]) -> float:
    """How far robust accuracy lies above that of another run, at the radius where it is farthest."""
    return max((run["robust"][eps] - base["robust"][eps] for eps in run["robust"]), default=0.0)


if __name__ == "__main__":
    sys.exit(main())
