"""Every command of docs/cookbook.md, run as it stands there on a checkpoint made the way its section says."""

import argparse
import copy
import re
import shlex
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tests.audit.cli.command import audit

COOKBOOK = (Path(__file__).parents[1] / "docs/cookbook.md").read_text()
CLASSES = 10
SIDE = 32
MODEL_PY = """
from torch import nn


class SmallNet(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8 * 16 * 16, num_classes)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))
"""


def sections():
    """Commands and Python files of each section, by its number."""
    for number, body in re.findall(r"^## (\d+)\. (.*?)(?=^## |\Z)", COOKBOOK, re.S | re.M):
        shell = "\n".join(re.findall(r"```sh\n(.*?)```", body, re.S)).replace("\\\n", " ")
        files = {text.split()[1]: text for text in re.findall(r"```python\n(# \w+\.py\n.*?)```", body, re.S)}
        yield int(number), [shlex.split(line) for line in shell.splitlines() if line], files


SECTIONS = {number: (commands, files) for number, commands, files in sections()}


def resnet18():
    import timm

    torch.manual_seed(0)
    return timm.create_model("resnet18", num_classes=CLASSES)


def small_net():
    module = types.ModuleType("model")
    exec(MODEL_PY, module.__dict__)
    torch.manual_seed(0)
    return module, module.SmallNet(CLASSES).eval()


def namespace():
    return argparse.Namespace(model="resnet18", lr=0.1, data_dir="data")


def make_timm():
    from timm.utils import CheckpointSaver, ModelEmaV3

    network = resnet18()
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    average = ModelEmaV3(network, decay=0.9)
    saver = CheckpointSaver(network, optimiser, args=namespace(), model_ema=average, checkpoint_dir=".")
    saver.save_checkpoint(0, metric=1.0)


def make_torchvision():
    from torchvision.models import resnet18 as build

    network = build(num_classes=CLASSES)
    average = AveragedModel(network)
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    state = {"model": network.state_dict(), "optimizer": optimiser.state_dict(), "epoch": 3, "args": namespace()}
    torch.save({**state, "model_ema": average.state_dict()}, "checkpoint.pth")


def make_lightning():
    weights = {f"net.{name}": value for name, value in resnet18().state_dict().items()}
    state = {**weights, "criterion.weight": torch.ones(CLASSES), "val_acc.tp": torch.zeros(CLASSES)}
    callbacks = {"ModelCheckpoint{'monitor': 'val_acc'}": {"best_model_score": torch.tensor(0.5), "dirpath": "x"}}
    content = {"epoch": 9, "global_step": 1000, "pytorch-lightning_version": "2.5.0", "state_dict": state}
    torch.save({**content, "callbacks": callbacks, "hyper_parameters": {"lr": 0.1}}, "epoch=9-step=1000.ckpt")


def make_hugging_face():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=SIDE, patch_size=8,
        num_labels=CLASSES, id2label={place: f"class{place}" for place in range(CLASSES)},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained("checkpoint-500")
    transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained("checkpoint-500")
    torch.save(namespace(), "checkpoint-500/training_args.bin")


def make_data_parallel():
    torch.save(nn.DataParallel(resnet18()).state_dict(), "data_parallel.pth")


def make_averages():
    network = resnet18()
    torch.save({"model": network.state_dict(), "model_ema": copy.deepcopy(network.state_dict())}, "ema.pth")
    torch.save(AveragedModel(network).state_dict(), "swa.pth")


class Learner:
    """Stands for fastai's, which pickles itself with its model."""

    def __init__(self, model):
        self.model = model
        self.dls = object()


def make_fastai():
    module = types.ModuleType("fastai_net")
    exec(SECTIONS[7][1]["fastai_net.py"], module.__dict__)
    network = module.network()
    Path("models").mkdir()
    optimiser = torch.optim.Adam(network.parameters())
    torch.save({"model": network.state_dict(), "opt": optimiser.state_dict()}, "models/stage-2.pth")
    with pretended(module, module.AdaptiveConcatPool2d, Learner):
        torch.save(Learner(network), "export.pkl")


def make_onnx():
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(8, 3, 3, 3)).astype(np.float32)
    weight = generator.normal(size=(8, CLASSES)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["maps"], strides=[2, 2]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weight"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes, "keras",
        [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["n", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(weight, "weight")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "model.onnx")


def make_research():
    module, network = small_net()
    Path("model.py").write_text(MODEL_PY)
    torch.save({"net": network.state_dict(), "acc": 91.8, "epoch": 199}, "best.pth")
    with pretended(module, module.SmallNet):
        torch.save(network, "whole.pth")


def make_half():
    from safetensors.torch import save_file

    halves = {
        name: value.half() if value.is_floating_point() else value for name, value in resnet18().state_dict().items()
    }
    save_file(halves, "half.safetensors")
    make_onnx()
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic("model.onnx", "model.int8.onnx")


def make_programs():
    _, network = small_net()
    Path("model.py").write_text(MODEL_PY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network, torch.rand(2, 3, SIDE, SIDE)).save("model.torchscript.pt")
        batch = {0: torch.export.Dim("n", min=1, max=4096)}
        program = torch.export.export(network, (torch.rand(2, 3, SIDE, SIDE),), dynamic_shapes=(batch,))
        torch.export.save(program, "model.pt2")


class pretended:  # noqa: N801 - reads as a word where it is used
    """Classes that can be imported while a file is written, and never again."""

    def __init__(self, module, *classes):
        self.module, self.classes = module, classes

    def __enter__(self):
        import sys

        for found in self.classes:
            found.__module__ = self.module.__name__
            found.__qualname__ = found.__name__
            setattr(self.module, found.__name__, found)
        sys.modules[self.module.__name__] = self.module

    def __exit__(self, *_):
        import sys

        del sys.modules[self.module.__name__]


MAKERS = {
    1: make_timm, 2: make_torchvision, 3: make_lightning, 4: make_hugging_face, 5: make_data_parallel,
    6: make_averages, 7: make_fastai, 8: make_onnx, 9: make_research, 10: make_half, 11: make_programs,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with labelled images in `val`."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for label in range(CLASSES):
        Path(f"val/class{label}").mkdir(parents=True)
        Image.fromarray(generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(f"val/class{label}/a.png")
    return tmp_path


@pytest.fixture
def _small_inputs(monkeypatch):
    """timm's ResNet-18 takes images of 64 pixels as its own size, which cost a twelfth of those of 224."""
    from timm.models import _registry

    for name, known in _registry._model_pretrained_cfgs.items():
        if name.startswith("resnet18."):
            monkeypatch.setattr(known, "input_size", (3, 64, 64))
            monkeypatch.setattr(known, "test_input_size", None)


def test_every_section_has_its_maker():
    assert SECTIONS.keys() == MAKERS.keys()


@pytest.mark.usefixtures("_small_inputs")
@pytest.mark.parametrize("number", MAKERS)
def test_the_commands_work(number, folder, monkeypatch, capsys):
    MAKERS[number]()
    commands, files = SECTIONS[number]
    for name, text in files.items():
        Path(name).write_text(text)
    for words in commands:
        assert words[0] == "audit"
        ended = audit(monkeypatch, capsys, *words[1:])
        assert ended.code == 0, f"{shlex.join(words)}\n{ended.out}\n{ended.err}"
        if words[1] == "describe":
            assert "accuracy" in ended.out
