"""Loads a file as it is meant, code and all; called in the process apart alone, behind locks that hold code.

Torch is imported where it is needed: the classes that a file names import what they need themselves.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO

from audit.errors import SubjectError
from audit.loading.placeholders.collection import Collection
from audit.loading.placeholders.elements import ELEMENTS
from audit.loading.placeholders.reading import write
from audit.loading.placeholders.records import Array, Blob, Dtype, Lost, Storage, Tensor, steps
from audit.sandbox.limits import GIB
from audit.scan import Kind

DEEPEST = 50


def unpickle(argument: Mapping[str, Any], source: BinaryIO, tensors: BinaryIO) -> dict[str, Any]:
    """What the file makes when it is loaded.

    Args:
        argument: `name` of the file, its `kind`, and `most_bytes` that its tensors may have together.
        source: the file.
        tensors: where they are written, each by its number.

    Returns:
        `tree`; see `collection.Node`.

    Raises:
        SubjectError: when its tensors are more than they may be.
    """
    content = _load(source, Kind(argument["kind"]))
    found = Collection(_Plain().form(content))
    sizes = [tensor.numel * tensor.element.size for tensor in found.tensors]
    if sum(sizes) > argument["most_bytes"]:
        raise SubjectError(
            f"Expected at most {argument['most_bytes'] / GIB:.1f} GiB of tensors from {argument['name']}, got "
            f"{sum(sizes) / GIB:.1f} GiB. Ask whoever made it."
        )
    write(found.tensors, sizes, tensors)
    return {"tree": found.tree}


def _load(source: BinaryIO, kind: Kind) -> object:
    if kind is Kind.PICKLE:
        return pickle.load(source)  # noqa: S301 - what the locks are for
    import torch  # noqa: PLC0415

    if kind is Kind.TORCHSCRIPT:
        return torch.jit.load(source, map_location="cpu")  # type: ignore[no-untyped-call]
    if kind is Kind.EXPORTED_PROGRAM:
        return torch.export.load(source).state_dict
    return torch.load(source, map_location="cpu", weights_only=False)


class _Plain:
    """Brings objects into the records of the placeholder reader, tensors that are one to one record."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Tensor] = {}
        self._kept: list[object] = []  # so that no address is used twice

    def form(self, value: Any, depth: int = 0) -> object:
        """Dicts, lists and records in place of whatever they were."""
        torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
        if torch is not None and isinstance(value, torch.Tensor):
            return self._tensor(torch, value)
        if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
            return _array(value) if isinstance(value, numpy.ndarray) else value.item()
        inner = _inside(value)
        if depth > DEEPEST or inner is None:
            return value
        if isinstance(inner, Mapping):
            return {key: self.form(entry, depth + 1) for key, entry in inner.items()}
        return [self.form(entry, depth + 1) for entry in inner]

    def _tensor(self, torch: Any, value: Any) -> object:
        value = value.detach()
        if type(value) is not torch.Tensor and hasattr(value, "dequantize"):
            with contextlib.suppress(Exception):  # not every subclass means by it what the name says
                value = value.dequantize()
        value = value.as_subclass(torch.Tensor)
        element = ELEMENTS.get(str(value.dtype).removeprefix("torch."))
        if value.layout is not torch.strided or value.is_quantized or element is None or value.is_meta:
            return Lost(f"a tensor of {value.dtype}, {value.layout}, on {value.device}")
        value = value.cpu().resolve_conj().resolve_neg()
        place = value.data_ptr(), value.dtype, tuple(value.shape), value.stride()
        if place not in self._known or not value.numel():
            self._kept.append(value)
            shape = tuple(value.shape)
            blob = Blob(
                value.numel() * element.size,
                lambda: value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
            )
            self._known[place] = Tensor(Storage(blob, element), 0, shape, steps(shape), element)
        return self._known[place]


def _inside(value: Any) -> Any:
    """A mapping or sequence of what is in it: the state dict of a module, the attributes of another object."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.nn.Module):
        return value.state_dict()
    if isinstance(value, Mapping | list | tuple):
        return value
    attributes = getattr(value, "__dict__", None)
    return attributes if isinstance(attributes, dict) and not isinstance(value, type) else None


def _array(value: Any) -> object:
    """A numpy array; one of text or objects is no tensor."""
    made = Array()
    made.parts = (value.shape, Dtype(value.dtype.str), False, value.tobytes())
    return made
