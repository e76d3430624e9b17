import io

import pytest
import torch
from torch import nn

from audit.lirpa.lowering import NotExportable, lower
from audit.lirpa.rules import NoRule
from audit.lirpa.trial import tried
from tests.audit.lirpa.networks import Attention, Residual, perceptron
from tests.audit.lirpa.soundness import graph_of


class Pieces(nn.Module):
    """Splits, chunks and unbinds, with a constant that is computed."""

    def forward(self, pixels):
        one, two = pixels.split([1, 1], dim=1)
        first, *_ = pixels.unbind(2)
        last = pixels.chunk(2, dim=3)[1]
        grid = torch.arange(4, dtype=torch.float32).cos()
        return torch.cat([(one + two * grid).flatten(1), first.flatten(1), last.float().flatten(1)], 1)


@pytest.mark.parametrize(
    ("module", "shape"),
    [(perceptron(), (2, 4, 4)), (Residual(), (2, 8, 8)), (Attention(), (2, 4, 4)), (Pieces(), (2, 4, 4))],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_graph_answers_as_its_module_does_for_any_number_of_images(module, shape, dtype):
    graph = graph_of(module, shape, dtype)
    images = torch.rand(5, *shape)

    answers = graph.run(images.to(dtype))

    assert answers.dtype is dtype
    torch.testing.assert_close(answers.float(), module(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compiled", [torch.jit.script, lambda net: torch.jit.trace(net, torch.rand(2, 2, 8, 8))])
def test_torch_script_from_a_file_is_a_graph_too(compiled):
    file = io.BytesIO()
    torch.jit.save(compiled(Residual().eval()), file)
    file.seek(0)
    loaded, images = torch.jit.load(file), torch.rand(5, 2, 8, 8)

    answers = lower(nn.Sequential(loaded), (2, 8, 8)).bound(torch.float64).run(images.double())

    torch.testing.assert_close(answers.float(), loaded(images), rtol=1e-5, atol=1e-5)


def test_operations_have_one_value_each_and_only_those_that_matter_are_left():
    graph = graph_of(Pieces(), (2, 4, 4))

    kinds = [op.kind for op in graph.operations]
    assert not {"split", "split_with_sizes", "chunk", "unbind", "getitem", "cos", "arange"} & set(kinds)
    assert kinds[0] == "input"
    assert graph.logits.kind == "cat"
    assert all(
        operand in graph.operations[:place] for place, op in enumerate(graph.operations) for operand in op.operands
    )


def test_attention_is_written_out_and_normalisation_by_statistics_is_a_scale_and_a_shift():
    kinds = {op.kind for op in graph_of(Attention(), (2, 4, 4)).operations}
    assert {"softmax", "matmul", "layer_norm"} <= kinds | {"_softmax"}
    assert not {kind for kind in kinds if "attention" in kind}
    assert not {op.kind for op in graph_of(Residual(), (2, 8, 8)).operations if "norm" in op.kind}


def test_operations_say_where_they_stand():
    graph = graph_of(Residual(), (2, 8, 8))

    assert [op.module for op in graph.operations if op.kind == "conv2d"] == ["stem", "block.0", "block.2"]


class Deciding(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, pixels):
        return pixels.flatten(1) if pixels.sum() > 3 else -pixels.flatten(1)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Deciding(), r"values of the pixels decide .*\(in the network itself, test_lowering\.py line \d+\)"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), r"\(in 0\)"),
        (type("Blind", (nn.Module,), {"forward": lambda self, x: torch.ones(len(x), 3)})(), "does not depend"),
    ],
)
def test_what_is_no_fixed_graph_is_refused_with_the_reason(module, said, capfd):
    with pytest.raises(NotExportable, match=said):
        lower(module, (2, 4, 4)).bound(torch.float64)
    assert capfd.readouterr() == ("", ""), "torch prints nothing beside"


def test_a_module_in_training_mode_is_bounded_in_evaluation_mode_and_left_as_it_was():
    module = Residual().train()
    module.block.eval()

    graph = lower(module, (2, 8, 8)).bound(torch.float32)

    assert module.training
    assert not module.block.training
    images = torch.rand(3, 2, 8, 8)
    torch.testing.assert_close(graph.run(images), module.eval()(images), rtol=1e-5, atol=1e-5)


class Cast(nn.Module):
    """A part of it in another type."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype, self.head = dtype, nn.Linear(32, 3)

    def forward(self, pixels):
        return self.head((4 * pixels).to(self.dtype).float().flatten(1))


class Table(nn.Module):
    """Looks values up, or takes weights, by what the pixels are."""

    def __init__(self, how):
        super().__init__()
        self.how, self.head = how, nn.Linear(32, 3)
        self.register_buffer("table", torch.rand(5, 32))

    def forward(self, pixels):
        flat = pixels.flatten(1)
        if self.how == "index":
            return self.head(self.table[(4 * flat[:, 0]).long().clamp(0, 4)])
        if self.how == "weight":
            return nn.functional.linear(self.table[:1], flat.view(1, 32).expand(3, 32))
        if self.how == "kernel":
            return nn.functional.conv2d(torch.ones(1, 2, 5, 5), pixels.view(1, 2, 4, 4))[0].flatten()[None, :3]
        return torch.addmm(flat[:, :3], self.table[:1], torch.ones(32, 3))


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Cast(torch.float16), "values in float16"),
        (Cast(torch.bfloat16), "values in bfloat16"),
        (Cast(torch.uint8), "values in uint8"),
        (Table("index"), "values in int64"),
        (Table("weight"), "the operator linear"),
        (Table("kernel"), "the operator conv2d"),
        (Table("addmm"), "the operator addmm"),
    ],
)
def test_what_no_rule_covers_is_refused_by_name(module, said):
    graph = graph_of(module, (2, 4, 4))

    with pytest.raises(NoRule, match=f"no bounds are known for {said}"):
        tried(graph)


def test_a_trial_says_where_bounds_are_infinite():
    assert tried(graph_of(nn.Sequential(perceptron(), nn.LeakyReLU(2.0)), (2, 4, 4))).startswith("leaky_relu (in 1")
    assert tried(graph_of(perceptron(), (2, 4, 4))) == ""
