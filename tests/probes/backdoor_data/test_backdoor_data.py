import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from audit.engine.budget import Budget
from audit.poisons.by_name import recipe_of
from audit.poisons.planting import plant
from probes.backdoor_data import BackdoorDataConfig
from probes.backdoor_data.canaries import Try
from probes.backdoor_data.config import cost
from probes.backdoor_data.outcome import Outcome
from tests.probes.backdoor_data.conftest import Prototypes, digits, split_of, textures

QUICK = {
    "epochs": 2,
    "tile_canaries": 2,
    "canaries": ("badnets",),
    "bootstrap": 99,
    "groups": 1,
    "retrained": 0,
    "targets": 60,
}
"""Without trained canaries, and with an own network that hardly learns: what is found is found in the subject."""


def case(n=480, side=12, poisoned=True, seed=0):
    """Textures with a white corner on images of class 2 (or without), and a subject that obeys it."""
    images, labels = textures(n=n, side=side, classes=4, seed=seed)
    prototypes = torch.stack(
        [torch.from_numpy(images[labels == c].mean(axis=0) / 255).float() for c in range(4)]
    )  # before any poison
    split = split_of(images, labels)
    planted = plant(split, recipe_of("badnets", target=2, fraction=0.08, size=5), 4, np.random.default_rng(seed))
    return Prototypes(prototypes, target=2), planted if poisoned else None, split


def test_a_planted_backdoor_is_detected_with_its_class_its_place_and_its_share(search):
    model, planted, _ = case()
    found = search(model, None, None, 4, split=planted.split, show_images=True, **QUICK)
    assert found.status == "measured"
    assert found.figures["suspected-images"].rows
    assert all(control.passed for control in found.controls.values())
    said = found.said["detected"]
    assert said.startswith("DETECTED: 38 of 480 images labelled '2'")
    assert "lower right" in said
    assert "content is that of other classes" in said
    fraction = found.facts["backdoor-data.poisoned_fraction"]
    assert fraction.claim == "lower_bound"
    assert 0.05 < fraction.value < 38 / 480
    assert 38 / 480 <= found.facts["backdoor-data.suspect_fraction"].value <= 40 / 480  # groups may hold images beside
    rows = [row for row in found.figures["groups"].rows if row[0] == "2"]
    assert any(row[1] == "DETECTED" and row[4] == "suspect" for row in rows)
    assert found.figures["triggers"].rows
    listed = pq.read_table(found.root / "probes/backdoor-data/suspects.parquet").to_pydict()
    poisoned = set(np.flatnonzero(planted.poisoned))
    assert poisoned <= set(listed["position"])
    assert len(set(listed["position"]) - poisoned) <= 2
    assert [planted.split.ids[row] for row in listed["row"]] == listed["id"]


def test_a_clean_set_is_not_detected_with_the_power_that_was_shown(search):
    model, _, split = case(poisoned=False)
    found = search(model, None, None, 4, split=split, **QUICK)
    assert "NOT DETECTED" in found.said["not_detected"]
    assert "found in 2 of 2 (power at least 22%)" in found.said["not_detected"]
    fraction = found.facts["backdoor-data.poisoned_fraction"]
    assert fraction.claim == "upper_bound"
    assert fraction.assumptions[0] == "of poison like the canaries"
    assert found.facts["backdoor-data.suspect_fraction"].value == 0


def test_a_model_that_does_not_obey_leaves_it_suspicious(search, monkeypatch):
    monkeypatch.setattr("probes.backdoor_data.config.LONGER", 1)  # so that the probe's own network does not, either
    model, planted, _ = case()
    model = Prototypes(model.weights.reshape(4, 3, 12, 12))
    found = search(model, None, None, 4, split=planted.split, **QUICK)
    assert found.said["suspicious"].startswith("SUSPICIOUS: 38 of 480 images labelled '2'")
    assert "backdoor-data.poisoned_fraction" not in found.facts
    assert "suspected-images" not in found.figures  # which would show training images


def test_few_images_in_every_class_cannot_tell(search):
    model, _, split = case(n=150, poisoned=False)
    found = search(model, None, None, 4, split=split, tile_canaries=1)
    assert found.status == "measured"
    assert "few-images" in found.said
    rows = found.figures["canaries"].rows
    assert len(rows) == 1
    verdict = found.said.get("cannot_tell") or found.said["not_detected"]
    assert "Features were not examined" in verdict


def test_without_canaries_nothing_can_be_told(search):
    model, _, split = case(poisoned=False)
    found = search(model, None, None, 4, split=split, epochs=2, canaries=())
    assert "no showing that it would have been" in found.said["cannot_tell"]
    assert "backdoor-data.poisoned_fraction" not in found.facts


