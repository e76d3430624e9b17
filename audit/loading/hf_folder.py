"""`hf:DIR`: a folder as Hugging Face transformers or timm save it, without remote code.

The folder says what the network is (`config.json`), what an image goes through (`preprocessor_config.json`) and what
the weights are. Each is read by code of this project; transformers is handed settings and tensors, never a path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from audit.adapters import transformers
from audit.errors import AuditError, SubjectError, UsageError
from audit.loading.bounded_building import Bounds, OutgrownError, build_bounded, check_size
from audit.loading.danger import refuse_dangerous
from audit.loading.hf_config import CONFIG, FolderConfig, read_config
from audit.loading.hf_preprocessing import PREPROCESSOR, PROCESSOR, read_preprocessing
from audit.loading.hf_timm import build_timm, declared_by_timm, fill_timm
from audit.loading.hf_weights import in_float32, read_folder_weights
from audit.loading.keys import fit_to
from audit.loading.model_spec import Architecture, ModelRequest, ModelSpec
from audit.loading.preprocess_choice import Shape
from audit.loading.preprocess_option import Steps, parse_option
from audit.loading.sources import shown
from audit.loading.state_dicts import Tensors, prefixes, without_wrappers
from audit.loading.weights import digest_of
from audit.schema import FileDigest

Made = TypeVar("Made")

MOST_NAMED = 8
DEEPEST = 3
FIXED_SIZE = re.compile(r"position_embedding|relative_position_bias_table|attention_biases")
"""Parameters that belong to one image size."""
WINDOWED = frozenset({"swin", "swinv2", "donut-swin"})
"""Types in which they belong to a window, whatever the image size."""


def build_hf(spec: ModelSpec, request: ModelRequest, native_shape: Shape | None) -> Architecture:
    """Reads the folder of the spec; with `--weights` it gives the architecture and the preprocessing alone.

    Raises:
        UsageError: when there is no such folder.
        UnsafeArtefactError: when it needs code of its own, or holds something dangerous.
        SubjectError: when it is no image classifier, or its weights do not fit it.
        PrerequisiteError: when transformers is not installed.
    """
    if spec.arguments:
        raise UsageError(f"Expected hf:DIR alone, got {spec.text}. The folder itself says what its network is.")
    folder = Path(spec.target).expanduser()
    if folder.is_dir():
        refuse_dangerous(folder)
    config = read_config(spec.target)
    built = _timm if config.layout == "timm" else _transformers
    return built(config, request)


def _timm(config: FolderConfig, request: ModelRequest) -> Architecture:
    weights = None
    if request.weights is None:
        weights = read_folder_weights(config.folder, config.settings, allow_pickle=request.allow_pickle)
    bounds = Bounds() if weights is None else Bounds.around(weights.tensors)
    network = _guarded(lambda: build_timm(config, bounds), config)
    steps = None if _is_stated(request) else declared_by_timm(network, config)
    files = _described(config, (CONFIG,))
    notes: tuple[str, ...] = ()
    exceptions: tuple[str, ...] = ()
    if weights is not None:
        network, fitted = fill_timm(network, weights.tensors, config, weights.name)
        files, notes = (*files, *weights.files), (*weights.notes, *fitted)
        exceptions = weights.trust_exceptions
    return Architecture(
        network,
        config.folder.name,
        steps,
        config.classes,
        files,
        exceptions,
        notes,
        holds_weights=request.weights is None,
    )


def _transformers(config: FolderConfig, request: ModelRequest) -> Architecture:
    steps, notes = _preprocessing(config, request)
    files = _described(config, (CONFIG, PREPROCESSOR, PROCESSOR))
    exceptions: tuple[str, ...] = ()
    if request.weights is None:
        weights = read_folder_weights(config.folder, config.settings, allow_pickle=request.allow_pickle)
        tensors, cast = in_float32(weights.tensors, weights.name)
        network = _filled(config, tensors, weights.name)
        files, notes = (*files, *weights.files), (*notes, *weights.notes, *cast)
        exceptions = weights.trust_exceptions
    else:
        network = _guarded(lambda: build_bounded(lambda: _unfilled(config), Bounds()), config)
    return Architecture(
        network,
        config.folder.name,
        steps,
        config.classes,
        files,
        exceptions,
        notes,
        input_shape=_fixed_shape(config, network),
        holds_weights=request.weights is None,
        renamed=_renaming(config, network),
    )


def _preprocessing(config: FolderConfig, request: ModelRequest) -> tuple[Steps | None, tuple[str, ...]]:
    """What the folder declares, unless the user states all of it."""
    return (None, ()) if _is_stated(request) else read_preprocessing(config)


def _is_stated(request: ModelRequest) -> bool:
    return parse_option(request.preprocess)[0] == "stated"


def _described(config: FolderConfig, names: tuple[str, ...]) -> tuple[FileDigest, ...]:
    there = [config.folder / name for name in names if (config.folder / name).is_file()]
    return tuple(digest_of(path).model_copy(update={"kind": "code"}) for path in there)


def _guarded(make: Callable[[], Made], config: FolderConfig) -> Made:
    """Runs the library; what it says becomes an error of ours."""
    try:
        return make()
    except AuditError:
        raise
    except OutgrownError as error:
        raise SubjectError(
            f"Expected {CONFIG} of {config.folder.name} to describe a network that its weights can fill, got {error}. "
            "Correct it."
        ) from None
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise SubjectError(
            f"Expected {CONFIG} of {config.folder.name} to describe a {config.architecture}, got "
            f"{type(error).__name__}: {shown(reason)}. Correct it."
        ) from error


def _filled(config: FolderConfig, tensors: Tensors, file: str) -> nn.Module:
    """The network with these tensors: every one of its own is given, none is left over.

    Raises:
        SubjectError: naming what is missing, unexpected or of another shape.
    """
    _guarded(lambda: check_size(lambda: _unfilled(config), Bounds.around(tensors)), config)
    filled = _guarded(lambda: transformers.fill(config.settings, config.architecture, tensors), config)
    missing = [key for key in filled.missing if not key.endswith("num_batches_tracked")]
    if not missing and not filled.unexpected and not filled.mismatched:
        return filled.network
    clashes = [f"{key}: file {stored}, network {wanted}" for key, (stored, wanted) in filled.mismatched.items()]
    groups = {"missing": missing, "unexpected": filled.unexpected, "of another shape": clashes}
    lines = [_named(title, keys) for title, keys in groups.items() if keys]
    first = f"Expected {file} of {config.folder.name} to hold exactly the tensors of {config.architecture}, got others."
    last = (
        "What is missing would be random numbers. Save the whole fine-tuned classifier with save_pretrained, and leave "
        f"{CONFIG} as it was saved."
    )
    raise SubjectError("\n".join((first, *lines, last)))


def _unfilled(config: FolderConfig) -> nn.Module:
    return transformers.build(config.settings, config.architecture)


def _named(title: str, keys: Sequence[str]) -> str:
    more = ", ..." if len(keys) > MOST_NAMED else ""
    return f"  {title} ({len(keys)}): {', '.join(map(shown, keys[:MOST_NAMED]))}{more}"


def _fixed_shape(config: FolderConfig, network: nn.Module) -> tuple[int, int, int] | None:
    """(c, h, w) of a network whose parameters belong to one image size."""
    settings = getattr(network, "config", None)
    settings = getattr(settings, "vision_config", settings)
    size, channels = getattr(settings, "image_size", None), getattr(settings, "num_channels", None)
    fixed = any(FIXED_SIZE.search(name) for name, _ in network.named_parameters())
    if not fixed or config.model_type in WINDOWED or channels not in (1, 3):
        return None
    if isinstance(size, int):
        return channels, size, size
    return (channels, int(size[0]), int(size[1])) if isinstance(size, list | tuple) and len(size) == 2 else None


def _renaming(config: FolderConfig, network: nn.Module) -> Callable[[object], object]:
    """Brings the names of a weights file to those in memory, which differ between versions of transformers."""
    wanted = network.state_dict()

    def renamed(content: object, depth: int = 0) -> object:
        if not isinstance(content, Mapping) or depth > DEEPEST:
            return content
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if tensors and 2 * len(tensors) >= len(content):
            return _in_memory(config, without_wrappers(tensors), wanted) or content
        return {key: renamed(value, depth + 1) for key, value in content.items()}

    return renamed


def _in_memory(config: FolderConfig, tensors: Tensors, wanted: Tensors) -> Tensors | None:
    """The tensors by the network's own names, or None where they have them already, or fit by no names."""
    for prefix in prefixes(tensors, len(wanted)):
        if fit_to("", tensors, wanted, prefix).complete:
            return None
        inside = {
            key.removeprefix(prefix): tensor.float() if tensor.is_floating_point() else tensor
            for key, tensor in tensors.items()
            if key.startswith(prefix)
        }
        try:
            filled = transformers.fill(config.settings, config.architecture, inside)
        except Exception:  # noqa: S112 - the ordinary path says what is wrong
            continue
        if not filled.missing and not filled.unexpected and not filled.mismatched:
            return {prefix + key: tensor for key, tensor in filled.network.state_dict().items()}
    return None
