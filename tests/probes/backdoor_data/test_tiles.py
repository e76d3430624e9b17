from collections import defaultdict

import numpy as np
import pytest

from audit.poisons.by_name import recipe_of
from probes.backdoor_data.content import Content, agreement, apart, at_least
from probes.backdoor_data.examine import planted_tiles
from probes.backdoor_data.samples import Samples
from probes.backdoor_data.tiles import FEWEST_CARRIERS, distinct, scan, sides_for, standing_out
from probes.backdoor_data.tiles import _hashes as hashes
from tests.probes.backdoor_data.conftest import digits, samples_of, textures


def test_hashes_agree_exactly_where_tiles_do():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2, (60, 2, 6, 7)).astype(np.uint8) * 255
    weights = rng.integers(1, 2**63, images.shape[1:], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    for side in (1, 2, 3):
        for top, row in enumerate(hashes(images, weights, side)):
            for left in range(7 - side + 1):
                groups = defaultdict(set)
                for place, image in enumerate(images):
                    groups[image[:, top : top + side, left : left + side].tobytes()].add(place)
                found = defaultdict(set)
                for place, value in enumerate(row[:, left]):
                    found[int(value)].add(place)
                assert sorted(map(sorted, groups.values())) == sorted(map(sorted, found.values()))


@pytest.mark.parametrize("seed", range(3))
def test_a_rare_patch_is_found_with_its_place_and_its_class(seed):
    images, labels = textures(seed=seed)
    target = seed % 5
    samples, poisoned = samples_of(images, labels, 5, recipe_of("badnets", target=target, fraction=0.01), seed)
    tiles = planted_tiles(samples, np.random.default_rng(seed))
    assert [(t.group.label, t.group.top, t.group.left, t.group.side) for t in tiles] == [(target, 29, 29, 3)]
    assert set(tiles[0].group.carriers) == set(np.flatnonzero(poisoned))


@pytest.mark.parametrize("seed", range(4))
def test_one_white_pixel_of_digits_is_found_though_natural_tiles_hang_on_classes_too(seed):
    images, labels = digits()
    target = 2 * seed
    samples, poisoned = samples_of(images, labels, 10, recipe_of("badnets", target=target, fraction=0.02), seed)
    groups, tests = scan(samples.images, samples.labels, 10, np.random.default_rng(0))
    natural = [group for group in groups if group.p * tests < 1e-6 and group.label != target]
    assert natural  # such as the hole of a zero
    tiles = planted_tiles(samples, np.random.default_rng(seed))
    assert [t.group.label for t in tiles] == [target]
    group = tiles[0].group  # with black around it, perhaps
    assert (group.top + group.side, group.left + group.side) == (8, 8)
    assert poisoned[tiles[0].group.carriers].mean() > 0.9


@pytest.mark.parametrize(
    ("sham", "seeds"), [(None, 20), ("random-patch", 20), ("universal-blur", 5), ("brightness", 5)]
)
def test_shams_and_clean_sets_are_silent(sham, seeds):
    """Of both data sets; at a level of 0.01 a set, 40 sets stay silent in two of three such tests or more."""
    small, small_labels = digits()
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        recipe = None if sham is None else recipe_of(sham, key=seed)
        rows = rng.permutation(len(small))[:600]
        samples, _ = samples_of(small[rows], small_labels[rows], 10, recipe, seed)
        assert not planted_tiles(samples, rng), f"digits, seed {seed}"
        images, labels = textures(n=250, side=16, seed=seed)
        samples, _ = samples_of(images, labels, 5, recipe, seed)
        assert not planted_tiles(samples, rng), f"textures, seed {seed}"


def test_borders_duplicates_and_near_copies_are_no_triggers():
    images, labels = textures(n=600)
    images[:, :, :4] = images[:, :, -4:] = 0  # letter-boxed
    framed = images.copy()
    framed[labels == 1, :, :, :3] = 255  # and one class with a frame of its own, of which no part stands out
    copied = images.copy()
    copied[np.flatnonzero(labels == 2)[:30]] = copied[np.flatnonzero(labels == 2)[0]]
    nearly = copied.copy()
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(labels == 2)[:30]
    nearly[rows, :, 10:20, 10:20] ^= rng.integers(0, 2, (30, 3, 10, 10)).astype(np.uint8)
    for made in (images, framed, copied, nearly):
        assert not planted_tiles(Samples(made, labels, 5), np.random.default_rng(1))
    assert len(distinct(copied)) == 571


def test_a_patch_within_letter_boxed_images_is_found():
    images, labels = textures(n=800)
    images[:, :, :4] = images[:, :, -4:] = 0
    samples, _ = samples_of(images, labels, 5, recipe_of("badnets", target=2, fraction=0.03))
    tiles = planted_tiles(samples, np.random.default_rng(1))
    assert [t.group.label for t in tiles] == [2]
    assert tiles[0].group.top in (28, 29)  # the black around the patch repeats as well


def test_a_tile_of_one_colour_counts_where_it_stands_out():
    images = np.zeros((3, 1, 8, 8), dtype=np.uint8)
    images[0, :, 3:5, 3:5] = 255
    images[1, :, 2:7, 2:7] = 255
    images[2] = 255
    assert standing_out(images, np.arange(3), 3, 3, 2).tolist() == [0]


def test_sides_follow_the_image():
    assert sides_for(8) == (1, 2, 3)
    assert sides_for(32) == (1, 2, 3, 4, 5, 6, 8)
    assert max(sides_for(224)) == 56
    assert sides_for(3) == (1, 2)


def test_few_images_have_no_groups():
    images, labels = textures(n=2 * FEWEST_CARRIERS - 1)
    assert scan(images, labels, 5, np.random.default_rng(0)) == ([], 0)


def test_the_law_of_many_chances_is_the_binomial_where_they_are_equal():
    from scipy.stats import binom

    assert at_least(np.full(30, 0.3), 14) == pytest.approx(binom.sf(13, 30, 0.3))
    chances = np.array([0.1, 0.5, 0.9])
    assert at_least(chances, 3) == pytest.approx(0.045)
    assert at_least(chances, 0) == 1


def test_content_tells_relabelled_images_from_a_part_of_the_class():
    images, labels = textures(n=900)
    content = Content.of(images, labels, 5)
    rng = np.random.default_rng(0)
    own = np.flatnonzero(labels == 1)[:40]
    assert agreement(content, own, 1, rng).contradiction < 0.3
    wrong = np.flatnonzero(labels == 3)[:40]
    changed = labels.copy()
    changed[wrong] = 1
    found = agreement(Content.of(images, changed, 5), wrong, 1, rng)
    assert found.contradiction > 0.8
    assert found.p < 1e-6


def test_near_copies_count_once():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((100, 20)).astype(np.float32)
    features[1:10] = features[0] + 1e-3 * rng.standard_normal((9, 20))
    assert apart(features, np.arange(12), np.arange(20, 100)).tolist() == [0, 10, 11]
