"""Two engines, the same numbers; and one test for each quirk that the adapter walls off."""

import importlib.util
import random
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.onnx._internal.torchscript_exporter._globals import GLOBALS

from audit.adapters import auto_lirpa
from audit.adapters.auto_lirpa import NotTaken, ball_bounds, box_bounds
from audit.errors import PrerequisiteError
from audit.lirpa.bounds import Interval
from audit.lirpa.lowering import lower
from audit.lirpa.margins import margin_bounds, margin_rows
from audit.lirpa.region import Region
from audit.lirpa.rules import NoRule
from audit.lirpa.rules.relu import Leaky
from tests.architectures import FACTORIES, PlainBlock, tiny
from tests.audit.lirpa.soundness import boxes, points

pytestmark = [
    pytest.mark.slow,  # it changes parts of torch meanwhile: kept apart from the fast tests
    pytest.mark.skipif(importlib.util.find_spec("auto_LiRPA") is None, reason="auto_LiRPA is not installed"),
]

SHAPE, CLASSES = (3, 8, 8), 4
METHODS = ("ibp", "crown-ibp", "crown")
CHECKPOINTS = Path(__file__).parents[4] / "shared" / "checkpoints"


class Normalised(nn.Module):
    """A network on (pixels - mean) / std."""

    def __init__(self, network, mean, std):
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, pixels):
        return self.network((pixels - self.mean) / self.std)


def after(first, width, flat):
    """A ReLU network behind a first layer of some channels."""
    return nn.Sequential(
        first, nn.ReLU(), nn.Conv2d(width, 5, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(flat, 12), nn.ReLU(),
        nn.Linear(12, CLASSES),
    )  # fmt: skip


def convolutional(activation=nn.ReLU):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), activation(), nn.Conv2d(4, 5, 3, 1, 1), activation(), nn.Flatten(),
        nn.Linear(80, 12), activation(), nn.Linear(12, CLASSES),
    )  # fmt: skip


def normalised(network):
    return Normalised(network, [0.4, 0.5, 0.6], [0.3, 0.25, 0.2])


def batch_normalised():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12),
        nn.ReLU(), nn.Linear(12, CLASSES),
    )  # fmt: skip
    for layer in (network[1], network[5]):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
        nn.init.normal_(layer.running_mean)
        nn.init.uniform_(layer.running_var, 0.5, 2)
    return network


def residual():
    return nn.Sequential(PlainBlock(3, 4, 2), PlainBlock(4, 4, 1), nn.Flatten(), nn.Linear(64, CLASSES))


def pooled(pool, flat):
    return nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), pool, nn.Flatten(), nn.Linear(flat, CLASSES))


NETWORKS = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU(),
                                 nn.Linear(16, CLASSES)),
    "convolution": convolutional,
    "groups": lambda: after(nn.Conv2d(3, 6, 3, 2, 1, groups=3), 6, 80),
    "dilation": lambda: after(nn.Conv2d(3, 6, 3, 1, 2, dilation=2), 6, 320),
    "batch-normalisation": batch_normalised,
    "residual": residual,
    "average-pooling": lambda: pooled(nn.AvgPool2d(2), 64),
    "global-pooling": lambda: tiny(CLASSES),
    "normalised": lambda: normalised(convolutional()),
    "normalised-residual": lambda: normalised(residual()),
}  # fmt: skip


def network_of(make):
    torch.manual_seed(0)
    return make().eval()


def labels_of(n, classes=CLASSES):
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(1))


def graph_of(network, region):
    return lower(network, tuple(region.box.lo.shape[1:])).bound(torch.float64)


def ours(network, region, labels, method):
    return margin_bounds(graph_of(network, region), region, labels, method)


def theirs(network, region, labels, method, classes=CLASSES, **options):
    rows = margin_rows(labels, classes, torch.float64)
    return box_bounds(network, region.box.lo, region.box.hi, rows, method, **options)


def apart(one, other):
    return float(((one - other) / (1 + other.abs())).abs().max())


