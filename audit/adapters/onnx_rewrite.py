"""Rewriting of ONNX graphs: one output, inference mode, float32, any batch, names that are safe.

Each function returns a changed copy. None of them is trusted: whoever rewrites compares outputs afterwards.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from audit.adapters.onnx import STANDARD_DOMAINS, OnnxModel, messages, onnx_package

TRAINING_ARGUMENT = 2
"""Place of `training_mode` among the inputs of Dropout."""


def with_output(model: OnnxModel, name: str) -> OnnxModel:
    """The same model with this output alone, and only the nodes and tensors that it needs."""
    proto = copy.deepcopy(model.proto)
    graph = proto.graph
    kept = [value for value in graph.output if value.name == name]
    wanted, nodes = {name}, []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            nodes.append(node)
            wanted |= set(_reads(node))
    _replace(graph.output, kept)
    _replace(graph.node, nodes[::-1])
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in wanted])
    return OnnxModel(proto, model.external)


def in_inference_mode(model: OnnxModel) -> tuple[OnnxModel, tuple[str, ...]]:
    """Batch normalisation by its stored statistics, and dropout off, as `eval()` does to a torch module.

    Returns:
        The model, and notes on what was changed; those parts that others depend on are left as they are.
    """
    changed = {"BatchNormalization": 0, "Dropout": 0}
    if all(node.op_type not in changed for node in model.proto.graph.node):
        return model, ()
    proto = copy.deepcopy(model.proto)
    read = {name for node in proto.graph.node for name in _reads(node)} | {out.name for out in proto.graph.output}
    off = {name for name, tensor in _constants(proto.graph).items() if not _any(tensor)}
    for node in proto.graph.node:
        if node.domain not in STANDARD_DOMAINS or node.op_type not in changed or read & set(node.output[1:]):
            continue
        if node.op_type == "Dropout" and not {"", *off} & set(node.input[TRAINING_ARGUMENT:] or ("",)):
            del node.input[TRAINING_ARGUMENT:]
            changed["Dropout"] += 1
        trained = [attribute for attribute in node.attribute if attribute.name == "training_mode" and attribute.i]
        if node.op_type == "BatchNormalization" and (trained or len(node.output) > 1):
            _replace(node.attribute, [attribute for attribute in node.attribute if attribute.name != "training_mode"])
            del node.output[1:]
            changed["BatchNormalization"] += 1
    notes = tuple(
        f"{n} {kind} nodes are stored in training mode; they are taken in inference mode"
        for kind, n in changed.items()
        if n
    )
    return (OnnxModel(proto, model.external), notes) if notes else (model, ())


def in_float32(model: OnnxModel) -> OnnxModel:
    """All float16 and float64 tensors, types and casts become float32; the model itself where there are none."""
    if not dtypes(model):
        return model
    package = onnx_package()
    kinds = package.TensorProto
    others = {kinds.FLOAT16, kinds.DOUBLE}
    proto = copy.deepcopy(model.proto)
    for tensor in messages(proto, "TensorProto"):
        if tensor.data_type in others:
            values = package.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(package.numpy_helper.from_array(values, tensor.name))
    for value in messages(proto, "Tensor"):
        if value.elem_type in others:
            value.elem_type = kinds.FLOAT
    for attribute in messages(proto, "AttributeProto"):
        if attribute.name in ("to", "dtype") and attribute.i in others:
            attribute.i = kinds.FLOAT
    return OnnxModel(proto, model.external)


def dtypes(model: OnnxModel) -> set[str]:
    """Those of `float16` and `float64` that tensors, values or casts of the model have."""
    kinds = onnx_package().TensorProto
    names = {kinds.FLOAT16: "float16", kinds.DOUBLE: "float64"}
    found = {tensor.data_type for tensor in messages(model.proto, "TensorProto")}
    found |= {value.elem_type for value in messages(model.proto, "Tensor")}
    found |= {entry.i for entry in messages(model.proto, "AttributeProto") if entry.name in ("to", "dtype")}
    return {name for kind, name in names.items() if kind in found}


def with_free_batch(model: OnnxModel) -> Iterator[OnnxModel]:
    """Attempts at the same model for any number of images, where the graph fixes it to a number.

    Input and output get a free first dimension. Of reshapes to a constant shape the first size becomes what is left
    (first attempt), or where it is the fixed number, that of what is reshaped (second, and where another size is what
    is left). Constants of one row that are joined to images, such as class tokens, are repeated.
    """
    fixed = (model.inputs[0].shape or (None,))[0]
    for leading in (-1, 0):
        proto = copy.deepcopy(model.proto)
        del proto.graph.value_info[:]
        for value in (*proto.graph.input, *proto.graph.output):
            if value.name in (model.inputs[0].name, model.outputs[0].name) and value.type.tensor_type.shape.dim:
                value.type.tensor_type.shape.dim[0].dim_param = "batch"
        _free_reshapes(proto.graph, fixed, leading)
        if fixed == 1:
            _repeat_constants(proto.graph, model.inputs[0].name)
        yield OnnxModel(proto, model.external)


def with_plain_names(model: OnnxModel) -> OnnxModel:
    """Node names of letters, digits and underscores, each once; standard operators without a domain."""
    proto = copy.deepcopy(model.proto)
    for place, node in enumerate(proto.graph.node):
        node.domain = "" if node.domain in STANDARD_DOMAINS else node.domain
        plain = re.sub(r"[^0-9A-Za-z_]", "_", node.name or node.op_type)[-60:]
        node.name = f"n{place}_{plain}"
    for entry in proto.opset_import:
        entry.domain = "" if entry.domain in STANDARD_DOMAINS else entry.domain
    return OnnxModel(proto, model.external)


def with_constants_held(model: OnnxModel) -> OnnxModel:
    """Tensors of Constant nodes become initialisers, as most exporters write weights; so do plain copies of those."""
    proto = copy.deepcopy(model.proto)
    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    nodes = []
    for node in proto.graph.node:
        if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value":
            found = node.attribute[0].t
        elif node.op_type == "Identity" and node.input[0] in held:
            found = held[node.input[0]]
        else:
            nodes.append(node)
            continue
        tensor = proto.graph.initializer.add()
        tensor.CopyFrom(found)
        tensor.name = node.output[0]
        held[tensor.name] = tensor
    _replace(proto.graph.node, nodes)
    return OnnxModel(proto, model.external)


def _constants(graph: Any) -> dict[str, Any]:
    """Tensors of initialisers and of Constant nodes, by name."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            found[node.output[0]] = node.attribute[0].t
    return found


