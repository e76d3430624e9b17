"""Which tensors of a file are its weights, where no network is there to tell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from audit.errors import SubjectError
from audit.loading.apart import LeftOut, Lost
from audit.loading.sources import shown
from audit.loading.state_dicts import Tensors, candidates, describe, stated_dict

BESIDE_WEIGHTS = re.compile(r"(^|[._])(optim\w*|opt|opt_state|scheduler|lr_scheduler|scaler|amp|rng\w*)([._]|$)", re.I)
"""Where training keeps tensors that are no weights."""
MOST_NAMED = 8


def chosen(content: object, name: str, key: str | None, more: str) -> tuple[tuple[str, ...], Tensors]:
    """The state dict that is meant: keys of the way to it, and its tensors.

    Args:
        content: of a file.
        name: of the file.
        key: its dotted path when stated.
        more: what can be done about tensors that could not be followed, as the end of a sentence.

    Raises:
        UsageError: when the stated key is not in the file.
        SubjectError: when there are no tensors by name, several sets of them, or some that could not be followed.
    """
    if key is not None:
        tensors = stated_dict(content, key)
        way = tuple(key.split(".")) if key else ()
    else:
        dicts = dict(candidates(content))
        weights = {path: found for path, found in dicts.items() if not BESIDE_WEIGHTS.search(path)} or dicts
        if len(weights) != 1:
            raise _not_one(weights, content, name)
        path, tensors = next(iter(weights.items()))
        way = _way(content, path) if path else ()
    lost = [f"{shown(entry)}: {value}" for entry, value in _at(content, way).items() if isinstance(value, Lost)]
    if lost:
        raise SubjectError(
            f"Expected tensors of plain numbers in {name}, got {len(lost)} that cannot be followed: "
            f"{', '.join(lost[:MOST_NAMED])}. Save a plain state_dict where it was made, or {more}."
        )
    return way, tensors


def _not_one(weights: Mapping[str, Tensors], content: object, name: str) -> SubjectError:
    if not weights:
        return SubjectError(f"Expected tensors by name in {name}, got {describe(content)}. Save model.state_dict().")
    rows = ", ".join(
        f"{f'`{shown(path)}`' if path else 'the top (key `` )'} ({len(found)} tensors, {_megabytes(found)})"
        for path, found in weights.items()
    )
    return SubjectError(f"Expected one state dict in {name}, got {len(weights)}: {rows}. Choose with --weights-key.")


def _megabytes(tensors: Tensors) -> str:
    return f"{sum(tensor.nbytes for tensor in tensors.values()) / 1e6:.2f} MB"


def left_out(content: object, way: tuple[str, ...]) -> Iterator[str]:
    """Whatever lies beside the way to the state dict, and whatever in it is no tensor."""
    for depth in range(len(way) + 1):
        for key, value in _at(content, way[:depth]).items():
            beside = depth < len(way) and key != way[depth]
            if beside or (depth == len(way) and not isinstance(value, Tensor)):
                yield f"{shown('.'.join((*way[:depth], key)))} ({_named(value)})"


def _way(content: Any, path: str) -> tuple[str, ...]:
    """The keys that a dotted path is made of; a key may have dots itself."""
    for key, value in _entries(content).items():
        if key == path:
            return (key,)
        if path.startswith(f"{key}.") and isinstance(value, Mapping | list | tuple):
            further = _way(value, path.removeprefix(f"{key}."))
            if further:
                return (key, *further)
    return ()


def _at(content: Any, way: tuple[str, ...]) -> Mapping[str, Any]:
    value = content
    for key in way:
        value = _entries(value)[key]
    return _entries(value)


def _entries(value: Any) -> Mapping[str, Any]:
    pairs = enumerate(value) if isinstance(value, list | tuple) else value.items()
    return {str(key): entry for key, entry in pairs}


def _named(value: object) -> str:
    if isinstance(value, LeftOut):
        return str(value)
    count = sum(len(found) for _, found in candidates(value))
    return f"{type(value).__name__} with {count} tensors" if count else type(value).__name__
