"""Finds and reads the weights in a Hugging Face folder; optimiser states, training arguments and the like stay shut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audit.errors import SubjectError
from audit.loading.hf_config import CONFIG, read_json
from audit.loading.sources import shown
from audit.loading.state_dicts import describe
from audit.loading.weights import read_weights
from audit.schema import FileDigest

KINDS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In the order in which they are preferred."""
OTHER_LIBRARIES = ("tf_model.h5", "flax_model.msgpack", "model.onnx", "rust_model.ot")
ADAPTER = "adapter_config.json"


@dataclass(frozen=True, slots=True, eq=False)
class FolderWeights:
    """The tensors of a folder.

    Attributes:
        name: of the file, or of the index of several.
        tensors: by the names in the file; as they are there.
        files: that were read.
        notes: guesses taken.
        trust_exceptions: how files were read beyond weights-only loading.
    """

    name: str
    tensors: Mapping[str, Tensor]
    files: tuple[FileDigest, ...]
    notes: tuple[str, ...]
    trust_exceptions: tuple[str, ...] = ()


def read_folder_weights(folder: Path, settings: Mapping[str, Any], *, allow_pickle: bool) -> FolderWeights:
    """Reads the weights, safetensors rather than pickles.

    Args:
        folder: the folder.
        settings: of its `config.json`.
        allow_pickle: whether pickles that weights-only loading refuses may be read with placeholders.

    Raises:
        SubjectError: when there are none, they are damaged, an index leads out of the folder, or they are adapters.
        UnsafeArtefactError: when a file would need code to be run.
    """
    _check_whole(folder, settings)
    there = [kind for kind in KINDS if (folder / kind).is_file()]
    if not there:
        raise _none(folder)
    name = there[0]
    files = _shards(folder, name) if name.endswith(".json") else {name: None}
    tensors: dict[str, Tensor] = {}
    digests, exceptions = [], []
    for file, promised in files.items():
        read = read_weights(folder / file, allow_pickle=allow_pickle)
        tensors |= _flat(read.content, file, promised)
        digests.append(read.digest)
        exceptions += [read.trust_exception] if read.trust_exception else []
    notes = (f"{name} is taken; {', '.join(there[1:])} lies beside it",) if len(there) > 1 else ()
    return FolderWeights(name, tensors, tuple(digests), notes, tuple(exceptions))


def in_float32(tensors: Mapping[str, Tensor], name: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors with all floating-point numbers in float32, and a note where they were not.

    Raises:
        SubjectError: naming the tensors that hold NaN or Inf.
    """
    floating = {key: tensor for key, tensor in tensors.items() if tensor.is_floating_point()}
    broken = [key for key, tensor in floating.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise SubjectError(
            f"Expected finite weights, got NaN or Inf in {len(broken)} of {len(tensors)} tensors of {name}: "
            f"{shown(', '.join(broken[:8]))}. The training diverged or the file is damaged; take another checkpoint."
        )
    other = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in floating.values()} - {"float32"})
    notes = (f"tensors of {', '.join(other)} are brought to float32",) if other else ()
    return {key: tensor.float() if key in floating else tensor for key, tensor in tensors.items()}, notes


def _check_whole(folder: Path, settings: Mapping[str, Any]) -> None:
    if (folder / ADAPTER).is_file():
        raise SubjectError(
            f"Expected a whole network in {folder.name}, got {ADAPTER}: adapters (LoRA) of a network that lies "
            "elsewhere. Merge them into it (merge_and_unload) and save that."
        )
    if settings.get("transformers_weights"):
        raise SubjectError(
            f"Expected the weights of {folder.name} under their usual name, got "
            f"{shown(repr(settings['transformers_weights']))} "
            f"in {CONFIG} (transformers_weights). Name the file with --weights."
        )


def _none(folder: Path) -> SubjectError:
    others = [name for name in OTHER_LIBRARIES if (folder / name).is_file()]
    found = f"those of another library ({', '.join(others)})" if others else _listed(folder)
    return SubjectError(
        f"Expected {KINDS[0]} or {KINDS[2]} in {folder.name}, got {found}. Save them with save_pretrained, or name a "
        "file with --weights."
    )


def _listed(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return shown(", ".join(names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _shards(folder: Path, index: str) -> dict[str, frozenset[str]]:
    """File names, each with the tensors that the index promises in it."""
    places = (read_json(folder, index) or {}).get("weight_map")
    if not isinstance(places, Mapping) or not places or not all(isinstance(file, str) for file in places.values()):
        raise SubjectError(f"Expected a weight_map from tensors to files in {index}, got none. Copy it again.")
    names: Iterable[str] = sorted(set(places.values()))
    outside = [name for name in names if Path(name).name != name or name in ("", ".", "..") or "\\" in name]
    if outside:
        raise SubjectError(
            f"Expected the names of files of {folder.name} in {index}, got {shown(', '.join(outside[:3]))}, which lead "
            "out of it. Nothing was read; ask whoever made it."
        )
    there = {path.name for path in folder.iterdir() if path.is_file()}
    lost = [name for name in names if name not in there]
    if lost:
        raise SubjectError(
            f"Expected {len(set(places.values()))} files by {index} in {folder.name}, got none of "
            f"{shown(', '.join(lost[:3]))}{f' and {len(lost) - 3} more' if len(lost) > 3 else ''}. Copy the rest."
        )
    return {name: frozenset(key for key, file in places.items() if file == name) for name in names}


def _flat(content: object, file: str, promised: frozenset[str] | None) -> dict[str, Tensor]:
    """Tensors by name of one file, all that was promised among them."""
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    absent = sorted((promised or frozenset()) - set(tensors))
    if not tensors or absent:
        got = f"a file without {shown(', '.join(absent[:3]))}" if tensors else describe(content)
        raise SubjectError(f"Expected tensors by name in {file}, got {got}. Save the model again.")
    odd = [key for key, tensor in tensors.items() if tensor.is_meta or tensor.layout is not torch.strided]
    if odd:
        raise SubjectError(
            f"Expected dense tensors in {file}, got {shown(', '.join(odd[:3]))}, sparse or without numbers. Save the "
            "model again."
        )
    return tensors
