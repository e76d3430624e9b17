"""What a model spec says, and what building it gives."""

from __future__ import annotations

import ast
import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from torch import nn

from audit.api import Access
from audit.errors import UsageError
from audit.loading.bare_path import is_path, near_paths, spec_of_path
from audit.loading.preprocess_option import Steps
from audit.schema import FileDigest

SCHEMES = {
    "timm": "timm:NAME?num_classes=10",
    "torchvision": "torchvision:NAME?num_classes=10",
    "hf": "hf:DIR",
    "onnx": "onnx:FILE.onnx",
    "script": "script:FILE.pt",
    "export": "export:FILE.pt2",
    "py": "py:path/to/file.py:factory or py:package.module:factory",
}
LOCATED = frozenset({"hf", "onnx", "script", "export"})
"""Schemes whose target is a path."""
DOWNLOADING = frozenset({
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "weights",
    "weights_backbone",
})  # fmt: skip
"""Arguments of builders that read weights from elsewhere."""
NAME = re.compile(r"[a-z0-9_.]*[a-z0-9_](\?.*)?")
"""What could be the name of an architecture, with or without a query."""
FULL_ACCESS: frozenset[Access] = frozenset({"weights", "gradients", "logits", "labels"})


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What the user asks to be audited.

    Attributes:
        spec: `timm:NAME?num_classes=10&in_chans=1`, `torchvision:NAME?num_classes=10`, `py:path/to/file.py:factory`,
            `py:package.module:factory`, `hf:DIR`, `onnx:FILE`, `script:FILE`, `export:FILE`, or a path alone.
        weights: a file of safetensors or of `torch.save`, or None for what the builder initialises.
        weights_key: dotted path of the state dict inside the file, or None to find it.
        strip_prefix: what its keys begin with beyond the network's, or None to find it.
        preprocess: `auto`, `none`, `imagenet`, `cifar` or `mean=a,b,c/std=d,e,f`, each with `/size=S`, `/size=HxW`,
            `/crop=S`, `/interpolation=bicubic` or `/order=bgr` after it.
        allow_code: whether code of the user or of the file may run, which `py:`, `script:` and `export:` need.
        allow_pickle: whether pickles that weights-only loading refuses may be read, apart and with placeholders.
    """

    spec: str
    weights: Path | None = None
    weights_key: str | None = None
    strip_prefix: str | None = None
    preprocess: str = "auto"
    allow_code: bool = False
    allow_pickle: bool = False


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A parsed spec.

    Attributes:
        scheme: a key of `SCHEMES`.
        target: name of the architecture, `FILE_OR_MODULE:FACTORY`, or the path of a file or folder.
        arguments: keyword arguments of the builder, from the query.
        text: the spec without folders, for records and digests.
        guess: how the scheme was found where only a path was given.
    """

    scheme: str
    target: str
    arguments: Mapping[str, Any]
    text: str
    guess: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Architecture:
    """A network that was built, with what its source declares.

    Attributes:
        network: on the CPU, as the builder returned it.
        name: short, for titles.
        steps: the preprocessing that is declared, or None.
        classes: class names that are declared, or empty.
        files: code that ran, and files that came with the spec.
        trust_exceptions: what was allowed to run as code.
        notes: guesses taken, for the user to know.
        input_shape: (c, h, w) where the network takes one size only, else None.
        channels: that it takes, where `input_shape` and its first convolution do not say, else None.
        holds_weights: whether its values are already those of a checkpoint.
        access: what may be used of it.
        why_limited: one sentence on why access is less than all; empty when it is all.
        renamed: brings what a weights file holds to the network's own names, where its library has used several.
    """

    network: nn.Module
    name: str
    steps: Steps | None = None
    classes: tuple[str, ...] = ()
    files: tuple[FileDigest, ...] = ()
    trust_exceptions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    input_shape: tuple[int, int, int] | None = None
    channels: int | None = None
    holds_weights: bool = False
    access: frozenset[Access] = FULL_ACCESS
    why_limited: str = ""
    renamed: Callable[[object], object] | None = None

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """(height, width) where the network takes one size only."""
        return None if self.input_shape is None else self.input_shape[1:]


