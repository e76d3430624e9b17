"""`onnx:FILE` becomes a torch network where that is verified: on small graphs of every kind that exporters write."""

import numpy as np
import pytest
import torch

from audit.errors import SubjectError, UnsafeArtefactError, UsageError
from audit.loading.checks import check_subject
from audit.loading.models import load_subject
from tests.onnx_files import Graph, nchw, onnx, random_images, runtime_scores
from tests.splits import array_split
from tests.user_models import codes, load

ALL = {"weights", "gradients", "logits", "labels"}
IMAGES = random_images()


def saved(folder, graph, output, **more):
    return graph.save(folder / "model.onnx", output, **more)


def loaded_of(path, query="", **options):
    return load(f"onnx:{path}{query}", **options)


def logits(loaded, images=IMAGES):
    with torch.no_grad():
        return loaded.subject.logits(torch.from_numpy(images)).numpy()


def note(loaded, part):
    """The one note with this part."""
    (found,) = [text for text in loaded.notes if part in text]
    return found


def assert_quiet(loaded, images=IMAGES):
    """Nothing depends on the batch, on chance or on the past, and gradients arrive."""
    split = array_split(images, np.arange(len(images)) % loaded.subject.num_classes)
    assert check_subject(loaded.subject, split) == ()


def one_by_one(path, arranged):
    return np.concatenate([runtime_scores(path, image) for image in arranged]).reshape(len(arranged), -1)


def test_a_convolutional_network(tmp_path):
    path = saved(tmp_path, *nchw())
    loaded = loaded_of(path)

    np.testing.assert_allclose(logits(loaded), runtime_scores(path, IMAGES), atol=1e-5)
    assert loaded.subject.access == ALL
    assert loaded.subject.input_shape == (3, 8, 8)
    assert (loaded.info.name, loaded.info.spec) == ("model", "onnx:model.onnx")
    assert loaded.info.parameters == 4 * 27 + 4 + 3 * 4 + 3
    assert [file.name for file in loaded.info.files] == ["model.onnx"]
    assert "random_weights" not in codes(loaded)
    assert "at most" in note(loaded, "is converted to torch by onnx2torch; on 19 seeded inputs, alone and in batches")
    assert "as (channels, height, width)" in note(loaded, "the input images float32 [?, 3, 8, 8] takes images")
    assert_quiet(loaded)
    assert loaded_of(path).subject.digest == loaded.subject.digest


def test_a_size_that_the_graph_states_is_kept(tmp_path):
    path = saved(tmp_path, *nchw())
    text = "the only size that the graph of onnx:model.onnx states, got 16x16 from --preprocess"
    with pytest.raises(UsageError, match=text):
        load(f"onnx:{path}", preprocess="none/size=16")
    assert load(f"onnx:{path}", preprocess="none/size=8").subject.input_shape == (3, 8, 8)


