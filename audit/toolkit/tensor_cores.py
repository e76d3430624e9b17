"""The coarser arithmetic of GPUs, for what is looked for and never for what is reported."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

AMPERE = (8, 0)
"""The first capability with TF32."""


@contextlib.contextmanager
def tensor_cores() -> Iterator[None]:
    """Products and convolutions of float32 in TF32, which has its range and ten bits of its fraction.

    For Nvidia GPUs since Ampere; without effect elsewhere.
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = True
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def has_tensor_cores(device: torch.device) -> bool:
    """Whether `tensor_cores` could make a difference."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= AMPERE
