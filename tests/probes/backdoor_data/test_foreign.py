import numpy as np
import pytest

from audit.poisons.by_name import recipe_of
from probes.backdoor_data.clusters import Cluster, Splits
from probes.backdoor_data.content import Content, agreement, copies
from probes.backdoor_data.examine import planted_tiles, relabelled
from probes.backdoor_data.foreign import doubted, gathered_in_one_class
from tests.probes.backdoor_data.conftest import digits, samples_of, textures


def content_of(labels, images=None):
    return Content.of(digits()[0] if images is None else images, labels, 10)


def relabel(labels, target, count, seed):
    rng = np.random.default_rng(seed)
    rows = rng.permutation(np.flatnonzero(labels != target))[:count]
    changed = labels.copy()
    changed[rows] = target
    return changed, rows


@pytest.mark.parametrize("target", [1, 4, 9])
def test_images_relabelled_to_one_class_are_gathered(target):
    labels, rows = relabel(digits()[1], target, 90, seed=target)
    (label, found), *_ = gathered_in_one_class(content_of(labels))
    assert label == target
    assert np.isin(found, rows).mean() > 0.9
    assert np.isin(rows, found).mean() > 0.8


def test_labels_that_are_wrong_in_all_classes_are_of_no_class():
    """Of 20 choices, and of published labels."""
    published = digits()[1]
    assert not gathered_in_one_class(content_of(published))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = published.copy()
        rows = rng.permutation(len(labels))[:180]
        labels[rows] = (labels[rows] + rng.integers(1, 10, len(rows))) % 10
        assert not gathered_in_one_class(content_of(labels))


def test_where_content_tells_nothing_no_class_is_odd():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 5, 400)
        images = rng.integers(0, 255, (400, 3, 16, 16)).astype(np.uint8)
        assert not gathered_in_one_class(Content.of(images, labels, 5))


def test_doubts_fall_on_what_was_relabelled():
    images, labels = textures(n=600)
    changed = labels.copy()
    rows = np.flatnonzero(labels == 3)[:20]
    changed[rows] = 1
    doubts, own = doubted(Content.of(images, changed, 5))
    assert doubts[rows].mean() >= 0.8
    assert doubts.sum() < 40
    assert own[rows].max() < 0.5


def test_a_missing_class_is_no_ones_content():
    images, labels = textures(n=300, classes=3)
    doubts, _ = doubted(Content.of(images, labels, 7))
    assert doubts.mean() < 0.2


def test_a_style_is_no_contradiction():
    """A part of a class that is unlike its rest contradicts it where it is left out, and not where it counts."""
    published = digits()[1]
    labels = published.copy()
    labels[published == 7] = 4  # now the class has two parts
    content = content_of(labels)
    part = np.flatnonzero(published == 7)
    found = agreement(content, part, 4, np.random.default_rng(0))
    assert found.contradiction > 0.8
    assert found.scatter < 0.1
    assert not found.foreign


def test_groups_that_are_foreign_join_those_of_their_class():
    labels, rows = relabel(digits()[1], 4, 90, seed=0)
    content, rng = content_of(labels), np.random.default_rng(0)
    missed = np.setdiff1d(rows, dict(gathered_in_one_class(content))[4])
    assert len(missed)
    group = Cluster(4, rows, 0.5, 0.1, agreement(content, rows, 4, rng))
    other = Cluster(5, np.flatnonzero(labels == 5)[:30], 0.5, 0.1, agreement(content, rows, 5, rng))
    splits = Splits(np.zeros(10), [], np.zeros((len(labels), 2)), content)
    alone, joined = (relabelled(splits, groups, rng)[0] for groups in ([], [group, other]))
    assert set(joined.rows) == set(alone.rows) | set(rows)
    assert joined.agreement.foreign


def test_copies_of_a_few_mistakes_count_once():
    images, labels = digits()
    rng = np.random.default_rng(1)
    rows = rng.permutation(np.flatnonzero(labels != 4))[:6]
    more = np.concatenate([images, *[images[rows]] * 3])
    given = np.concatenate([labels, np.full(18, 4)])
    given[rows] = 4
    assert doubted(Content.of(more, given, 10))[0][rows].any()
    assert not gathered_in_one_class(Content.of(more, given, 10))
    features = Content.of(more, given, 10).without(None)
    assert set(copies(features, rows[:1], np.flatnonzero(given == 4))) >= {1797, 1803, 1809}


def test_a_class_that_is_nearly_all_foreign_is_left_alone():
    labels = digits()[1].copy()
    rows = np.flatnonzero(labels == 8)
    labels[rows] = np.random.default_rng(0).permutation(np.delete(np.arange(10), 8).repeat(20))[: len(rows)]
    labels[np.random.default_rng(1).permutation(len(labels))[:150]] = 8  # a class of anything
    assert 8 not in dict(gathered_in_one_class(content_of(labels)))


def test_one_image_of_a_class_makes_no_doubts():
    labels = digits()[1].copy()
    before = doubted(content_of(labels))[0].sum()
    labels[0] = 10
    assert doubted(Content.of(digits()[0], labels, 11))[0].sum() <= before + 3


def test_tiles_contradict_at_any_share():
    """Where content hardly tells classes apart, and a tenth to a third is relabelled."""
    images, labels = textures(n=1000, classes=5)
    rng = np.random.default_rng(0)
    weak = (0.75 * rng.permutation(images) + 0.25 * images).astype(np.uint8)
    for fraction in (0.1, 0.33):
        samples, poisoned = samples_of(weak, labels, 5, recipe_of("badnets", target=2, fraction=fraction))
        found = planted_tiles(samples, rng)
        assert any(poisoned[tile.group.carriers].mean() > 0.9 and tile.group.label == 2 for tile in found)
