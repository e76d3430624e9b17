"""Model specs to networks; never downloads anything."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from audit.errors import SubjectError, UnsafeArtefactError, UsageError
from audit.loading.hf_folder import build_hf
from audit.loading.model_spec import Architecture, ModelRequest, ModelSpec
from audit.loading.onnx_model import build_onnx
from audit.loading.preprocess_choice import Shape
from audit.loading.preprocess_option import Steps
from audit.loading.programs import build_export, build_script
from audit.loading.timm_steps import sides, timm_steps
from audit.loading.user_code import run_factory

Builder = Callable[[ModelSpec, ModelRequest, Shape | None], Architecture]


def build(spec: ModelSpec, request: ModelRequest, native_shape: Shape | None) -> Architecture:
    """Builds the network; its weights are whatever its builder initialises, or those that its file holds.

    Args:
        spec: parsed from the request.
        request: whether code may run, and which weights will be loaded.
        native_shape: (c, h, w) of the data's images when they all share it.

    Raises:
        UsageError: for names or arguments that the builder does not know.
        UnsafeArtefactError: for what would run code without `allow_code`.
        SubjectError: when the builder, the file or the user's code fails.
        PrerequisiteError: when a package that the scheme needs is not installed.
    """
    builders: Mapping[str, Builder] = {
        "timm": _build_timm, "torchvision": _build_torchvision, "py": _build_py, "hf": build_hf, "onnx": build_onnx,
        "script": build_script, "export": build_export,
    }  # fmt: skip
    return builders[spec.scheme](spec, request, native_shape)


def _build_py(spec: ModelSpec, request: ModelRequest, native_shape: Shape | None) -> Architecture:
    if not request.allow_code:
        raise UnsafeArtefactError(
            f"Expected --allow-code with {spec.text}, got none: py: runs the code of that file on this machine. "
            "Read the file, and where you trust it add --allow-code; the report will say so."
        )
    return run_factory(spec)


def _unknown(name: str, family: str, known: Iterable[str]) -> UsageError:
    near = difflib.get_close_matches(name, list(known), n=5)
    return UsageError(
        f"Expected the name of a {family} classifier, got {name!r}. "
        + (f"Close names: {', '.join(near)}." if near else f"List them in Python: {family}.list_models().")
    )


def _build_timm(spec: ModelSpec, request: ModelRequest, native_shape: Shape | None) -> Architecture:
    import timm  # noqa: PLC0415 - takes seconds
    from timm.data import resolve_model_data_config  # noqa: PLC0415

    base = spec.target.partition(".")[0]
    if not timm.is_model(base):
        raise _unknown(base, "timm", timm.list_models())
    network = _called(lambda: timm.create_model(spec.target, pretrained=False, **spec.arguments), spec)
    config = resolve_model_data_config(network)
    steps = timm_steps(config, spec.target, f"timm's configuration of {spec.target}", spec.arguments.get("img_size"))
    return Architecture(network, spec.target, steps)


def _build_torchvision(spec: ModelSpec, request: ModelRequest, native_shape: Shape | None) -> Architecture:
    import torchvision  # noqa: PLC0415 - takes seconds

    known = torchvision.models.list_models(module=torchvision.models)
    if spec.target not in known:
        raise _unknown(spec.target, "torchvision", known)
    network = _called(lambda: torchvision.models.get_model(spec.target, weights=None, **spec.arguments), spec)
    default = next(iter(torchvision.models.get_model_weights(spec.target))).__class__.DEFAULT
    preset = default.transforms()
    size = sides(spec.arguments.get("image_size")) or (preset.crop_size[0], preset.crop_size[0])
    stated = "image_size" in spec.arguments
    steps = Steps(
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        resize=size if stated else preset.resize_size[0],
        crop=size,
        interpolation=preset.interpolation.value,
        origin=f"torchvision's {default}",
    )
    categories = tuple(default.meta.get("categories", ()))
    return Architecture(network, spec.target, steps, categories if "num_classes" not in spec.arguments else ())


def _called(make: Callable[[], Any], spec: ModelSpec) -> nn.Module:
    """Runs a library's builder; what it says becomes an error of ours."""
    try:
        network = make()
    except TypeError as error:
        raise UsageError(f"Expected arguments that {spec.target} knows, got: {error}. Correct {spec.text!r}.") from None
    except Exception as error:
        raise SubjectError(
            f"Expected {spec.text} to be built, got {type(error).__name__}: {error}. Correct it."
        ) from None
    assert isinstance(network, nn.Module)
    return network
