"""The probe on digits with planted wrong labels, and its parts against brute force and their laws."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from audit.api import Subject
from audit.engine.budget import Budget
from audit.engine.plan import Step
from audit.engine.run import run_step
from audit.engine.session import Session
from audit.engine.store import RunStore
from audit.poisons.by_name import recipe_of
from audit.poisons.planting import plant
from probes.label_noise import LabelNoiseConfig, label_noise
from probes.label_noise.aum import margin
from probes.label_noise.bounds import chosen_threshold, trusted, upper
from probes.label_noise.confident import confident_learning, margins, probabilities
from probes.label_noise.duplicates import contradictions
from probes.label_noise.judging import confused, wrong_scores
from tests.splits import array_split

MIXED = np.random.default_rng(9).permutation(1797)
"""Digits lie by writer in their file: in this order trusted ones are of the same kind as the others."""


def digits(rows=slice(None), role="train"):
    data = load_digits()
    images = (data.images[:, None] / 16 * 255).astype(np.uint8)[rows]
    labels = data.target[rows].astype(np.int64)
    return replace(array_split(images, labels), role=role, digest=hashlib.sha256(images.tobytes()).hexdigest())


class Result:
    def __init__(self, found):
        self.found, self.status, self.reason = found, found.status.value, found.reason
        self.said = {note.code: note.text for note in found.diagnostics}
        self.figures = {figure.id: figure for figure in found.figures}

    def measured(self, metric, **where):
        return [m for m in self.found.measurements if m.metric == f"label-noise.{metric}" and m.where == where]


@pytest.fixture
def audited(tmp_path):
    def run(train, clean=None, classes=10, **settings):
        data = {"train": train} | ({"clean": clean} if clean is not None else {})
        shape = tuple(train.batch(0, 1).pixels.shape[1:])
        model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes)).requires_grad_(False)
        subject = Subject(
            model=model, name="net", num_classes=classes, class_names=(), input_shape=shape, device=torch.device("cpu"),
            digest="net",
        )  # fmt: skip
        config = LabelNoiseConfig(**({"aum": False, "folds": 2} | settings))
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        session = Session(subject, data, RunStore(folder), 0, Budget())
        return Result(run_step(Step(label_noise, config, 0.0, None), session, session.budget)[0])

    return run


def noisy(split, fraction, seed=0, to="uniform"):
    return plant(split, recipe_of("flips", fraction=fraction, to=to), 10, np.random.default_rng(seed))


def test_copies_do_not_vouch_for_their_labels(audited):
    """Four of each image, a tenth of the images with a wrong label: networks must not have seen what they judge."""
    found = noisy(digits(MIXED[:600]), 0.1)
    before = found.split
    images = np.stack([before.source.pixels(int(row)) for row in before.order])
    labels = before.labels[before.order]
    four = replace(array_split(np.tile(images, (4, 1, 1, 1)), np.tile(labels, 4)), role="train", digest="four")
    result = audited(four)
    (rate,) = result.measured("rate")
    assert rate.value >= 0.1
    assert "1800 of 2400 images are copies of others" in result.said["copies"]


def test_wrong_labels_are_detected_with_trusted_images_and_listed(audited):
    found = noisy(digits(MIXED[:900]), 0.1)
    result = audited(found.split, clean=digits(MIXED[1400:], "clean"), aum=True)
    assert "DETECTED: wrong labels" in result.said["detected"]
    (rate,) = result.measured("rate")
    assert rate.interval.low <= 0.1 <= rate.interval.high
    assert rate.interval.low > 0.02
    worst = {row[0] for row in result.figures["worst"].rows}
    ids = np.array(found.split.sample_ids(range(900)))
    planted = set(ids[found.poisoned].tolist())
    assert len(worst & planted) >= 10
    assert all(found.split.ids[row[1]] == row[0] for row in result.figures["worst"].rows)
    assert "worst-images" not in result.figures
    assert "The area under the margin flags" in result.said["aum"]


def test_labels_as_published_are_not_called_wrong(audited):
    result = audited(digits(MIXED[:900]))
    assert "NOT DETECTED: at most" in result.said["not_detected"]
    (rate,) = result.measured("rate")
    assert rate.claim.value == "upper_bound"
    assert rate.value < 0.05
    for to in ("uniform", "confused"):
        (recall,) = result.measured("recall", flipped=to)
        assert recall.value > 0.5
    assert all(control.passed for control in result.found.controls)


def test_wrong_labels_without_trusted_images_are_suspicious(audited):
    result = audited(noisy(digits(MIXED[:900]), 0.1).split)
    assert "with trusted images (--data clean=SPEC) more can be said" in result.said["suspicious"]
    (rate,) = result.measured("rate")
    assert rate.value >= 0.1


def test_identical_images_under_other_labels_are_counted_exactly(audited):
    split = digits(slice(0, 300))
    images = np.concatenate([split.source.images, split.source.images[:40]])
    labels = np.concatenate([split.labels, (split.labels[:40] + 1) % 10])
    result = audited(replace(array_split(images, labels), role="train"), epochs=4)
    (same,) = result.measured("contradictions")
    assert same.value == 40 / 340
    assert same.claim.value == "lower_bound"
    (rate,) = result.measured("rate")
    assert (rate.claim.value, rate.value) == ("lower_bound", 40 / 340)
    assert "40 labels are certainly wrong, at least 11.8%" in result.said["detected"]
    table = result.figures["contradictions"]
    assert len(table.rows) == 12
    assert "12 of 40 such images" in table.caption
    assert {(row[2], row[4]) for row in table.rows} == {(2, 1)}


@pytest.mark.parametrize("copies", [2, 30])
def test_what_is_certain_needs_no_networks(audited, copies):
    """Too few different images for networks to judge; still an image cannot be of two classes."""
    split = digits(slice(0, 20))
    images = np.tile(split.source.images, (copies, 1, 1, 1))
    labels = np.tile(split.labels, copies)
    labels[:10] = (labels[:10] + 1) % 10
    result = audited(replace(array_split(images, labels), role="train"), least_rate=0.005)
    assert result.status == "measured"
    assert "10 labels are certainly wrong" in result.said["detected"]
    assert "How many others are wrong is not known: Expected 60 different images" in result.said["detected"]
    (rate,) = result.measured("rate")
    assert (rate.claim.value, rate.value) == ("lower_bound", 10 / (20 * copies))
    assert result.measured("contradictions")[0].value == 10 / (20 * copies)


def test_images_are_shown_only_on_request(audited):
    result = audited(digits(slice(0, 300)), show_images=True, shown=4, epochs=4)
    assert len(result.figures["worst-images"].rows[0]) == 4


def test_too_few_images_are_no_ground(audited):
    result = audited(digits(slice(0, 40)))
    assert (result.status, result.reason.code) == ("inconclusive", "few_images")
    assert result.measured("contradictions")[0].value == 0


def test_networks_that_learn_nothing_cannot_tell(audited):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (300, 1, 8, 8)).astype(np.uint8)
    result = audited(replace(array_split(images, rng.integers(0, 10, 300)), role="train"), epochs=4)
    assert "networks learnt hardly anything" in result.said["cannot_tell"]
    assert [note.undecided for note in result.found.diagnostics if note.conclusion] == [True]
    assert not result.measured("rate")


def test_confident_learning_is_that_of_the_paper():
    """Against the definitions, image by image and pair by pair."""
    rng = np.random.default_rng(0)
    given = rng.dirichlet(np.ones(4), 200)
    labels = rng.integers(0, 4, 200)
    found = confident_learning(given, labels)
    thresholds = [given[labels == j, j].mean() for j in range(4)]
    counts = np.zeros((4, 4), dtype=int)
    for row, label in zip(given, labels, strict=True):
        reached = [j for j in range(4) if row[j] >= thresholds[j]]
        if reached:
            counts[label, max(reached, key=lambda j: row[j])] += 1
    np.testing.assert_allclose(found.thresholds, thresholds)
    assert np.array_equal(found.counts, counts)
    sizes = np.bincount(labels, minlength=4)
    expected = counts / counts.sum(axis=1, keepdims=True) * sizes[:, None]
    np.testing.assert_allclose(found.joint, expected / expected.sum())
    assert found.joint.sum() == pytest.approx(1)


def test_margins_are_differences_to_the_best_other():
    given = probabilities(np.array([[2.0, 1.0, 0.0], [0.0, 0.0, 3.0]]))
    found = margins(given, np.array([1, 2]))
    assert found[0] == pytest.approx(given[0, 1] - given[0, 0])
    assert found[1] == pytest.approx(given[1, 2] - given[1, 0])
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    assert float(margin(logits, torch.tensor([1]))[0]) == -1.0


def test_contradictions_count_all_but_the_commonest_label():
    found = contradictions(["a", "a", "a", "b", "b", "c"], np.array([0, 0, 1, 2, 3, 4]))
    assert found.wrong == 2
    assert found.groups == ((0, 1, 2), (3, 4))


def test_wrong_scores_are_of_labels_that_are_not_given():
    rng = np.random.default_rng(0)
    given, labels = rng.dirichlet(np.ones(5), 100), rng.integers(0, 5, 100)
    pairs = confused(given, labels)
    assert (pairs != np.arange(5)).all()
    drawn, nearest, likeliest = wrong_scores(given, labels, rng)
    assert np.mean(drawn) < 0 > np.mean(nearest)
    assert (likeliest >= np.maximum(drawn, nearest)).all()


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.2])
def test_the_upper_bound_covers(rate):
    """Whatever right labels score, as long as wrong ones score as those given on purpose; at 95 %, over 200 draws."""
    rng, short = np.random.default_rng(3), 0

    def below(n, middle):
        return np.clip(rng.normal(middle, 0.3, n), -1, 1)

    for _ in range(200):
        wrong = rng.random(600) < rate
        scores = np.where(wrong, below(600, -0.5), np.clip(rng.normal(0.6, 0.5, 600), -1, 1))
        known, second = below(600, -0.5), np.arange(600) % 2 == 0
        threshold = chosen_threshold(scores[~second], [known[~second]], 0.95)
        short += upper(scores[second], [known[second]], threshold, 0.95).limit < wrong[second].mean()
    assert short <= 200 * 0.05 + 2.6 * np.sqrt(200 * 0.05 * 0.95)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_limits_by_trusted_images_cover_and_their_p_is_no_smaller_than_uniform(rate):
    rng, low, p_values = np.random.default_rng(4), 0, []

    def below(n, middle):
        return np.clip(rng.normal(middle, 0.3, n), -1, 1)

    def above(n):
        return np.clip(rng.normal(0.5, 0.5, n), -1, 1)

    for _ in range(200):
        wrong = rng.random(400) < rate
        scores = np.where(wrong, below(400, -0.6), above(400))
        bound = upper(scores, [below(400, -0.6)], -0.3, 0.95)
        found = trusted(scores, above(200), bound, 0.95)
        low += found.low > rate
        p_values.append(found.p)
    assert low <= 200 * 0.05 + 2.6 * np.sqrt(200 * 0.05 * 0.95)
    if rate == 0:
        for level in (0.05, 0.2, 0.5):
            assert np.mean(np.array(p_values) <= level) <= level + 2.6 * np.sqrt(level * (1 - level) / 200)
    else:
        assert np.median(p_values) < 0.01


@pytest.mark.slow
def test_twenty_seeds_of_noisy_and_clean_digits(audited):
    clean = digits(MIXED[1400:], "clean")
    alarms = found = covered = 0
    for seed in range(20):
        rows = np.random.default_rng(seed).permutation(MIXED[:1400])[:900]
        alarms += "detected" in audited(digits(rows), clean=clean).said
        result = audited(noisy(digits(rows), 0.1, seed).split, clean=clean)
        found += "detected" in result.said
        (rate,) = result.measured("rate")
        covered += rate.interval.low <= 0.1 <= rate.interval.high
    assert alarms <= 1
    assert found >= 18
    assert covered >= 16
