"""Labels as they are stored, to class indices."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from audit.api import IntArray
from audit.errors import UnsafeArtefactError
from audit.loading.sources import Problems, counted, listed

LARGEST_LABEL = 10**9


def checked_labels(values: npt.NDArray[Any], origin: str, problems: Problems) -> IntArray:
    """The labels as (n,) int64; whatever is wrong with them is noted, and the result is then not to be used.

    Raises:
        UnsafeArtefactError: for an array of Python objects, which only unpickling could read.
    """
    if values.dtype.hasobject:
        raise UnsafeArtefactError(
            f"Expected integer labels, got an array of Python objects in {origin}, which would need unpickling. "
            "Save the labels as int64."
        )
    flat = values.reshape(-1) if values.ndim == 2 and values.shape[1] == 1 else values
    complaint = _form_complaint(flat) or _value_complaint(flat)
    if complaint:
        found, remedy = complaint
        problems.add(f"Expected {found} in {origin}. {remedy}")
        return np.zeros(0, dtype=np.int64)
    return flat.astype(np.int64)


def _form_complaint(labels: npt.NDArray[Any]) -> tuple[str, str] | None:
    if labels.ndim != 1:
        return f"one integer label a sample, got shape {labels.shape}", "Turn one-hot rows into integers with argmax."
    if labels.dtype.kind not in "iuf":
        return f"integer labels, got dtype {labels.dtype}", "Save class indices as int64."
    return None


def _value_complaint(labels: npt.NDArray[Any]) -> tuple[str, str] | None:
    broken = labels[~(labels == np.rint(labels))]  # NaN too, which equals nothing
    if len(broken):
        found = f"{counted(len(broken), 'fractional label')} ({listed(broken.tolist())})"
        return f"integer labels, got {found}", "Save class indices as int64."
    negative = labels[labels < 0]
    if len(negative):
        values = listed([f"{label:g}" for label in np.unique(negative)])
        found = f"{counted(len(negative), 'negative label')} ({values})"
        return f"labels of 0 or more, got {found}", "-1 usually marks a split without labels: choose a labelled one."
    large = labels[labels > LARGEST_LABEL]
    if len(large):
        values = listed([f"{label:g}" for label in np.unique(large)])
        found = f"{counted(len(large), 'larger label')} ({values})"
        return f"labels of at most {LARGEST_LABEL:,}, got {found}", "Number the classes from 0."
    return None
