"""Tiny networks of Hugging Face transformers with random weights, and folders that hold them."""

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

NAMES = ("cat", "dog", "fish")
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: place for place, name in enumerate(NAMES)}}
PATCHES: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
STAGES: dict[str, Any] = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
WINDOWS: dict[str, Any] = {
    "image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4
}  # fmt: skip
LEVIT: dict[str, Any] = {
    "image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [1, 2, 2], "depths": [1, 1, 1],
    "key_dim": [8, 8, 8],
}  # fmt: skip
RECIPES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "Beit": ("", {**PATCHES, "use_relative_position_bias": True}),
    "Bit": ("", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_groups": 4}),
    "CLIP": ("", {"vision_config": PATCHES}),
    "ConvNext": ("", STAGES),
    "ConvNextV2": ("", STAGES),
    "DeiT": ("", PATCHES),
    "DeiTWithTeacher": ("WithTeacher", PATCHES),
    "Dinov2": ("", PATCHES),
    "Dinov2WithRegisters": ("", PATCHES),
    "Hiera": ("", {"image_size": [32, 32], "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1],
                   "masked_unit_size": [2, 2], "num_query_pool": 1}),
    "LevitWithTeacher": ("WithTeacher", LEVIT),
    "MobileNetV2": ("", {"image_size": 32, "depth_multiplier": 0.25}),
    "PoolFormer": ("", STAGES),
    "RegNet": ("", {**STAGES, "embedding_size": 8, "groups_width": 8}),
    "ResNet": ("", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}),
    "Segformer": ("", {**STAGES, "decoder_hidden_size": 8, "num_attention_heads": [1, 1, 2, 2]}),
    "Siglip": ("", {"vision_config": PATCHES}),
    "Swin": ("", WINDOWS),
    "Swinv2": ("", WINDOWS),
    "ViT": ("", PATCHES),
}  # fmt: skip
"""By name: the suffix of the class, and the settings that make it tiny."""


def network(name: str, **settings: Any) -> nn.Module:
    """A tiny classifier of three classes in eval mode, the same each time; its batch statistics are not the first."""
    import transformers

    suffix, recipe = RECIPES[name]
    family = name.removesuffix(suffix)
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**{**recipe, **LABELS, **settings})
        made: nn.Module = getattr(transformers, f"{family}ForImageClassification{suffix}")(config).eval()
        with torch.no_grad():
            for key, tensor in made.state_dict().items():
                if key.endswith(("running_mean", "running_var")):
                    tensor.add_(0.1 * torch.rand_like(tensor))
    return made


def save(made: Any, folder: Path, **more: Any) -> str:
    """Writes the folder as `save_pretrained` does, and gives its spec."""
    import transformers

    transformers.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_pretrained(folder, **more)
    return f"hf:{folder}"


def edit(folder: Path, change: Callable[[dict[str, Any]], object], name: str = "config.json") -> None:
    """Changes a JSON file of a folder in place."""
    values = json.loads((folder / name).read_text())
    change(values)
    (folder / name).write_text(json.dumps(values))
