"""From a module to a program of plain operators on one image.

The network is exported in evaluation mode for a batch of one. Operators are decomposed to the core of ATen, except
those whose bounds are tighter when seen whole; attention is written out, and splitting becomes slicing, so that every
operation has one value. What does not depend on the pixels is computed once, and what scales and moves the channels of
a layer becomes part of it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from audit.lirpa.decompositions import decompositions
from audit.lirpa.folding import folded
from audit.lirpa.graph import Graph, Operation
from audit.toolkit.modes import evaluating


class NotExportable(Exception):  # noqa: N818 - an outcome, which a probe turns into its own
    """A module is no fixed graph of operators; the text says why, and where in the module."""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A module, exported; its weights are bound when it becomes a `Graph`."""

    exported: torch.export.ExportedProgram

    def bound(self, dtype: torch.dtype, device: torch.device | None = None) -> Graph:
        """The graph with the exported weights.

        Args:
            dtype: in which everything is computed, also what does not depend on the pixels.
            device: of the constants; None for where the weights are.
        """
        with torch.no_grad():
            return _bound(self.exported, dtype, device, {})

    def of(self, weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float32, *, fold: bool = True) -> Graph:
        """The graph with other weights, by which whatever is computed from it can be differentiated.

        Args:
            weights: parameters and buffers by name, as in a state dict, all on the device where the graph shall be;
                those exported where there is none.
            dtype: in which everything is computed.
            fold: whether layers take in what scales their channels; if not, their weights are the very ones given.
        """
        device = next((tensor.device for tensor in weights.values()), None)
        return _bound(self.exported, dtype, device, weights, fold=fold)


def lower(model: nn.Module, shape: tuple[int, ...]) -> Program:
    """Exports a module, in evaluation mode, for images of a shape (c, h, w).

    Raises:
        NotExportable: for a module that is no fixed graph of operators.
    """
    parameter = next(model.parameters(), torch.zeros(()))
    example = torch.full((1, *shape), 0.5, dtype=parameter.dtype, device=parameter.device)
    with evaluating(model), warnings.catch_warnings(), _silent(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            exported = torch.export.export(_exportable(model), (example,), strict=False)
            return Program(exported.run_decompositions(decompositions()))
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0][:300]
            if type(error).__name__ == "GuardOnDataDependentSymNode":
                reason = "values of the pixels decide which way it goes"
            raise NotExportable(f"{type(error).__name__}: {reason}{_blamed(error, model)}") from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Exporting logs and prints nothing: what it has to say is in its exception."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


class _Constant(nn.Module):
    """Runs a module whose weights count as constants, as it is not among this one's parts."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.run = module.__call__

    def forward(self, pixels: Tensor) -> Any:
        return self.run(pixels)


def _exportable(model: nn.Module) -> nn.Module:
    """The module; one with TorchScript counts as constant, as weights of a loaded program are no `Parameter`."""
    scripted = any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
    return _Constant(model) if scripted else model


def _blamed(error: BaseException, model: nn.Module) -> str:
    """The innermost module of the network whose `forward` was running, and the line, as the traceback shows them."""
    names = {id(module): name or "the network itself" for name, module in model.named_modules()}
    found, line, trace = "", "", error.__traceback__
    while trace is not None:
        code, mine = trace.tb_frame.f_code, names.get(id(trace.tb_frame.f_locals.get("self")))
        found = mine or found
        if (
            mine
            and code.co_name == "forward"
            and not Path(code.co_filename).is_relative_to(Path(torch.__file__).parent)
        ):
            line = f", {Path(code.co_filename).name} line {trace.tb_lineno}"
        trace = trace.tb_next
    return f" (in {found}{line})" if found else ""


def _bound(
    exported: torch.export.ExportedProgram,
    dtype: torch.dtype,
    device: torch.device | None,
    weights: Mapping[str, Tensor],
    *,
    fold: bool = True,
) -> Graph:
    known = {node: _converted(value, dtype, device) for node, value in _inputs(exported, weights).items()}
    (given,) = exported.graph_signature.user_inputs
    pixels = next(node for node in known if node.name == given)
    made = {pixels: Operation("input", pixels.name, "", _itself, (), {}, (), tuple(pixels.meta["val"].shape))}

    def found(argument: Any) -> Any:
        if isinstance(argument, torch.dtype) and argument.is_floating_point:
            return dtype
        if isinstance(argument, torch.device) and device is not None:
            return device
        return made.get(argument, known.get(argument)) if isinstance(argument, Node) else argument

    for node in exported.graph.nodes:
        if node.op != "call_function":
            continue
        args, kwargs = torch.fx.node.map_aggregate((node.args, node.kwargs), found)
        if any(operand in made for operand in node.all_input_nodes):
            operands = tuple(dict.fromkeys(made[operand] for operand in node.all_input_nodes if operand in made))
            made[node] = op = _operation(node, tuple(args), dict(kwargs), operands)
            used_once = all(len(operand.users) == 1 for operand in node.all_input_nodes if operand in made)
            if fold and len(operands) == 1 and used_once:
                made[node] = folded(operands[0], op) or op
        else:
            known[node] = _target(node)(*args, **kwargs)
    (name,) = exported.graph_signature.user_outputs
    return Graph(tuple(_alive(made, pixels, next(node for node in exported.graph.nodes if node.name == name))))


def _inputs(exported: torch.export.ExportedProgram, weights: Mapping[str, Tensor]) -> dict[Node, Any]:
    """What every placeholder stands for; None for the pixels."""
    signature, state = exported.graph_signature, {**exported.state_dict, **weights}
    found: dict[Node, Any] = {}
    for node in exported.graph.nodes:
        if node.op != "placeholder":
            continue
        name = (
            signature.inputs_to_parameters.get(node.name)
            or signature.inputs_to_buffers.get(node.name)
            or signature.inputs_to_lifted_tensor_constants.get(node.name)
        )
        found[node] = None if name is None else state[name] if name in state else exported.constants[name]
    return found


def _operation(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], operands: tuple[Operation, ...]) -> Operation:
    target: Any = node.target
    kind = str(target._schema.name if hasattr(target, "_schema") else target).rpartition("::")[-1]
    value = node.meta.get("val")  # what has no single value has no rule either
    shape, dtype = tuple(getattr(value, "shape", ())), getattr(value, "dtype", torch.float32)
    return Operation(kind, node.name, _module(node), _target(node), args, kwargs, operands, shape, dtype)


def _target(node: Node) -> Any:
    """What computes a node; views are reshaped, as images and weights may have any memory format."""
    return torch.reshape if node.target is torch.ops.aten.view.default else node.target


def _module(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return str(next(reversed(stack.values()))[0]) if stack else ""


def _alive(made: dict[Node, Operation], pixels: Node, output: Node) -> list[Operation]:
    """What the output hangs on, in order, the pixels first and the output last."""
    if output not in made:
        raise NotExportable("the output does not depend on the pixels")
    wanted, kept = {made[output]}, []
    for op in reversed(made.values()):
        if op in wanted:
            kept.append(op)
            wanted.update(op.operands)
    if kept[-1] is not made[pixels]:
        kept.append(made[pixels])
    return kept[::-1]


def _converted(value: Any, dtype: torch.dtype, device: torch.device | None) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(device=device, dtype=dtype if value.is_floating_point() else None)


def _itself(value: Tensor) -> Tensor:
    return value
