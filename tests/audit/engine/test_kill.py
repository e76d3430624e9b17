"""Killing the process at any moment loses at most the unit in flight; the same command then gives the same bytes."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from audit.api import Claim, Measurement, MetricSpec, Tally, Unit, probe
from audit.engine.plan import Speed, make_plan
from audit.engine.run import run_plan
from audit.engine.session import Session
from audit.engine.store import open_store
from audit.schema import Interval, dump_json
from audit.testing import synthetic

ROOT = Path(__file__).parents[3]
UNITS = 30


def slow_unit(unit, ctx):
    time.sleep(0.004)
    return Tally(values={"u": unit.name}, arrays={"draw": ctx.rng("d").normal(size=1000)})


@probe(id="slow", version=1, question="Slow?", metrics=[MetricSpec(id="slow.mean", meaning="m", better="neither")])
def slow(subject, data, config, ctx):
    tallies = ctx.map(slow_unit, [Unit(f"u/{place}") for place in range(UNITS)])
    value = float(np.mean([tally.arrays["draw"] for tally in tallies]))
    interval = Interval(low=value - 1, high=value + 1, method="test")
    evidence = ctx.evidence("table.bin", np.float64(value).tobytes(), "per-sample-table")
    return [Measurement(metric="slow.mean", value=value, n=UNITS, claim=Claim.ESTIMATE, interval=interval), evidence]


def whole_run(folder):
    subject, data = synthetic(n=8)
    with open_store(folder) as store:
        session = Session(subject, data, store)
        results, _ = run_plan(make_plan([slow], {}, subject, data, Speed(0, 0)), session)
        store.write_json("results.json", [result.model_dump(mode="json") for result in results])
    return (folder / "results.json").read_bytes()


def test_kill_nine_at_random_moments_then_the_same_results(tmp_path):
    context = multiprocessing.get_context("fork")
    expected = whole_run(tmp_path / "undisturbed")
    rng = random.Random(0)
    kept_after_kill = []
    for attempt in range(12):
        folder = tmp_path / f"killed-{attempt}"
        for _ in range(rng.randint(1, 3)):
            child = context.Process(target=whole_run, args=(folder,))
            child.start()
            time.sleep(rng.uniform(0.0, 0.5))
            os.kill(child.pid, signal.SIGKILL)
            child.join()
        kept_after_kill.append(len(list(folder.glob("probes/slow/units/*.json"))))
        assert whole_run(folder) == expected
        assert not list(folder.rglob(".tmp-*"))
    assert any(0 < kept < UNITS for kept in kept_after_kill), "no kill fell within the run: the test tested nothing"


def audit(folder, *more):
    code = "import sys; from audit.cli import main; sys.argv[0] = 'audit'; main()"
    model = ["--model", "timm:test_efficientnet?num_classes=10&in_chans=1", "--preprocess", "mean=0.5/std=0.5/size=32"]
    weights = ["--weights", str(ROOT / "fixtures/digits.safetensors"), "--data", "sklearn:digits?split=test"]
    small = ["--samples", "96", "--set", "evasion.samples=48", "--set", "evasion.chunk=8", "--set", "evasion.steps=5"]
    command = [sys.executable, "-c", code, "run", *model, *weights, *small, "--threads", "1", "--out", str(folder)]
    return subprocess.Popen([*command, *more], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_when(folder, pattern, count, process):
    """Kills the process once so many files match, or lets it end."""
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if len(list(folder.glob(pattern))) >= count:
            process.kill()
            break
        time.sleep(0.005)
    process.wait()


@pytest.mark.parametrize(
    "moments",
    [
        [("plan.json", 1), ("probes/predictions/units/*.json", 1), ("probes/evasion/units/*.json", 2)],
        [("probes/evasion/units/*.json", 7), ("probes/*/result.json", 3)],
    ],
    ids=["early and midway", "midway and at the end"],
)
def test_kill_nine_of_the_command_line(tmp_path, undisturbed, moments):
    folder = tmp_path / "run"
    for pattern, count in moments:
        kill_when(folder, pattern, count, audit(folder))
    assert not (folder / "results.json").exists(), "the kills came too late: the test tested nothing"

    assert audit(folder).wait() == 0

    assert (folder / "results.json").read_bytes() == undisturbed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert audit(folder).wait() == 0
    return (folder / "results.json").read_bytes()


def test_equal_content_has_equal_bytes():
    assert dump_json({"b": 1, "a": [1.5]}) == dump_json({"a": [1.5], "b": 1})
