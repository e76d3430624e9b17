"""ONNX graphs as torch modules: one test for each thing that the adapter walls off."""

import numpy as np
import pytest
import torch

from audit.adapters.onnx_modules import Slice
from audit.adapters.onnx_reading import read_model
from audit.adapters.onnx_torch import ConversionError, conversions
from tests.onnx_files import Graph, nchw, onnx, random_images, runtime_scores


def saved(folder, graph, output, **more):
    return graph.save(folder / "model.onnx", output, **more)


def converted(model, examples=()):
    """The first conversion that works; else the last reason."""
    reason = None
    for convert in conversions(model, examples):
        try:
            return convert()
        except ConversionError as error:
            reason = error
    raise reason


def assert_same(network, path, images):
    with torch.no_grad():
        found = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, runtime_scores(path, images), rtol=0, atol=1e-5)


def test_node_names_cannot_run_code(tmp_path, monkeypatch):
    """Unescaped, this name becomes a call of os.system in the forward that torch.fx writes."""
    monkeypatch.chdir(tmp_path)
    graph, output = nchw()
    hostile = 'training"),getattr(__import__("os"),"system")("touch pwned"),getattr(self, "training'
    output = graph.add("Relu", output, name=hostile)
    path = saved(tmp_path, graph, output)

    network = converted(read_model(path))
    assert_same(network, path, random_images())
    assert not (tmp_path / "pwned").exists()
    assert "system" not in network.code.replace("getattr___import___os", "").split("=")[0]
    assert all(
        part.replace("_", "").isalnum() for name, _ in network.named_modules() for part in name.split(".") if part
    )


def test_the_library_itself_would_run_code(tmp_path, monkeypatch):
    """The reason for the renaming; when this fails, the library escapes names."""
    onnx2torch = pytest.importorskip("onnx2torch")
    monkeypatch.chdir(tmp_path)
    graph, output = nchw()
    graph.add(
        "Relu", output, name='training"),getattr(__import__("os"),"system")("touch pwned"),getattr(self, "training'
    )
    network = onnx2torch.convert(graph.model(graph.nodes[-1].output[0]))
    with pytest.raises(TypeError):  # the rest of the line makes no sense any more
        network(torch.zeros(1, 3, 8, 8))
    assert (tmp_path / "pwned").exists()


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 18, 20, 22])
def test_old_and_new_opsets_convert(tmp_path, opset):
    """Each with an operator whose converter is missing or broken at that version."""
    graph = Graph(["n", 3, 8, 8], opset=opset)
    features = graph.convolution("images", 3)
    if opset == 9:
        features = graph.add("Slice", features, axes=[2], starts=[1], ends=[7])
        features = graph.add("ReduceMean", features, axes=[2, 3], keepdims=0)
    elif opset < 18:
        features = graph.add("ReduceMean", features, axes=[2, 3], keepdims=0)
    else:
        features = graph.add("ReduceMean", features, graph.hold(np.array([2, 3])), keepdims=0)
    if opset >= 20:
        features = graph.add("Gelu", features)
    path = saved(tmp_path, graph, graph.linear(features, 4, 3), ir=9)

    assert_same(converted(read_model(path)), path, random_images())


def test_weights_are_parameters(tmp_path):
    graph = Graph(["n", 3, 8, 8])
    flat = graph.add("Flatten", "images")
    held = graph.add("Constant", value=onnx.numpy_helper.from_array(graph.rng.random((4, 3), dtype=np.float32)))
    output = graph.add(
        "MatMul", graph.add("Add", graph.add("MatMul", flat, graph.weight(192, 4)), graph.weight(4)), held
    )
    path = saved(tmp_path, graph, output)
    network = converted(read_model(path))

    assert sum(parameter.numel() for parameter in network.parameters()) == 192 * 4 + 4 + 12
    assert_same(network, path, random_images())


def test_unsupported_operators_are_named(tmp_path):
    graph, output = nchw(opset=22)
    output = graph.add("BiasGelu", output, graph.weight(3), domain="com.microsoft")
    with pytest.raises(ConversionError, match=r"^onnx2torch has no counterpart of BiasGelu \(com.microsoft\)$"):
        converted(read_model(saved(tmp_path, graph, output, ir=9)))


def test_shape_arithmetic_is_worked_out(tmp_path):
    """Shape, Gather, Concat, Expand and Slice, as exporters write view(), a class token, and x[:, 1:]."""
    graph = Graph(["n", 3, 8, 8])
    features = graph.convolution("images", 3)
    n = graph.add("Gather", graph.add("Shape", "images"), graph.hold(np.array([0])))
    tokens = graph.add("Reshape", features, graph.add("Concat", n, graph.hold(np.array([4, -1])), axis=0))
    shape = graph.add("Concat", n, graph.hold(np.array([1, 64])), axis=0)
    token = graph.add("Expand", graph.weight(1, 1, 64), shape)
    zeros = graph.add("ConstantOfShape", shape)
    joined = graph.add("Concat", graph.add("Add", token, zeros), tokens, axis=1)
    bounds = [graph.hold(np.array(numbers)) for numbers in ([3, -1], [0, -(2**62)], [1, 2], [-1, -3])]
    part = graph.add("Slice", joined, *bounds)
    wide = graph.add("Pad", part, graph.hold(np.array([0, 1, 0, 0, 0, 2])))
    first = graph.add("Split", wide, graph.hold(np.array([3, 1])), axis=1, outputs=2)
    whole = graph.add("Squeeze", graph.add("Unsqueeze", first, graph.hold(np.array([3]))), graph.hold(np.array([-1])))
    path = saved(tmp_path, graph, graph.linear(graph.add("Flatten", whole), 3 * 24, 3))
    images = torch.from_numpy(random_images(8))
    network = converted(read_model(path), [images[:1], images[1:3], images[3:6]])

    kinds = {type(module).__name__ for module in network.modules()}
    worked_out = (
        "Shape",
        "Reshape",
        "Expand",
        "ConstantOfShape",
        "Slice",
        "PadDynamic",
        "Split13",
        "SqueezeDynamicAxes",
    )
    assert not kinds & {f"Onnx{name}" for name in worked_out}
    assert_same(network, path, images.numpy())
    exported = torch.export.export(network, (images[:2],), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    assert_same(exported.module(), path, images.numpy())


def test_slices_are_those_of_numpy():
    values = torch.arange(60).reshape(3, 4, 5)
    for start, end, step in [
        (0, 9, 1),
        (-9, 2, 1),
        (4, -9, -1),
        (9, 0, -2),
        (-1, -4, -1),
        (3, 1, 1),
        (1, 2**63 - 1, 2),
    ]:
        expected = values.numpy()[:, :, start:end:step] if end >= -5 else values.numpy()[:, :, start::step]
        np.testing.assert_array_equal(Slice([(2, start, end, step)])(values), expected)
