import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from audit.schema import Matrix, Status, Table
from audit.testing import run_probe, synthetic
from probes.accuracy import _balanced_interval, accuracy


def measured(result):
    return {found.metric: found for found in result.measurements if not found.where}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    subject, data = synthetic(classes=8, n=400, noise=0.5)
    result = run_probe(accuracy, tmp_path_factory.mktemp("run"), subject, data)
    batch = data["eval"].batch(0, 400)
    with torch.inference_mode():
        logits = subject.logits(batch.pixels).numpy()
    return result, logits, batch.labels.numpy()


def test_rates_are_those_of_scikit_learn(whole):
    result, logits, labels = whole
    found = measured(result)

    assert found["accuracy.top1"].value == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    assert found["accuracy.top5"].value == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    assert found["accuracy.balanced"].value == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))
    assert 0.1 < found["accuracy.top1"].value < 0.95  # errors and hits both occur, else the test would show little


def test_confusions_are_those_of_scikit_learn(whole):
    result, logits, labels = whole
    matrix = next(figure for figure in result.figures if isinstance(figure, Matrix))
    pairs = next(figure for figure in result.figures if isinstance(figure, Table))

    expected = confusion_matrix(labels, logits.argmax(1))
    np.testing.assert_array_equal(np.array(matrix.values), expected)
    off = expected - np.diag(np.diag(expected))
    assert pairs.rows[0][2] == off.max()


def test_the_worst_class_has_an_interval_for_all_classes_at_once(whole):
    found = measured(whole[0])["accuracy.worst_class"]
    classes = [other for other in whole[0].measurements if other.metric == "accuracy.per_class"]

    worst = min(classes, key=lambda other: other.value)
    assert found.value == worst.value
    assert found.interval.low < worst.interval.low


@pytest.mark.parametrize("rates", [(0.5, 0.7, 0.9), (0.99, 0.95, 1.0), (0.02, 0.5, 0.98)])
def test_the_balanced_interval_covers(rates):
    """Nominal 95 %; 2,000 data sets, so a coverage of 93 % would be found out with a chance of error of about 1e-5."""
    rng = np.random.default_rng(0)
    totals = np.array([40, 60, 50])
    draws, truth = 2000, np.mean(rates)
    covered = 0
    for _ in range(draws):
        interval = _balanced_interval(rng.binomial(totals, rates), totals, 0.95)
        covered += interval.low <= truth <= interval.high
    assert covered / draws > 0.93


def test_an_untouched_class_is_told(tmp_path):
    subject, data = synthetic()
    data["eval"] = dataclasses.replace(data["eval"], labels=np.minimum(data["eval"].labels, 2))

    balanced = measured(run_probe(accuracy, tmp_path, subject, data))["accuracy.balanced"]

    assert balanced.assumptions == ("1 classes had no image",)


def test_a_perfect_and_a_useless_model(tmp_path):
    subject, data = synthetic(noise=0.0)
    perfect = run_probe(accuracy, tmp_path / "perfect", subject, data)
    assert measured(perfect)["accuracy.top1"].value == 1
    assert measured(perfect)["accuracy.top1"].interval.low < 1
    assert not [figure for figure in perfect.figures if figure.id == "worst-examples"]

    data["eval"] = dataclasses.replace(data["eval"], labels=(data["eval"].labels + 1) % 4)
    useless = run_probe(accuracy, tmp_path / "useless", subject, data)
    assert measured(useless)["accuracy.top1"].value == 0


def test_answers_that_belong_to_other_images_are_found_out(tmp_path):
    """The control's planted truth: stored answers are shifted by one image, and the control must fail."""
    subject, data = synthetic()
    run_probe(accuracy, tmp_path, subject, data)

    class Shifted(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, pixels):
            return self.inner(pixels).roll(1, 0)  # alone, an image gets its own answer; in a batch its neighbour's

    shifted = dataclasses.replace(subject, model=Shifted(subject.model), digest="shifted")
    result = run_probe(accuracy, tmp_path, shifted, data)

    assert (result.status, result.reason.code) == (Status.INCONCLUSIVE, "control_failed")


def test_labels_numbered_otherwise_than_the_outputs_are_noticed(tmp_path):
    subject, data = synthetic(n=200)
    assert not run_probe(accuracy, tmp_path / "right", subject, data).diagnostics

    data["eval"] = dataclasses.replace(data["eval"], labels=(data["eval"].labels + 1) % 4)
    found = run_probe(accuracy, tmp_path / "shifted", subject, data).diagnostics

    assert [diagnostic.code for diagnostic in found] == ["near_chance"]