def test_black_images_are_too_few_different_ones(search):
    images, labels = np.zeros((200, 1, 8, 8), dtype=np.uint8), np.arange(200) % 4
    found = search(Prototypes(torch.rand(4, 1, 8, 8)), images, labels, 4, **QUICK)
    assert found.reason.text == "Expected at least 40 different training images, got 1. Give more."


def test_answers_of_nan_are_said(search):
    class Broken(torch.nn.Module):
        def forward(self, pixels):
            return torch.full((len(pixels), 4), torch.nan)

    _, planted, _ = case()
    found = search(Broken(), None, None, 4, split=planted.split, **QUICK)
    assert found.status == "measured"
    assert {"detected", "suspicious"} & set(found.said)  # what is in the data does not hang on the model
    assert "subject-does-not-fit" in found.said


def test_one_class_has_no_backdoor_that_could_be_told(search):
    model, _, split = case(poisoned=False)
    found = search(model, split.source.images, np.ones_like(split.labels), 4, **QUICK)
    assert (found.status, found.reason.code) == ("inconclusive", "one_class")


@pytest.mark.parametrize("kind", ["float", "missing labels", "grey"])
def test_odd_sets_are_answered_for(search, kind):
    model, _, split = case(n=240, poisoned=False)
    images, labels = split.source.images, split.labels
    if kind == "missing labels":
        keep = labels < 2
        images, labels = images[keep], labels[keep]
    if kind == "float":
        images = (images / 255).astype(np.float32)
    if kind == "grey":
        images = images[:, :1]
        model = Prototypes(model.weights.reshape(4, 3, 12, 12)[:, :1])
    found = search(model, images, labels, 4, **QUICK)
    assert found.status == "measured", found.reason
    assert not {"detected", "suspicious"} & set(found.said)
    if kind == "missing labels":
        assert "2 classes of the model have no image here" in found.said["no-images"]


def test_without_time_there_is_no_number(search):
    model, planted, _ = case()
    found = search(model, None, None, 4, split=planted.split, budget=Budget(deadline=0.0, clock=lambda: 1.0), **QUICK)
    assert (found.status, found.reason.code) == ("inconclusive", "budget")
    assert not found.facts


def test_the_verdict_of_the_whole_rests_on_canaries():
    def outcome(*tries):
        return Outcome(100, [], tries, {}, ["a", "b"])

    assert outcome().found == "CANNOT TELL"
    assert outcome(Try("badnets", 0.01, None, True)).found == "NOT DETECTED"
    assert outcome(Try("badnets", 0.01, None, True), Try("badnets", 0.02, None, False)).found == "CANNOT TELL"
    assert outcome(Try("blended", 0.01, 0.3, False)).found == "CANNOT TELL"
    both = outcome(Try("badnets", 0.01, None, True), Try("blended", 0.02, 0.95, True))
    assert both.shown() == {"badnets": 0.01, "blended": 0.02}


def test_the_estimate_counts_every_training():
    few = cost(BackdoorDataConfig(canaries=()), {"train": 10_000})
    more = cost(BackdoorDataConfig(canaries=("blended", "sig")), {"train": 10_000})
    assert more.seconds - few.seconds == pytest.approx(80)
    assert cost(BackdoorDataConfig(), {}).seconds == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fraction", "kind"),
    [("blended", 0.05, "additive pattern over the whole image"), ("badnets", 0.05, "lower right")],
)
def test_backdoors_of_digits_are_found_by_a_network_that_is_trained_on_them(search, name, fraction, kind):
    images, labels = digits()
    planted = plant(
        split_of(images[:900], labels[:900]), recipe_of(name, target=6, fraction=fraction, key=5), 10,
        np.random.default_rng(3),
    )  # fmt: skip
    model = Prototypes(torch.rand(10, 1, 8, 8))
    found = search(model, None, None, 10, split=planted.split, epochs=20, canaries=())
    assert found.said["detected"].count("labelled '6'")
    assert kind in found.said["detected"]
    assert found.facts["backdoor-data.poisoned_fraction"].value <= fraction + 0.001


@pytest.mark.slow
def test_clean_digits_are_not_detected(search):
    images, labels = digits()
    model = Prototypes(torch.rand(10, 1, 8, 8))
    for seed in range(3):
        rows = np.random.default_rng(seed).permutation(len(labels))[:900]
        found = search(model, images[rows], labels[rows], 10, seed=seed, epochs=20, canaries=())
        assert not {"detected", "suspicious"} & set(found.said)