# Constants such as the scale of a batch normalisation are computed in float32 by our graph, in float64 by theirs.
SAME = 1e-6


def differences(network, region, labels, classes=CLASSES):
    """By how much the engines are apart, by method."""
    graph = graph_of(network, region)
    return {
        method: apart(margin_bounds(graph, region, labels, method), theirs(network, region, labels, method, classes))
        for method in METHODS
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_ours(name):
    network, labels = network_of(NETWORKS[name]), labels_of(3)
    for eps in (0.02, 0.2):
        found = differences(network, boxes(3, SHAPE, eps), labels)
        assert max(found.values()) < SAME, (eps, found)


@pytest.mark.parametrize("method", METHODS)
def test_images_do_not_hang_on_one_another(method):
    network, region, labels = network_of(residual), boxes(5, SHAPE, 0.1), labels_of(5)
    together = theirs(network, region, labels, method)
    alone = [theirs(network, region.only(slice(i, i + 1)), labels[i : i + 1], method) for i in range(5)]
    assert torch.equal(together, torch.cat(alone))
    assert theirs(network, region.only(slice(0, 0)), labels[:0], method).shape == (0, CLASSES - 1)


def test_without_meeting_intervals_slopes_differ_both_ways():
    # Their crown takes the backward interval even where that of IBP is tighter; ours never does. A wider interval may
    # choose the other lower slope, so that neither bound is the tighter one by rule.
    network, region, labels = network_of(convolutional), boxes(8, SHAPE, 0.2), labels_of(8)
    difference = ours(network, region, labels, "crown") - theirs(network, region, labels, "crown", meet=False)
    assert difference.max() > 1e-4
    assert difference.min() < -1e-4


def test_ours_is_tighter_where_more_than_one_layer_is_merged():
    # In ibp both merge the last layer with the rows; ours goes on through whatever is affine below it, such as an
    # average over windows that overlap.
    network, region, labels = network_of(lambda: pooled(nn.AvgPool2d(3, 2), 36)), boxes(3, SHAPE, 0.1), labels_of(3)
    assert (ours(network, region, labels, "ibp") - theirs(network, region, labels, "ibp")).min() > 1e-3


def test_leaky_relu_takes_another_lower_slope(monkeypatch):
    # Theirs is 1 where the upper line's slope passes 1/2, ours where u > -l: less area, as long as the left slope is
    # not 0.
    network = network_of(lambda: convolutional(lambda: nn.LeakyReLU(0.2)))
    region, labels = boxes(3, SHAPE, 0.2), labels_of(3)
    assert apart(ours(network, region, labels, "ibp"), theirs(network, region, labels, "ibp")) < SAME
    found = theirs(network, region, labels, "crown-ibp")
    assert apart(ours(network, region, labels, "crown-ibp"), found) > 1e-4

    plain = Leaky.lines

    def lines(self, op, x):
        found, left = plain(self, op, x), self.left(op)
        theirs = torch.where((x.hi - left * x.lo) / (x.hi - x.lo) > 0.5, 1.0, left).to(x.lo)
        return replace(found, lower_slope=torch.where(found.free, theirs, found.lower_slope))

    monkeypatch.setattr(Leaky, "lines", lines)
    assert apart(ours(network, region, labels, "crown-ibp"), found) < SAME


OTHERS = {"sigmoid": (nn.Sigmoid(), 256), "tanh": (nn.Tanh(), 256), "silu": (nn.SiLU(), 256),
          "max-pooling": (nn.MaxPool2d(2), 64)}  # fmt: skip


def other(name):
    layer, flat = OTHERS[name]
    return network_of(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), layer, nn.Flatten(), nn.Linear(flat, CLASSES)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", OTHERS)
def test_takes_other_layers_and_no_point_leaves_its_bounds(name, method):
    network, region, labels = other(name), boxes(2, SHAPE, 0.1), labels_of(2)
    bounds = theirs(network, region, labels, method)
    with torch.no_grad():
        logits = network.double()(points(region, 200).flatten(0, 1)).view(200, 2, CLASSES, 1)
    values = (margin_rows(labels, CLASSES, torch.float64) @ logits)[..., 0]
    assert (bounds <= values.amin(0) + 1e-9).all()


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "max-pooling"])
def test_intervals_of_other_layers_equal_ours(name):
    network, region, labels = other(name), boxes(2, SHAPE, 0.1), labels_of(2)
    try:
        found = ours(network, region, labels, "ibp")
    except NoRule as reason:
        pytest.skip(f"ours: {reason}")
    assert apart(found, theirs(network, region, labels, "ibp")) < SAME


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "silu"])
def test_lines_around_smooth_layers_are_other_ones_and_ours_no_looser(name):
    # Theirs are tangents from a table; SiLU is a product of two operands to them.
    network, region, labels = other(name), boxes(2, SHAPE, 0.1), labels_of(2)
    graph = graph_of(network, region)
    for method in METHODS:
        try:
            found = margin_bounds(graph, region, labels, method)
        except NoRule as reason:
            pytest.skip(f"ours: {reason}")
        assert (found - theirs(network, region, labels, method)).min() > -1e-4, method


