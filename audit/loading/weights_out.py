"""Tensors into a safetensors file: the same bytes for the same tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audit.loading.placeholders.elements import ELEMENTS
from audit.loading.sources import shown
from audit.loading.tensor_file import StoredTensor, write_tensors
from audit.toolkit.writing import explained


def number_code(tensor: Tensor) -> str:
    """Safetensors' name for the kind of number; empty where it has none."""
    element = ELEMENTS.get(str(tensor.dtype).removeprefix("torch."))
    return "" if element is None else element.code


def write_weights(out: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes each tensor in full, also where two are one; the file is there whole or not at all.

    Args:
        out: where to; its folder is made.
        tensors: plain, dense, of numbers that `number_code` knows.
        metadata: texts beside them.

    Raises:
        StoreError: when it cannot be written.
    """
    stored = [
        StoredTensor(name, number_code(tensor), tuple(tensor.shape), tensor.nbytes, partial(_numbers, tensor))
        for name, tensor in tensors.items()
    ]
    unfinished = out.with_name(f".tmp-{shown(out.name)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as stream:
            write_tensors(stream, stored, metadata)
        unfinished.replace(out)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise explained(error, out) from error


def _numbers(tensor: Tensor) -> Any:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data
