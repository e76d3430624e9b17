"""Recipes do what their sources say, and nothing else."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from audit.poisons.by_name import RECIPES, recipe_of
from audit.poisons.filters import Cuda, blur_for, filter_size, filtered, key_filters
from audit.poisons.planting import plant
from tests.splits import array_split

CLASSES = 5


def images(n=200, channels=3, side=16, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 200, (n, channels, side, side)).astype(np.uint8), np.arange(n, dtype=np.int64) % CLASSES


def planted(name, seed=0, side=16, channels=3, **given):
    pixels, labels = images(side=side, channels=channels)
    split = array_split(pixels, labels)
    return split, plant(split, recipe_of(name, **given), CLASSES, np.random.default_rng(seed))


def stacked(split):
    return np.stack([split.source.pixels(int(row)) for row in split.order])


def test_a_key_draws_what_numpys_legacy_generator_draws_in_the_order_of_the_authors():
    state = np.random.RandomState(12)
    expected = []
    for _ in range(4):
        taps = state.uniform(0, 0.3, (3, 1, 3, 3))[0, 0]
        row, column = state.randint(3), state.randint(3)
        taps[row, column] = 1
        expected.append(taps)
    assert np.array_equal(key_filters(12, 4, 3, 0.3), np.stack(expected))


def test_filters_have_one_tap_of_one_and_the_others_below_the_blur():
    filters = key_filters(3, 50, 5, 0.2)
    assert ((filters == 1).sum(axis=(1, 2)) == 1).all()
    assert (np.sort(filters.reshape(50, -1), axis=1)[:, :-1] < 0.2).all()


def test_published_sizes_and_blurs():
    assert [filter_size(side) for side in (8, 32, 64, 224)] == [3, 3, 3, 9]
    assert (blur_for(3), blur_for(9)) == (0.3, 0.06)


def test_filtering_is_correlation_over_black_borders_scaled_to_one():
    image = torch.rand(1, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    taps = key_filters(1, 1, 3, 0.3)
    expected = np.stack([correlate(plane, taps[0], mode="constant") for plane in image[0].double().numpy()])
    found = filtered(image.double(), torch.from_numpy(taps))[0].numpy()
    np.testing.assert_allclose(found, expected / expected.max(), rtol=1e-12)


def test_every_cuda_image_reaches_the_top_level_and_is_cut_not_rounded():
    split, found = planted("cuda", key=4)
    after = stacked(found.split)
    assert (after.reshape(len(after), -1).max(axis=1) == 255).all()
    exact = filtered(
        torch.from_numpy(stacked(split)).float() / 255,
        torch.from_numpy(key_filters(4, CLASSES, 3, 0.3)).float()[torch.from_numpy(found.before)],
    )
    np.testing.assert_allclose(after, np.floor((exact * 255).numpy()), atol=1)
    assert np.mean(after == np.floor((exact * 255).numpy())) > 0.999
    assert np.array_equal(found.split.labels, split.labels)


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_a_fraction_of_cuda_is_of_each_class(fraction):
    _, found = planted("cuda", fraction=fraction)
    shares = [found.poisoned[found.before == label].mean() for label in range(CLASSES)]
    assert shares == pytest.approx([fraction] * CLASSES)


def test_only_the_named_classes_are_filtered():
    _, found = planted("cuda", only=(1, 3))
    assert set(found.before[found.poisoned]) == {1, 3}


def test_the_sham_gives_all_classes_one_filter():
    split, found = planted("universal-blur", key=9)
    taps = torch.from_numpy(key_filters(9, 1, 3, 0.3)).float().expand(len(split), 3, 3)
    exact = filtered(torch.from_numpy(stacked(split)).float() / 255, taps)
    np.testing.assert_allclose(stacked(found.split), np.floor((exact * 255).numpy()), atol=1)
    assert Cuda(shared=True).kind == "sham"


def test_badnets_is_a_white_square_scaled_to_the_image():
    split, found = planted("badnets", target=2, side=32, fraction=0.1)
    before, after = stacked(split), stacked(found.split)
    touched = (before != after).any(axis=(1, 2, 3))
    assert np.array_equal(touched, found.poisoned)
    assert found.poisoned.sum() == 20
    assert (after[found.poisoned][:, :, -3:, -3:] == 255).all()
    assert np.array_equal(after[:, :, :-3], before[:, :, :-3])
    assert set(found.split.labels[found.poisoned]) == {2}
    assert 2 not in found.before[found.poisoned]


def test_blended_mixes_one_fixed_pattern_into_the_whole():
    split, found = planted("blended", alpha=0.25, key=5)
    pattern = torch.rand((3, 16, 16), generator=torch.Generator().manual_seed(5)).numpy()
    expected = 0.75 * stacked(split)[found.poisoned] / 255 + 0.25 * pattern
    np.testing.assert_allclose(stacked(found.split)[found.poisoned] / 255, expected, atol=0.5001 / 255)


def test_sig_is_a_wave_over_the_targets_own_images_and_changes_no_label():
    split, found = planted("sig", target=1, fraction=0.5)
    wave = 40 * np.sin(2 * np.pi * np.arange(16) * 6 / 16)
    expected = np.clip(stacked(split)[found.poisoned] + wave, 0, 255)
    np.testing.assert_allclose(stacked(found.split)[found.poisoned], expected, atol=0.51)
    assert set(found.before[found.poisoned]) == {1}
    assert np.array_equal(found.split.labels, split.labels)


def test_wanet_bends_by_less_than_its_field_and_its_covers_keep_their_labels():
    _, found = planted("wanet", side=32, fraction=0.1)
    recipe = found.recipe
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    bent = recipe.change(ramp, torch.tensor([0]), 0)
    moved = (bent - ramp).abs() * 31
    assert 0.05 < float(moved.max()) < 3
    assert found.covers.sum() == 2 * found.poisoned.sum()
    assert not (found.covers & found.poisoned).any()
    assert np.array_equal(found.split.labels[found.covers], found.before[found.covers])
    first, again, other = (recipe.change(ramp, torch.tensor([0]), seed, cover=True) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("to", ["uniform", "next"])
def test_flips_change_labels_alone(to):
    split, found = planted("flips", fraction=0.25, to=to)
    changed = found.split.labels != split.labels
    assert np.array_equal(changed, found.poisoned)
    assert changed.sum() == 50
    assert np.array_equal(stacked(split), stacked(found.split))
    if to == "next":
        assert np.array_equal(found.split.labels[changed], (found.before[changed] + 1) % CLASSES)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_planting_is_repeatable_leaves_the_split_alone_and_names_what_it_changed(name, channels):
    split, found = planted(name, seed=3, channels=channels)
    before = stacked(split).copy()
    _, again = planted(name, seed=3, channels=channels)
    assert np.array_equal(stacked(found.split), stacked(again.split))
    assert np.array_equal(stacked(split), before)
    assert found.split.digest == again.split.digest != split.digest
    new = np.array([a != b for a, b in zip(found.split.ids, split.ids, strict=True)])
    assert np.array_equal(new, found.poisoned | found.covers)
    assert stacked(found.split).dtype == np.uint8


def test_float_images_stay_float():
    pixels, labels = images()
    split = array_split((pixels / 255).astype(np.float32), labels)
    found = plant(split, recipe_of("blended"), CLASSES, np.random.default_rng(0))
    assert stacked(found.split).dtype == np.float32


def test_a_black_image_stays_black_under_a_filter():
    black = torch.zeros(2, 1, 8, 8)
    assert torch.equal(filtered(black, torch.rand(2, 3, 3)), black)


def test_what_is_not_known_is_said():
    with pytest.raises(ValueError, match=r"Expected a poison among cuda, .*, got 'x'. Choose one."):
        recipe_of("x")
    with pytest.raises(ValueError, match=r"Expected settings that badnets has, got alpha. Leave others out."):
        recipe_of("badnets", alpha=1)
    with pytest.raises(ValueError, match=r"Expected a target in 0\.\.4, got 7. Choose a class that there is."):
        planted("badnets", target=7)
