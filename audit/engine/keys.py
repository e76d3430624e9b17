"""What identifies a unit of work, and the random streams that belong to it."""

import hashlib
import importlib.metadata
from collections.abc import Sequence
from typing import Any

import torch

from audit.schema import dump_json

PACKAGES = (
    "numpy", "scipy", "scikit-learn", "torch", "torchvision", "timm", "torchattacks", "pillow", "pyarrow",
    "onnx", "onnxruntime", "onnx2torch",
)  # fmt: skip


def digest_of(value: Any) -> str:
    """sha256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(dump_json(value).encode()).hexdigest()


def digest_of_ids(ids: Sequence[str]) -> str:
    """sha256 over content hashes in order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def seed_of(*parts: object) -> int:
    """A 64-bit seed from whatever names a random stream."""
    return int.from_bytes(hashlib.sha256(dump_json([str(part) for part in parts]).encode()).digest()[:8], "big")


def package_versions() -> dict[str, str]:
    """Versions of the libraries that can change a number; absent ones are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def numerics(device: torch.device) -> dict[str, str | bool | int]:
    """Settings of the machine and of torch that can change a number."""
    settings: dict[str, str | bool | int] = {
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    if device.type == "cuda":
        settings |= {
            "gpu": torch.cuda.get_device_name(device),
            "cuda": str(torch.version.cuda),
            "cudnn": torch.backends.cudnn.version() or 0,  # type: ignore[no-untyped-call]
            "cudnn_deterministic": torch.backends.cudnn.deterministic,
            "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
            "tf32_conv": torch.backends.cudnn.allow_tf32,
        }
    return settings
