"""What an ONNX graph takes and gives, and small tools for its protobuf (onnx 1.17 or newer; 1.23 read and run)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.errors import PrerequisiteError

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
LONGEST_NAME = 60


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a graph.

    Attributes:
        name: as the graph has it.
        dtype: `float32`, `float16`, `float64`, `uint8`, ... or `not a tensor`.
        shape: sizes, None where one is free; None as a whole where the graph does not say.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        sizes = "of unknown shape" if self.shape is None else str([size or "?" for size in self.shape]).replace("'", "")
        return f"{shown(self.name)} {self.dtype} {sizes}"


@dataclass(frozen=True, slots=True, eq=False)
class OnnxModel:
    """A parsed model whose tensors are all in memory.

    Attributes:
        proto: the `ModelProto`; treated as immutable, rewriting works on copies.
        external: the files of external data that were read, by name.
    """

    proto: Any
    external: tuple[Path, ...] = ()

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return max((o.version for o in self.proto.opset_import if o.domain in STANDARD_DOMAINS), default=1)

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What must be fed: initialisers, which old files list among the inputs, are left out."""
        held = {tensor.name for tensor in self.proto.graph.initializer}
        held |= {tensor.values.name for tensor in self.proto.graph.sparse_initializer}
        return tuple(_port(value) for value in self.proto.graph.input if value.name not in held)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """Results, in order."""
        return tuple(_port(value) for value in self.proto.graph.output)

    @property
    def numbers(self) -> int:
        """How many numbers its floating-point initialisers hold, which is about its number of parameters."""
        package = onnx_package()
        kinds = {package.TensorProto.FLOAT, package.TensorProto.FLOAT16, package.TensorProto.DOUBLE}
        sizes = [_size(tensor.dims) for tensor in self.proto.graph.initializer if tensor.data_type in kinds]
        return sum(sizes)

    def to_bytes(self) -> bytes:
        """Serialised, with all tensors inside."""
        return bytes(self.proto.SerializeToString())


def onnx_package() -> Any:
    """The package onnx, imported on first use.

    Raises:
        PrerequisiteError: when it is not installed.
    """
    try:
        import onnx
        import onnx.external_data_helper
        import onnx.shape_inference
    except ImportError as error:
        raise missing_package("onnx", error) from error
    return onnx


def missing_package(name: str, error: ImportError) -> PrerequisiteError:
    """The error for an absent package of the extra."""
    return PrerequisiteError(
        f'Expected the package {name} for onnx: models, got {error}. Install it: pip install "trust-audit[onnx]".'
    )


def shown(name: str) -> str:
    """A name out of a file, short and without control characters."""
    plain = "".join(sign if sign.isprintable() else "?" for sign in name)
    return plain if len(plain) <= LONGEST_NAME else plain[: LONGEST_NAME - 3] + "..."


def first_line(error: Exception) -> str:
    """The first line of what an engine said, without its own prefix."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    return "".join(sign if sign.isprintable() else "?" for sign in text)[:200].rstrip(". ")


def messages(proto: Any, kind: str) -> Iterator[Any]:
    """All messages of a kind, such as `TensorProto`, anywhere in a protobuf message."""
    if proto.DESCRIPTOR.name == kind:
        yield proto
    for field, value in proto.ListFields():
        if field.message_type is None:
            continue
        for part in value if hasattr(value, "__len__") else (value,):
            yield from messages(part, kind)


def _port(value: Any) -> Port:
    if not value.type.HasField("tensor_type"):
        return Port(value.name, "not a tensor", None)
    tensor = value.type.tensor_type
    name = onnx_package().TensorProto.DataType.Name(tensor.elem_type).lower()
    dtype = {"float": "float32", "double": "float64"}.get(name, name)
    if not tensor.HasField("shape"):
        return Port(value.name, dtype, None)
    return Port(value.name, dtype, tuple(size.dim_value if size.dim_value > 0 else None for size in tensor.shape.dim))


def _size(dims: Any) -> int:
    total = 1
    for size in dims:
        total *= size
    return total
