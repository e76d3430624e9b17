"""Sets of known truth (`fixtures/poisoned.py`): what must be found and named, and what must stay silent."""

import re

import numpy as np
import pytest
import torch

from audit.api import Subject
from audit.poisons.by_name import recipe_of
from audit.testing import run_probe
from audit.training.quick import QuickNet
from fixtures import poisoned
from probes.backdoor_data import BackdoorDataConfig, backdoor_data
from probes.label_noise import label_noise
from probes.shortcuts import shortcuts
from probes.shortcuts.evidence import evidence_of
from probes.shortcuts.reference import alarming, compared, lower_share
from probes.shortcuts.templates import Sums, carriers
from probes.shortcuts.traces import traces_of

TO_FIND = ("cuda", "cuda-half", "class-noise", "class-patch")
SILENT = ("universal-blur", "brightness", "clean", "biased")
WITHOUT_CANARIES = BackdoorDataConfig(canaries=())
CLEAN = {f"clean {side}x{side}": poisoned.PoisonedSet("", "backdoor-data", side) for side in (8, 28)}
PROBES = {"shortcuts": shortcuts, "backdoor-data": backdoor_data, "label-noise": label_noise}


def evidence(name, seed):
    """By the data-only tests of the shortcuts probe."""
    split = poisoned.planted(poisoned.SETS[name], seed).split
    labels = split.labels[split.order]
    images = [split.source.pixels(int(row)) for row in split.order]
    rng = np.random.default_rng(seed)
    sums = Sums(poisoned.CLASSES, images[0].shape)
    sums.add(torch.from_numpy(np.stack(images)).float() / 255, labels, rng.random(len(labels)) < 0.5)
    return evidence_of(traces_of(images), labels, poisoned.CLASSES, rng, sums.templates())


@pytest.mark.parametrize("name", TO_FIND + SILENT)
def test_shortcuts_of_digits_by_the_data_alone(name):
    assert evidence(name, 0).alarm is (name in TO_FIND)


def test_every_class_with_a_patch_is_named_with_its_share():
    split = poisoned.planted(poisoned.SETS["class-patch"]).split
    labels = split.labels[split.order]
    found = evidence("class-patch", 0).patterned
    assert [template.label for template in found if template.stamp.isolated] == list(range(10))
    for one in carriers(split, labels, np.random.default_rng(0).random(len(labels)) < 0.5, found):
        assert 0.9 < one.lower <= one.share <= 1


@pytest.mark.slow
def test_patches_of_classes_are_named_of_twenty_seeds():
    found = [evidence("class-patch", seed).patterned for seed in range(200, 220)]
    assert np.mean([sum(template.stamp.isolated for template in each) for each in found]) >= 9.5


@pytest.mark.slow
@pytest.mark.parametrize("name", TO_FIND + SILENT)
def test_shortcuts_of_digits_of_twenty_seeds(name):
    """Seeds that no limit was chosen on; 100 to 119 were looked at for one."""
    alarms = sum(evidence(name, seed).alarm for seed in range(200, 220))
    assert alarms >= 19 if name in TO_FIND else alarms <= 1


def filtered_classes(name, seed):
    """Classes that comparison with trusted images names, and a lower limit of the share of images."""
    one = poisoned.SETS[name]
    suspected, trusted = poisoned.planted(one, seed).split, poisoned.trusted(one, seed)
    spectra = [
        traces_of([split.source.pixels(int(row)) for row in split.order]).spectrum for split in (suspected, trusted)
    ]
    labels = [split.labels[split.order] for split in (suspected, trusted)]
    found = compared(spectra[0], labels[0], spectra[1], labels[1], np.random.default_rng(seed))
    alarms = alarming(found)
    return {each.gain.label for each in alarms}, lower_share(alarms)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "classes", "share"), [("cuda", 9.5, 1.0), ("cuda-half", 8, 0.5), *(
    (name, 0, 0.0) for name in SILENT
)])  # fmt: skip
def test_filtered_classes_of_digits_of_twenty_seeds_by_trusted_images(name, classes, share):
    found = [filtered_classes(name, seed) for seed in range(240, 260)]
    if classes:
        assert np.mean([len(labels) for labels, _ in found]) >= classes
        assert sum(lower > share for _, lower in found) <= 1
        assert np.median([lower for _, lower in found]) >= 0.5 * share
    else:
        assert sum(bool(labels) for labels, _ in found) <= 1


