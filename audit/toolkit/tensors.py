"""Tensors by name: what a state dict holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers that are saved, by name; what modules save beside tensors is left out."""
    return {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
