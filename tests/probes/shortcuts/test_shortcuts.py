"""The whole probe on planted truth and shams, in photographs of our own making."""

import re

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.datasets import load_digits

from probes.shortcuts import ShortcutsConfig
from tests.probes.shortcuts.conftest import photographs, planted, split_of


def test_filters_of_all_classes_are_detected_named_and_estimated(audited):
    images, labels = photographs()
    found = planted(images, labels, "cuda", key=5)
    trusted = split_of(*photographs(n=200), role="clean")
    result = audited(found.split, clean=trusted)
    assert result.verdict == "detected"
    assert "4 classes (0, 1, 2, 3) have a filter of their own" in result.said["detected"]
    (followed,) = result.measured("followed", who="a small network")
    assert followed.interval.low > 0.1
    (fraction,) = result.measured("poisoned_fraction")
    assert fraction.claim.value == "lower_bound"
    assert 0.4 < fraction.value <= 1
    assert len(result.figures["filters"].rows[0]) == 4


def test_one_filtered_class_is_named_with_its_share(audited):
    images, labels = photographs(n=1200)
    found = planted(images, labels, "cuda", key=2, only=(1,), fraction=0.4)
    result = audited(found.split)
    assert result.verdict in ("detected", "suspicious")
    assert "the class 1 has a filter" in result.said[result.verdict]
    share = int(re.search(r"about (\d+)% of all images", result.said[result.verdict])[1])
    assert 7 <= share <= 14


@pytest.mark.parametrize("sham", ["none", "universal-blur", "brightness", "random-patch"])
def test_clean_and_sham_data_raise_no_alarm(audited, sham):
    images, labels = photographs(seed=1)
    split = split_of(images, labels) if sham == "none" else planted(images, labels, sham, key=3).split
    result = audited(split)
    assert result.verdict == "not_detected"
    assert all(control.passed for control in result.controls.values())
    (fraction,) = result.measured("poisoned_fraction")
    assert (fraction.claim.value, fraction.value) == ("upper_bound", 1.0)
    assert fraction.assumptions
    (power,) = result.measured("power", fraction=1.0)
    assert power.n == 2
    assert power.value == pytest.approx(0.05**0.5)


def test_noise_of_each_class_is_a_pattern_and_no_filter(audited):
    images, labels = photographs(seed=2)
    split = planted(images, labels, "class-noise", key=1).split
    result = audited(split)
    assert result.verdict in ("detected", "suspicious")
    assert "a fine pattern of their own" in result.said[result.verdict]
    assert "filter" not in result.said[result.verdict]
    assert "patterns" in result.figures
    suspects = result.figures["suspects"].rows
    assert {row[0] for row in suspects} == {"0", "1", "2", "3"}
    assert all(split.ids[row] == identity for _, identity, row, _ in suspects)


def test_patches_on_some_images_are_named_and_followed(audited):
    """What is put on images is the patch as its carriers have it, and not the mean over the class."""
    images, labels = photographs(n=1200, seed=2)
    result = audited(planted(images, labels, "class-patch", key=1, fraction=0.5).split)
    said = result.said["detected"]
    assert "4 classes (0, 1, 2, 3) have a patch of their own at one place, on about 5" in said
    (fraction,) = result.measured("poisoned_fraction")
    assert 0.35 < fraction.value <= 0.5
    (followed,) = result.measured("followed", who="a small network")
    assert followed.interval.low > 0.2


def test_trusted_images_show_that_nothing_else_was_learnt(audited):
    images, labels = photographs(seed=3)
    trusted = split_of(*photographs(n=200, seed=3), role="clean")
    result = audited(planted(images, labels, "cuda", key=5).split, clean=trusted)
    (gap,) = result.measured("trusted_gap")
    assert gap.n == 200
    assert gap.interval.low <= gap.value <= gap.interval.high
    assert "of trusted" in result.said["detected"]


def test_few_images_of_a_class_are_no_ground_to_speak(audited):
    images, labels = photographs(n=120)
    result = audited(split_of(images, labels))
    assert "fewer than two classes have 50 images" in result.said["cannot_tell"]
    assert [note.undecided for note in result.found.diagnostics if note.conclusion] == [True]
    assert "4 of 4 classes have fewer than 50 images" in result.said["small_classes"]
    assert not result.measured("poisoned_fraction")


def test_digits_of_eight_pixels_cannot_be_told(audited):
    digits = load_digits()
    images = (digits.images[:, None] / 16 * 255).astype(np.uint8)
    result = audited(split_of(images, digits.target.astype(np.int64)), classes=10)
    assert result.verdict == "cannot_tell"
    assert "borders are framed, black or too few, or images smaller than 28 pixels" in result.said["cannot_tell"]


@pytest.mark.parametrize(("times", "frame"), [(2, 8), (3, 4), (4, 0)])
def test_images_enlarged_by_repeated_pixels_are_not_called_poisoned(audited, times, frame):
    digits = load_digits()
    small = (digits.images[:600, None] / 16 * 255).astype(np.uint8)
    images = np.pad(np.kron(small, np.ones((1, 1, times, times), np.uint8)), [(0, 0)] * 2 + [(frame, frame)] * 2,
                    constant_values=128)  # fmt: skip
    result = audited(split_of(images, digits.target[:600].astype(np.int64)), classes=10)
    assert result.verdict in ("cannot_tell", "not_detected")
    assert "enlarged by repeated pixels" in result.said["enlarged"]


def test_trusted_images_of_another_size_are_not_held_against_the_others(audited):
    images, labels = photographs(seed=3)
    trusted = split_of(*photographs(n=200, side=16, seed=3), role="clean")
    result = audited(split_of(images, labels), clean=trusted)
    assert result.verdict == "not_detected"
    assert "they are of 16x16 pixels, the others of 32x32" in result.said["trusted_other_size"]
    assert not result.measured("trusted_gap")


def test_fractions_are_shares_and_largest_first():
    assert ShortcutsConfig(fractions=(0.05, 1.0, 0.2)).fractions == (1.0, 0.2, 0.05)
    for wrong in ((5.0,), (0.0,), ()):
        with pytest.raises(ValidationError):
            ShortcutsConfig(fractions=wrong)


def test_all_black_images_and_classes_without_images_are_answered(audited):
    images = np.zeros((240, 1, 16, 16), np.uint8)
    result = audited(split_of(images, np.arange(240, dtype=np.int64) % 2), classes=6)
    assert result.verdict == "cannot_tell"
    assert "4 of 6 classes have fewer than 50 images" in result.said["small_classes"]


def test_images_are_examined_as_they_are_stored(audited):
    from dataclasses import replace

    images, labels = photographs(seed=4)
    found = planted(images, labels, "cuda", key=7)

    class Cropped:
        """What a subject of 24 x 24 pixels sees: no border is left."""

        def __init__(self, base):
            self.base = base

        def __len__(self):
            return len(self.base)

        def pixels(self, index):
            return np.ascontiguousarray(self.base.pixels(index)[:, 4:-4, 4:-4])

        def stored(self, index):
            return self.base.pixels(index)

    result = audited(replace(found.split, source=Cropped(found.split.source)), epochs=2)
    rows = {row[0]: row for row in result.figures["classes"].rows}
    assert all(row[2] in ("top", "bottom", "left", "right") for row in rows.values())
    assert min(float(row[4]) for row in rows.values()) < 1e-6
