"""A path without a scheme, sniffed by content."""

from __future__ import annotations

import difflib
import itertools
import shlex
from pathlib import Path

from audit.errors import UnsafeArtefactError, UsageError
from audit.loading.danger import refuse_unsafe
from audit.loading.sources import shown
from audit.scan import Kind, kind_of

MODELS = {
    Kind.ONNX: "onnx",
    Kind.TORCHSCRIPT: "script",
    Kind.EXPORTED_PROGRAM: "export",
    Kind.HUGGING_FACE: "hf",
}
WEIGHTS = frozenset({Kind.SAFETENSORS, Kind.TORCH_ZIP, Kind.TORCH_LEGACY, Kind.TORCH_TAR})

MOST_LISTED = 10_000
"""Entries of a folder in which a name is looked for."""


def is_path(text: str) -> bool:
    """Whether this names something that is there, with or without a query after it."""
    return bool(text) and _located(text)[0].exists()


def near_paths(text: str) -> list[str]:
    """Paths that are there and spelt nearly as this one; empty where not even its folder is."""
    path = _located(text)[0]
    try:
        names = [entry.name for entry in itertools.islice(path.parent.iterdir(), MOST_LISTED)]
    except OSError:
        return []
    return [shown(str(path.parent / name)) for name in difflib.get_close_matches(path.name, names, n=3)]


def spec_of_path(text: str) -> tuple[str, str, str]:
    """Scheme, what follows it, and the guess in words.

    Raises:
        UsageError: when the file is no whole model: weights alone, source, data.
        UnsafeArtefactError: when nothing could load it without running code.
    """
    path, query = _located(text)
    kind, name = kind_of(path), shown(path.name)
    if kind in MODELS:
        scheme = MODELS[kind]
        return scheme, f"{path}{query}", f"{name} is {kind}: taken as {scheme}:{name}"
    if kind is Kind.FOLDER:  # refused whatever lies in it, so nothing is looked at: it may be a whole disk
        raise UsageError(
            f"Expected a model, got the folder {shown(str(path))}, which has no config.json as a Hugging Face folder "
            "has. Name a file in it."
        )
    refuse_unsafe(path, of_code=_remedy(kind, text))
    if kind in WEIGHTS:
        raise UsageError(
            f"Expected a whole model, got {name}, which holds weights alone ({kind}). Name the network they "
            f"belong to, such as --model timm:NAME --weights {shlex.quote(text)}."
        )
    if kind is Kind.PYTHON:
        raise UsageError(
            f"Expected a model, got {name}, Python source. Name the function that returns the network, "
            f"py:{shown(text)}:FACTORY, and where you trust the file add --allow-code."
        )
    if kind is Kind.PICKLE:
        raise UnsafeArtefactError(
            f"Expected a model that loads without running code, got {name}, a plain pickle. Nothing of it was "
            "loaded. Take its tensors out with `audit convert`, and name the network with --model."
        )
    raise UsageError(
        f"Expected a model (ONNX, TorchScript, torch.export, a Hugging Face folder) or a spec such as timm:NAME, got "
        f"{name}, {kind}. Begin with a scheme, or name another file."
    )


def _remedy(kind: Kind, text: str) -> str:
    """What helps against code in a file of this kind, in which nothing is dangerous."""
    if kind in WEIGHTS:
        return (
            "It holds weights: name the network they belong to, --model timm:NAME, with --weights "
            f"{shlex.quote(shown(text))} --allow-pickle, which reads its tensors and runs nothing of it."
        )
    if kind is Kind.PYTHON:
        return f"Where you trust it, name the function that returns the network: py:{shown(text)}:FACTORY --allow-code."
    return ""


def _located(text: str) -> tuple[Path, str]:
    path = Path(text).expanduser()
    if path.exists():
        return path, ""
    head, mark, query = text.partition("?")
    return Path(head).expanduser(), mark + query
