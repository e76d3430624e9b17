"""Image classifiers and image processors of Hugging Face transformers, built from settings that are already read.

Version: 5.23 (read and run). The package is an extra; where it is absent, `PrerequisiteError` says so. Nothing here is
given a path or a name of the hub: the caller reads the files, and transformers sees settings and tensors alone.

What is walled off here, how it was seen, and the test in tests/audit/loading/test_hf_folder.py that pins it:

- From 5.0 on, names of parameters in memory differ from those on disk (`vit.layers.0.attention.q_proj` and
  `vit.encoder.layer.0.attention.attention.query`), and `load_state_dict` knows the former alone (run). Tensors go in by
  `from_pretrained(None, config=..., state_dict=...)`, which converts. `test_logits_equal_those_of_transformers`.
- What a file lacks is filled with random numbers under a warning (run). The lists of what was missing, unexpected and
  of another shape are handed back, and nothing is taken for granted. `test_a_missing_head_is_an_error`.
- `config.json` may name another implementation of attention, one of the hub's kernels among them, and may ask for
  tuples, hidden states, fusions or another dtype (read). Keys that steer the loading are taken out at every depth, and
  attention is `eager`: the fused kernels of the CPU have no second derivative (run).
  `test_settings_that_steer_the_loading_are_left_out`, `test_second_derivatives`.
- The hub is switched off for the time of a call, also where huggingface_hub was imported before: it reads its
  environment variable once (read). `test_loading_opens_no_connection_and_no_other_file`.
- Loading prints progress bars and reports, and warns (run). All of it is silenced. `test_loading_says_nothing`.
- Importing takes seconds; each part is imported on first use.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from audit.errors import PrerequisiteError

ATTENTION = "eager"
STEERING = frozenset({
    "attn_implementation", "experts_implementation", "auto_map", "distributed_config", "dtype", "torch_dtype",
    "fusion_config", "kernel_config", "name_or_path", "output_attentions", "output_hidden_states", "return_dict",
    "torchscript", "transformers_version", "transformers_weights", "use_return_dict",
})  # fmt: skip
"""Settings that say how to load or what to return, not what the network is; so does all that begins with `_`."""


@dataclass(frozen=True, slots=True, eq=False)
class Filled:
    """A network with a checkpoint's tensors in it.

    Attributes:
        network: what was missing holds random numbers.
        missing: names, in memory, that no tensor of the checkpoint gave.
        unexpected: names of the checkpoint that the network has no use for.
        mismatched: by name, the shape in the checkpoint and in the network.
    """

    network: nn.Module
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: Mapping[str, tuple[str, str]]


def version() -> str:
    """Of the installed package."""
    with _quiet():
        return str(_package("transformers").__version__)


def is_known(model_type: str) -> bool:
    """Whether transformers itself, without remote code, has networks of this type."""
    with _quiet():
        return model_type in _package("transformers.models.auto.configuration_auto").CONFIG_MAPPING_NAMES


def image_classifiers(model_type: str) -> tuple[str, ...]:
    """Names of the classes that classify images, for a type of network; empty when there are none."""
    with _quiet():
        auto = _package("transformers.models.auto.modeling_auto")
        names = auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.get(model_type, ())
    return (names,) if isinstance(names, str) else tuple(names)


def build(settings: Mapping[str, Any], name: str) -> nn.Module:
    """A network with random weights.

    Args:
        settings: of `config.json`.
        name: of the class, one of `image_classifiers`.

    Raises:
        Exception: of any kind, where the settings are not those of such a network.
    """
    with _quiet():
        network: nn.Module = _class(name)(_config(settings))
    return network


def fill(settings: Mapping[str, Any], name: str, tensors: Mapping[str, Tensor]) -> Filled:
    """A network with the tensors of a checkpoint, by the names of any version of transformers.

    Args:
        settings: of `config.json`.
        name: of the class, one of `image_classifiers`.
        tensors: float32 and integers; left as they are.

    Raises:
        Exception: of any kind, where the settings are not those of such a network.
    """
    with _quiet():
        network, info = _class(name).from_pretrained(
            None,
            config=_config(settings),
            state_dict=dict(tensors),
            attn_implementation=ATTENTION,
            ignore_mismatched_sizes=True,
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    clashes = {key: (str(tuple(stored)), str(tuple(wanted))) for key, stored, wanted in info["mismatched_keys"]}
    return Filled(network, tuple(sorted(info["missing_keys"])), tuple(sorted(info["unexpected_keys"])), clashes)


def processor(values: Mapping[str, Any], model_type: str) -> tuple[str, dict[str, Any]]:
    """The image processor that `preprocessor_config.json` means, with what its class adds where the file is silent.

    Args:
        values: of the file.
        model_type: of the network, which decides where the file names no class.

    Returns:
        The name of the class, without the suffixes of its variants, or empty when transformers has none; and its
        settings as plain values.
    """
    with _quiet():
        auto = _package("transformers.models.auto.image_processing_auto")
        named = values.get("image_processor_type") or values.get("feature_extractor_type")
        name = _plain(str(named or _default_processor(auto.IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type))))
        found = auto.get_image_processor_class_from_name(name) if name else None
        if found is None:
            return "", {}
        settings = found(**{key: value for key, value in values.items() if not key.startswith("_")}).to_dict()
    plain = {key: dict(value) if isinstance(value, Mapping) else value for key, value in settings.items()}
    return name, plain


def _default_processor(known: Any) -> str:
    """The first class of a type: dicts by backend since 5.0, pairs (slow, fast) before."""
    names = list(known.values()) if isinstance(known, Mapping) else list(known or ())
    return next((str(name) for name in names if name), "")


def _plain(name: str) -> str:
    """`ViTFeatureExtractor`, `ViTImageProcessorFast` and `ViTImageProcessorPil` as `ViTImageProcessor`."""
    return name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")


def _class(name: str) -> Any:
    return getattr(_package("transformers"), name)


def _config(settings: Mapping[str, Any]) -> Any:
    mapping = _package("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    config = mapping[settings["model_type"]].from_dict(_without_steering(settings))
    config._attn_implementation = ATTENTION
    return config


def _without_steering(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_steering(value) if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if key not in STEERING and not key.startswith("_")
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No hub, no output, no warnings; all is put back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        constants, logging = _package("huggingface_hub.constants"), _package("transformers.utils.logging")
        offline, level, bars = constants.HF_HUB_OFFLINE, logging.get_verbosity(), logging.is_progress_bar_enabled()
        constants.HF_HUB_OFFLINE = True
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = offline
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()


def _package(module: str) -> Any:
    """A module of transformers, imported on first use.

    Raises:
        PrerequisiteError: when it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PrerequisiteError(
            f"Expected the package transformers 4.50 or newer, got {error}. Install it: pip install 'trust-audit[hf]'."
        ) from error
