"""How much an ONNX file becomes before it computes anything: functions written out, sparse tensors filled in.

A function may call another ten times, and that one a third: twelve of them in ten kilobytes are 10^11 operators once
onnxruntime, or the converter, puts bodies in the place of calls: both then hang, and memory grows until the process is
killed. Here calls are multiplied, which takes as long as reading the file. `test_functions_that_multiply` in
tests/audit/adapters/test_onnx_limits.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

from audit.adapters.onnx import STANDARD_DOMAINS, messages

WIDEST_ELEMENT_BYTES = 16
"""Of a number of complex128, the widest type that a tensor can have."""

Operator = tuple[str, str, str]
"""Domain, name and overload."""


@dataclass(frozen=True, slots=True)
class Extent:
    """What a graph or a function is once all functions in it are written out.

    Attributes:
        nodes: operators, those of branches and loop bodies included, each once.
        copied: bytes of the function bodies, each as often as it is called.
        depth: functions within functions.
    """

    nodes: int
    copied: int = 0
    depth: int = 0


def inlined_extent(proto: Any) -> Extent:
    """The extent of the graph of a model.

    Args:
        proto: a `ModelProto` with all tensors inside.

    Raises:
        CycleError: when a function calls itself, by way of others too.
    """
    bodies: dict[Operator, list[Any]] = {}
    for function in proto.functions:
        bodies.setdefault(_operator(function, function.name), []).append(function)
    counts = {name: _counts(node for function in same for node in function.node) for name, same in bodies.items()}
    calls = {name: [called for called in inside if called in bodies] for name, inside in counts.items()}
    extents: dict[Operator, Extent] = {}
    for name in TopologicalSorter(calls).static_order():  # what is called comes before what calls it
        extents[name] = _extent(counts[name], extents, sum(function.ByteSize() for function in bodies[name]))
    return _extent(_counts(proto.graph.node), extents, 0)


def dense_bytes(proto: Any) -> int:
    """Bytes that the sparse tensors of a model take as dense ones, as onnxruntime holds them."""
    total = 0
    for tensor in messages(proto, "SparseTensorProto"):
        numbers = WIDEST_ELEMENT_BYTES
        for size in tensor.dims:
            numbers *= max(size, 0)
        total += numbers
    return total


def _extent(counts: Mapping[Operator, int], extents: Mapping[Operator, Extent], size: int) -> Extent:
    inner = [(n, extents[name]) for name, n in counts.items() if name in extents]
    return Extent(
        nodes=sum(counts.values()) + sum(n * extent.nodes for n, extent in inner),
        copied=size + sum(n * extent.copied for n, extent in inner),
        depth=max((1 + extent.depth for _, extent in inner), default=0),
    )


def _counts(nodes: Iterable[Any]) -> Counter[Operator]:
    """How often each operator stands in nodes and their subgraphs."""
    return Counter(_operator(inner, inner.op_type) for node in nodes for inner in messages(node, "NodeProto"))


def _operator(message: Any, name: str) -> Operator:
    return ("" if message.domain in STANDARD_DOMAINS else message.domain), name, message.overload