def test_a_file_of_torch_is_said_to_be_one(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(SubjectError, match=r"Expected an ONNX file, got weights\.pth, a torch\.save file \(zip\)"):
        load(f"onnx:{tmp_path / 'weights.pth'}")


def test_channels_last(tmp_path):
    """As TensorFlow exports: the graph begins by moving the channels; the scores are those of the twin without."""
    twin = saved(tmp_path, *nchw())
    graph = Graph(["n", 8, 8, 3])
    graph.classifier(graph.add("Transpose", "images", perm=[0, 3, 1, 2]), 3)
    path = graph.save(tmp_path / "last.onnx", graph.nodes[-1].output[0])
    loaded = loaded_of(path)

    assert loaded.subject.access == ALL
    np.testing.assert_allclose(logits(loaded), runtime_scores(twin, IMAGES), atol=1e-5)
    assert_quiet(loaded)


@pytest.mark.parametrize("shape", [["n", 192], [1, 192], [1, 192, 1], [1, 1, 192], [192]])
def test_flat_inputs(tmp_path, shape):
    graph = Graph(shape)
    flat = graph.add("Reshape", "images", graph.hold(np.array([-1, 192])))
    path = saved(tmp_path, graph, graph.linear(flat, 192, 3))
    loaded = loaded_of(path)

    sizes = [1 if size == "n" else size for size in shape]
    expected = one_by_one(path, [image.reshape(sizes) for image in IMAGES])
    np.testing.assert_allclose(logits(loaded), expected, atol=1e-5)
    np.testing.assert_array_equal(logits(loaded_of(path, "?input=3x8x8", native_shape=(1, 4, 4))), logits(loaded))
    with pytest.raises(UsageError, match=r"Say it with \?input=CxHxW"):
        loaded_of(path, native_shape=(1, 4, 4))


def test_any_size(tmp_path):
    path = saved(tmp_path, *nchw(["n", 3, "h", "w"]))
    loaded = loaded_of(path, native_shape=(1, 8, 8))

    assert loaded.subject.input_shape == (3, 8, 8)
    np.testing.assert_allclose(logits(loaded), runtime_scores(path, IMAGES), atol=1e-5)
    assert loaded_of(path, preprocess="none/size=16", native_shape=(3, 8, 8)).subject.input_shape == (3, 16, 16)
    assert loaded_of(path, "?input=3x8x8", native_shape=None).subject.input_shape == (3, 8, 8)
    with pytest.raises(UsageError, match="Expected a size for the model's input"):
        loaded_of(path, native_shape=None)


def test_graphs_that_break_a_rule(tmp_path):
    graph, output = nchw()
    model = graph.model(output)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert note(loaded_of(path), "the checker of onnx objects to model.onnx: Field 'shape'")

    graph.nodes[0].input[0] = "nowhere"
    saved(tmp_path, graph, output)
    with pytest.raises(SubjectError, match=r"(?s)that onnxruntime .* can run, .*nowhere.* Also, the checker of onnx"):
        loaded_of(path)


def test_several_outputs(tmp_path):
    graph, first = nchw()
    second = graph.linear(graph.add("Flatten", "images"), 192, 3)
    label = graph.add("ArgMax", first, axis=1)
    model = graph.model(first, second)
    model.graph.output.append(graph.value(label, None, np.int64))
    model.graph.output.append(graph.value("tanh1", None))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())

    with pytest.raises(UsageError, match=rf"got several that could be: {first} \[1, 3\], {second} \[1, 3\], argmax"):
        loaded_of(path)
    loaded = loaded_of(path, f"?output={second}")
    np.testing.assert_allclose(logits(loaded), runtime_scores(path, IMAGES, second), atol=1e-5)
    assert note(loaded, f"of 4 outputs, {second} is taken as the scores")
    with pytest.raises(UsageError, match=r"Expected \?output= to name an output of model.onnx .*, got nothing\."):
        loaded_of(path, "?output=nothing")
    with pytest.raises(SubjectError, match="Expected an output of one row of scores an image"):
        loaded_of(path, f"?output={label}")


def test_probabilities_and_trailing_ones(tmp_path):
    graph = Graph(["n", 3, 8, 8])
    pooled = graph.add("GlobalAveragePool", graph.convolution("images", 3))
    loaded = loaded_of(saved(tmp_path, graph, graph.add("Softmax", pooled, axis=1), shape=["n", 4, 1, 1]))
    assert loaded.subject.output == "probabilities"
    assert loaded.subject.num_classes == 4
    assert "output_probabilities" in codes(loaded)
    assert_quiet(loaded)


@pytest.mark.parametrize(("dtype", "atol"), [(np.float16, 2e-3), (np.float64, 1e-6)])
def test_other_precisions(tmp_path, dtype, atol):
    graph = Graph(["n", 3, 8, 8], dtype=dtype)
    features = graph.add("Tanh", graph.linear(graph.add("Flatten", "images"), 192, 8))
    path = saved(tmp_path, graph, graph.linear(features, 8, 3))
    loaded = loaded_of(path)

    np.testing.assert_allclose(logits(loaded), runtime_scores(path, IMAGES.astype(dtype)), atol=atol)
    assert loaded.subject.access == ALL
    assert note(loaded, f"{np.dtype(dtype)} is computed in float32, which moves scores by at most")
    assert_quiet(loaded)
    black_box = loaded_of(path, "?as=blackbox")
    np.testing.assert_allclose(logits(black_box), runtime_scores(path, IMAGES.astype(dtype)), atol=1e-6)


def test_operators_that_the_runtime_has_in_float32_only(tmp_path):
    path = saved(tmp_path, *nchw(dtype=np.float64))
    loaded = loaded_of(path)
    assert note(loaded, "onnxruntime has no float64 form of its operators: it is computed in float32")
    twin = saved(tmp_path, *nchw())
    np.testing.assert_allclose(logits(loaded), runtime_scores(twin, IMAGES), atol=1e-5)


def test_training_mode_is_left(tmp_path):
    graph = Graph(["n", 3, 8, 8], opset=14)
    features = graph.convolution("images", 3)
    statistics = [graph.hold(np.full(4, value, np.float32)) for value in (1.5, 0.5, 0.1, 0.3)]
    normal = graph.add("BatchNormalization", features, *statistics, outputs=3, training_mode=1)
    output = graph.linear(graph.add("Flatten", graph.add("GlobalAveragePool", normal)), 4, 3)
    loaded = loaded_of(saved(tmp_path, graph, output))
    assert note(loaded, "1 BatchNormalization nodes are stored in training mode; they are taken in inference mode")
    assert_quiet(loaded)


