"""`onnx:FILE` stays a black box where torch cannot have it, with the reason in plan, record and report."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch

from audit.errors import SubjectError, UsageError
from audit.loading.checks import check_subject
from tests.audit.cli import command
from tests.onnx_files import Graph, nchw, onnx, random_images, runtime_scores
from tests.splits import array_split
from tests.user_models import codes, load

IMAGES = random_images()


def loaded_of(path, query="", **options):
    return load(f"onnx:{path}{query}", **options)


def logits(loaded, images=IMAGES):
    with torch.no_grad():
        return loaded.subject.logits(torch.from_numpy(images)).numpy()


def quantised(shape, channels, classes=3):
    """A graph with operators that have no torch counterpart, and its output."""
    graph = Graph(shape)
    scale, zero = graph.hold(np.float32(1 / 255)), graph.hold(np.uint8(0))
    whole = graph.add("QuantizeLinear", "images", scale, zero)
    return graph, graph.classifier(graph.add("DequantizeLinear", whole, scale, zero), channels, classes)


def saved(folder, graph, output, **more):
    return graph.save(folder / "model.onnx", output, **more)


def assert_black_box(loaded, path, reason, images=IMAGES):
    assert loaded.subject.access == {"logits", "labels"}
    assert loaded.info.access == ("labels", "logits")
    (check,) = [check for check in loaded.info.checks if check.code == "black_box"]
    assert reason in check.text
    assert check.text.startswith("model.onnx is run by onnxruntime as a black box, without gradients and weights: ")
    assert loaded.subject.why_limited == check.text
    np.testing.assert_allclose(logits(loaded, images), runtime_scores(path, images), atol=1e-6)


def test_operators_without_a_counterpart_are_named(tmp_path):
    path = saved(tmp_path, *quantised(["n", 3, 8, 8], 3))
    loaded = loaded_of(path)

    reason = "onnx2torch has no counterpart of DequantizeLinear, QuantizeLinear"
    assert_black_box(loaded, path, f"it cannot be converted to torch: {reason}")
    assert "its initialisers hold 128 numbers" in loaded.notes
    split = array_split(IMAGES, np.zeros(5, np.int64))
    assert check_subject(loaded.subject, split) == ()
    with pytest.raises(SubjectError, match="as as=torch demands, got none: it cannot be converted to torch"):
        loaded_of(path, "?as=torch")


def planted(change):
    """A converter that changes the network it returns."""
    import onnx2torch

    honest = onnx2torch.convert

    def convert(*arguments, **options):
        network = honest(*arguments, **options)
        with torch.no_grad():
            change(network)
        return network

    return convert


def off_by_a_thousandth(network):
    network.get_parameter("n0_Conv.weight").mul_(1.001)


def without_padding(network):
    network.get_submodule("n0_Conv").padding_mode = "circular"
    network.get_submodule("n0_Conv")._reversed_padding_repeated_twice = [1, 1, 1, 1]


def failing(network):
    (last,) = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
    last.weight.data = torch.zeros(3, 7)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            off_by_a_thousandth,
            r"is not the same network: its scores differ by [\d.e-]+ of their spread, more than 0.0001",
        ),
        (without_padding, r"is not the same network: its scores differ by [\d.e-]+ of their spread, more than 0.0001"),
        (failing, "onnx2torch's network fails: RuntimeError: "),
    ],
)
def test_wrong_conversion_is_rejected(tmp_path, monkeypatch, change, reason):
    path = saved(tmp_path, *nchw())
    assert "gradients" in loaded_of(path).subject.access
    monkeypatch.setattr("onnx2torch.convert", planted(change))

    loaded = loaded_of(path)
    assert_black_box(loaded, path, "")
    with pytest.raises(AssertionError):
        assert_black_box(loaded, path, "not a reason")
    with pytest.raises(SubjectError, match=reason):
        loaded_of(path, "?as=torch")


def test_a_conversion_that_agrees_only_alone_is_rejected(tmp_path, monkeypatch):
    """A network that looks at the other images of its batch."""

    class Mixing(torch.nn.Module):
        def forward(self, values):
            return values + 0.01 * (values.mean(0) - values) * (len(values) > 1)

    def mix(network):
        network.n1_Tanh = torch.nn.Sequential(network.n1_Tanh, Mixing())

    path = saved(tmp_path, *nchw())
    monkeypatch.setattr("onnx2torch.convert", planted(mix))
    assert_black_box(loaded_of(path), path, "its conversion to torch is not the same network")


def test_whole_numbers_as_input(tmp_path):
    graph = Graph(["n", 8, 8, 3], dtype=np.uint8)
    graph.dtype = np.float32
    pixels = graph.add("Mul", graph.add("Cast", "images", to=onnx.TensorProto.FLOAT), graph.hold(np.float32(1 / 255)))
    path = saved(tmp_path, graph, graph.classifier(graph.add("Transpose", pixels, perm=[0, 3, 1, 2]), 3))
    loaded = loaded_of(path)

    whole = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    expected = runtime_scores(path, np.ascontiguousarray(whole.transpose(0, 2, 3, 1)))
    np.testing.assert_array_equal(logits(loaded, (whole / 255).astype(np.float32)), expected)
    assert "its input is uint8, so that pixels are rounded before the network" in loaded.subject.why_limited
    for form in ("none", "auto/size=8", "mean=0/std=1"):
        loaded_of(path, preprocess=form)
    with pytest.raises(
        UsageError, match=r"Expected no mean and std for model\.onnx, .* from 0 to 255, got --preprocess"
    ):
        loaded_of(path, preprocess="imagenet")


def test_a_conversion_without_gradients_keeps_its_weights(tmp_path):
    graph = Graph(["n", 3, 8, 8])
    whole = graph.add("Cast", graph.add("Mul", "images", graph.hold(np.float32(255))), to=onnx.TensorProto.INT64)
    path = saved(tmp_path, graph, graph.classifier(graph.add("Cast", whole, to=onnx.TensorProto.FLOAT), 3))
    loaded = loaded_of(path)

    assert loaded.subject.access == {"weights", "logits", "labels"}
    assert "model.onnx is converted to torch, and no gradient reaches the pixels: " in loaded.subject.why_limited


def test_chance_is_not_converted(tmp_path):
    graph, output = nchw()
    path = saved(tmp_path, graph, graph.add("Add", output, graph.add("RandomNormalLike", output)))
    loaded = loaded_of(path)
    assert loaded.subject.access == {"logits", "labels"}
    found = check_subject(loaded.subject, array_split(IMAGES, np.zeros(5, np.int64)))
    assert "nondeterministic" in {check.code for check in found}


def test_it_is_copied_pickled_and_says_why_there_is_no_gradient(tmp_path):
    path = saved(tmp_path, *nchw())
    loaded = loaded_of(path, "?as=blackbox")
    assert_black_box(loaded, path, "as=blackbox asks for it")
    assert "no_gradient" not in codes(loaded)

    expected = logits(loaded)
    for other in (copy.deepcopy(loaded.subject.model), pickle.loads(pickle.dumps(loaded.subject.model))):
        with torch.inference_mode():
            np.testing.assert_array_equal(other(torch.from_numpy(IMAGES)), expected)
    pixels = torch.from_numpy(IMAGES).requires_grad_()
    with pytest.raises(RuntimeError, match="onnxruntime gives no gradients: the model is a black box"):
        torch.autograd.grad(loaded.subject.logits(pixels).sum(), pixels)
    assert loaded_of(path, "?as=blackbox").subject.digest == loaded.subject.digest
    assert loaded_of(path).subject.digest != loaded.subject.digest


def test_a_converted_network_is_copied_and_pickled_too(tmp_path):
    loaded = loaded_of(saved(tmp_path, *nchw()))
    expected = logits(loaded)
    for other in (copy.deepcopy(loaded.subject.model), pickle.loads(pickle.dumps(loaded.subject.model))):
        np.testing.assert_array_equal(other(torch.from_numpy(IMAGES)).detach(), expected)


def test_the_reason_reaches_plan_record_and_report(tmp_path, monkeypatch, capsys):
    """A whole run over a black box: what needs gradients is not run, and each reader is told why."""
    path = saved(tmp_path, *quantised(["n", 1, 8, 8], 1, classes=10))
    out = tmp_path / "run"
    words = ["run", "--model", f"onnx:{path}", "--data", command.DIGITS, "--samples", "40", "--threads", "1"]
    words += ["--probe", "accuracy", "--probe", "evasion", "--out", out]
    reason = "It needs gradients, and this subject gives none: model.onnx is run by onnxruntime as a black box"

    plan = command.audit(monkeypatch, capsys, *words, "--dry-run")
    assert reason in " ".join((plan.out + plan.err).split())
    ended = command.audit(monkeypatch, capsys, *words)
    assert ended.code == 0, ended.err

    results = json.loads((out / "results.json").read_text())["results"]
    found = {result["probe"]: result for result in results}
    assert found["accuracy"]["status"] == "measured"
    assert found["evasion"]["status"] == "skipped"
    assert found["evasion"]["reason"]["text"].startswith(reason)
    assert "no counterpart of DequantizeLinear" in found["evasion"]["reason"]["text"]
    assert "no counterpart of DequantizeLinear" in (out / "report.html").read_text()


def test_hostile_external_data_is_refused_with_its_exit_code(tmp_path, monkeypatch, capsys):
    graph, output = nchw()
    path = tmp_path / "model.onnx"
    onnx.save_model(graph.model(output), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    path.write_bytes(path.read_bytes().replace(b"weights.bin", b"/etc/passwd"))

    ended = command.audit(monkeypatch, capsys, "describe", "--model", f"onnx:{path}")
    assert ended.code == 4
    assert "/etc/passwd" in ended.err
