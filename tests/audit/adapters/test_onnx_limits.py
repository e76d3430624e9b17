"""Small ONNX files that ask for much memory or time: refused, or ended, before either is spent."""

import time
from itertools import pairwise

import numpy as np
import pytest
import torch

from audit.adapters import onnx_runtime
from audit.adapters.onnx import OnnxModel
from audit.adapters.onnx_limits import Extent, dense_bytes, inlined_extent
from audit.adapters.onnx_reading import MOST_NODES, read_model
from audit.adapters.onnx_runtime import RunMemoryError, Session
from audit.adapters.onnx_torch import ConversionError, conversions
from audit.errors import SubjectError, UnsafeArtefactError
from audit.loading.onnx_network import BlackBox
from tests.onnx_files import Graph, nchw, onnx, random_images
from tests.user_models import load

TensorProto, make_node = onnx.TensorProto, onnx.helper.make_node
MIB = 2**20


def with_functions(levels, width):
    """A graph that calls a function, whose body calls another so many times, and so on; the last one is Identity."""
    graph, output = nchw()
    model = graph.model(graph.add(f"F{levels - 1}", output, domain="own"), domains=["own"])
    opsets = [onnx.helper.make_opsetid("", 13), onnx.helper.make_opsetid("own", 1)]
    for level in range(levels):
        kind, domain = (f"F{level - 1}", "own") if level else ("Identity", "")
        names = ["a", *(f"t{place}" for place in range(width - 1)), "b"]
        steps = [make_node(kind, [a], [b], domain=domain) for a, b in pairwise(names)]
        model.functions.append(onnx.helper.make_function("own", f"F{level}", ["a"], ["b"], steps, opsets))
    return model


def written(folder, model):
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def beside(folder, location="w.bin", count=1, **entries):
    """A model with extra tensors of a byte each, in a file beside it."""
    graph, output = nchw()
    model = graph.model(output)
    for place in range(count):
        tensor = model.graph.initializer.add(name=f"z{place}", data_type=TensorProto.UINT8, dims=[1000])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=str(value))
    (folder / "w.bin").write_bytes(bytes(1000))
    return written(folder, model)


def swelling(numbers, *, shape_alone=False):
    """A graph with a constant of so many numbers, of which the largest is added to the scores, or the size."""
    graph, output = nchw()
    constant = graph.add("ConstantOfShape", graph.hold(np.array([numbers])))
    if shape_alone:
        found = graph.add("Cast", graph.add("Shape", constant), to=TensorProto.FLOAT)
    else:
        found = graph.add("ReduceMax", constant, keepdims=0)
    return OnnxModel(graph.model(graph.add("Add", output, found)))


# Reading


def test_functions_that_multiply(tmp_path):
    start = time.monotonic()
    with pytest.raises(UnsafeArtefactError, match=rf"at most {MOST_NODES:,} operators in model.onnx .*, got more"):
        read_model(written(tmp_path, with_functions(12, 10)))
    with pytest.raises(UnsafeArtefactError, match="100 deep, got more"):
        read_model(written(tmp_path, with_functions(150, 1)))
    assert time.monotonic() - start < 5

    plain = len(nchw()[0].nodes)
    extent = inlined_extent(with_functions(3, 4))
    assert (extent.nodes, extent.depth) == (plain + 1 + 4 + 16 + 64, 3)
    assert extent.copied > inlined_extent(with_functions(2, 4)).copied > 0
    assert inlined_extent(nchw()[0].model("out")) == Extent(plain)


def test_functions_in_branches_are_counted():
    model = with_functions(2, 5)
    branch = onnx.helper.make_graph([make_node("F0", ["x"], ["y"], domain="own")], "branch", [], [])
    model.functions[1].node.append(make_node("If", ["b"], ["c"], then_branch=branch, else_branch=branch))
    without = inlined_extent(with_functions(2, 5)).nodes
    assert inlined_extent(model).nodes == without + 1 + 2 * (1 + 5)


def test_tensors_in_functions_are_copied(tmp_path, monkeypatch):
    monkeypatch.setattr("audit.adapters.onnx_reading.MOST_BYTES", 100_000)
    model = with_functions(2, 5)
    read_model(written(tmp_path, model))
    tensor = onnx.numpy_helper.from_array(np.zeros(10_000, np.float32))
    model.functions[0].node.append(make_node("Constant", [], ["unused"], value=tensor))
    with pytest.raises(UnsafeArtefactError, match="below 2 GiB once its functions are written out"):
        read_model(written(tmp_path, model))


def test_functions_that_call_themselves(tmp_path):
    model = with_functions(2, 2)
    model.functions[0].node.append(make_node("F1", ["b"], ["c"], domain="own"))
    with pytest.raises(SubjectError, match=r"functions in model\.onnx that do not call themselves, got one that does"):
        read_model(written(tmp_path, model))


def test_sparse_tensors_are_counted_filled_in(tmp_path):
    model = nchw()[0].model("out")
    sparse = model.graph.sparse_initializer.add(dims=[2**20, 2**10])
    sparse.values.CopyFrom(onnx.numpy_helper.from_array(np.ones(1, np.float32), "sparse"))
    sparse.indices.CopyFrom(onnx.numpy_helper.from_array(np.array([3])))
    assert dense_bytes(model) == 2**30 * 16
    with pytest.raises(UnsafeArtefactError, match="its sparse tensors filled in, got more"):
        read_model(written(tmp_path, model))


