"""Classes against trusted images: exact p-values, which classes a filter is found in, and on how many images."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest

from audit.testing import run_probe
from fixtures import poisoned
from probes.shortcuts import shortcuts
from probes.shortcuts.reference import alarming, compared, lower_share, p_values
from probes.shortcuts.traces import traces_of
from tests.probes.shortcuts.conftest import photographs, planted, split_of, subject_for
from tests.splits import ArraySource

CLASSES = 4


def test_p_values_are_uniform_where_samples_may_be_exchanged(monkeypatch):
    """Of 200 sets of three pairs, skewed and of unequal sizes; the smallest of a set is what is held to a level."""
    monkeypatch.setattr("probes.shortcuts.reference.PERMUTED", 99)
    rng = np.random.default_rng(0)

    def sample(n):
        return rng.gamma(1.5, size=(n, 6)) * np.arange(1, 7)

    least = [min(p_values([(sample(30), sample(20)), (sample(12), sample(40)), (sample(25), sample(25))], rng))
             for _ in range(200)]  # fmt: skip
    assert kstest(least, "uniform").pvalue > 0.001


def test_a_shift_of_one_bin_of_one_class_is_significant():
    rng = np.random.default_rng(1)
    pairs = [(rng.standard_normal((40, 50)), rng.standard_normal((40, 50))) for _ in range(3)]
    pairs[1][0][:, 7] += 2
    p = p_values(pairs, rng)
    assert p[1] == 0.001
    assert min(p[0], p[2]) > 0.01


def spectra(images, labels):
    return traces_of(list(images)).spectrum, labels


def against(recipe=None, seed=0, **given):
    """Photographs with a recipe in them, held against others; and the share that is planted."""
    images, labels = photographs(n=1200, seed=seed)
    suspected, trusted = (images[:800], labels[:800]), (images[800:], labels[800:])
    share = 0.0
    if recipe is not None:
        made = planted(*suspected, recipe, seed=seed, **given)
        split = made.split
        suspected = np.stack([split.source.pixels(row) for row in split.order]), split.labels[split.order]
        share = made.poisoned.mean()
    return compared(*spectra(*suspected), *spectra(*trusted), np.random.default_rng(seed)), share


@pytest.mark.parametrize("fraction", [1.0, 0.7])
def test_filters_of_all_classes_are_found_on_as_many_images_as_have_them(fraction):
    found, share = against("cuda", key=5, fraction=fraction)
    alarms = alarming(found)
    assert [one.gain.label for one in alarms] == list(range(CLASSES))
    assert np.mean([one.share for one in alarms]) == pytest.approx(share, abs=0.1)
    assert share - 0.25 < lower_share(alarms) <= share


def test_the_lower_limit_of_nothing_is_near_nothing_however_classes_are_spread():
    """Few suspected images of one class beside many trusted ones, and the other way round."""
    rng = np.random.default_rng(4)
    limits = []
    for _ in range(20):
        spectrum, trusted = rng.standard_normal((560, 50)), rng.standard_normal((560, 50))
        labels, others = np.repeat([0, 1], [500, 60]), np.repeat([0, 1], [60, 500])
        limits.append(lower_share(compared(spectrum, labels, trusted, others, rng)))
    assert sum(limit > 0 for limit in limits) <= 3


@pytest.mark.parametrize("sham", [None, "universal-blur", "brightness", "random-patch", "class-noise"])
def test_what_all_classes_have_and_what_is_no_filter_raise_no_alarm(sham):
    found, _ = against(sham, **({} if sham is None else {"key": 3}))
    assert alarming(found) == []
    assert len(found) == CLASSES


def test_only_the_filtered_class_is_named():
    images, labels = photographs(n=1200, seed=2)
    made = planted(images[:800], labels[:800], "cuda", key=9, fraction=1.0)
    mixed = [made.split.source.pixels(row) if labels[row] == 2 else images[row] for row in range(800)]
    trusted = spectra(images[800:], labels[800:])
    found = compared(*spectra(mixed, labels[:800]), *trusted, np.random.default_rng(0))
    assert [one.gain.label for one in alarming(found)] == [2]


def test_classes_of_few_trusted_images_are_left_out():
    images, labels = photographs(n=400)
    few = np.flatnonzero((labels != 1) | (np.arange(400) < 40))
    found = compared(*spectra(images, labels), *spectra(images[few], labels[few]), np.random.default_rng(0))
    assert [one.gain.label for one in found] == [0, 2, 3]
    assert compared(*spectra(images, labels), *spectra(images[:8], labels[:8]), np.random.default_rng(0)) == []


@pytest.mark.slow
def test_digits_with_filters_are_named_with_all_classes_and_their_share(tmp_path):
    split = poisoned.planted(poisoned.SETS["cuda-half"]).split
    data = {"train": split, "clean": poisoned.trusted(poisoned.SETS["cuda-half"])}
    result = run_probe(shortcuts, tmp_path, subject_for(split, 10), data)
    (note,) = [note for note in result.diagnostics if note.conclusion]
    assert note.text.startswith("DETECTED: 10 classes")
    (share,) = [fact.value for fact in result.measurements if fact.metric == "shortcuts.poisoned_fraction"]
    assert 0.25 < share <= 0.5


class StoredSmaller(ArraySource):
    """Images that are stored with half as many pixels a side as the subject is shown."""

    def stored(self, index):
        return np.ascontiguousarray(self.pixels(index)[:, ::2, ::2])


def test_trusted_images_of_another_size_are_shown_to_the_network_as_the_subject_sees_them(audited):
    """A network that was trained on stored images took smaller ones for noise, and clean sets looked unlearnable."""
    images, labels = photographs(n=800)
    trusted = replace(split_of(images[600:], labels[600:], "clean"), source=StoredSmaller(images[600:]))
    found = audited(split_of(images[:600], labels[:600]), classes=CLASSES, clean=trusted)
    assert "trusted_size" in found.said
    assert not {"detected", "suspicious"} & set(found.said)
