"""Shape arithmetic of converted ONNX graphs, worked out once instead of at every call.

onnx2torch keeps Shape, Gather, Concat and their like as modules over integer tensors. That is slow on a GPU, which must
wait for each number; `torch.export` cannot follow it, and so no bound engine; and its Slice indexes with a list, which
torch has announced to read differently (run: a warning at every call). Here a graph is run on batches of three sizes,
every small integer tensor is found to be a fixed part plus a part for each image, and the operators that take such
numbers get them as plain integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

Number = tuple[int, int]
"""(a, b): a + b * the number of images."""
MOST_NUMBERS = 64
WHOLE = (torch.int64, torch.int32)


class ToShape(nn.Module):
    """Reshape, Expand or ConstantOfShape with known numbers.

    Args:
        form: `reshape`, `expand` or `full`.
        sizes: of the result; in a reshape 0 keeps the size that is there and -1 takes what is left.
        value: of one element, that `full` repeats.
    """

    value: Tensor

    def __init__(self, form: str, sizes: Sequence[Number], value: Tensor) -> None:
        super().__init__()
        self.form = form
        self.sizes = tuple(sizes)
        self.register_buffer("value", value)

    def forward(self, images: Tensor, values: Tensor | None = None) -> Tensor:
        """Values in their new shape."""
        n = images.shape[0]
        shape = [a + b * n if b else a for a, b in self.sizes]
        if values is None:
            return self.value.reshape(()).expand(shape)
        if self.form == "expand":
            return torch.broadcast_to(values, torch.broadcast_shapes(values.shape, shape))  # type: ignore[no-untyped-call]
        kept = [values.shape[place] if size == (0, 0) else shape[place] for place, size in enumerate(self.sizes)]
        return values.reshape(kept)


class Slice(nn.Module):
    """Slice with known numbers.

    Args:
        slices: axis, start, end and step of each.
    """

    def __init__(self, slices: Sequence[tuple[int, int, int, int]]) -> None:
        super().__init__()
        self.slices = tuple(slices)

    def forward(self, values: Tensor) -> Tensor:
        """The part of the values."""
        for axis, start, end, step in self.slices:
            first, last, stride = slice(start, end, step).indices(values.shape[axis])
            if stride > 0:
                index = (slice(None),) * (axis % values.ndim) + (slice(first, max(first, last), stride),)
                values = values[index]
            else:
                picked = torch.arange(first, last, stride, device=values.device)
                values = values.index_select(axis, picked)
        return values


def with_known_shapes(network: nn.Module, examples: Sequence[Tensor]) -> nn.Module:
    """The same network with its shape arithmetic worked out, for inputs of the examples' size.

    Args:
        network: as onnx2torch made it; changed in place.
        examples: three inputs of different content, and of different numbers of images where the graph takes any; or
            none where the size of an image is free, so that only constants are known.

    Returns:
        The network; what cannot be worked out is left as it was.
    """
    if not isinstance(network, fx.GraphModule):
        return network
    known = _integers(network, examples) if examples else _constants(network)
    images = next(node for node in network.graph.nodes if node.op == "placeholder")
    for node in list(network.graph.nodes):
        module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        make = _REPLACEMENTS.get(type(module).__name__)
        made = None if make is None else make(node, module, known, images)
        if made is None:
            continue
        replacement, arguments = made
        name = f"known_{node.name}"
        network.add_module(name, replacement)
        with network.graph.inserting_before(node):
            node.replace_all_uses_with(network.graph.call_module(name, arguments))
        network.graph.erase_node(node)
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    return network


class _Recorder(fx.Interpreter):
    """Notes every small tensor of integers."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.seen: dict[fx.Node, list[int]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.dtype in WHOLE and result.ndim <= 1 and result.numel() <= MOST_NUMBERS:
            self.seen[n] = [int(value) for value in result.reshape(-1).tolist()]
        return result


def _integers(network: fx.GraphModule, examples: Sequence[Tensor]) -> dict[fx.Node, list[Number]]:
    """Numbers of the nodes whose integers follow from the number of images alone."""
    runs = []
    for example in examples:
        recorder = _Recorder(network)
        with torch.no_grad():
            recorder.run(example)
        runs.append(recorder.seen)
    counts = [len(example) for example in examples]
    known = {}
    for node in runs[0]:
        values = [run.get(node, []) for run in runs]
        if len({len(row) for row in values}) == 1:
            numbers = [_number(list(column), counts) for column in zip(*values, strict=True)]
            if all(number is not None for number in numbers):
                known[node] = [number for number in numbers if number is not None]
    return known


def _constants(network: fx.GraphModule) -> dict[fx.Node, list[Number]]:
    """Numbers of the nodes that are integer tensors of the file."""
    buffers = {name: value for name, value in network.named_buffers() if value.dtype in WHOLE and value.ndim <= 1}
    nodes = {node: buffers.get(str(node.target)) for node in network.graph.nodes if node.op == "get_attr"}
    return {
        node: [(int(number), 0) for number in value.reshape(-1).tolist()]
        for node, value in nodes.items()
        if value is not None and value.numel() <= MOST_NUMBERS
    }


def _number(values: list[int], counts: list[int]) -> Number | None:
    spread = counts[-1] - counts[0]
    each = (values[-1] - values[0]) // spread if spread else 0
    fixed = values[0] - each * counts[0]
    return (fixed, each) if all(fixed + each * n == value for n, value in zip(counts, values, strict=True)) else None


_Made = tuple[nn.Module, tuple[fx.Node, ...]] | None
_Known = dict[fx.Node, list[Number]]


def _reshape(form: str) -> Callable[[fx.Node, Any, _Known, fx.Node], _Made]:
    def make(node: fx.Node, module: Any, known: _Known, images: fx.Node) -> _Made:
        values, shape = node.args
        if not isinstance(values, fx.Node) or not isinstance(shape, fx.Node) or shape not in known or values in known:
            return None
        return ToShape(form, known[shape], torch.zeros(1)), (images, values)

    return make


def _full(node: fx.Node, module: Any, known: _Known, images: fx.Node) -> _Made:
    (shape,) = node.args
    if not isinstance(shape, fx.Node) or shape not in known or node in known:
        return None
    return ToShape("full", known[shape], module.value.detach().clone()), (images,)


def _slice(node: fx.Node, module: Any, known: _Known, images: fx.Node) -> _Made:
    values, *bounds = node.args
    if node.kwargs or values in known or not isinstance(values, fx.Node) or len(bounds) < 2:
        return None
    columns = [known[bound] for bound in bounds if isinstance(bound, fx.Node) and bound in known]
    if len(columns) != len(bounds) or any(each for column in columns for _, each in column):
        return None
    starts, ends = ([fixed for fixed, _ in column] for column in columns[:2])
    axes = [fixed for fixed, _ in columns[2]] if len(columns) > 2 else list(range(len(starts)))
    steps = [fixed for fixed, _ in columns[3]] if len(columns) > 3 else [1] * len(starts)
    return Slice(list(zip(axes, starts, ends, steps, strict=True))), (values,)


_REPLACEMENTS: dict[str, Callable[[fx.Node, Any, _Known, fx.Node], _Made]] = {
    "OnnxReshape": _reshape("reshape"),
    "OnnxExpand": _reshape("expand"),
    "OnnxConstantOfShape": _full,
    "OnnxSlice": _slice,
}