@pytest.fixture
def verdict(tmp_path):
    def of(name, with_trusted=False, seed=0, **settings):
        one = (poisoned.SETS | CLEAN)[name]
        split = poisoned.planted(one, seed).split
        shape = tuple(split.batch(0, 1).pixels.shape[1:])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model = QuickNet(1, shape[1], 10, 4).eval().requires_grad_(False)
        subject = Subject(model, "net", 10, (), shape, torch.device("cpu"), "net")
        data = {"train": split}
        if with_trusted:
            data["clean"] = poisoned.trusted(one, seed)
        result = run_probe(PROBES[one.probe], tmp_path / f"{name}-{seed}", subject, data, **settings)
        (note,) = [note for note in result.diagnostics if note.conclusion]
        return note.text

    return of


@pytest.mark.slow
@pytest.mark.parametrize(("trusted", "classes", "verdicts"), [(True, 10, "DETECTED"), (False, 5, "SUSPICIOUS")])
def test_filters_of_classes_are_named(verdict, trusted, classes, verdicts):
    """All ten have one; where a digit leaves its border black, nothing shows there, and trusted images are needed."""
    text = verdict("cuda", with_trusted=trusted)
    assert text.startswith(verdicts)
    assert int(re.search(r"(\d+) classes", text)[1]) >= classes
    assert "filter of their own" in text


@pytest.mark.slow
def test_patches_of_classes_are_named_and_followed(verdict):
    text = verdict("class-patch")
    assert text.startswith("DETECTED: 10 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9) have a patch of their own at one place")
    assert "on about 100% of all images" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["badnets", "blended", "sig", "wanet"])
def test_backdoors_are_named_with_their_target_and_share(verdict, name):
    text = verdict(name)
    assert text.startswith(("DETECTED", "SUSPICIOUS"))
    assert f"labelled '{poisoned.SETS[name].settings['target']}'" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["universal-blur", "brightness", "clean", "biased", "random-patch"],
)
@pytest.mark.parametrize("trusted", [False, True])
def test_shams_and_clean_sets_are_not_called_poisoned(verdict, name, trusted):
    assert not verdict(name, with_trusted=trusted).startswith(("DETECTED", "SUSPICIOUS"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "expected"), [
    ("badnets", r"labelled '6'"), ("blended", r"labelled '2'"), ("sig", r"labelled '7'"), ("wanet", r"labelled '3'"),
    ("random-patch", None), ("clean 8x8", None), ("clean 28x28", None),
])  # fmt: skip
def test_backdoors_in_digits_of_twenty_seeds(verdict, name, expected):
    """Seeds that no limit was chosen on; 0 to 14 and 300 to 319 were looked at for some."""
    texts = [verdict(name, seed=seed, config=WITHOUT_CANARIES) for seed in range(330, 350)]
    alarms = [text for text in texts if text.startswith(("DETECTED", "SUSPICIOUS"))]
    if expected is None:
        assert len(alarms) <= 1
    else:
        assert sum(bool(re.search(expected, text)) for text in alarms) >= 19


@pytest.mark.slow
def test_wrong_labels_are_named_with_their_share(verdict):
    assert verdict("flips", with_trusted=True).startswith("DETECTED")


def test_every_set_is_what_it_says():
    for name, one in poisoned.SETS.items():
        found = poisoned.planted(one)
        among = found.before == one.settings["target"] if one.recipe == "sig" else slice(None)
        share = found.poisoned[among].mean()
        expected = one.settings.get("fraction", 1.0) if one.recipe else 0.0
        assert share == pytest.approx(expected, abs=0.01), name
        if one.recipe:
            assert recipe_of(one.recipe, **one.settings).kind == found.recipe.kind


def test_sets_are_written_with_their_truth(tmp_path):
    with np.load(poisoned.build("badnets", tmp_path)) as written:
        assert set(written) == {"x", "y", "poisoned", "cover", "y_before"}
        assert (written["y"] != written["y_before"]).sum() == written["poisoned"].sum() == 45
