"""Killing the process at any moment loses at most the unit in flight; the same command then gives the same bytes."""

import multiprocessing
import multiprocessing.forkserver
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


FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A network and images for it that cost nothing to load."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "net.py").write_text(FACTORY)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (96, 1, 8, 8), dtype=np.uint8)
    np.savez(folder / "data.npz", images=images, labels=rng.integers(0, 4, 96))
    return folder


def words(inputs, folder):
    """The command line of an audit of many small units."""
    words = ["run", "--model", f"py:{inputs / 'net.py'}:make", "--allow-code", "--data", f"npz:{inputs / 'data.npz'}"]
    probes = [word for name in ("accuracy", "calibration", "evasion") for word in ("--probe", name)]
    small = [f"evasion.{setting}" for setting in ("norms=linf", "attacks=pgd", "samples=48", "chunk=2", "queries=50")]
    settings = [word for setting in small for word in ("--set", setting)]
    return [*words, *probes, *settings, "--threads", "1", "--out", str(folder)]


def run_main(words):
    """What a process of `audits` does."""
    from audit.cli import main

    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sys.argv = ["audit", *words]
    main()


@pytest.fixture(scope="module")
def audits(inputs):
    """`audits(folder)`: a process of the command line, forked from one that has imported torch but run nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.audit.engine.warm"])

    def started(folder):
        process = context.Process(target=run_main, args=(words(inputs, folder),))
        process.start()
        return process

    yield started
    multiprocessing.forkserver._forkserver._stop()


def ended(process):
    """Its exit code."""
    process.join()
    return process.exitcode


def kill_when(folder, pattern, count, pid, alive, number=signal.SIGKILL):
    """Sends the signal once so many files match, or lets the process end."""
    deadline = time.monotonic() + 240
    while alive() and time.monotonic() < deadline:
        if len(list(folder.glob(pattern))) >= count:
            os.kill(pid, number)
            break
        time.sleep(0.005)


def test_kill_nine_of_the_command_line(tmp_path, audits):
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "run"
    assert ended(audits(undisturbed)) == 0
    moments = [
        ("probes/predictions/units/*.json", 1),
        ("probes/evasion/units/*.json", 3),
        ("probes/evasion/units/*.json", 20),
    ]
    for pattern, count in moments:
        process = audits(folder)
        kill_when(folder, pattern, count, process.pid, process.is_alive)
        assert ended(process) == -signal.SIGKILL
    assert not (folder / "results.json").exists(), "the kills came too late: the test tested nothing"

    assert ended(audits(folder)) == 0

    assert (folder / "results.json").read_bytes() == (undisturbed / "results.json").read_bytes()
    assert (folder / "report.html").is_file()


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path, inputs, audits):
    folder = tmp_path / "run"
    code = "import sys; from audit.cli import main; sys.argv[0] = 'audit'; main()"
    command = [sys.executable, "-c", code, *words(inputs, folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    kill_when(folder, "probes/evasion/units/*.json", 2, process.pid, lambda: process.poll() is None, signal.SIGINT)
    process.wait()

    said = process.stderr.read().decode()
    assert process.returncode == 130, said
    assert "Resume with:\n  audit run --model" in said
    assert "Traceback" not in said
    assert not (folder / "results.json").exists()
    assert ended(audits(folder)) == 0


def test_equal_content_has_equal_bytes():
    assert dump_json({"b": 1, "a": [1.5]}) == dump_json({"a": [1.5], "b": 1})
