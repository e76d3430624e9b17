"""Do the evasion self-checks tell honest evaluations from blind ones? Twenty seeds of known truth.

    python benchmarks/selfchecks.py [--first SEED] [--seeds N] [--samples N] [--add]

For every seed, subjects of `fixtures/masked.py` (trained or wrapped for that seed) are audited by the evasion probe
with its default strength at Linf 0.05, 0.1 and 0.2. The honest ones (ordinary, adversarially trained, both with 8-bit
arithmetic, a softmax after long training) should come out RELIABLE; each masked one should be called
SUSPECT or BROKEN-EVALUATION, be refused, or be attacked down to the truth, where the truth is the robust accuracy of
the network behind it. The table counts the outcomes, the checks that failed, and how far robust accuracy stayed above
the truth; with `--add` the seeds are added to those stored, whose commit stays beside them. The exit code is 1 where a
masked model came out RELIABLE above the truth, or more than one in fifty honest ones did not.
"""

import argparse
import json
import sys
import time
import zlib
from collections import Counter, defaultdict
from concurrent.futures import Executor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from measuring import RESULTS, machine, save
from torch import nn

from audit.api import DataSplit, Inconclusive, Measurement, PositiveControl, Subject
from audit.engine.prepare import set_exact_numerics
from audit.loading.preprocess import Normalisation
from audit.loading.wrapper import Normalised
from probes.evasion import EvasionConfig, evasion

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))
import masked

RADII = "0.05,0.1,0.2"
HONEST = ("ordinary", "adversarial", "int8", "adversarial-int8", "softmax-long")
FALSE_ALARMS = 0.02
ALARMS, WRONG = "honest ones not RELIABLE", "masked ones RELIABLE above the truth"
ABOVE_TRUTH = "most above the truth"
NEXT_SEED = 26
"""The first that no stored run has used."""
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


def as_subject(model: nn.Module, name: str, device: str = "cpu") -> Subject:
    """As the tool loads it: probabilities are brought to logits."""
    output: Any = (
        "probabilities" if name.startswith("softmax") else "log-probabilities" if name == "log-softmax" else "logits"
    )
    wrapped = Normalised(model, Normalisation((0.0,), (1.0,)), output).eval().requires_grad_(False)
    place = torch.device(device)
    return Subject(wrapped.to(place), name, 10, (), (1, 8, 8), place, "0" * 64, output=output)


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

    def diagnose(self, code: str, text: str, severity: str = "warning", *, conclusion: bool = False) -> None:
        """See `audit.api.RunContext`."""
        self.said[code] = text

    def evidence(self, name: str, content: bytes, kind: str, text: str = "") -> Any:
        """See `audit.api.RunContext`."""
        return SimpleNamespace(path=name)


def audit(
    subject: Subject, split: DataSplit, seed: int, samples: int, *, norm: str = "linf", eps: str = RADII
) -> dict[str, Any]:
    """Verdict, failed checks and robust accuracy by radius."""
    context: Any = Context(seed)
    config = EvasionConfig.model_validate({"norms": norm, f"eps_{norm}": eps, "samples": samples, "chunk": samples})
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


def one_seed(
    seed: int, samples: int, device: str = "cpu", eps: str = RADII, pool: Executor | None = None
) -> dict[str, dict[str, Any]]:
    """What came of every subject of a seed; with a pool, of several at once."""
    torch.set_num_threads(1)
    made = subjects(seed)
    asked = ([seed] * len(made), made, made.values(), [samples] * len(made), [device] * len(made), [eps] * len(made))
    return dict(zip(made, (pool.map if pool else map)(_one, *asked), strict=True))


def _one(seed: int, name: str, model: nn.Module, samples: int, device: str, eps: str) -> dict[str, Any]:
    """What came of a subject, in a process of one thread."""
    torch.set_num_threads(1)
    set_exact_numerics()
    found = audit(as_subject(model, name, device), held_out_digits(), seed, samples, eps=eps)
    print(f"{seed:>3} {name:<24} {found}", flush=True)
    return found


def main() -> int:
    """Prints and stores the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=3, help="the first seed; 0 to 2 were looked at while it was made")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--add", action="store_true", help="to the seeds stored")
    given = parser.parse_args()
    stored = json.loads((RESULTS / "selfchecks.json").read_text())["figures"] if given.add else None
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    start, failed = time.perf_counter(), 0
    for seed in range(given.first, given.first + given.seeds):
        for name, run in one_seed(seed, given.samples).items():
            found[name].append(run)
        new = figures_of(found, range(given.first, seed + 1), given.samples, time.perf_counter() - start)
        figures = added(stored, new) if stored else new
        save("selfchecks", figures)
        failed = judged(figures)
    return failed


def figures_of(found: dict[str, list[dict[str, Any]]], seeds: range, samples: int, seconds: float) -> dict[str, Any]:
    """The table of some seeds: by subject, and how many were judged wrongly."""
    part = {"first seed": seeds[0], "seeds": len(seeds), "samples": samples, "commit": machine()["commit"]}
    figures: dict[str, Any] = {"seeds": len(seeds), "parts": [part], "seconds": round(seconds)}
    wrong: list[str] = []
    for name, runs in found.items():
        figures[name] = {
            "outcomes": dict(Counter(run["verdict"] for run in runs)),
            "failed checks": dict(Counter(check for run in runs for check in run["failed"])),
        }
        truth = {**dict.fromkeys(masked.SAME_DECISIONS, "ordinary"), "adversarial-gate": "adversarial"}.get(name)
        above = [_above(run, base) for run, base in zip(runs, found[truth or name], strict=True)]
        if truth:
            figures[name][ABOVE_TRUTH] = round(max(above), 4)
        believed = [run["verdict"] == "RELIABLE" and (truth is None or above[place] > ABOVE)
                    for place, run in enumerate(runs)]  # fmt: skip
        wrong += [f"{name} {seed}" for seed, bad in zip(seeds, believed, strict=True) if bad and name not in HONEST]
    return figures | _summary(figures, wrong)


def added(stored: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Both tables as one."""
    figures: dict[str, Any] = {name: stored[name] + new[name] for name in ("seeds", "parts", "seconds")}
    for name in (name for name in new if isinstance(new[name], dict)):
        figures[name] = {
            what: dict(Counter(stored[name][what]) + Counter(new[name][what])) for what in ("outcomes", "failed checks")
        }
        if ABOVE_TRUTH in new[name]:
            figures[name][ABOVE_TRUTH] = max(stored[name][ABOVE_TRUTH], new[name][ABOVE_TRUTH])
    wrong = [text for table in (stored, new) for text in table[WRONG].split(", ") if text != "none"]
    return figures | _summary(figures, wrong)


def _summary(figures: dict[str, Any], wrong: list[str]) -> dict[str, Any]:
    outcomes = sum((Counter(figures[name]["outcomes"]) for name in HONEST), Counter())
    alarms = outcomes.total() - outcomes["RELIABLE"]
    return {ALARMS: f"{alarms} of {outcomes.total()}", WRONG: ", ".join(wrong) or "none"}


def judged(figures: dict[str, Any]) -> int:
    """1 where a masked model was believed, or too many honest ones were not."""
    alarms, n = map(int, figures[ALARMS].split(" of "))
    return int(figures[WRONG] != "none" or alarms > FALSE_ALARMS * n)


def _above(run: dict[str, Any], base: dict[str, Any]) -> float:
    """How far robust accuracy lies above that of another run, at the radius where it is farthest."""
    return max((run["robust"][eps] - base["robust"][eps] for eps in run["robust"]), default=0.0)


if __name__ == "__main__":
    sys.exit(main())
