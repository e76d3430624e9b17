"""`audit convert`: whatever holds weights becomes safetensors that load like the original."""

import hashlib
import pickle
import sys
from argparse import Namespace

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from audit.loading.models import ModelRequest, load_subject
from audit.sandbox import protections

needs_locks = pytest.mark.skipif(not protections().hold_code, reason="this system has no seccomp")
RESEARCH = """
import torch
from torch import nn


class Unusual(nn.Module):
    def __init__(self):
        super().__init__()
        layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(16, 10)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.history = [{"epoch": 1}]

    def forward(self, x):
        return self.head(self.body(x))


def make():
    return Unusual()
"""


@pytest.fixture
def research(tmp_path, monkeypatch):
    """The code of a network; its module can be imported while a file is made, and not after."""
    (tmp_path / "research_of_others.py").write_text(RESEARCH)
    monkeypatch.syspath_prepend(tmp_path)
    import research_of_others  # type: ignore[import-not-found]

    torch.manual_seed(0)
    network = research_of_others.make()
    with torch.no_grad():
        network.body[1].running_mean.normal_()
    yield network.eval()
    sys.modules.pop("research_of_others", None)


def row(ended, name):
    return next(line.removeprefix(name).strip() for line in ended.out.splitlines() if line.startswith(name + " "))


@pytest.mark.parametrize("how", ["zip", "legacy", "plain", "torchscript", "torch.export"])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_whole_network_of_unknown_classes_comes_back(tmp_path, audit, research, how):
    source, out = tmp_path / "network.pth", tmp_path / "weights.safetensors"
    image = torch.rand(1, 1, 12, 12)
    if how == "plain":
        source.write_bytes(pickle.dumps(research))
    elif how == "torchscript":
        torch.jit.save(torch.jit.trace(research, image), source)
    elif how == "torch.export":
        source = tmp_path / "network.pt2"
        torch.export.save(torch.export.export(research, (image,)), source)
    else:
        torch.save(research, source, _use_new_zipfile_serialization=how == "zip")
    del sys.modules["research_of_others"]
    refused = audit("convert", source, "--out", out)
    assert refused.code == 4
    assert "--allow-pickle --out weights.safetensors" in refused.err
    assert not out.exists()
    ended = audit("convert", source, "--out", out, "--allow-pickle")
    assert ended.code == 0, ended.err
    assert row(ended, "how").startswith("read apart with placeholders for ")
    assert row(ended, "next") == f"audit describe --model SPEC --weights {out}"
    assert hashlib.sha256(out.read_bytes()).hexdigest() in row(ended, "written")
    spec = f"py:{tmp_path / 'research_of_others.py'}:make"
    if how == "torchscript":  # which keeps buffers that do not persist
        assert set(safetensors.torch.load_file(out)) == {*research.state_dict(), "scratch"}
        return
    request = ModelRequest(spec, out, allow_code=True)
    loaded = load_subject(request, native_shape=(1, 12, 12), device=torch.device("cpu"))
    torch.testing.assert_close(loaded.subject.logits(image), research(image), rtol=0, atol=0)
    described = audit("describe", "--model", spec, "--weights", out, "--allow-code", "--preprocess", "none/size=12")
    assert described.code == 0, described.err
    assert f"{hashlib.sha256(out.read_bytes()).hexdigest()}" in described.out


def test_allow_pickle_of_run_reads_the_same_and_says_so(tmp_path, research):
    source = tmp_path / "network.pth"
    torch.save({"model": research, "args": Namespace(lr=0.1)}, source)
    request = ModelRequest(f"py:{tmp_path / 'research_of_others.py'}:make", source, allow_code=True, allow_pickle=True)
    loaded = load_subject(request, native_shape=(1, 12, 12), device=torch.device("cpu"))
    image = torch.rand(2, 1, 12, 12)
    torch.testing.assert_close(loaded.subject.logits(image), research(image), rtol=0, atol=0)
    code, pickled = loaded.trust_exceptions
    assert code.startswith("--allow-code: py:")
    assert pickled.startswith("--allow-pickle: network.pth (sha256 ")


def state(**more):
    return {"conv.weight": torch.ones(2, 3, 1, 1), "conv.bias": torch.zeros(2, dtype=torch.float16), **more}


@pytest.fixture
def converted(tmp_path, audit):
    """Saves, converts, and gives how it ended with what was written."""

    def convert(content, *words, name="it.pth"):
        source, out = tmp_path / name, tmp_path / "out.safetensors"
        if content is not None:
            torch.save(content, source)
        ended = audit("convert", source, "--out", out, *words)
        return ended, safetensors.torch.load_file(out) if ended.code == 0 else None

    return convert


def test_a_plain_checkpoint_needs_no_flag(tmp_path, converted):
    shared = torch.arange(6.0)
    content = {
        "model": state(tied=shared, tied_too=shared, part=shared[::2], turned=torch.ones(2, 3).T),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 3,
    }
    ended, tensors = converted(content)
    assert ended.code == 0, ended.err
    assert tensors.keys() == content["model"].keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in content["model"].items())
    assert tensors["conv.bias"].dtype == torch.float16
    assert row(ended, "how") == "read by torch's weights-only loading"
    assert row(ended, "weights from") == "`model`"
    assert row(ended, "tensors").startswith("6 (1 float16, 5 float32), ")
    assert row(ended, "left out") == "optimizer (dict with 1 tensors), epoch (int)"
    with safetensors.safe_open(tmp_path / "out.safetensors", "pt") as opened:
        metadata = opened.metadata()
    assert metadata["source"] == "it.pth"
    assert metadata["source_sha256"] == hashlib.sha256((tmp_path / "it.pth").read_bytes()).hexdigest()
    assert metadata["how"] == "read by torch's weights-only loading"


