"""onnx2torch (Kalgin et al. 2021, 1.5.15 read and run): an ONNX graph as a torch module, unverified.

What is walled off, how it was seen, and the test in tests/audit/adapters/test_onnx_torch.py that pins it:

- Names of nodes go unescaped into the Python source that torch.fx writes and runs, so that a file can run code as it
  is converted or called (run). Every node is renamed first. `test_node_names_cannot_run_code`.
- Converters exist for certain versions of an operator, few of them newer than opset 17, and that for Slice of opset 9
  fails (run). Where the graph as it is fails, it is brought to opset 17, then also its composite operators are
  written out. `test_old_and_new_opsets_convert`.
- Some conversions are not exact, which it says by a warning (read: Resize, pooling with ceil_mode). Warnings are
  silenced, and whoever calls compares outputs with onnxruntime's: `test_wrong_conversion_is_rejected` in
  tests/audit/loading/test_onnx_black_box.py.
- Weights that an exporter shares through Identity nodes are not found, and LayerNorm takes its shape from an input
  whose shape may not be known (run, on torch's own exports). Such copies become weights, and shapes those of the
  weights. tests/audit/loading/test_onnx_exports.py.
- Weights of MatMul and Add become buffers (run); they are made parameters. `test_weights_are_parameters`.
- Torch has no limit of memory on the CPU, and computes also what onnxruntime skips (run: a ConstantOfShape of 2^31
  numbers of which only the shape is read). A graph with a value known to be so large is not converted. Not caught: many
  large values at once, where gradients are taken, of a graph that onnxruntime could run within its own limit.
  `test_values_that_only_torch_would_hold` in test_onnx_limits.py.
- It has no converter for If, Loop, quantised operators or those of com.microsoft: `ConversionError` names them.
  `test_unsupported_operators_are_named`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from audit.adapters.onnx import OnnxModel, first_line, messages, missing_package, onnx_package, shown
from audit.adapters.onnx_rewrite import with_constants_held, with_plain_names
from audit.adapters.onnx_shapes import with_known_shapes

OPSET = 17
"""The newest of which most converters know every operator."""
MOST_NUMBERS = 2**28
"""Of a value, as far as its sizes are known: torch has no limit of memory on the CPU."""
MOST_ROUNDS = 4
"""Composite operators are defined by others that may be composite too."""


class ConversionError(Exception):
    """The graph has no torch counterpart; the text is a clause that says why."""


def conversions(model: OnnxModel, examples: Sequence[Tensor]) -> Iterator[Callable[[], nn.Module]]:
    """Ways to convert a model, the most direct first; each raises `ConversionError` where it does not work.

    Args:
        model: with one input and one output, float32.
        examples: as `with_known_shapes` takes them.

    Returns:
        Functions that give a module in eval mode from the graph's input to its output.
    """
    for prepare in (_as_it_is, _in_known_opset, _written_out):
        yield lambda prepare=prepare: _converted(model, prepare, examples)  # type: ignore[misc]


def _converted(model: OnnxModel, prepare: Callable[[OnnxModel], OnnxModel], examples: Sequence[Tensor]) -> nn.Module:
    package = _package()
    try:
        ready = with_plain_names(with_constants_held(prepare(model)))
        unknown = _unsupported(ready)
    except Exception as error:
        unknown = _unsupported(with_plain_names(model), known_opset=True)
        if not unknown:
            raise ConversionError(f"the graph cannot be brought to opset {OPSET}: {first_line(error)}") from None
    if unknown:
        raise ConversionError(f"onnx2torch has no counterpart of {', '.join(unknown)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shaped = _with_shapes(ready)
            _check_sizes(shaped)
            network = package.convert(shaped.proto).eval()
            _mend_layer_norms(network)
            network = with_known_shapes(network, examples)
    except Exception as error:
        raise ConversionError(f"onnx2torch's network fails: {type(error).__name__}: {first_line(error)}") from None
    _weights_to_parameters(network)
    return network.eval()


def _with_shapes(model: OnnxModel) -> OnnxModel:
    """With the shapes of all values, as far as they follow; converters of normalisations and poolings ask for them."""
    return OnnxModel(onnx_package().shape_inference.infer_shapes(model.proto, data_prop=True), model.external)


def _check_sizes(model: OnnxModel) -> None:
    """Values small enough, as far as sizes follow: onnxruntime skips what only a shape is asked of, torch does not."""
    for value in model.proto.graph.value_info:
        numbers = math.prod(max(size.dim_value, 1) for size in value.type.tensor_type.shape.dim)
        if numbers > MOST_NUMBERS:
            raise ValueError(f"a value of {numbers:,} numbers")


def _mend_layer_norms(network: nn.Module) -> None:
    """Their shape is that of their weights; the converter takes it from the input, which may not be known."""
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.normalized_shape = tuple(module.weight.shape)
            if module.bias.shape != module.weight.shape:
                module.bias = nn.Parameter(torch.zeros_like(module.weight))


def _as_it_is(model: OnnxModel) -> OnnxModel:
    if not model.proto.functions:
        return model
    return OnnxModel(_inliner().inline_local_functions(model.proto), model.external)


def _in_known_opset(model: OnnxModel) -> OnnxModel:
    import onnx.version_converter

    return OnnxModel(onnx.version_converter.convert_version(_as_it_is(model).proto, OPSET), model.external)


def _written_out(model: OnnxModel) -> OnnxModel:
    """Operators without a converter become what the standard defines them by, where it does so."""
    package = onnx_package()
    plain = with_plain_names(_as_it_is(model))
    for _ in range(MOST_ROUNDS):
        names = [name.partition(" ")[0] for name in _unsupported(plain, known_opset=True)]
        composite = [("", name) for name in names if package.defs.has(name)]
        if not composite:
            break
        written = _inliner().inline_selected_functions(plain.proto, composite, inline_schema_functions=True)
        plain = OnnxModel(written, model.external)
    return _in_known_opset(plain)


def _inliner() -> Any:
    import onnx.inliner

    return onnx.inliner


def _unsupported(model: OnnxModel, *, known_opset: bool = False) -> list[str]:
    """Operators without a converter, at the opset of the model or at the known one where that is older."""
    get_converter = _package().node_converters.get_converter
    versions = {entry.domain: entry.version for entry in model.proto.opset_import}
    if known_opset:
        versions[""] = min(versions.get("", OPSET), OPSET)
    found = set()
    for node in messages(model.proto.graph, "NodeProto"):
        version = versions.get(node.domain, 1)
        try:
            get_converter(domain=node.domain, operation_type=node.op_type, version=version)
        except NotImplementedError:
            found.add(shown(node.op_type) + (f" ({shown(node.domain)})" if node.domain else ""))
    return sorted(found)


def _weights_to_parameters(network: nn.Module) -> None:
    """Floating-point initialisers of more than one number: frozen parameters instead of buffers."""
    holder = getattr(network, "initializers", nn.Module())
    for name, value in list(holder.named_buffers(recurse=False)):
        if value.is_floating_point() and value.numel() > 1:
            delattr(holder, name)
            holder.register_parameter(name, nn.Parameter(value, requires_grad=False))


def _package() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import onnx2torch
            import onnx2torch.node_converters
    except ImportError as error:
        raise missing_package("onnx2torch", error) from error
    return onnx2torch
