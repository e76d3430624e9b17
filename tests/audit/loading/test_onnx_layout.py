"""What the input of an ONNX graph says of an image, and what it leaves open."""

import numpy as np
import pytest
import torch

from audit.adapters.onnx import Port
from audit.errors import SubjectError, UsageError
from audit.loading.onnx_layout import NO_BATCH, Layout, find_layout

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)


def layout_of(shape, native=None, stated=None, dtype="float32"):
    return find_layout(Port("images", dtype, shape), stated, native, "model.onnx")


@pytest.mark.parametrize(
    ("shape", "native", "expected"),
    [
        ((1, 3, 32, 32), None, Layout(3, (32, 32), batch=1)),
        ((None, 3, 32, 32), None, Layout(3, (32, 32))),
        ((8, 1, 28, 28), MNIST, Layout(1, (28, 28), batch=8)),
        ((None, 32, 32, 3), None, Layout(3, (32, 32), last=True)),
        ((1, 28, 28, 1), None, Layout(1, (28, 28), last=True, batch=1)),
        ((None, 3, None, None), MNIST, Layout(3, None)),
        ((None, None, None, 3), None, Layout(3, None, last=True)),
        ((None, None, None, None), CIFAR, Layout(3, None)),
        ((None, None, 64, 64), MNIST, Layout(1, (64, 64))),
        ((None, 3, 32, 32), MNIST, Layout(3, (32, 32))),
        ((None, 28, 28), None, Layout(1, (28, 28), dims=(28, 28))),
        ((None, None, None), MNIST, Layout(1, (28, 28), dims=(28, 28))),
        ((1, 784), MNIST, Layout(1, (28, 28), dims=(784,), batch=1)),
        ((None, 784), MNIST, Layout(1, (28, 28), dims=(784,))),
        ((None, None), CIFAR, Layout(3, (32, 32), dims=(3072,))),
        ((1, 784, 1), MNIST, Layout(1, (28, 28), dims=(784, 1), batch=1)),
        ((1, 1, 784), MNIST, Layout(1, (28, 28), dims=(1, 784), batch=1)),
        ((1, 1, 1, 784), MNIST, Layout(1, (28, 28), dims=(1, 1, 784), batch=1)),
        ((1, 1, 784, 1), MNIST, Layout(1, (28, 28), dims=(1, 784, 1), batch=1)),
        ((1, 1, 1, 28, 28), MNIST, Layout(1, (28, 28), dims=(1, 1, 28, 28), batch=1)),
        ((None, 3072), CIFAR, Layout(3, (32, 32), dims=(3072,))),
        ((None, 3, 1024), CIFAR, Layout(3, (32, 32), dims=(3, 1024))),
        ((None, 1024, 3), CIFAR, Layout(3, (32, 32), last=True, dims=(1024, 3))),
        ((3, 32, 32), CIFAR, Layout(3, (32, 32), batch=NO_BATCH)),
        ((32, 32, 3), CIFAR, Layout(3, (32, 32), last=True, batch=NO_BATCH)),
        ((784,), MNIST, Layout(1, (28, 28), dims=(784,), batch=NO_BATCH)),
        ((28, 28), MNIST, Layout(1, (28, 28), dims=(28, 28), batch=NO_BATCH)),
        ((1, 28, 28), MNIST, Layout(1, (28, 28), dims=(28, 28), batch=1)),
    ],
)
def test_layouts(shape, native, expected):
    assert layout_of(shape, native) == expected


def test_what_is_stated_counts():
    assert layout_of((None, 784), (3, 32, 32), (1, 28, 28)) == Layout(1, (28, 28), dims=(784,))
    assert layout_of((None, 3, None, None), MNIST, (3, 64, 48)) == Layout(3, (64, 48))
    assert layout_of((3, 3, 3), None, (3, 3, 3)).batch == NO_BATCH
    with pytest.raises(UsageError, match=r"Expected \?input= to agree with the graph's input .*, got 3x16x16"):
        layout_of((None, 3, 32, 32), None, (3, 16, 16))


@pytest.mark.parametrize(
    ("shape", "native"),
    [
        ((None, 784), None), ((None, 784), CIFAR), ((1, 784, 1), None), ((None, None), None), ((784,), None),
        ((None, 4, 32, 32), None), ((None, 16, 16, 16), None), ((3, 32, 32), None), ((3, 32, 32), MNIST), ((1,), MNIST),
        ((None, None, None), CIFAR), ((None, 3, 1024), None), ((None, None, None, None), None), ((), MNIST),
    ],
)  # fmt: skip
def test_what_is_open_is_asked(shape, native):
    with pytest.raises(UsageError, match=r"Say it with \?input=CxHxW after the file"):
        layout_of(shape, native)


def test_inputs_that_are_no_images():
    with pytest.raises(SubjectError, match=r"Expected an input of float32, float16, float64 or uint8 .*int64"):
        layout_of((None, 128), MNIST, dtype="int64")
    with pytest.raises(SubjectError, match="whose shape is written down"):
        layout_of(None)


def test_images_are_arranged():
    images = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).float()
    last = Layout(3, (4, 5), last=True, dims=(20, 3)).arranged(images)
    np.testing.assert_array_equal(last, images.numpy().transpose(0, 2, 3, 1).reshape(2, 20, 3))
    np.testing.assert_array_equal(Layout(3, (4, 5), dims=(60, 1)).arranged(images), images.reshape(2, 60, 1))
    assert str(Layout(3, (4, 5), dims=(60, 1))) == "images of (channels, height, width) flattened to 60x1"
    assert str(Layout(3, None, last=True)) == "images as (height, width, channels)"
