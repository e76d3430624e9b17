"""Reading, rewriting, running and converting ONNX graphs: one test for each thing that the adapters wall off."""

import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from audit.adapters import onnx_runtime
from audit.adapters.onnx import OnnxModel
from audit.adapters.onnx_reading import MOST_BYTES, objection, read_model
from audit.adapters.onnx_rewrite import in_float32, in_inference_mode, with_free_batch, with_output
from audit.adapters.onnx_runtime import Session
from audit.adapters.onnx_torch import conversions
from audit.errors import PrerequisiteError, SubjectError, UnsafeArtefactError
from tests.onnx_files import Graph, nchw, onnx, random_images, runtime_scores


def saved(folder, graph, output, **more):
    return graph.save(folder / "model.onnx", output, **more)


def with_external_data(folder, place="weights.bin"):
    """The file of a network whose tensors lie in another file."""
    graph, output = nchw()
    path = folder / "model.onnx"
    onnx.save_model(
        graph.model(output), path, save_as_external_data=True, all_tensors_to_one_file=True, location="weights.bin",
        size_threshold=0,
    )  # fmt: skip
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = place if entry.key == "location" else entry.value
    path.write_bytes(model.SerializeToString())
    return path


# Reading


def test_a_model_says_what_it_takes_and_gives(tmp_path):
    graph, output = nchw()
    graph.inputs.append(graph.value("w0", [4, 3, 3, 3]))  # as files before IR version 4 have it
    model = read_model(saved(tmp_path, graph, output))

    assert [str(port) for port in model.inputs] == ["images float32 [?, 3, 8, 8]"]
    assert model.outputs[0].name == output
    assert model.opset == 13
    assert model.numbers == 4 * 27 + 4 + 3 * 4 + 3


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (lambda whole: whole[: len(whole) // 2], "cannot be read"),
        (lambda whole: b"", "cannot be read: it holds no graph with an output"),
        (lambda whole: b"<!DOCTYPE html><html>" + b"no" * 99, "cannot be read"),
        (lambda whole: whole[:40], "cannot be read"),
    ],
)
def test_damaged_files(tmp_path, content, text):
    path = saved(tmp_path, *nchw())
    path.write_bytes(content(path.read_bytes()))

    with pytest.raises(SubjectError, match=f"Expected a whole ONNX model, got model.onnx, which {text}"):
        read_model(path)


def test_what_the_checker_objects_to(tmp_path):
    graph, output = nchw()
    assert objection(read_model(saved(tmp_path, graph, output))) == ""
    graph.nodes[0].input[0] = "nowhere"
    assert "nowhere" in objection(read_model(saved(tmp_path, graph, output)))


def test_versions_of_the_future(tmp_path):
    graph, output = nchw()
    graph.opset = 900
    with pytest.raises(SubjectError, match=r"Expected opset 1 to \d+, .* got 900 in model.onnx. Export it again"):
        read_model(saved(tmp_path, graph, output))
    graph.opset = 13
    with pytest.raises(SubjectError, match=r"format \(IR\) version 3 to \d+, .* got 77 in model.onnx. Export it"):
        read_model(saved(tmp_path, graph, output, ir=77))


def test_custom_operators_are_named(tmp_path):
    graph, output = nchw()
    output = graph.add("Sharpen", output, domain="my.ops")
    with pytest.raises(SubjectError, match=r"got custom ones: Sharpen of my\.ops\. A library with them would be code"):
        read_model(saved(tmp_path, graph, output, domains=["my.ops"]))


def test_large_models_are_refused_by_their_size(tmp_path, monkeypatch):
    path = with_external_data(tmp_path)
    monkeypatch.setattr("audit.adapters.onnx_reading.MOST_BYTES", path.stat().st_size + 10)
    with pytest.raises(SubjectError, match="below 2 GiB with its external data"):
        read_model(path)
    assert MOST_BYTES < 2**31


def test_external_data_is_read(tmp_path):
    path = with_external_data(tmp_path)
    model = read_model(path)

    assert [file.name for file in model.external] == ["weights.bin"]
    (tmp_path / "weights.bin").unlink()
    images = random_images()
    (scores,) = Session(model, "model.onnx").run(images).values()
    plain = saved(tmp_path, *nchw())
    np.testing.assert_allclose(scores, runtime_scores(plain, images), atol=1e-6)


