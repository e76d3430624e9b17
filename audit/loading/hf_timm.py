"""Networks of timm from a folder that timm saved, or that transformers saved around one of timm's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from audit.errors import SubjectError
from audit.loading.bounded_building import Bounds, build_bounded
from audit.loading.hf_config import CONFIG, FolderConfig
from audit.loading.keys import find_state_dict, to_load
from audit.loading.mismatch import check_fit
from audit.loading.model_spec import DOWNLOADING
from audit.loading.preprocess_option import Steps
from audit.loading.sources import shown
from audit.loading.timm_steps import timm_steps

DESCRIBING = (
    "input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "num_classes",
    "pool_size", "first_conv", "classifier", "tag",
)  # fmt: skip
"""What of `pretrained_cfg` is taken: the network and its input, not where weights lie."""


def build_timm(config: FolderConfig, bounds: Bounds) -> nn.Module:
    """The network with random weights.

    Raises:
        SubjectError: for a name that timm does not know, or arguments that lead elsewhere.
        OutgrownError: when it is larger than the bounds.
        Exception: of any kind, where arguments do not fit the network.
    """
    import timm  # noqa: PLC0415 - takes seconds

    if not timm.is_model(config.architecture) or ":" in config.architecture:
        raise SubjectError(
            f"Expected the name of a timm classifier as architecture in {CONFIG} of {config.folder.name}, got "
            f"{shown(repr(config.architecture))}. It may need a newer timm than {timm.__version__}."
        )
    arguments = _arguments(config)
    name, declared = config.architecture.partition(".")[0], _declared(config)
    return build_bounded(
        lambda: timm.create_model(name, pretrained=False, pretrained_cfg=declared, **arguments), bounds
    )


def declared_by_timm(network: nn.Module, config: FolderConfig) -> Steps:
    """The preprocessing that the folder declares, or that timm knows of this network.

    Raises:
        SubjectError: for a crop mode that is not known.
    """
    from timm.data import resolve_model_data_config  # noqa: PLC0415 - takes seconds

    origin = f"{CONFIG} of {config.folder.name} (timm)"
    return timm_steps(
        resolve_model_data_config(network), config.architecture, origin, _arguments(config).get("img_size")
    )


def fill_timm(
    network: nn.Module, tensors: Mapping[str, Tensor], config: FolderConfig, file: str
) -> tuple[nn.Module, tuple[str, ...]]:
    """The network with the folder's tensors in it, strictly; and notes.

    Raises:
        SubjectError: when they do not fit, or are not finite.
    """
    wanted = network.state_dict()
    fit, guesses = find_state_dict(tensors, wanted)
    check_fit(fit, wanted, spec=f"{config.architecture} as {CONFIG} describes it", file=file)
    ready, notes = to_load(fit, wanted)
    network.load_state_dict(ready, strict=True)
    return network, (*guesses, *notes)


def _arguments(config: FolderConfig) -> dict[str, Any]:
    stated = config.settings.get("model_args") or {}
    number = config.settings.get("num_classes") or _declared(config).get("num_classes")
    arguments = {**stated, **({} if number is None else {"num_classes": number})}
    elsewhere = sorted((DOWNLOADING | {"features_only"}) & set(arguments))
    if elsewhere:
        raise SubjectError(
            f"Expected only arguments of the architecture as model_args in {CONFIG} of {config.folder.name}, got "
            f"{', '.join(elsewhere)}. Nothing is read from elsewhere; take them out."
        )
    return arguments


def _declared(config: FolderConfig) -> dict[str, Any]:
    """The `pretrained_cfg` of timm; older files hold it at the top level."""
    declared = config.settings.get("pretrained_cfg") or config.settings
    return {key: declared[key] for key in DESCRIBING if declared.get(key) is not None}
