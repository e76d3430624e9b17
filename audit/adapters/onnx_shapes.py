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

from audit.adapters.onnx_modules import Number, Pad, Slice, Split, Squeeze, ToShape

MOST_NUMBERS = 64
MOST_HELD = 2**20
WHOLE = (torch.int64, torch.int32)


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
    runs = _runs(network, examples)
    known = {node: numbers for node in runs[0] if (numbers := _numbers(node, runs, examples)) is not None}
    constant = _constant(runs)
    images = next(node for node in network.graph.nodes if node.op == "placeholder")
    for node in list(network.graph.nodes):
        module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        make = _REPLACEMENTS.get(type(module).__name__)
        made = None if make is None or node in constant or node in known else make(node, module, known, images)
        if made is not None:
            replacement, arguments = made
            name = f"known_{node.name}"
            network.add_module(name, replacement)
            with network.graph.inserting_before(node):
                _replace(node, network.graph.call_module(name, arguments))
    for node, value in constant.items():
        network.register_buffer(f"held_{node.name}", value.detach().clone())
        with network.graph.inserting_before(node):
            _replace(node, network.graph.get_attr(f"held_{node.name}"))
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    return network


class _Recorder(fx.Interpreter):
    """Keeps the tensors of some nodes, where they are small enough to be held."""

    def __init__(self, network: fx.GraphModule, wanted: set[fx.Node]) -> None:
        super().__init__(network)
        self.wanted = wanted
        self.seen: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self.wanted and isinstance(result, Tensor) and result.numel() <= MOST_HELD:
            self.seen[n] = result
        return result


def _runs(network: fx.GraphModule, examples: Sequence[Tensor]) -> list[dict[fx.Node, Tensor]]:
    """What follows from shapes and from the file alone: its values for each example, or those of the file."""
    if not examples:
        held = dict(network.named_buffers())
        nodes = [node for node in network.graph.nodes if node.op == "get_attr" and str(node.target) in held]
        return [{node: held[str(node.target)] for node in nodes}]
    wanted = _shape_arithmetic(network)
    runs = []
    for example in examples:
        recorder = _Recorder(network, wanted)
        with torch.no_grad():
            recorder.run(example)
        runs.append(recorder.seen)
    return runs


def _shape_arithmetic(network: fx.GraphModule) -> set[fx.Node]:
    """Nodes that follow from shapes, whole numbers and single numbers; what follows from weights is left to them."""
    held = dict(network.named_buffers())
    found: set[fx.Node] = set()
    for node in network.graph.nodes:
        if node.op == "get_attr":
            value = held.get(str(node.target))
            follows = value is not None and (not value.is_floating_point() or value.numel() <= 1)
        elif node.op == "call_module" and type(network.get_submodule(str(node.target))).__name__ == "OnnxShape":
            follows = True
        else:
            follows = node.op in ("call_module", "call_function") and all(
                part in found for part in node.all_input_nodes
            )
        if follows:
            found.add(node)
    return found


def _numbers(node: fx.Node, runs: list[dict[fx.Node, Tensor]], examples: Sequence[Tensor]) -> list[Number] | None:
    """A short row of integers, each as a fixed part and a part for each image."""
    tensors = [run[node] for run in runs if node in run]
    first = tensors[0]
    if first.dtype not in WHOLE or first.ndim > 1 or first.numel() > MOST_NUMBERS:
        return None
    if len(tensors) < len(runs) or any(tensor.shape != first.shape for tensor in tensors):
        return None
    columns = zip(*(tensor.reshape(-1).tolist() for tensor in tensors), strict=True)
    counts = [len(example) for example in examples] or [1]
    numbers = [_number([int(value) for value in column], counts) for column in columns]
    return None if None in numbers else [number for number in numbers if number is not None]