@pytest.mark.parametrize("place", ["../weights.bin", "/etc/hostname", "deeper/../../weights.bin", "link.bin", "."])
def test_external_data_outside_the_folder_is_refused(tmp_path, place):
    folder = tmp_path / "model"
    (folder / "deeper").mkdir(parents=True)
    path = with_external_data(folder, place)
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")

    with pytest.raises((UnsafeArtefactError, SubjectError), match="external data"):
        read_model(path)


def test_external_data_that_is_missing_or_short(tmp_path):
    path = with_external_data(tmp_path)
    whole = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(whole[:20])
    with pytest.raises(SubjectError, match="which cannot be read"):
        read_model(path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(SubjectError, match=r"Expected the external data 'weights.bin' beside model.onnx, got none"):
        read_model(path)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnx2torch"])
def test_absent_packages(tmp_path, monkeypatch, package):
    def read_run_and_convert():
        model = read_model(path)
        Session(model, "model.onnx").open()
        next(conversions(model, ()))()

    path = saved(tmp_path, *nchw())
    monkeypatch.setitem(sys.modules, package, None)
    text = rf'Expected the package {package} .* pip install "trust-audit\[onnx\]"'
    with pytest.raises(PrerequisiteError, match=text):
        read_run_and_convert()


# Rewriting


def test_one_output_keeps_what_it_needs(tmp_path):
    graph, output = nchw()
    other = graph.linear(graph.add("Flatten", "images"), 192, 3)
    path = graph.save(tmp_path / "model.onnx", output, other)
    model = with_output(read_model(path), other)

    assert [node.op_type for node in model.proto.graph.node] == ["Flatten", "Gemm"]
    images = random_images()
    (scores,) = Session(model, "model.onnx").run(images).values()
    np.testing.assert_allclose(scores, runtime_scores(path, images, other), atol=1e-6)


def test_outputs_inside_a_branch_are_kept(tmp_path):
    graph, output = nchw()
    same = onnx.helper.make_node("Identity", [output], ["chosen"])
    minus = onnx.helper.make_node("Neg", [output], ["turned"])
    results = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("chosen", "turned")]
    then, other = (
        onnx.helper.make_graph([node], "branch", [], [result])
        for node, result in zip((same, minus), results, strict=True)
    )
    picked = graph.add("If", graph.hold(np.array(True)), then_branch=then, else_branch=other)
    path = saved(tmp_path, graph, picked)
    model = with_output(read_model(path), picked)

    assert len(model.proto.graph.node) == len(graph.nodes)
    images = random_images()
    (scores,) = Session(model, "model.onnx").run(images).values()
    np.testing.assert_allclose(scores, runtime_scores(path, images), atol=1e-6)


def test_training_nodes_become_inference(tmp_path):
    graph = Graph(["n", 3, 8, 8], opset=14)
    scale, offset, mean, variance = (graph.hold(np.full(3, value, np.float32)) for value in (2.0, 0.5, 0.25, 4.0))
    normal = graph.add("BatchNormalization", "images", scale, offset, mean, variance, outputs=3, training_mode=1)
    dropped = graph.add("Dropout", normal, graph.hold(np.float32(0.5)), graph.hold(np.array(True)))
    asleep = graph.add("Dropout", dropped, graph.hold(np.float32(0.5)), graph.hold(np.array(False)))
    output = graph.add("Flatten", asleep)
    model, notes = in_inference_mode(read_model(saved(tmp_path, graph, output)))

    assert notes == (
        "1 BatchNormalization nodes are stored in training mode; they are taken in inference mode",
        "1 Dropout nodes are stored in training mode; they are taken in inference mode",
    )
    images = random_images()
    (scores,) = Session(model, "model.onnx").run(images).values()
    np.testing.assert_allclose(scores, ((images - 0.25) / np.sqrt(4 + 1e-5) * 2 + 0.5).reshape(5, -1), atol=1e-5)


