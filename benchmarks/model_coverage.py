"""Does "any classifier" hold? Audits a model of every architecture that timm and torchvision have.

    python benchmarks/model_coverage.py [--only PATTERN] [--families timm|torchvision|hf|all] [--resume [--failed]]
                                  [--jobs N] [--timeout SECONDS]

The smallest model of every timm module, well-known ones that are no module of their own, and every classification
builder of torchvision up to 200 million parameters (larger ones are stated as left out). Each is written with weights
initialised from a seed and audited from the command line, `audit describe` and `audit run`, at the smallest input it
takes.

A model passes when both commands end with 0, every probe asked for measured, weights, preprocessing, logits and
gradients were found, and the accuracy is the one that the library itself gives. Anything less fails. A record is stored
as soon as its model is done; `--resume` goes on after the last. The exit code is 1 below 98 % passed.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import coverage_subjects
import torch
from coverage_subjects import Candidate, Files
from measuring import RESULTS, machine

import audit
from audit.loading.model_spec import SCHEMES

Record = dict[str, Any]
AUDIT = [str(Path(sys.executable).with_name("audit"))]
ENOUGH = 0.98
FAMILIES = ("timm", "torchvision", "hf")
ORIGIN = {"timm": "timm's configuration", "torchvision": "torchvision's", "hf": "preprocessor_config"}
"""What the origin of a preprocessing says when the model's own was found."""
PROBES = ("accuracy", "calibration", "evasion")
SETTINGS = (
    "evasion.norms=linf", "evasion.eps_linf=8/255", "evasion.steps=10", "evasion.samples=24",
    "evasion.queries=20",
)  # fmt: skip
GRADIENT_CODES = frozenset({"no_gradient", "zero_gradient", "nonfinite_gradient"})
CRASH = re.compile(r"Traceback \(most recent call last\)|internal error")


def problems(record: Record) -> list[str]:
    """Everything that keeps a record from passing; empty for a pass."""
    if record.get("error"):
        return [record["error"]]
    found = [f"{name} ended with {code}" for name, code in record["exit_codes"].items() if code != 0]
    found += ["a traceback"] if record["crash"] else []
    if not record["probes"]:
        return [*found, "no results"]
    found += [
        f"{probe}: {record['probes'].get(probe, 'no result')}"
        for probe in record["asked"]
        if record["probes"].get(probe) != "measured"
    ]
    if not record["strict_weights"]:
        found.append("the weights are not in the record")
    if ORIGIN[record["family"]] not in record["preprocessing_origin"]:
        found.append(f"preprocessing: {record['preprocessing_origin'] or 'unknown'}")
    if record["output"] != "logits":
        found.append(f"output: {record['output'] or 'unknown'}")
    if not record["gradients"]:
        found.append("no usable gradients")
    if record["accuracy"] != record["accuracy_expected"]:
        found.append(f"accuracy {record['accuracy']}, by the library itself {record['accuracy_expected']}")
    if f"{record['described_accuracy'] or 0:.3f}" != f"{record['accuracy'] or 0:.3f}":
        found.append(f"describe says accuracy {record['described_accuracy']}")
    return found


def outcome(record: Record) -> str:
    """`passed`, `failed`, or `traceback`, which is worse."""
    if record.get("crash"):
        return "traceback"
    return "failed" if problems(record) else "passed"


def examine(wanted: Candidate, place: Path, timeout: float, threads: int) -> Record:
    """Writes what a user would have, runs both commands on so many threads, and reads what they left."""
    torch.set_num_threads(threads)
    record: Record = {"family": wanted.family, "group": wanted.group, "name": wanted.name, "crash": False}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=place) as folder:
        try:
            candidate = coverage_subjects.resolved(wanted)
            record["name"] = candidate.name
            files = coverage_subjects.prepare(candidate, Path(folder))
        except Exception as error:
            return {**record, "error": f"not prepared, {type(error).__name__}: {error}"[:500]}
        seconds = {"prepare": round(time.perf_counter() - start, 1)}
        return audited(record, files, Path(folder), timeout, threads, seconds)


def audited(
    record: Record, files: Files, folder: Path, timeout: float, threads: int, seconds: dict[str, float]
) -> Record:
    """The record with what both commands gave."""
    record |= {**files.facts, "accuracy_expected": files.right, "asked": list(PROBES)}
    common = [*files.words, "--data", files.data]
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    probes = [word for probe in PROBES for word in ("--probe", probe)]
    run = ["run", *common, *probes, *settings, "--threads", str(threads), "--out", str(folder / "run")]
    described = command(["describe", *common], timeout, threads, folder)
    ran = command(run, timeout, threads, folder)
    seconds = seconds | {"describe": described["seconds"], "run": ran["seconds"]}
    record |= read_run(folder / "run")
    record |= {
        "seconds": seconds,
        "exit_codes": {"describe": described["exit_code"], "run": ran["exit_code"]},
        "crash": record["crash"] or any(CRASH.search(done["stderr"]) for done in (described, ran)),
        "described_accuracy": described_accuracy(described["stdout"]),
    }
    message = first_error(described["stderr"]) or first_error(ran["stderr"]) or record["reason"]
    return {**record, "message": message.replace(str(folder.parent), "...")}