def _number(values: list[int], counts: list[int]) -> Number | None:
    spread = counts[-1] - counts[0]
    each = (values[-1] - values[0]) // spread if spread else 0
    fixed = values[0] - each * counts[0]
    return (fixed, each) if all(fixed + each * n == value for n, value in zip(counts, values, strict=True)) else None


def _constant(runs: list[dict[fx.Node, Tensor]]) -> dict[fx.Node, Tensor]:
    """What is worked out to the same tensor for every example."""
    return {
        node: value
        for node, value in runs[0].items()
        if node.op != "get_attr"
        and value.numel() <= MOST_HELD
        and all(node in run and _equal(run[node], value) for run in runs[1:])
    }


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _replace(node: fx.Node, new: fx.Node) -> None:
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


_Made = tuple[nn.Module, tuple[fx.Node, ...]] | None
_Known = dict[fx.Node, list[Number]]


def _reshape(form: str) -> Callable[[fx.Node, Any, _Known, fx.Node], _Made]:
    def make(node: fx.Node, module: Any, known: _Known, images: fx.Node) -> _Made:
        values, shape = node.args
        if not isinstance(values, fx.Node) or not isinstance(shape, fx.Node) or shape not in known:
            return None
        return ToShape(form, known[shape], torch.zeros(1)), (images, values)

    return make


def _full(node: fx.Node, module: Any, known: _Known, images: fx.Node) -> _Made:
    (shape,) = node.args
    if not isinstance(shape, fx.Node) or shape not in known:
        return None
    return ToShape("full", known[shape], module.value.detach().clone()), (images,)


def _slice(node: fx.Node, module: Any, known: _Known, images: fx.Node) -> _Made:
    values, *bounds = node.args
    columns = [column for bound in bounds if (column := _fixed(bound, known)) is not None]
    if node.kwargs or not isinstance(values, fx.Node) or not 2 <= len(bounds) == len(columns):
        return None
    starts, ends = columns[:2]
    axes = columns[2] if len(columns) > 2 else list(range(len(starts)))
    steps = columns[3] if len(columns) > 3 else [1] * len(starts)
    return Slice(list(zip(axes, starts, ends, steps, strict=True))), (values,)


def _squeeze(node: fx.Node, module: Any, known: _Known, images: fx.Node) -> _Made:
    values, axes = node.args if len(node.args) == 2 else (None, None)
    fixed = _fixed(axes, known)
    return None if fixed is None or not isinstance(values, fx.Node) else (Squeeze(fixed), (values,))


def _split(node: fx.Node, module: Any, known: _Known, images: fx.Node) -> _Made:
    values, sizes = node.args if len(node.args) == 2 else (None, None)
    fixed = _fixed(sizes, known)
    return None if fixed is None or not isinstance(values, fx.Node) else (Split(fixed, module.axis), (values,))


def _pad(node: fx.Node, module: Any, known: _Known, images: fx.Node) -> _Made:
    values, widths = node.args if len(node.args) == 2 and not node.kwargs else (None, None)
    fixed = _fixed(widths, known)
    if fixed is None or module.mode != "constant" or not isinstance(values, fx.Node):
        return None
    middle = len(fixed) // 2
    return Pad(fixed[:middle], fixed[middle:]), (values,)


def _fixed(node: Any, known: _Known) -> list[int] | None:
    """Numbers that are the same for any number of images."""
    numbers = known.get(node) if isinstance(node, fx.Node) else None
    return None if numbers is None or any(each for _, each in numbers) else [fixed for fixed, _ in numbers]


_REPLACEMENTS: dict[str, Callable[[fx.Node, Any, _Known, fx.Node], _Made]] = {
    "OnnxReshape": _reshape("reshape"),
    "OnnxExpand": _reshape("expand"),
    "OnnxConstantOfShape": _full,
    "OnnxSlice": _slice,
    "OnnxSqueezeDynamicAxes": _squeeze,
    "OnnxSplit13": _split,
    "OnnxPadDynamic": _pad,
}