def test_other_types_become_float32(tmp_path):
    graph = Graph(["n", 3, 8, 8], dtype=np.float64)
    path = saved(tmp_path, graph, graph.linear(graph.add("Flatten", "images"), 192, 3))
    model = in_float32(read_model(path))

    assert model.inputs[0].dtype == model.outputs[0].dtype == "float32"
    assert model.numbers == read_model(path).numbers
    images = random_images()
    (scores,) = Session(model, "model.onnx").run(images).values()
    np.testing.assert_allclose(scores, runtime_scores(path, images.astype(np.float64)), atol=1e-5)
    assert in_float32(model) is model


def test_a_batch_is_freed(tmp_path):
    graph = Graph([1, 3, 8, 8])
    flat = graph.add("Reshape", graph.convolution("images", 3), graph.hold(np.array([1, -1])))
    path = saved(tmp_path, graph, graph.linear(flat, 256, 3), shape=[1, 3])
    images = random_images()
    alone = np.concatenate([runtime_scores(path, image[None]) for image in images])

    freed = next(with_free_batch(read_model(path)))
    (scores,) = Session(freed, "model.onnx").run(images).values()
    np.testing.assert_allclose(scores, alone, atol=1e-5)


# Running


def test_session_survives_copy_and_pickle(tmp_path):
    session = Session(read_model(saved(tmp_path, *nchw())), "model.onnx")
    images = random_images()
    (scores,) = session.run(images).values()
    for other in (copy.deepcopy(session), pickle.loads(pickle.dumps(session))):
        np.testing.assert_array_equal(next(iter(other.run(images).values())), scores)


def test_what_the_runtime_refuses_is_said(tmp_path, capfd):
    graph, output = nchw()
    session = Session(read_model(saved(tmp_path, graph, output)), "model.onnx")
    with pytest.raises(SubjectError, match=r"to take an input of 2x3x9, got from onnxruntime: .*rank.*\?input=CxHxW"):
        session.run(np.zeros((2, 3, 9), np.float32))

    strange = graph.add("QMoE", output, domain="com.microsoft")
    model = OnnxModel(graph.model(strange))
    with pytest.raises(SubjectError, match=r"Expected a graph that onnxruntime .* can run, got from other.onnx"):
        Session(model, "other.onnx").open()
    assert capfd.readouterr().err == ""


def test_nothing_is_told_to_anyone(tmp_path):
    """The library's telemetry writes an identifier below the home folder as soon as it is imported."""
    path = saved(tmp_path, *nchw())
    code = (
        "import sys; from pathlib import Path; from audit.adapters.onnx_reading import read_model\n"
        "from audit.adapters.onnx_runtime import Session; Session(read_model(Path(sys.argv[1])), 'm').open()"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "ORT_DISABLE_TELEMETRY")} | {
        "HOME": str(home)
    }
    subprocess.run([sys.executable, "-c", code, path], check=True, env=environment)
    assert list(home.rglob("*")) == []


def looping(trips):
    """A graph that turns its input into itself, so many times."""
    graph = Graph(["n", 3, 8, 8])
    boolean, number = onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT
    again = onnx.helper.make_node("Identity", ["go"], ["go_on"])
    work = onnx.helper.make_node("Sin", ["state"], ["next"])
    body = onnx.helper.make_graph(
        [again, work], "body",
        [onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
         onnx.helper.make_tensor_value_info("go", boolean, []),
         onnx.helper.make_tensor_value_info("state", number, None)],
        [onnx.helper.make_tensor_value_info("go_on", boolean, []),
         onnx.helper.make_tensor_value_info("next", number, None)],
    )  # fmt: skip
    flat = graph.add("Flatten", "images")
    seen = graph.add("Loop", graph.hold(np.array(trips, np.int64)), graph.hold(np.array(True)), flat, body=body)
    return OnnxModel(graph.model(graph.linear(seen, 192, 3)))


def test_a_graph_that_never_ends_is_ended(monkeypatch):
    images = random_images(2)
    (scores,) = Session(looping(3), "loop.onnx").run(images).values()
    assert scores.shape == (2, 3)
    monkeypatch.setattr(onnx_runtime, "SECONDS", 0.1)
    monkeypatch.setattr(onnx_runtime, "SECONDS_AN_IMAGE", 0.2)
    text = r"Expected loop.onnx to answer on an input of 2x3x8x8 within 1 seconds, got no answer\. It may loop for ever"
    with pytest.raises(SubjectError, match=text):
        Session(looping(2**62), "loop.onnx").run(images)
