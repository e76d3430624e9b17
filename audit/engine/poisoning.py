"""What `audit train poisoned` does beyond training: it plants, writes what it planted, and sees whether it took."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from audit.api import DataSplit, Subject
from audit.engine.keys import seed_of
from audit.errors import DataError, UsageError
from audit.poisons.planting import Planted, plant
from audit.toolkit.writing import write_whole
from audit.training.log import Share
from audit.training.poisoning import PoisonedConfig, attack_success
from audit.training.record import Poisoning

LARGEST = 2**32
"""Bytes of images that are written into one archive."""


def planted(split: DataSplit, classes: int, config: PoisonedConfig, seed: int) -> Planted:
    """The split, poisoned as configured; by the seed.

    Raises:
        UsageError: when the recipe does not fit these classes.
    """
    beyond = [label for label in config.only if not 0 <= label < classes]
    if beyond:
        raise UsageError(f"Expected only= among classes 0..{classes - 1}, got {beyond}. Name classes that there are.")
    try:
        return plant(split, config.recipe(), classes, np.random.default_rng(seed_of(seed, "train", "", "poison")))
    except ValueError as error:
        raise UsageError(str(error)) from error


def check_writable(split: DataSplit) -> None:
    """Goes on when `write_poisoned` will be able to write these images.

    Raises:
        DataError: when they are too large for one archive.
    """
    size = split.source.pixels(int(split.order[0])).nbytes * len(split)
    if size > LARGEST:
        raise DataError(f"Expected at most {LARGEST:,} bytes of images to write, got {size:,}. Give --samples.")


def write_poisoned(found: Planted, file: Path) -> None:
    """The data as they were trained on, `x` (n, c, h, w) and `y` (n,), and `poisoned`, `cover`, `y_before` (n,).

    They are all in memory at once; `check_writable` says beforehand whether they are too large.
    """
    split = found.split
    first = split.source.pixels(int(split.order[0]))
    images = np.empty((len(split), *first.shape), dtype=first.dtype)
    for place, row in enumerate(split.order):
        images[place] = split.source.pixels(int(row))
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        x=images,
        y=split.labels[split.order],
        poisoned=found.poisoned,
        cover=found.covers,
        y_before=found.before,
    )
    write_whole(file, stream.getvalue())


def described(found: Planted, config: PoisonedConfig, success: Share | None) -> Poisoning:
    """What was planted, for the record."""
    return Poisoning(
        poison=found.recipe.name,
        kind=found.recipe.kind,
        settings=config.given(),
        poisoned=int(found.poisoned.sum()),
        covers=int(found.covers.sum()),
        n=len(found.poisoned),
        target=getattr(found.recipe, "target", None),
        success=success,
    )


def success_on(subject: Subject, found: Planted, split: DataSplit, seed: int) -> Share | None:
    """Of the trigger on images that it was not trained on; None of a poison without a target."""
    target = getattr(found.recipe, "target", None)
    return None if target is None else attack_success(subject.logits, split, found.recipe, target, seed)