def test_the_same_source_gives_the_same_bytes(tmp_path, converted):
    converted({"model": state()})
    first = (tmp_path / "out.safetensors").read_bytes()
    converted(None, "--force")
    assert (tmp_path / "out.safetensors").read_bytes() == first


def test_several_sets_of_weights_need_a_choice(converted):
    content = {"model": state(), "teacher": {"net": {"w": torch.ones(500, 500)}}, "ema.model": {"w": torch.ones(1)}}
    ended, _ = converted(content)
    assert ended.code == 2
    assert "got 3: `model` (2 tensors, 0.00 MB), `teacher.net` (1 tensors, 1.00 MB), `ema.model`" in ended.err
    assert "Choose with --weights-key" in ended.err
    ended, tensors = converted(content, "--weights-key", "teacher.net")
    assert list(tensors) == ["w"]
    assert row(ended, "left out") == "model (dict with 2 tensors), ema.model (dict with 1 tensors)"
    ended, _ = converted(content, "--weights-key", "nothing", "--force")
    assert ended.code == 2
    assert "Dicts of tensors in it: `model`, `teacher.net`" in ended.err


def test_prefixes_are_stripped(converted):
    content = {f"module.{name}": tensor for name, tensor in state().items()} | {"loss.weight": torch.ones(1)}
    ended, tensors = converted(content, "--strip-prefix", "module")
    assert tensors.keys() == state().keys()
    assert row(ended, "left out") == "loss.weight (without the prefix)"
    ended, _ = converted(content, "--strip-prefix", "nowhere", "--force")
    assert ended.code == 2
    assert "Prefixes found: `module.` (2 keys)" in ended.err


def test_existing_files_are_kept(tmp_path, audit):
    source, out = tmp_path / "it.pth", tmp_path / "out.safetensors"
    torch.save(state(), source)
    out.write_text("mine")
    assert "which exists. Choose another, or add --force" in audit("convert", source, "--out", out).err
    assert out.read_text() == "mine"
    assert audit("convert", source, "--out", out, "--force").code == 0
    again = audit("convert", out, "--out", out, "--force")
    assert again.code == 2
    assert audit("convert", source, "--out", tmp_path / "out.bin").code == 2
    assert not list(tmp_path.glob(".tmp*"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"\x08\x07\x12\x07pytorch:\x00" + bytes(64),
            "an ONNX model: a graph with its weights. Audit it as it is: --model",
        ),
        (b"<!DOCTYPE html><html>login</html>", "looks like an HTML or XML page"),
        (b"", "an empty file"),
    ],
)
def test_what_holds_no_weights(tmp_path, audit, content, said):
    (tmp_path / "it").write_bytes(content)
    ended = audit("convert", tmp_path / "it", "--out", tmp_path / "out.safetensors", "--allow-pickle")
    assert ended.code == 2
    assert said in ended.err


def test_no_tensors_by_name(converted):
    ended, _ = converted([1, 2, 3])
    assert ended.code == 2
    assert "Expected tensors by name in it.pth, got a list. Save model.state_dict()" in ended.err


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("words", [[], ["--allow-pickle"]])
def test_quantised_weights_are_told(converted, words):
    quantised = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    more = {"args": Namespace()} if words else {}
    ended, _ = converted({"model": state(packed=quantised), **more}, *words)
    assert ended.code == 2
    assert "Expected tensors of plain numbers in it.pth, got 1 that " in ended.err
    assert "packed: " in ended.err


class Shell:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


@pytest.mark.parametrize("words", [[], ["--allow-pickle"], ["--allow-code"], ["--allow-pickle", "--allow-code"]])
def test_no_flag_lifts_what_is_dangerous(tmp_path, converted, words):
    canary = tmp_path / "canary"
    ended, _ = converted({"model": state(), "extra": Shell(f"touch {canary}")}, *words)
    assert ended.code == 4
    assert "`posix.system`" in ended.err
    assert not canary.exists()


@needs_locks
def test_code_runs_behind_locks_where_it_is_allowed(tmp_path, converted, research):
    tagged = nn.Parameter(torch.arange(3.0))
    content = {"model": nn.Sequential(nn.Linear(3, 3), nn.Flatten()), "extra": Namespace(weight=tagged), "epoch": 3}
    ended, tensors = converted(content, "--allow-code", "--weights-key", "model")
    assert ended.code == 0, ended.err
    assert row(ended, "how").startswith("its code run apart; in force: no network, no other programs")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in content["model"].state_dict().items())
    ended, _ = converted({"model": research}, "--allow-code", "--force")
    assert ended.code == 2
    assert "No module named 'research_of_others'" in ended.err
    assert "`audit convert --allow-pickle` alone does without it" in ended.err


@pytest.mark.parametrize("words", [["--memory", "0"], ["--memory", "nan"], ["--timeout", "0"]])
def test_limits_that_make_no_sense(converted, words):
    assert converted(state(), *words)[0].code == 2


def test_limits_are_put_in_force(converted, research):
    ended, _ = converted({"model": research, "big": torch.zeros(48 << 20)}, "--allow-pickle", "--memory", "0.25")
    assert ended.code == 2
    assert "within 0.2 GiB of memory, got out of memory" in ended.err