@pytest.mark.parametrize(("entries", "taken"), [({}, 1000), ({"offset": 900}, 100), ({"length": 300}, 300)])
def test_external_data_counts_for_each_tensor(tmp_path, monkeypatch, entries, taken):
    path = beside(tmp_path, count=40, **entries)
    monkeypatch.setattr("audit.adapters.onnx_reading.MOST_BYTES", path.stat().st_size + 40 * taken - 1)
    with pytest.raises(SubjectError, match="below 2 GiB with its external data"):
        read_model(path)
    monkeypatch.setattr("audit.adapters.onnx_reading.MOST_BYTES", 10 * path.stat().st_size + 40 * taken)
    assert len(read_model(path).external) == 1


@pytest.mark.parametrize("location", ["x" * 300, "a/" * 3000 + "x", "a\0b"])
def test_external_data_under_impossible_names(tmp_path, location):
    with pytest.raises(SubjectError, match=r"under a name that a file can have, got '.{3,60}'\. Export it again"):
        read_model(beside(tmp_path, location))


@pytest.mark.parametrize("entries", [{"offset": "far"}, {"length": -5}, {"offset": -5}, {"length": 2**62}])
def test_external_data_in_impossible_places(tmp_path, entries):
    with pytest.raises(SubjectError, match="which cannot be read: its external data: "):
        read_model(beside(tmp_path, **entries))


@pytest.mark.parametrize(
    ("shape", "got"),
    [
        ([2**40, 3, 8, 8], "1099511627776 images of 3x8x8"),
        ([2**24, 3, 8, 8], "16777216 images of 3x8x8"),
        (["n", 3, 30_000, 30_000], "1 images of 3x30000x30000"),
    ],
)
def test_inputs_beyond_measure(tmp_path, shape, got):
    graph, output = nchw(shape)
    path = graph.save(tmp_path / "model.onnx", output, shape=None)
    with pytest.raises(SubjectError, match=f"at most 268,435,456 numbers, 67,108,864 an image, .*, got {got}. Export"):
        load(f"onnx:{path}")


# Running


def test_a_run_has_a_limit_of_memory():
    images = random_images(1)
    text = r"Expected m.onnx to take an input of 1x3x8x8 within 4 GiB of memory, got a graph that needs more"
    with pytest.raises(RunMemoryError, match=text):
        Session(swelling(2**31), "m.onnx").run(images)
    (scores,) = Session(swelling(2**20), "m.onnx").run(images).values()
    assert scores.shape == (1, 3)


def test_a_batch_that_does_not_fit_is_halved(monkeypatch):
    """Each image takes 1.5 MiB twice over; a batch of 16 does not fit into 20 MiB, and halves do."""
    graph = Graph(["n", 3, 8, 8])
    flat = graph.add("Flatten", "images")
    wide = graph.add("Sin", graph.add("Tile", flat, graph.hold(np.array([1, 2048]))))
    model = OnnxModel(graph.model(graph.linear(graph.add("ReduceMax", wide, axes=[1], keepdims=1), 1, 3)))
    images = torch.from_numpy(random_images(16))
    expected = BlackBox(Session(model, "wide.onnx"))(images)
    monkeypatch.setattr(onnx_runtime, "RUN_BYTES", 20 * MIB)
    session = Session(model, "wide.onnx")
    with pytest.raises(RunMemoryError):
        BlackBox(session)(images)
    torch.testing.assert_close(BlackBox(session, halving=True)(images), expected, rtol=0, atol=1e-6)


def test_constants_stay_small(monkeypatch):
    """A constant of more than a node's share is not made when a graph is opened, but in runs, which have a limit."""
    model = swelling(16 * MIB)
    monkeypatch.setattr(onnx_runtime, "RUN_BYTES", 8 * MIB)
    with pytest.raises(RunMemoryError):
        Session(model, "m.onnx").run(random_images(1))
    monkeypatch.setattr(onnx_runtime, "FOLDED_BYTES_A_NODE", 2**30)
    with pytest.raises(RunMemoryError):
        Session(model, "m.onnx").run(random_images(1))
    monkeypatch.setattr(onnx_runtime, "FOLDED_BYTES", 2**30)
    Session(model, "m.onnx").run(random_images(1))


def test_opening_has_an_end(monkeypatch):
    graph, output = nchw()
    for _ in range(3000):
        output = graph.add("Sin", output)
    monkeypatch.setattr(onnx_runtime, "SECONDS_TO_OPEN", 0.001)
    with pytest.raises(SubjectError, match=r"can run, got from m\.onnx: no end within 0 seconds\. Export it again"):
        Session(OnnxModel(graph.model(output)), "m.onnx").open()


def test_values_that_only_torch_would_hold():
    """onnxruntime knows the shape without the constant."""
    model = swelling(2**31, shape_alone=True)
    Session(model, "m.onnx").run(random_images(1))
    for convert in conversions(model, ()):
        with pytest.raises(ConversionError, match="a value of 2,147,483,648 numbers"):
            convert()


def test_images_that_crowd_the_memory_go_in_alone(tmp_path, monkeypatch):
    """A copy of them by torch would take as much without a limit."""
    graph = Graph(["n", 3, 8, 8])
    wide = graph.add("Tile", graph.add("Flatten", "images"), graph.hold(np.array([1, 2048])))
    path = graph.save(tmp_path / "model.onnx", graph.linear(graph.add("ReduceMax", wide, axes=[1], keepdims=1), 1, 3))
    monkeypatch.setattr(onnx_runtime, "RUN_BYTES", 4 * MIB)
    assert any(
        "one at a time, as the graph fails with several, or takes too much memory" in note
        for note in load(f"onnx:{path}").notes
    )
