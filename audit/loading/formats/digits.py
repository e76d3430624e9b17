"""`sklearn:digits[?split=train|test|all]`: 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from audit.errors import UsageError
from audit.loading.formats.arrays import ArrayImages, inspect_rows
from audit.loading.formats.rows import Rows
from audit.loading.sources import Dataset, Problems, assemble, split_query

LEVELS = 16
"""The largest pixel value; they are counts of ink in 4 x 4 blocks."""


def recognises(path: Path) -> bool:
    """Never: this set is not a path."""
    return False


def open_sklearn(location: str) -> Dataset:
    """The digits, their 17 grey levels scaled to 0..255 with rounding; all of them, or a fixed stratified half.

    Raises:
        UsageError: for another name than `digits` or an unknown split.
    """
    name, options = split_query(location, {"split": ("all", "train", "test")})
    if name != "digits":
        raise UsageError(f"Expected sklearn:digits, got sklearn:{name}. It is the only one with images and classes.")
    from sklearn.datasets import load_digits  # takes seconds to import, and few data sets need it
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    everything = np.arange(len(digits.target))
    train, test = train_test_split(everything, test_size=0.5, random_state=0, stratify=digits.target)
    chosen = {"all": everything, "train": train, "test": test}[options.get("split", "all")]
    rows = Rows.of(np.rint(digits.images[chosen] * (255 / LEVELS)).astype(np.uint8), "digits")
    problems = Problems()
    inspection = inspect_rows(rows, problems)
    problems.check()
    return assemble(
        ArrayImages(rows, "NHW", scale=inspection.scale),
        digits.target[chosen].astype(np.int64),
        inspection.ids,
        class_names=[str(digit) for digit in range(10)],
        native_shape=(1, 8, 8),
    )
