"""Reads the JSON files of a Hugging Face folder, and what they say about the classifier."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from audit.adapters import transformers
from audit.errors import SubjectError, UnsafeArtefactError, UsageError
from audit.loading.sources import shown

LARGEST_JSON_BYTES = 50_000_000
CONFIG = "config.json"
TWO_WAYS = (
    "Two safe ways on: save the weights as safetensors and name a network of timm, torchvision or transformers with "
    "--model; or write a function that builds the network, and where you trust that code run it with "
    "--model py:FILE:FUNCTION --allow-code."
)
PLACEHOLDER = re.compile(r"LABEL_\d+")
NUMBER = re.compile(r"[0-9]{1,9}")
MOST_NAMED = 8
MOST_COUNTED = 1_000_000
"""Libraries write lists as long as a count says before they build anything; no classifier has so many of anything."""
COUNTS = re.compile(r"num_(labels|classes|\w*layers|\w*blocks)|layers|depths?")
ELSEWHERE = ("backbone", "use_timm_backbone", "use_pretrained_backbone", "backbone_kwargs")
"""Settings that name a network of another library or of the hub."""

Layout = Literal["transformers", "timm"]


@dataclass(frozen=True, slots=True)
class FolderConfig:
    """What `config.json` says.

    Attributes:
        folder: where it lies.
        layout: who wrote it.
        settings: all of it.
        model_type: such as `vit`; empty in timm's layout.
        architecture: name of the class in transformers, or of the network in timm.
        classes: names of the classes, or empty.
    """

    folder: Path
    layout: Layout
    settings: Mapping[str, Any]
    model_type: str
    architecture: str
    classes: tuple[str, ...]


def read_config(target: str) -> FolderConfig:
    """Reads and checks `config.json`; runs nothing.

    Args:
        target: the folder.

    Raises:
        UsageError: when there is no such folder, or no `config.json` in it.
        UnsafeArtefactError: when the folder needs code of its own.
        SubjectError: when the network is no image classifier that can be audited.
    """
    folder = Path(os.path.realpath(Path(target).expanduser()))
    settings = read_json(folder, CONFIG) if folder.is_dir() else None
    if settings is None:
        got = "a folder without it" if folder.is_dir() else "a file" if folder.exists() else "nothing there"
        raise UsageError(
            f"Expected a folder with {CONFIG} at {target}, got {got}. Name the folder that save_pretrained wrote."
        )
    refuse_remote_code(settings, folder, CONFIG)
    _check_counts(settings, folder)
    if settings.get("quantization_config"):
        raise SubjectError(
            f"Expected float weights in {folder.name}, got a quantised network (quantization_config in {CONFIG}). "
            "Give the weights that it was made from."
        )
    problem = settings.get("problem_type")
    if problem not in (None, "single_label_classification"):
        raise SubjectError(
            f"Expected a classifier with one label an image in {folder.name}, got problem_type "
            f"{shown(str(problem))}. "
            "Softmax and accuracy mean nothing there; audit another model."
        )
    if settings.get("model_type") == "timm_wrapper" or ("architecture" in settings and "model_type" not in settings):
        return _timm(folder, settings)
    return _transformers(folder, settings)


def read_json(folder: Path, name: str) -> dict[str, Any] | None:
    """An object of a JSON file in the folder, or None when there is no such file.

    Raises:
        SubjectError: for a file that is too large, or holds no JSON object.
    """
    path = folder / name
    if not path.is_file():
        return None
    if path.stat().st_size > LARGEST_JSON_BYTES:
        raise SubjectError(f"Expected {name} below {LARGEST_JSON_BYTES:,} bytes, got more. Write it again.")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SubjectError(f"Expected JSON in {name} of {folder.name}, got {error}. Copy it again.") from None
    if not isinstance(values, dict):
        raise SubjectError(f"Expected a JSON object in {name}, got a {type(values).__name__}. Copy it again.")
    return values


def refuse_remote_code(values: Mapping[str, Any], folder: Path, name: str) -> None:
    """Goes on when a file names no code of its own (`auto_map`), even where transformers has a class of that name.

    Raises:
        UnsafeArtefactError: naming the classes.
    """
    named = values.get("auto_map")
    if not named:
        return
    entries = named.values() if isinstance(named, Mapping) else [named]
    listed = ", ".join(f"`{shown(str(entry))}`" for entry in entries)
    raise UnsafeArtefactError(
        f"Expected a folder that needs no code of its own, got {folder.name}: auto_map in {name} names {listed}, "
        f"Python code that came with the model or lies on a hub. None of it was loaded. {TWO_WAYS}"
    )


def _check_counts(settings: Mapping[str, Any], folder: Path) -> None:
    """Goes on when no count and no table of labels, at any depth, is more than could be listed."""
    faults, waiting = [], [settings]
    while waiting:
        for key, value in waiting.pop().items():
            waiting += [part for part in (value if isinstance(value, list) else [value]) if isinstance(part, Mapping)]
            faults += [] if _counted(key, value) <= MOST_COUNTED else [shown(key)]
    if faults:
        raise SubjectError(
            f"Expected counts of at most {MOST_COUNTED:,} in {CONFIG} of {folder.name}, got more as "
            f"{shown(', '.join(faults[:MOST_NAMED]))}. Correct it."
        )


def _counted(key: str, value: Any) -> float:
    """How long a list may become by this setting."""
    if key in ("id2label", "label2id"):
        return len(value) if isinstance(value, Mapping | list) else 0
    counts = value if isinstance(value, list) else [value]
    counts = counts if COUNTS.fullmatch(key) else []
    return sum(min(abs(count), MOST_COUNTED + 1) for count in counts if isinstance(count, int | float))


def _transformers(folder: Path, settings: Mapping[str, Any]) -> FolderConfig:
    model_type = str(settings.get("model_type") or "")
    if not model_type or not transformers.is_known(model_type):
        raise SubjectError(
            f"Expected a model_type that transformers {transformers.version()} knows in {CONFIG} of {folder.name}, "
            f"got {shown(repr(model_type))}. It may need a newer transformers, or code of its own. {TWO_WAYS}"
        )
    architecture = _classifier_class(folder, settings, model_type)
    elsewhere = [key for key in ELSEWHERE if settings.get(key)]
    if elsewhere:
        raise SubjectError(
            f"Expected a network that is whole in itself in {folder.name}, got {', '.join(elsewhere)} in {CONFIG}, "
            "which name a network elsewhere. Write a function that builds it, for --model py:FILE:FUNCTION."
        )
    return FolderConfig(folder, "transformers", settings, model_type, architecture, _id2label(folder, settings))


def _classifier_class(folder: Path, settings: Mapping[str, Any], model_type: str) -> str:
    stated = settings.get("architectures") or []
    known = transformers.image_classifiers(model_type)
    found = [name for name in stated if name in known] if isinstance(stated, list) else []
    if len(found) != 1:
        possible = f" ({' or '.join(known)})" if known else f", of which transformers has none for {model_type}"
        raise SubjectError(
            f"Expected an image classifier{possible} as architectures in {CONFIG} of {folder.name}, got "
            f"{shown(str(stated))}. Save the fine-tuned classifier itself, head and all."
        )
    return str(found[0])


def _id2label(folder: Path, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Names by id; `LABEL_0` and the like are none."""
    stated = settings.get("id2label")
    if stated and not isinstance(stated, Mapping | list):
        raise SubjectError(
            f"Expected id2label with a name for each id in {CONFIG} of {folder.name}, got {shown(repr(stated))}. "
            "Correct it."
        )
    number = len(stated) if stated else settings.get("num_labels", 2)
    if number == 1:
        raise SubjectError(
            f"Expected two or more classes in {folder.name}, got num_labels 1, a regression. Audit a classifier."
        )
    if not stated:
        return ()
    names = _by_id(stated)
    if names is None:
        raise SubjectError(
            f"Expected id2label with the ids 0 to {len(stated) - 1} in {CONFIG} of {folder.name}, got "
            f"{shown(', '.join(map(str, list(stated)[:MOST_NAMED])))}. Correct it."
        )
    return () if all(PLACEHOLDER.fullmatch(name) for name in names) else names


def _by_id(stated: Any) -> tuple[str, ...] | None:
    """Names in the order of their ids, or None when the ids are not 0, 1, 2, ..."""
    if isinstance(stated, list):
        return tuple(map(str, stated))
    if not isinstance(stated, Mapping) or not all(NUMBER.fullmatch(key) for key in stated):
        return None
    names = {int(key): str(name) for key, name in stated.items()}
    return tuple(names[place] for place in range(len(names))) if set(names) == set(range(len(stated))) else None


def _timm(folder: Path, settings: Mapping[str, Any]) -> FolderConfig:
    declared = settings.get("pretrained_cfg") or {}
    if not isinstance(declared, Mapping):
        raise SubjectError(
            f"Expected settings by name as pretrained_cfg in {CONFIG} of {folder.name}, got {shown(repr(declared))}. "
            "Correct it."
        )
    stated = settings.get("label_names") or declared.get("label_names") or settings.get("id2label")
    names = (_by_id(stated) if stated else None) or ()
    if all(PLACEHOLDER.fullmatch(name) for name in names):
        names = ()
    return FolderConfig(folder, "timm", settings, "", str(settings.get("architecture") or ""), names)
