"""Labels matched by name: truth planted in labels, read back through the model's own order."""

import numpy as np
import pytest

from audit.errors import DataError
from audit.loading.class_names import match_labels
from audit.loading.sources import Dataset, assemble

MODEL = ("zebra", "ant", "mole", "Night_Owl")


class NoImages:
    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n


def data(*names: str) -> Dataset:
    """Two samples a class."""
    labels = np.repeat(np.arange(len(names)), 2)
    return assemble(NoImages(len(labels)), labels, [str(n) for n in range(len(labels))], class_names=names)


def named(dataset: Dataset, names: tuple[str, ...]) -> list[str]:
    return [names[label] for label in dataset.labels]


@pytest.mark.parametrize(
    "names",
    [
        ("Night_Owl", "ant", "mole", "zebra"),
        ("ANT", "mole", "night owl", "Zebra"),
        ("ant", "zebra"),
        ("night-owl",),
        ("zebra", "ant"),
    ],
)
def test_every_label_is_the_models_class_of_that_name(names: tuple[str, ...]) -> None:
    before = data(*names)
    after, (found,) = match_labels(before, MODEL, 4)
    wanted = [names[label].lower().replace("_", " ").replace("-", " ") for label in before.labels]
    assert [name.lower().replace("_", " ") for name in named(after, MODEL)] == wanted
    assert after.class_names == MODEL
    assert (found.code, found.severity) == ("class_names", "info")
    assert after.ids == before.ids
    assert (after.digest != before.digest) is (after.labels.tolist() != before.labels.tolist())


@pytest.mark.parametrize("names", [MODEL, ("Zebra", "ANT", "mole", "night-owl")])
def test_the_same_names_in_the_same_order_change_nothing(names: tuple[str, ...]) -> None:
    before = data(*names)
    after, found = match_labels(before, MODEL, 4)
    assert after is before
    assert found == ()


def test_numbers_as_names_are_matched_and_not_taken_in_the_order_of_letters() -> None:
    after, _ = match_labels(data("0", "1", "10", "2"), ("0", "1", "2", "10"), 4)
    assert named(after, ("0", "1", "2", "10")) == ["0", "0", "1", "1", "10", "10", "2", "2"]


def test_some_foreign_names_are_refused() -> None:
    with pytest.raises(DataError, match="got bee, which it does not have, beside 2 names that it has"):
        match_labels(data("ant", "bee", "zebra"), MODEL, 4)


@pytest.mark.parametrize("names", [("a", "b", "c", "d"), ("a", "b")])
def test_names_of_which_none_matches_are_taken_by_order_with_a_warning(names: tuple[str, ...]) -> None:
    before = data(*names)
    after, (found,) = match_labels(before, MODEL, 4)
    assert after is before
    assert found.severity == "warning"
    assert "Labels are taken by their order, which nothing confirms" in found.text
    assert ("there are 2 of them for 4 outputs" in found.text) is (len(names) == 2)


@pytest.mark.parametrize("model", [(), ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"), ("0", "1", "2", "3")])
def test_a_model_without_telling_names(model: tuple[str, ...]) -> None:
    assert match_labels(data("a", "b", "c", "d"), model, 4)[1] == ()
    _, (found,) = match_labels(data("a", "b", "c"), model, 4)
    assert (found.code, found.severity) == ("class_count", "warning")
    assert "'a' to 'c' are taken for its classes 0 to 2" in found.text


def test_names_that_differ_by_case_alone_are_kept_apart() -> None:
    names = ("Ant", "ant")
    after, _ = match_labels(data("ant", "Ant"), names, 2)
    assert named(after, names) == ["ant", "ant", "Ant", "Ant"]


@pytest.mark.parametrize("model", [(), ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")])
def test_numbers_in_the_order_of_letters_are_warned_about(model: tuple[str, ...]) -> None:
    _, (found,) = match_labels(data("0", "1", "10", "2"), model, 4)
    assert "'10' is class 2" in found.text
    assert match_labels(data("0", "1", "2", "3"), model, 4)[1] == ()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(("crane", "dog"), ("crane", "cat", "crane", "dog")), (("a", "a"), ("a", "b")), (("a", "b"), ("b", "b"))],
)
def test_a_name_of_several_classes_is_no_match(ours: tuple[str, ...], theirs: tuple[str, ...]) -> None:
    before = data(*ours)
    after, (found,) = match_labels(before, theirs, len(theirs))
    assert after is before
    assert (found.severity, "several classes" in found.text) == ("warning", True)
