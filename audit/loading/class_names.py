"""Class names of a model and of data: labels are matched by name wherever both sides name them.

A data set numbers its classes by its own order, of folders or of a table, and a model by that of its training. Where
the two differ, every label of a data set is wrong, and no number shows it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from audit.errors import DataError
from audit.loading.sources import Dataset, counted, listed, relabelled
from audit.schema import Diagnostic

_PLACEHOLDER = re.compile(r"(label|class)?[ _-]?\d+", re.IGNORECASE)
"""Names that say nothing, such as transformers' `LABEL_0`."""
Matched = tuple[Dataset, tuple[Diagnostic, ...]]


def match_labels(dataset: Dataset, names: Sequence[str], num_classes: int) -> Matched:
    """The data set with labels that are the model's classes, and what a reader should know about that.

    Names match when they are the same but for case and for what stands between words.

    Args:
        dataset: with labels by its own order.
        names: of the model's classes in the order of its outputs, or empty.
        num_classes: outputs of the model.

    Raises:
        DataError: when some of the data's names are the model's and others are not.
    """
    ours = dataset.class_names
    if not ours or tuple(ours) == tuple(names):
        return dataset, ()
    places = _places(ours, names)
    if _ambiguous(ours, names):
        return dataset, _by_order(dataset, names, num_classes, "a name stands for several classes")
    if len(places) < len(ours):
        if not names or _say_nothing(names) or _say_nothing(ours):
            return dataset, _of_another_number(dataset, num_classes) or _numbers_as_letters(dataset)
        if not places:
            why = f"no class name is one of the model's ({ours[0]!r}, {names[0]!r})"
            return dataset, _by_order(dataset, names, num_classes, why)
        foreign = [name for name in ours if name not in places]
        raise DataError(
            f"Expected class names of the model in {dataset.spec!r}, got {listed(foreign)}, which it does not have, "
            f"beside {counted(len(places), 'name')} that it has. Leave these classes out, or give them the model's "
            f"names: {listed(names)}."
        )
    order = np.asarray([places[name] for name in ours], dtype=np.int64)
    if order.tolist() == list(range(num_classes)):
        return dataset, ()
    example = next((name for place, name in enumerate(ours) if order[place] != place), ours[0])
    text = (
        f"labels of {dataset.spec} are matched to the model's classes by name: {example!r} is class {places[example]}"
    )
    if len(places) < num_classes:
        text += f"; the data have {len(places)} of its {num_classes} classes"
    found = Diagnostic(code="class_names", text=text, severity="info")
    return relabelled(dataset, order[dataset.labels], tuple(names)), (found,)


def _places(ours: Sequence[str], theirs: Sequence[str]) -> dict[str, int]:
    """The model's class of each name that it has; of names that become the same only what is exactly the same."""
    for form in (lambda name: name, _plain):
        by_form = {form(name): place for place, name in enumerate(theirs)}
        if len(by_form) == len(theirs) and len({form(name) for name in ours}) == len(ours):
            found = {name: by_form[form(name)] for name in ours if form(name) in by_form}
            if len(found) == len(ours):
                return found
    return _partly(ours, {name: place for place, name in enumerate(theirs)})


def _partly(ours: Sequence[str], places: Mapping[str, int]) -> dict[str, int]:
    return {name: places[name] for name in ours if name in places}


def _say_nothing(names: Sequence[str]) -> bool:
    return all(_PLACEHOLDER.fullmatch(name.strip()) for name in names)


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_\-]+", name.strip().casefold()))


def _of_another_number(dataset: Dataset, num_classes: int) -> tuple[Diagnostic, ...]:
    """Nothing says what the model's outputs mean: they are taken to be the data's classes in order."""
    n = len(dataset.class_names)
    if n == num_classes:
        return ()
    first, last = dataset.class_names[0], dataset.class_names[-1]
    text = (
        f"{dataset.spec} names {n} classes and the model has {num_classes} outputs without names: {first!r} to "
        f"{last!r} are taken for its classes 0 to {n - 1}. Unless the model was trained in that order, every number "
        "below is about wrong labels"
    )
    return (Diagnostic(code="class_count", text=text),)


def _numbers_as_letters(dataset: Dataset) -> tuple[Diagnostic, ...]:
    """Folders named 0, 1, 10, 2: as torchvision sorts them, and as people seldom mean them."""
    names = dataset.class_names
    numbers = [int(name) for name in names if name.isdecimal()]
    if len(numbers) < len(names) or numbers == sorted(numbers):
        return ()
    place = next(place for place, number in enumerate(numbers) if number != sorted(numbers)[place])
    text = (
        f"the classes of {dataset.spec} are numbers in the order of letters: {names[place]!r} is class {place}. Unless "
        "the model was trained in that order, as torchvision's ImageFolder gives it, labels are wrong"
    )
    return (Diagnostic(code="class_names", text=text),)


def _ambiguous(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether a name of the data is there twice, on either side."""
    twice = {name for name, count in Counter(theirs).items() if count > 1}
    return bool(theirs) and (len(set(ours)) < len(ours) or not twice.isdisjoint(ours))


def _by_order(dataset: Dataset, names: Sequence[str], num_classes: int, why: str) -> tuple[Diagnostic, ...]:
    n = len(dataset.class_names)
    text = f"{dataset.spec}: {why}. Labels are taken by their order, which nothing confirms"
    if n != num_classes:
        text += f", and there are {n} of them for {num_classes} outputs"
    return (Diagnostic(code="class_names", text=text),)