def _any(tensor: Any) -> bool:
    """Whether one number is true; large tensors are not looked at."""
    return math.prod(tensor.dims) > 1 or bool(onnx_package().numpy_helper.to_array(tensor).any())


def _free_reshapes(graph: Any, fixed: int | None, leading: int) -> None:
    helper, constants = onnx_package().numpy_helper, _constants(graph)
    for place, node in enumerate(graph.node):
        if node.op_type != "Reshape" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        shape = helper.to_array(constants[node.input[1]]).astype(np.int64).reshape(-1).copy()
        if leading == -1 and len(shape) and -1 not in shape:
            shape[0] = -1
        elif len(shape) and shape[0] == fixed:
            shape[0] = 0
        else:
            continue
        name = f"free_batch_shape_{place}"
        graph.initializer.append(helper.from_array(shape, name))
        node.input[1] = name


def _repeat_constants(graph: Any, images: str) -> None:
    """Constants of one row, joined to something along another axis than the batch, are repeated for each image."""
    package, constants = onnx_package(), _constants(graph)
    nodes: list[Any] = []
    for place, node in enumerate(graph.node):
        axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 0)
        for turn, name in enumerate(node.input):
            dims = list(constants[name].dims) if node.op_type == "Concat" and axis and name in constants else []
            if len(dims) > 1 and dims[0] == 1:
                made = [f"free_batch_{part}_{place}_{turn}" for part in ("first", "ones", "all", "count", "to", "rows")]
                first, ones, everything, count, to, rows = made
                graph.initializer.append(package.numpy_helper.from_array(np.array([0]), first))
                graph.initializer.append(package.numpy_helper.from_array(np.ones(len(dims) - 1, np.int64), ones))
                nodes += [
                    package.helper.make_node("Shape", [images], [everything]),
                    package.helper.make_node("Gather", [everything, first], [count]),
                    package.helper.make_node("Concat", [count, ones], [to], axis=0),
                    package.helper.make_node("Expand", [name, to], [rows]),
                ]
                node.input[turn] = rows
        nodes.append(node)
    _replace(graph.node, nodes)


def _reads(node: Any) -> Iterator[str]:
    """Names that a node reads, with those that its subgraphs read."""
    for inner in messages(node, "NodeProto"):
        yield from inner.input
    for graph in messages(node, "GraphProto"):
        yield from (value.name for value in graph.output)


def _replace(field: Any, values: list[Any]) -> None:
    kept = [copy.deepcopy(value) for value in values]
    del field[:]
    field.extend(kept)