def parse_spec(spec: str) -> ModelSpec:
    """Reads a model spec; a path alone is sniffed by content.

    Raises:
        UsageError: for an unknown scheme, a missing name or factory, or a query that cannot be read; or for a path
            that holds no whole model.
        UnsafeArtefactError: for a path alone whose file is refused whatever it is taken for.
    """
    scheme, _, rest = spec.partition(":")
    if scheme not in SCHEMES and is_path(spec):
        scheme, rest, guess = spec_of_path(spec)
    else:
        guess = ""
    if scheme not in SCHEMES or (":" not in spec and not rest):
        raise _no_spec(spec)
    target, mark, query = rest.partition("?")
    if not target:
        raise UsageError(f"Expected {SCHEMES[scheme]}, got {spec!r} without a name. Name the architecture.")
    arguments = _arguments(query, spec) if mark else {}
    forbidden = sorted(DOWNLOADING & set(arguments)) if scheme != "py" else []
    if forbidden:
        raise UsageError(
            f"Expected only arguments of the architecture in {spec!r}, got {', '.join(forbidden)}. "
            "Nothing is ever downloaded: give the weights as a file with --weights."
        )
    shown = target
    if scheme == "py":
        location, _, factory = target.rpartition(":")
        if not location or not factory.isidentifier():
            raise UsageError(f"Expected {SCHEMES['py']}, got {spec!r}. Name the function that returns the model.")
        shown = f"{Path(location).name}:{factory}"
    elif scheme in LOCATED:
        shown = Path(os.path.realpath(Path(target).expanduser())).name  # also at the end of a loop of links
    return ModelSpec(scheme, target, arguments, f"{scheme}:{shown}" + (f"?{query}" if mark else ""), guess)


def _no_spec(spec: str) -> UsageError:
    """The error for a text that begins with no scheme and is no path of anything."""
    scheme, colon, _ = spec.partition(":")
    near = [f"{name}:" for name in difflib.get_close_matches(scheme.lower(), SCHEMES, n=1)] if colon else []
    meant = near or near_paths(spec)
    said = f" Did you mean {' or '.join(meant)}?" if meant else ""
    remedy = "Begin it with a scheme."
    if not colon and NAME.fullmatch(spec):
        remedy = f"There is no file of that name; for a network by its name, write timm:{spec} or torchvision:{spec}."
    elif not colon:
        remedy = "There is no such file; check the path."
    forms = ", ".join(SCHEMES.values())
    return UsageError(f"Expected a model spec such as {forms}, or a path, got {spec!r}.{said} {remedy}")


def _arguments(query: str, spec: str) -> dict[str, Any]:
    try:
        pairs = parse_qsl(query, keep_blank_values=False, strict_parsing=True)
    except ValueError:
        raise UsageError(
            f"Expected ?name=value&name=value after the name, got {query!r} in {spec!r}. Correct it."
        ) from None
    wrong = [name for name, _ in pairs if not name.isidentifier()]
    repeated = sorted({name for name, _ in pairs if [other for other, _ in pairs].count(name) > 1})
    if wrong or repeated:
        raise UsageError(
            f"Expected each argument once by its name, got {', '.join(wrong + repeated)} in {spec!r}. Correct it."
        )
    arguments = {name: _value(text) for name, text in pairs}
    classes = arguments.get("num_classes", 1)
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise UsageError(
            f"Expected num_classes as a whole number of at least 1 in {spec!r}, got {classes!r}. Correct it."
        )
    return arguments


def _value(text: str) -> Any:
    """`10`, `0.1`, `true`, `None`, `(2, 2)` or `2,2` as what they are; everything else as text."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, int | float | tuple) else tuple(value) if isinstance(value, list) else text
