"""How far certified training comes: the curve of each recipe, and what an audit proves of the result.

    python benchmarks/certified_training.py --train SPEC --eval SPEC [--network small|cnn7] [--eps 0.1] [--epochs 10]
        [--recipes ibp,crown-ibp,sabr,mtl-ibp,standard] [--device cpu] [--samples 500] [--set KEY=VALUE ...]

Each recipe is trained by `audit train` and audited by `audit run --probe certified` (intervals and CROWN-IBP, float64),
as a user would. `small` has two convolutions and two layers; `cnn7` is that of Shi et al. 2021. Results of one data
set, network and radius lie under a name of their own, so that runs on different machines stand side by side.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import RESULTS, machine

NETWORKS = Path(__file__).with_name("networks.py")


def called(words: list[str]) -> float:
    """Runs `audit`; how many seconds that took."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-m", "audit", *words], check=True)
    return time.perf_counter() - start


def measured(recipe: str, model: list[str], folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One recipe: its curve, and what is proven of the epoch that was kept."""
    out, run = folder / f"{recipe}.safetensors", folder / recipe
    device = ["--device", given.device, "--threads", str(given.threads)]
    kind = ["standard"] if recipe == "standard" else ["certified", "--recipe", recipe, "--eps", given.eps]
    settings = [] if recipe == "standard" else [word for text in given.set for word in ("--set", text)]
    words = ["train", *kind, *model, "--data", f"train={given.train}", "--data", f"eval={given.eval}", *settings]
    words += ["--epochs", str(given.epochs), "--batch-size", str(given.batch_size), "--out", str(out), *device]
    seconds = called(words)
    audit = ["run", *model, "--weights", str(out), "--data", given.eval, "--probe", "certified", "--out", str(run)]
    audit += ["--set", "certified.method=crown-ibp", "--set", f"certified.samples={given.samples}", *device]
    audit += ["--set", f"certified.eps_linf={given.eps}"]
    audited = called(audit)
    (log,) = json.loads(out.with_suffix(".training.json").read_text())["trainings"]
    (result,) = json.loads((run / "results.json").read_text())["results"]
    found = {fact["metric"].partition(".")[2]: fact for fact in result["measurements"]}
    keys = ("epoch", "train_loss", "held_out_accuracy", "certified_accuracy")
    return {
        "recipe": recipe,
        "settings": given.set if recipe != "standard" else [],
        "epochs": given.epochs,
        "batch_size": given.batch_size,
        "curve": [{key: epoch[key] for key in keys} for epoch in log["epochs"]],
        "kept_epoch": log["kept_epoch"],
        "trained_on": log["n_train"],
        "proven": {
            name: {key: found[name][key] for key in ("value", "n", "interval")}
            for name in ("certified_accuracy", "attacked_accuracy")
        },
        "seconds": {"training": round(seconds, 1), "audit": round(audited, 1)},
    }


def main() -> None:
    """Trains and audits by every recipe that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--eval", required=True)
    parser.add_argument("--name", required=True, help="of the data, for the results, such as mnist")
    parser.add_argument("--network", choices=("small", "cnn7"), default="small")
    parser.add_argument("--shape", default="1,28", help="channels and side of the images")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--eps", default="0.1")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--recipes", default="standard,ibp,crown-ibp,sabr,mtl-ibp")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="of `audit train certified`")
    given = parser.parse_args()
    channels, side = given.shape.split(",")
    target = RESULTS / "certified_training.json"
    stored = json.loads(target.read_text()) if target.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        spec = f"py:{NETWORKS}:{given.network}?channels={channels}&side={side}&classes={given.classes}"
        model = ["--model", spec, "--allow-code", "--preprocess", "none"]
        key = f"{given.name} {given.network} {given.eps}"
        entry = stored.setdefault(key, {"recipes": []})
        for recipe in given.recipes.split(","):
            found = measured(recipe, model, Path(folder), given) | {"machine": machine()}
            entry["recipes"] = [each for each in entry["recipes"] if each["recipe"] != recipe] + [found]
            proven = found["proven"]
            print(f"{key} {recipe}: certified {proven['certified_accuracy']['value']:.1%}, "
                  f"attacked {proven['attacked_accuracy']['value']:.1%}")  # fmt: skip
            target.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