def test_gradients_are_those_of_finite_differences(tmp_path):
    """Central differences of onnxruntime in float64 on 20 directions; the network is smooth.

    The step of 1e-4 leaves an error of about 1e-8, so that float32 (about 1e-6, times a few dozen terms) decides.
    """
    graph = Graph(["n", 3, 8, 8], dtype=np.float64)
    features = graph.add("Tanh", graph.linear(graph.add("Flatten", "images"), 192, 8))
    path = saved(tmp_path, graph, graph.linear(features, 8, 3))
    pixels = torch.from_numpy(IMAGES[:1]).requires_grad_()
    gradient = torch.autograd.grad(loaded_of(path).subject.logits(pixels)[0, 1], pixels)[0].double().numpy()

    step = 1e-4
    for direction in np.random.default_rng(1).normal(size=(20, 1, 3, 8, 8)):
        ahead, behind = (runtime_scores(path, IMAGES[:1] + sign * step * direction)[0, 1] for sign in (1, -1))
        assert (gradient * direction).sum() == pytest.approx((ahead - behind) / (2 * step), abs=1e-4)


def test_weights_elsewhere_and_wrong_queries(tmp_path):
    path = saved(tmp_path, *nchw())
    torch.save({}, tmp_path / "weights.pt")
    with pytest.raises(UsageError, match=r"Expected no --weights with onnx:model.onnx, got weights\.pt"):
        loaded_of(path, weights=tmp_path / "weights.pt")
    with pytest.raises(UsageError, match="--weights-key"):
        loaded_of(path, weights_key="model")
    for query in ("?input=8x8", "?input=4x8x8", "?as=numpy", "?in_chans=3", "?input=3x8x8&size=8", "?input=3x0x8"):
        with pytest.raises(UsageError, match=r"Expected onnx:FILE\[\?input=CxHxW&output=NAME&as=torch\|blackbox\]"):
            loaded_of(path, query)
    with pytest.raises(SubjectError, match=r"Expected an ONNX file, got .*nowhere\.onnx, which is no file"):
        loaded_of(tmp_path / "nowhere.onnx")


def test_graphs_that_are_no_image_classifiers(tmp_path):
    graph, output = nchw()
    graph.inputs.append(graph.value("mask", ["n", 3]))
    path = saved(tmp_path, graph, graph.add("Mul", output, "mask"))
    with pytest.raises(
        SubjectError, match=r"Expected one input, the images, .* got 2: images .*, mask float32 \[\?, 3\]"
    ):
        loaded_of(path)

    graph, output = nchw()
    path = saved(tmp_path, graph, graph.add("ArgMax", output, axis=1), result=np.int64)
    with pytest.raises(
        SubjectError, match=r"Expected an output of one row of scores an image in model\.onnx, got argmax"
    ):
        loaded_of(path)

    graph = Graph(["n", 3, "h", "w"])
    path = saved(tmp_path, graph, graph.linear(graph.add("Flatten", "images"), 192, 3))
    with pytest.raises(SubjectError, match=r"to take an input of 1x3x9x9, got from onnxruntime: .*size=HxW"):
        loaded_of(path, native_shape=(3, 9, 9))


def test_external_data(tmp_path):
    graph, output = nchw()
    path = tmp_path / "model.onnx"
    onnx.save_model(graph.model(output), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    loaded = loaded_of(path)

    assert [file.name for file in loaded.info.files] == ["model.onnx", "weights.bin"]
    twin = graph.save(tmp_path / "twin.onnx", output)
    np.testing.assert_array_equal(logits(loaded), logits(loaded_of(twin)))

    hostile = path.read_bytes().replace(b"weights.bin", b"../ights.bin"[:11])
    (tmp_path / "hostile.onnx").write_bytes(hostile)
    with pytest.raises(UnsafeArtefactError):
        loaded_of(tmp_path / "hostile.onnx")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("query", ["", "?as=blackbox"])
def test_on_a_gpu(tmp_path, query):
    from audit.loading.model_spec import ModelRequest

    path = saved(tmp_path, *nchw())
    loaded = load_subject(ModelRequest(f"onnx:{path}{query}"), native_shape=(3, 8, 8), device=torch.device("cuda"))
    scores = loaded.subject.logits(torch.from_numpy(IMAGES))
    assert scores.device.type == "cuda"
    np.testing.assert_allclose(scores.detach().cpu().numpy(), runtime_scores(path, IMAGES), atol=1e-4)
