"""Patches at one place, on class means and on images whose truth is known."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from probes.shortcuts.stamps import stamp_of
from probes.shortcuts.templates import Sums, carriers
from tests.probes.shortcuts.conftest import photographs, split_of

LARGEST = 0.1


def halves(side=32, noise=0.003, seed=0):
    return np.random.default_rng(seed).normal(0, noise, (2, 3, side, side)).astype(np.float32)


def stamp(made, photographs=True):
    return stamp_of(made, np.zeros_like(made), LARGEST, photographs=photographs)


def templates(images, labels, classes):
    sums = Sums(classes, images.shape[1:])
    second = np.random.default_rng(0).random(len(labels)) < 0.5
    sums.add(torch.from_numpy(images).float() / 255, labels, second)
    return sums.templates(), second


def patch(images, rows):
    """Writes black and white pixels on them."""
    images[rows, :, 20:23, 5:8] = 255 * np.random.default_rng(5).integers(0, 2, (3, 3, 3))


def test_a_patch_is_found_where_it_is():
    made = halves()
    made[:, :, 20:23, 5:8] = 0.9 * LARGEST
    found = stamp(made)
    assert found.isolated
    assert found.here == pytest.approx(0.9, abs=0.05)
    assert found.elsewhere < 0.1
    assert found.mask[20:23, 5:8].all()
    assert found.mask.sum() <= 25


def test_a_patch_on_some_images_is_found_on_photographs_alone():
    made = halves()
    made[:, :, 2:5, 2:5] = 0.4 * LARGEST
    assert stamp(made).isolated
    assert not stamp(made, photographs=False).isolated


@pytest.mark.parametrize("kind", ["nothing", "frame", "noise", "one half", "stroke in the middle", "of others"])
def test_what_is_no_patch_is_none(kind):
    made, others = halves(), np.zeros((2, 3, 32, 32), dtype=np.float32)
    if kind == "frame":
        made[:, :, 0] = made[:, :, :, 0] = LARGEST
    if kind == "noise":
        made += LARGEST * np.random.default_rng(1).choice([-1, 1], (3, 32, 32)).astype(np.float32)
    if kind == "one half":
        made[0, :, 9:12, 9:12] = LARGEST
    if kind == "stroke in the middle":  # as MNIST's ones have
        made[:] = 0
        made[:, :, 14:17, 14:17] = 0.59 * LARGEST
        made[:, :, 3:6, 14:17] = 0.15 * LARGEST
    if kind == "of others":  # they have a patch, and this class has none
        others[:, :, 9:12, 9:12] = LARGEST
    assert not stamp_of(made, others, LARGEST, photographs=True).isolated


@pytest.mark.parametrize("classes", [2, 4])
def test_the_class_with_a_patch_is_named_alone(classes):
    """Of two classes the other one differs by as much."""
    images, labels = photographs(n=800)
    labels = labels % classes
    patch(images, labels == 1)
    every, second = templates(images, labels, classes)
    named = [one for one in every if one.stamp.isolated]
    assert [one.label for one in named] == [1]
    (carried,) = carriers(split_of(images, labels), labels, second, named)
    assert carried.share > 0.9
    assert named[0].pattern[:, ~named[0].stamp.mask].max() == 0


@pytest.mark.parametrize("padding", [0, 4, 8, 16])
def test_drawings_in_wide_margins_have_no_patch(padding):
    data = load_digits()
    images = np.kron((data.images[:, None] / 16 * 255).astype(np.uint8), np.ones((1, 1, 4, 4), dtype=np.uint8))
    smooth = torch.nn.functional.avg_pool2d(torch.from_numpy(images).float(), 3, stride=1).byte().numpy()
    wide = np.pad(smooth, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    found, _ = templates(wide, data.target.astype(np.int64), 10)
    assert len(found) == 10
    assert not any(one.stamp.isolated for one in found)
    assert not any(one.stamp.photographs for one in found) or padding == 0


def test_values_that_are_no_number_spoil_nothing():
    images, labels = photographs(n=400)
    patch(images, labels == 1)
    pixels = images.astype(np.float32) / 255
    pixels[np.flatnonzero(labels == 2)[0], 0, 5, 5] = np.nan
    sums = Sums(4, (3, 32, 32))
    sums.add(torch.from_numpy(pixels), labels, np.random.default_rng(0).random(400) < 0.5)
    (named,) = [one for one in sums.templates() if one.stamp.isolated]
    assert named.label == 1
    assert np.isfinite(named.pattern).all()
    assert np.isfinite(named.halves).all()


def test_small_classes_have_no_pattern():
    images, labels = photographs(n=400)
    labels = np.where(np.arange(400) < 40, 0, 1 + labels % 2)
    assert [one.label for one in templates(images, labels, 3)[0]] == [1, 2]
