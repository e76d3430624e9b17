"""Patches at one place, on halves of class means whose truth is known."""

import numpy as np
import pytest

from probes.shortcuts.stamps import stamp_of

LARGEST = 0.1


def halves(side=32, noise=0.003, seed=0):
    return np.random.default_rng(seed).normal(0, noise, (2, 3, side, side)).astype(np.float32)


def test_a_patch_is_found_where_it_is():
    made = halves()
    made[:, :, 20:23, 5:8] = 0.9 * LARGEST
    found = stamp_of(made, LARGEST)
    assert found.isolated
    assert found.share == pytest.approx(0.9, abs=0.05)
    assert found.elsewhere < 0.1
    assert found.mask[20:23, 5:8].all()
    assert found.mask.sum() <= 25


def test_a_patch_on_some_photographs_is_found_and_on_drawings_is_not():
    photographs, drawings = halves(), halves()
    drawings[:, :, 4:28, 14:17] = 0.3 * LARGEST  # a stroke
    for made in (photographs, drawings):
        made[:, :, 2:5, 2:5] = 0.4 * LARGEST
    assert stamp_of(photographs, LARGEST).isolated
    assert not stamp_of(drawings, LARGEST).isolated


@pytest.mark.parametrize("kind", ["nothing", "frame", "noise", "one half", "stroke in the middle"])
def test_what_is_no_patch_is_none(kind):
    made = halves()
    if kind == "frame":
        made[:, :, 0] = made[:, :, :, 0] = LARGEST
    if kind == "noise":
        made += LARGEST * np.random.default_rng(1).choice([-1, 1], (3, 32, 32)).astype(np.float32)
    if kind == "one half":
        made[0, :, 9:12, 9:12] = LARGEST
    if kind == "stroke in the middle":  # as MNIST's ones have
        made[:, :, 14:17, 14:17] = 0.59 * LARGEST
        made[:, :, 5, 14:17] = 0.2 * LARGEST
    assert not stamp_of(made, LARGEST).isolated


@pytest.mark.parametrize("side", [1, 2, 3, 9])
def test_images_of_any_size_have_an_answer(side):
    found = stamp_of(halves(side), LARGEST)
    assert found.mask.shape == (side, side)
    assert not found.isolated
    patched = np.full((2, 3, side, side), LARGEST, dtype=np.float32)
    assert np.isfinite(stamp_of(patched, LARGEST).share)
