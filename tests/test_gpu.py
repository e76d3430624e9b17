"""Every probe and every trainer on a CUDA device, through the same code as on the CPU."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from audit.catalog import all_probes
from audit.engine.prepare import set_exact_numerics
from audit.schema import Status
from audit.testing import run_probe, synthetic
from audit.training.record import TrainingRecord
from tests.audit.cli import command
from tests.audit.cli.command import DIGITS, FIXTURE, MODEL, PREPROCESS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PROBES = all_probes()
TRAIN = "train=sklearn:digits?split=train"


@pytest.fixture
def audit(monkeypatch, capsys):
    """`audit(*words)` runs the command line and says how it ended."""
    return lambda *words: command.audit(monkeypatch, capsys, *words)


def moved(subject, **changes):
    """The subject on the device."""
    set_exact_numerics()
    device = torch.device("cuda")
    return dataclasses.replace(subject, model=subject.model.to(device), device=device, **changes)


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_it_measures_on_a_gpu_what_it_measures_on_the_cpu(probe, tmp_path):
    subject, data = synthetic()
    on_cpu = run_probe(probe, tmp_path / "cpu", subject, data)

    on_gpu = run_probe(probe, tmp_path / "gpu", moved(subject), data)

    assert on_gpu.status is Status.MEASURED, on_gpu.reason
    for one, other in zip(on_cpu.measurements, on_gpu.measurements, strict=True):
        places = [
            {key: text for key, text in fact.where.items() if key != "eps" or probe.id != "distillation"}
            for fact in (one, other)
        ]  # where it chooses the radius itself, by the distances that it finds
        assert (one.metric, places[0], one.n) == (other.metric, places[1], other.n)
        assert one.value == pytest.approx(other.value, abs=0.02)


@pytest.mark.parametrize("probe", ["evasion", "distillation"])
def test_models_to_compare_with_are_trained_and_attacked_there(probe, tmp_path):
    def untrained(seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))

    subject, data = synthetic(n=400)
    found = run_probe(PROBES[probe], tmp_path, moved(subject, untrained=untrained), data)
    said = {note.code: note.text for note in found.diagnostics}
    assert found.status in (Status.MEASURED, Status.INCONCLUSIVE), found.reason
    assert {"evasion": "twin", "distillation": "experiment"}[probe] in said, said
    if probe == "distillation":
        assert {fact.where["model"] for fact in found.measurements} == {"subject", "student", "twin"}


@pytest.mark.parametrize("kind", ["standard", "adversarial", "distill", "standard, compiled"])
def test_what_is_trained_there_is_taken_by_the_cpu(audit, tmp_path, kind):
    out = tmp_path / "weights.safetensors"
    words = ("--model", MODEL, "--preprocess", PREPROCESS, "--device", "cuda")
    data = ("--data", TRAIN, "--data", f"eval={DIGITS}")
    kind, *compiled = kind.split(", ")
    words += ("--set", "compile=on") if compiled else ()
    ended = audit("train", kind, *words, *data, "--from", FIXTURE, "--epochs", 2, "--learning-rate", 1e-4, "--out", out)
    assert ended.code == 0, ended.err
    record = TrainingRecord.model_validate_json(out.with_suffix(".training.json").read_bytes())
    settings = record.trainings[-1].settings
    assert settings["compile"] == ("on" if compiled else "off"), ended.err
    assert settings["precision"].startswith("float32" if kind == "distill" else "bfloat16")
    assert set(load_file(out)) == set(load_file(FIXTURE))
    described = audit("describe", *words[:4], "--device", "cpu", "--weights", out, "--data", DIGITS)
    assert described.code == 0, described.err
    if kind != "distill":  # it begins where training on labels ended
        assert record.test.accuracy.value > 0.85


def test_trained_twice_it_is_the_same(audit, tmp_path):
    files = [tmp_path / f"{name}.safetensors" for name in ("first", "second")]
    for out in files:
        words = ("--model", MODEL, "--preprocess", PREPROCESS, "--device", "cuda", "--data", TRAIN, "--epochs", 2)
        assert audit("train", "standard", *words, "--out", out).code == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_whole_audit_of_the_demo(audit, tmp_path):
    ended = audit("demo", "--device", "cuda", "--out", tmp_path / "run")
    assert ended.code in (0, 1), ended.err
    assert "failed" not in ended.out
    assert (tmp_path / "run/report.html").stat().st_size > 10_000
