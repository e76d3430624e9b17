"""Graphs that fix their batch, or couple its images: any number of images goes in, and each gets its own scores."""

import numpy as np
import pytest
import torch

from audit.loading.checks import check_subject
from tests.onnx_files import Graph, random_images, runtime_scores
from tests.splits import array_split
from tests.user_models import load

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


def test_one_image_without_a_batch(tmp_path):
    graph = Graph([3, 8, 8])
    whole = graph.add("Unsqueeze", "images", graph.hold(np.array([0])))
    path = saved(tmp_path, graph, graph.add("Squeeze", graph.classifier(whole, 3)), shape=[3])
    loaded = loaded_of(path)

    expected = np.stack([runtime_scores(path, image) for image in IMAGES])
    np.testing.assert_allclose(logits(loaded), expected, atol=1e-5)
    assert note(loaded, "images are run one at a time")
    assert loaded.subject.access == ALL
    assert_quiet(loaded)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_is_freed(tmp_path, batch):
    graph = Graph([batch, 3, 8, 8])
    flat = graph.add("Reshape", graph.convolution("images", 3), graph.hold(np.array([batch, -1])))
    path = saved(tmp_path, graph, graph.linear(flat, 256, 3), shape=[batch, 3])
    loaded = loaded_of(path)

    expected = runtime_scores(path, IMAGES[:batch])
    np.testing.assert_allclose(logits(loaded)[:batch], expected, atol=1e-5)
    assert note(loaded, f"the graph's batch of {batch} is freed; its scores stay the same")
    assert_quiet(loaded)


def folded(graph, batch=1):
    """The batch disappears from the shape: [4, 1] only fits one image."""
    pooled = graph.add("GlobalAveragePool", graph.convolution("images", 3))
    turned = graph.add("Transpose", graph.add("Reshape", pooled, graph.hold(np.array([4, batch]))), perm=[1, 0])
    return graph.linear(turned, 4, 3)


def coupled(graph):
    """Runs for any batch once it is freed, but images would then mix: scores over the batch add up to one."""
    pooled = graph.add("Flatten", graph.add("GlobalAveragePool", graph.convolution("images", 3)))
    shares = graph.add("Softmax", pooled, axis=0)
    return graph.linear(graph.add("Mul", shares, pooled), 4, 3)


@pytest.mark.parametrize("build", [folded, coupled])
def test_a_batch_that_cannot_be_freed(tmp_path, build):
    graph = Graph([1, 3, 8, 8])
    path = saved(tmp_path, graph, build(graph), shape=[1, 3])
    loaded = loaded_of(path)

    np.testing.assert_allclose(logits(loaded), one_by_one(path, IMAGES[:, None]), atol=1e-5)
    assert note(loaded, "images are run one at a time, as the graph fixes its batch")
    assert loaded.subject.access == ALL
    assert_quiet(loaded)


def test_parts_are_filled_up(tmp_path):
    """A batch of 2 that cannot be freed: five images are three parts, the last with a copy."""
    graph = Graph([2, 3, 8, 8])
    pooled = graph.add("Flatten", graph.add("GlobalAveragePool", graph.convolution("images", 3)))
    mixed = graph.add("MatMul", graph.hold(np.eye(2, dtype=np.float32)), pooled)
    path = saved(tmp_path, graph, graph.linear(mixed, 4, 3), shape=[2, 3])
    loaded = loaded_of(path)

    padded = np.concatenate([IMAGES, IMAGES[-1:]])
    expected = np.concatenate([runtime_scores(path, padded[start : start + 2]) for start in (0, 2, 4)])[:5]
    np.testing.assert_allclose(logits(loaded), expected, atol=1e-5)
    assert note(loaded, "images are run 2 at a time")
    assert_quiet(loaded)


def test_a_graph_that_says_any_batch_and_takes_one(tmp_path):
    graph = Graph(["n", 3, 8, 8])
    path = saved(tmp_path, graph, folded(graph))
    loaded = loaded_of(path)
    np.testing.assert_allclose(logits(loaded), one_by_one(path, IMAGES[:, None]), atol=1e-5)
    assert_quiet(loaded)


def test_a_network_that_uses_its_batch_stays_one(tmp_path):
    graph = Graph(["n", 3, 8, 8])
    path = saved(tmp_path, graph, coupled(graph))
    loaded = loaded_of(path)

    np.testing.assert_allclose(logits(loaded), runtime_scores(path, IMAGES), atol=1e-5)
    assert note(loaded, "with other images in its batch, its scores differ by")
    split = array_split(IMAGES, np.zeros(5, np.int64))
    assert "batch_dependent" in {check.code for check in check_subject(loaded.subject, split)}
