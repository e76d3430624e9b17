"""Whole audits of compiled programs, against those of the network that they were made from."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny_transformers
from tests.audit.cli import command
from tests.programs import FREE, coloured, export, images, script, trained


def measured(record: dict) -> dict[str, float]:
    facts = [fact for result in record["results"] for fact in result["measurements"]]
    return {f"{fact['metric']} {json.dumps(fact['where'], sort_keys=True)}": fact["value"] for fact in facts}


def test_a_whole_audit_equals_that_of_the_same_network(tmp_path: Path, monkeypatch, capsys) -> None:
    """All figures of a scripted, a traced and two exported networks are those of their source."""
    network, (pixels, labels) = trained(), coloured()
    np.savez(tmp_path / "data.npz", images=(pixels * 255).byte().numpy(), labels=labels.numpy())
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "source.py").write_text(
        "import torch\nfrom tests.programs import Small\n\ndef make():\n    net = Small()\n"
        f"    net.load_state_dict(torch.load({str(tmp_path / 'weights.pt')!r}))\n    return net\n"
    )
    specs = {
        "py": f"py:{tmp_path / 'source.py'}:make",
        "scripted": script(tmp_path, lambda: torch.jit.script(network)),
        "traced": script(_folder(tmp_path / "traced"), lambda: torch.jit.trace(network, images(2))),
        "exported": export(tmp_path, network, images(2), **FREE),
        "exported alone": export(_folder(tmp_path / "alone"), network, images(1)),
    }
    words = ["--data", f"npz:{tmp_path / 'data.npz'}", "--threads", "1", "--device", "cpu", "--allow-code"]
    words += ["--set", "evasion.norms=linf", "--set", "evasion.eps_linf=1/255,4/255", "--set", "evasion.steps=5"]
    words += ["--set", "evasion.queries=100", "--set", "evasion.samples=24", "--set", "certified.samples=8"]
    words += ["--set", "certified.eps_linf=1/255,4/255", "--set", "certified.attack_steps=10"]
    words += [word for probe in ("accuracy", "calibration", "evasion", "certified") for word in ("--probe", probe)]
    values = {}
    for name, spec in specs.items():
        out = tmp_path / f"run {name}"
        # auto_LiRPA answers in a process of its own, which imports torch anew: it is asked once, about a program.
        asked = ("--set", f"certified.second_opinion={int(name == 'exported')}")
        ended = command.audit(monkeypatch, capsys, "run", "--model", spec, *words, *asked, "--out", out)
        assert ended.code == 0, ended.err
        record = json.loads((out / "results.json").read_text())
        assert {result["status"] for result in record["results"]} == {"measured"}, [
            r["reason"] for r in record["results"]
        ]
        assert record["trust_exceptions"][0] in (out / "report.html").read_text()
        assert record["trust_exceptions"][0].startswith(f"--allow-code: {spec.partition(':')[0]}:")
        values[name] = measured(record)
    expected = values.pop("py")
    assert 0 < expected["evasion.robust_accuracy " + _robust(expected)] < expected["accuracy.top1 {}"]
    for found in values.values():
        assert found.keys() == expected.keys()
        exact = [key for key in expected if key.startswith(("accuracy.", "evasion.robust_accuracy", "certified."))]
        assert {key: found[key] for key in exact} == {key: expected[key] for key in exact}
        for key, value in expected.items():
            assert found[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key


@pytest.mark.parametrize("kind", ["hf", "export"])
def test_a_network_of_one_size_on_images_of_another(tmp_path: Path, monkeypatch, capsys, kind: str) -> None:
    """Whatever such a network raises for images of their native size, the audit goes on."""
    pytest.importorskip("transformers")
    pixels, labels = coloured(60)
    np.savez(tmp_path / "data.npz", images=(pixels * 255).byte().numpy(), labels=labels.numpy())
    vit = tiny_transformers.network("ViT")
    spec = (
        tiny_transformers.save(vit, tmp_path / "vit")
        if kind == "hf"
        else export(tmp_path, Logits(vit), images(2, 3, 32))
    )
    words = ["--model", spec, "--data", f"npz:{tmp_path / 'data.npz'}", "--allow-code", "--threads", "1"]
    ended = command.audit(monkeypatch, capsys, "run", *words, "--probe", "accuracy", "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert "pixels in [0, 1] go in as they are, at the size of the model's input" in ended.err + ended.out
    record = json.loads((tmp_path / "run/results.json").read_text())
    assert record["subject"]["input_shape"] == [3, 32, 32]
    assert bool(record["trust_exceptions"]) == (kind == "export")


class Logits(torch.nn.Module):
    """The logits alone of a network of transformers."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x).logits


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _robust(values: dict[str, float]) -> str:
    """Where the largest radius was measured."""
    return max((key.partition(" ")[2] for key in values if key.startswith("evasion.robust_accuracy ")), key=str)