@pytest.mark.parametrize("name", ["mlp", "convolution", "residual", "normalised"])
def test_ball(name):
    # Theirs knows no pixel range, so that ours is not clipped either.
    network, labels, radius = network_of(NETWORKS[name]), labels_of(3), torch.tensor([0.1, 0.3, 0.6]).double()
    centre = boxes(3, SHAPE, 0.0).box.lo
    width = radius[:, None, None, None]
    region = Region(Interval(centre - width, centre + width), centre, radius)
    rows = margin_rows(labels, CLASSES, torch.float64)
    graph = graph_of(network, region)
    for method in METHODS:
        found = ball_bounds(network, centre, radius, rows, method)
        assert apart(margin_bounds(graph, region, labels, method), found) < SAME, method


@pytest.mark.parametrize("pool", [nn.AvgPool2d(3, 2), nn.AvgPool2d(2, 2, 1)])
def test_wrong_backward_pass_is_not_taken(pool):
    flat = pool(torch.zeros(1, 4, 8, 8)).numel()
    network, region, labels = network_of(lambda: pooled(pool, flat)), boxes(2, SHAPE, 0.02), labels_of(2)
    theirs(network, region, labels, "ibp")
    with pytest.raises(NotTaken, match="bounds this module wrongly: for one image alone it is off by"):
        theirs(network, region, labels, "crown-ibp")


class Unknown(nn.Module):
    def forward(self, pixels):
        return torch.special.erf(pixels).flatten(1)[:, :CLASSES]


class Broken(nn.Module):
    def forward(self, pixels):
        raise KeyError("no such thing")


@pytest.mark.parametrize("network", [Unknown(), Broken(), nn.Flatten(0), nn.Identity()])
def test_unknown_operator_is_not_taken_in_silence(network, capfd):
    with pytest.raises(NotTaken, match=r"auto_LiRPA 0\.3 ended in"):
        theirs(network, boxes(1, SHAPE, 0.1), labels_of(1), "crown")
    assert capfd.readouterr() == ("", "")


def test_dropout_is_taken_out():
    network = network_of(batch_normalised)
    region, labels = boxes(2, SHAPE, 0.1), labels_of(2)
    found = theirs(network, region, labels, "crown")
    with_dropout = nn.Sequential(*network[:3], nn.Dropout(), nn.Sequential(nn.Dropout2d(), *network[3:])).eval()
    assert torch.equal(theirs(with_dropout, region, labels, "crown"), found)
    assert isinstance(with_dropout[3], nn.Dropout)