def command(words: list[str], timeout: float, threads: int, folder: Path) -> dict[str, Any]:
    """Runs `audit` as a user does."""
    start = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    try:
        done = subprocess.run(
            [*AUDIT, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        code, stdout, stderr = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired:
        code, stdout, stderr = -1, "", f"error: not finished after {timeout:g} seconds"
    return {
        "exit_code": code, "stdout": stdout, "stderr": stderr, "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip


def read_run(run: Path) -> Record:
    """What `results.json` says that a pass depends on; nothing found where the run left none."""
    path = run / "results.json"
    content = json.loads(path.read_text()) if path.exists() else {"subject": {}, "results": []}
    subject = content["subject"]
    results = {result["probe"]: result for result in content["results"]}
    notices = [*subject.get("checks", []), *(notice for found in results.values() for notice in found["diagnostics"])]
    reasons = [
        f"{probe}: {found['reason']['code']}: {found['reason']['text']}"
        for probe, found in results.items()
        if found.get("reason")
    ]
    blind = [notice for notice in notices if notice["code"] in GRADIENT_CODES]
    measured = [m for m in results.get("accuracy", {}).get("measurements", []) if m["metric"] == "accuracy.top1"]
    return {
        "probes": {probe: found["status"] for probe, found in results.items()},
        "strict_weights": any(file["kind"] == "weights" for file in subject.get("files", [])),
        "preprocessing_origin": str(subject.get("preprocessing", {}).get("origin", "")),
        "output": subject.get("output", ""),
        "gradients": "gradients" in subject.get("access", ()) and not blind,
        "warnings": sorted({notice["code"] for notice in notices if notice.get("severity") == "warning"}),
        "accuracy": measured[0]["value"] if measured else None,
        "reason": "; ".join([*reasons, *(notice["text"] for notice in blind)])[:600],
        "crash": any((found.get("reason") or {}).get("code") == "internal_error" for found in results.values()),
    }


def described_accuracy(stdout: str) -> float | None:
    """The share in the line `accuracy  75.0% of 32 images (...)` of `audit describe`."""
    found = re.search(r"^accuracy\s+([\d.]+)% of", stdout, re.M)
    return float(found.group(1)) / 100 if found else None


def first_error(stderr: str) -> str:
    """The first line that says `error:`, else of a traceback the last line, else nothing."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("error:")), "")
    if not said and CRASH.search(stderr):
        said = lines[-1]
    return said[:600]


def describe_all(records: Iterable[Record]) -> dict[str, Any]:
    """The figures: how many passed, by family, and what they took."""
    done = list(records)
    figures: dict[str, Any] = {}
    for family in FAMILIES:
        outcomes = [record["outcome"] for record in done if record["family"] == family]
        if outcomes:
            figures[f"{family}: passed"] = f"{outcomes.count('passed')} of {len(outcomes)}"
    wanted, left_out = coverage_subjects.torchvision_names()
    missing = sorted({*wanted} - {record["name"] for record in done if record["family"] == "torchvision"})
    if missing:
        figures["torchvision: not audited yet"] = f"{len(missing)} of {len(wanted)}: {', '.join(missing)}"
    millions = coverage_subjects.MOST_PARAMETERS // 10**6
    figures[f"torchvision: left out above {millions} million parameters"] = f"{len(left_out)}: {', '.join(left_out)}"
    figures["timm modules covered"] = "{} of {}".format(
        len({record["group"] for record in done if record["family"] == "timm"} & set(coverage_subjects.modules())),
        len(coverage_subjects.modules()),
    )
    whole = [sum(record["seconds"].values()) for record in done if "seconds" in record]
    figures["seconds a model, median"] = round(statistics.median(whole), 1) if whole else None
    figures["seconds a model, most"] = round(max(whole), 1) if whole else None
    figures["share passed"] = round(sum(record["outcome"] == "passed" for record in done) / max(len(done), 1), 4)
    return figures


def table(records: Iterable[Record]) -> str:
    """All records as a Markdown table, the worst first."""
    rank = {"traceback": 0, "failed": 1, "passed": 2}
    rows = [
        "| model | chosen as | parameters | input | loads | preprocessing | gradients | measured | seconds | result |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for record in sorted(
        records, key=lambda item: (rank[item["outcome"]], item["family"], item["group"], item["name"])
    ):
        statuses = list(record.get("probes", {}).values())
        seen = {
            "loads": record.get("strict_weights"),
            "preprocessing": ORIGIN[record["family"]] in record.get("preprocessing_origin", ""),
            "gradients": record.get("gradients"),
        }
        said = "; ".join(problems(record) + [record["message"]] * bool(record.get("message") and problems(record)))
        cells = [
            record.get("spec", f"{record['family']}:{record['name']}"),
            f"smallest of {record['group']}" if record["group"] in coverage_subjects.modules() else record["group"],
            f"{record.get('parameters', 0):,}",
            str(record.get("size", "")),
            *("yes" if value else "no" for value in seen.values()),
            f"{statuses.count('measured')} of {len(record.get('asked', PROBES))}",
            f"{sum(record.get('seconds', {}).values()):.0f}",
            record["outcome"] + (f": {said}" if said else ""),
        ]
        rows.append("| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(rows)


class Book:
    """The records, written whole after each model, so that a stopped run continues."""

    def __init__(self, path: Path, *, resume: bool, failed_again: bool) -> None:
        self.path = path
        self.machine = {**machine(), "commit": audited_commit()}
        stored = json.loads(path.read_text())["models"] if resume and path.exists() else []
        self.records = {_key(record): record for record in stored}
        self.done = {key for key, record in self.records.items() if not (failed_again and problems(record))}
        self.done_groups = {key[:2] for key in self.done}

    def add(self, record: Record) -> None:
        """Stores a record in place of an older one of the same model."""
        record = {**record, "outcome": outcome(record), "commit": self.machine["commit"]}
        self.records[_key(record)] = record
        self.write()
        said = "; ".join([*problems(record), record.get("message", "")] if problems(record) else [])
        seconds = sum(record.get("seconds", {}).values())
        print(f"{record['outcome']:<9} {record['family']}:{record['name']:<36} {seconds:6.1f} s  {said}", flush=True)

    def write(self) -> dict[str, Any]:
        """Both files; returns the figures."""
        records = [self.records[key] for key in sorted(self.records)]
        for record in records:
            record["outcome"] = outcome(record)
        figures = describe_all(records)
        content = {
            "benchmark": "coverage", "command": " ".join(sys.argv), "figures": figures, "machine": self.machine,
            "models": records,
        }  # fmt: skip
        self.path.parent.mkdir(exist_ok=True)
        for path, text in (
            (self.path, json.dumps(content, indent=1, sort_keys=True) + "\n"),
            (self.path.with_suffix(".md"), _page(figures, records, self.machine)),
        ):
            new = path.with_suffix(path.suffix + ".new")
            new.write_text(text)
            new.replace(path)
        return figures


def _page(figures: dict[str, Any], records: list[Record], where: dict[str, Any]) -> str:
    lines = [f"- {name}: {value}" for name, value in figures.items()]
    versions = ", ".join(f"{name} {where['packages'][name]}" for name in ("timm", "torch", "torchvision"))
    commits = ", ".join(sorted({str(record.get("commit")) for record in records}))
    head = (
        "# Coverage\n\nWritten by `benchmarks/model_coverage.py`, which says what a pass is; "
        "audited commits and versions: "
    )
    return f"{head}{commits}, {versions}.\n\n" + "\n".join(lines) + f"\n\n{table(records)}\n"


def audited_commit() -> str | None:
    """Of the tool that is audited with, which PYTHONPATH may take from another folder than this one."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(words, cwd=Path(audit.__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _key(record: Record) -> tuple[str, str, str]:
    return record["family"], record["group"], record["name"]


def main() -> int:
    """Audits what is left to audit and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="pattern of model or timm module names, such as '*vit*'")
    parser.add_argument("--families", choices=("timm", "torchvision", "hf", "all"), default="all")
    parser.add_argument("--resume", action="store_true", help="keep the records that are there")
    parser.add_argument("--failed", action="store_true", help="with --resume: audit again what did not pass")
    parser.add_argument("--jobs", type=int, default=1, help="models at once; the cores are shared among them")
    parser.add_argument("--timeout", type=float, default=300, help="seconds a command")
    parser.add_argument("--out", type=Path, default=RESULTS / "coverage.json")
    given = parser.parse_args()
    book = Book(given.out, resume=given.resume, failed_again=given.failed)
    families = FAMILIES if given.families == "all" else (given.families,)
    if given.families == "all" and "hf" not in SCHEMES:
        families = FAMILIES[:-1]
        print("hf: is left out, since this version of the tool does not know that spec")
    threads = max(1, (os.cpu_count() or 1) // given.jobs)
    wanted = coverage_subjects.candidates(families, given.only, book.done, book.done_groups)
    pool = ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn"))
    with tempfile.TemporaryDirectory() as name, pool:
        waiting = [pool.submit(examine, candidate, Path(name), given.timeout, threads) for candidate in wanted]
        for done in as_completed(waiting):
            book.add(done.result())
    figures = book.write()
    print(table(book.records.values()))
    for key, value in figures.items():
        print(f"{key:<56} {value}")
    return 0 if figures["share passed"] >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
