"""What a model spec says, and what building it gives."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from torch import nn

from audit.errors import UsageError
from audit.loading.preprocess_option import Steps
from audit.schema import FileDigest

SCHEMES = {
    "timm": "timm:NAME?num_classes=10",
    "torchvision": "torchvision:NAME?num_classes=10",
    "py": "py:path/to/file.py:factory or py:package.module:factory",
}
DOWNLOADING = frozenset({
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "weights",
    "weights_backbone",
})  # fmt: skip
"""Arguments of builders that read weights from elsewhere."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What the user asks to be audited.

    Attributes:
        spec: `timm:NAME?num_classes=10&in_chans=1`, `torchvision:NAME?num_classes=10`, `py:path/to/file.py:factory` or
            `py:package.module:factory`.
        weights: a file of safetensors or of `torch.save`, or None for what the builder initialises.
        weights_key: dotted path of the state dict inside the file, or None to find it.
        strip_prefix: what its keys begin with beyond the network's, or None to find it.
        preprocess: `auto`, `none`, `imagenet`, `cifar` or `mean=a,b,c/std=d,e,f`, each with `/size=S`, `/size=HxW`,
            `/crop=S`, `/interpolation=bicubic` or `/order=bgr` after it.
        allow_code: whether user code may run, which `py:` needs.
    """

    spec: str
    weights: Path | None = None
    weights_key: str | None = None
    strip_prefix: str | None = None
    preprocess: str = "auto"
    allow_code: bool = False


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A parsed spec.

    Attributes:
        scheme: `timm`, `torchvision` or `py`.
        target: name of the architecture, or `FILE_OR_MODULE:FACTORY`.
        arguments: keyword arguments of the builder, from the query.
        text: the spec without folders, for records and digests.
    """

    scheme: str
    target: str
    arguments: Mapping[str, Any]
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Architecture:
    """A network that was built, with what its source declares.

    Attributes:
        network: on the CPU, as the builder returned it.
        name: short, for titles.
        steps: the preprocessing that is declared, or None.
        classes: class names that are declared, or empty.
        files: user code that ran.
        trust_exceptions: what was allowed to run as code.
    """

    network: nn.Module
    name: str
    steps: Steps | None = None
    classes: tuple[str, ...] = ()
    files: tuple[FileDigest, ...] = ()
    trust_exceptions: tuple[str, ...] = ()


def parse_spec(spec: str) -> ModelSpec:
    """Reads a model spec.

    Raises:
        UsageError: for an unknown scheme, a missing name or factory, or a query that cannot be read.
    """
    scheme, colon, rest = spec.partition(":")
    if not colon or scheme not in SCHEMES:
        near = difflib.get_close_matches(scheme.lower(), SCHEMES, n=1)
        meant = f" Did you mean {near[0]}:?" if near else ""
        forms = ", ".join(SCHEMES.values())
        raise UsageError(f"Expected a model spec such as {forms}, got {spec!r}.{meant} Begin it with a scheme.")
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
    return ModelSpec(scheme, target, arguments, f"{scheme}:{shown}" + (f"?{query}" if mark else ""))


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
    return {name: _value(text) for name, text in pairs}


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
