"""Fuzzes what looks at untrusted files: `audit.scan.scan_file`, `audit.scan.kind_of` and `audit.loading.sniff.sniff`.

    python benchmarks/fuzz.py [--minutes 10] [--seed N] [--out FOLDER]

Seeds are valid files and the hostile corpus of the tests; each is damaged in up to six places, some of them within a
member of an archive that is then written anew. Anything but a report or a refusal is a crash: an exception of another
kind, a crash of native code, more than five seconds of computing, more than two gigabytes. So is a pickle that would
reach a function which no checkpoint needs, and passes without a finding; that is found out without running it. Inputs
run in batches in a process apart; each input that crashes is kept, with what it said, in FOLDER (`fuzz-crashes` by
default). The exit code is 1 where there was one. The result goes to `benchmarks/results/fuzz.json`.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from measuring import RESULTS, ROOT, machine

sys.path.insert(0, str(ROOT))
from tests.hostile.mutation import damaged, faults, random_damages, seed_names, seeds_of, small_seeds
from tests.hostile.site import Corpus

SECONDS, BYTES = 5, 2 << 30
BATCH = 500


class TooSlowError(BaseException):
    """An input took more than its time."""


def all_seeds(folder: Path) -> dict[str, bytes]:
    """The quick seeds, and those that torch has to write: TorchScript and `.pt2`."""
    from tests.hostile import archives, folders, programs, tables

    corpus = Corpus(folder / "more", folder / "canary")
    (folder / "more").mkdir(parents=True)
    for add in (programs.add_programs, tables._headers, tables._tables, tables._batches, folders.add_folders):
        add(corpus)
    archives._bombs(bombs := Corpus(folder / "more", folder / "canary"))
    return small_seeds(folder / "small") | seeds_of(corpus) | seeds_of(bombs)


def batch(seeds: dict[str, bytes], number: int, path: Path, log: Path) -> None:
    """Runs a batch in this process, a fork: what it is about to run is written down first."""

    def stop(*_: object) -> None:
        raise TooSlowError

    signal.signal(signal.SIGPROF, stop)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (held + BYTES,) * 2)
    rng, names = random.Random(number), seed_names(seeds)
    for _ in range(BATCH):
        name, other, damages = rng.choice(names), rng.choice(names), random_damages(rng)
        path.write_bytes(damaged(seeds[name], damages, seeds[other]))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            wrong = faults(path)
        except BaseException as error:
            signal.setitimer(signal.ITIMER_PROF, 0)
            where = traceback.extract_tb(error.__traceback__)[-1]
            wrong = [f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {str(error)[:200]}"]
        signal.setitimer(signal.ITIMER_PROF, 0)
        with log.open("a") as file:
            file.write(json.dumps([name, wrong]) + "\n")
        for problem in wrong:
            keep(path.read_bytes(), name, problem, log.parent / "crashes")


def keep(content: bytes, name: str, problem: str, folder: Path) -> None:
    """Saves an input that crashed, once each."""
    folder.mkdir(exist_ok=True)
    place = folder / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    place.with_suffix(".bin").write_bytes(content)
    place.with_suffix(".txt").write_text(f"{name}\n{problem}\n")


def run(seeds: dict[str, bytes], minutes: float, seed: int, folder: Path) -> tuple[int, Counter[str], float]:
    """Batches until the time is over: how many inputs, what was wrong how often, and the seconds it took."""
    executed, wrong = 0, Counter[str]()
    started = time.monotonic()
    path, log = folder / "input.pt", folder / "log.jsonl"
    number = seed * 1_000_000
    while time.monotonic() - started < 60 * minutes:
        log.unlink(missing_ok=True)
        child = os.fork()
        if not child:
            try:
                batch(seeds, number, path, log)
            finally:
                os._exit(0)
        status = os.waitpid(child, 0)[1]
        done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        if status or len(done) < BATCH:
            wrong[f"status {status}"] += 1
            keep(path.read_bytes(), "native", f"status {status}", folder / "crashes")
        executed += len(done)
        wrong.update(problem for _, problems in done for problem in problems)
        number += 1
    return executed, wrong, time.monotonic() - started


def main() -> None:
    """Fuzzes, prints and stores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz-crashes"))
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}, {chosen.minutes:g} minutes")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seeds = all_seeds(folder / "seeds")
        executed, wrong, seconds = run(seeds, chosen.minutes, chosen.seed, folder)
        if (folder / "crashes").exists():
            chosen.out.mkdir(parents=True, exist_ok=True)
            for file in (folder / "crashes").iterdir():
                (chosen.out / file.name).write_bytes(file.read_bytes())
    print(f"{executed:,} inputs from {len(seeds)} seeds, {executed / seconds:,.0f} a second, {wrong.total()} crashes")
    for problem, count in wrong.most_common(30):
        print(f"  {count:5}  {problem}")
    result = {
        "machine": machine(), "seed": chosen.seed, "seconds": round(seconds, 1), "seeds": len(seeds),
        "executions": executed, "executions_per_second": round(executed / seconds, 1),
        "crashes": dict(wrong.most_common(100)),
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "fuzz.json").write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