def test_module_is_left_as_found():
    network = network_of(batch_normalised)
    network.train()
    network[1].eval()
    network[0].weight.requires_grad_(False)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    flags = [module.training for module in network.modules()]
    theirs(network, boxes(2, SHAPE, 0.1), labels_of(2), "crown")
    assert flags == [module.training for module in network.modules()]
    assert [parameter.requires_grad for parameter in network.parameters()].count(False) == 1
    for name, value in network.state_dict().items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, state[name])


def global_state():
    return (
        torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(),  # noqa: NPY002
        torch.get_default_dtype(), torch.is_grad_enabled(), GLOBALS.export_onnx_opset_version,
        hasattr(torch._C.Node, "__getitem__"), list(warnings.filters), sys.stdout,
    )  # fmt: skip


def test_global_state_is_left_as_found():
    network = network_of(NETWORKS["mlp"])
    before = global_state()
    theirs(network, boxes(1, SHAPE, 0.1), labels_of(1), "crown")
    with pytest.raises(NotTaken):
        theirs(Broken(), boxes(1, SHAPE, 0.1), labels_of(1), "crown")
    assert global_state() == before


IMPORTING = """
import logging, sys, warnings, torch, torch.onnx.symbolic_helper as helper
from audit.adapters import auto_lirpa
def state():
    modules = {name for name in sys.modules if not name.startswith("auto_LiRPA")}
    missing = modules & {"appdirs", "numpy.lib.arraysetops", "setuptools"}, hasattr(helper, "_set_opset_version")
    profiling = torch._C._jit_set_profiling_executor(True), torch._C._jit_set_profiling_mode(True)
    torch._C._jit_set_profiling_executor(profiling[0]), torch._C._jit_set_profiling_mode(profiling[1])
    return list(warnings.filters), list(logging.root.handlers), missing, profiling, torch.get_rng_state().tolist()
before = state()
assert "auto_LiRPA" not in sys.modules
auto_lirpa._package()
assert "auto_LiRPA" in sys.modules
assert state() == before, (state(), before)
"""


def test_importing_leaves_no_trace(tmp_path):
    environment = {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


def test_absent_package_is_named(monkeypatch):
    auto_lirpa._package.cache_clear()
    monkeypatch.setitem(sys.modules, "auto_LiRPA", None)
    with pytest.raises(PrerequisiteError, match=r"Expected the package auto_LiRPA 0\.3, got .*\. Install it"):
        theirs(network_of(NETWORKS["mlp"]), boxes(1, SHAPE, 0.1), labels_of(1), "ibp")


def checkpoint(file):
    stored = torch.load(CHECKPOINTS / file, "cpu", weights_only=True)
    stored = stored.get("state_dict", stored)
    network = FACTORIES[file]()
    network.load_state_dict(stored[0] if isinstance(stored, list) else stored)
    return network


REAL = {
    "abcrown/cifar_cnn_a_adv.model": ("cifar", ([0.485, 0.456, 0.406], [0.225] * 3), 2 / 255),
    "abcrown/resnet2b.pth": ("cifar", ([0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616]), 1 / 255),
    "abcrown/mnist_6_100_nat.pth": ("mnist", None, 0.02),
}


@pytest.mark.shared
@pytest.mark.skipif(not CHECKPOINTS.is_dir(), reason="the real checkpoints are not beside the project")
@pytest.mark.parametrize("file", REAL)
def test_real_checkpoints_equal_ours(file):
    data, normalisation, eps = REAL[file]
    network = checkpoint(file) if normalisation is None else Normalised(checkpoint(file), *normalisation)
    folder = CHECKPOINTS / "abcrown"
    images = np.load(folder / f"datasets_sdp_{data}_X_sdp.npy")[:2].transpose(0, 3, 1, 2)
    labels = torch.from_numpy(np.load(folder / f"datasets_sdp_{data}_y_sdp.npy")[:2].astype(np.int64))
    region = Region.ball(torch.from_numpy(np.ascontiguousarray(images)).double(), "linf", eps)
    found = differences(network.eval(), region, labels, classes=10)
    assert max(found.values()) < SAME, found
