"""Small ONNX files, built node by node, and what onnxruntime computes of them without this project's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx2torch")

OPSET = 13
IR = 8


class Graph:
    """Nodes in order, with weights from a seeded generator."""

    def __init__(self, shape: list[Any], dtype: type = np.float32, opset: int = OPSET, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.opset = opset
        self.nodes: list[Any] = []
        self.held: list[Any] = []
        self.inputs = [self.value("images", shape, dtype)]

    @staticmethod
    def value(name: str, shape: list[Any] | None, dtype: type = np.float32) -> Any:
        return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    def weight(self, *shape: int, scale: float = 0.5) -> str:
        return self.hold((scale * self.rng.normal(size=shape)).astype(self.dtype))

    def hold(self, array: Any, name: str = "") -> str:
        name = name or f"w{len(self.held)}"
        self.held.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, operator: str, *inputs: str, outputs: int = 1, name: str = "", domain: str = "", **more: Any) -> str:
        names = [f"{operator.lower()}{len(self.nodes)}" + (f"_{place}" if place else "") for place in range(outputs)]
        self.nodes.append(onnx.helper.make_node(operator, list(inputs), names, name=name, domain=domain, **more))
        return names[0]

    def convolution(self, images: str, channels: int, width: int = 4) -> str:
        """Convolution and a smooth activation."""
        weights = self.weight(width, channels, 3, 3), self.weight(width)
        return self.add("Tanh", self.add("Conv", images, *weights, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))

    def linear(self, features: str, width: int, classes: int) -> str:
        return self.add("Gemm", features, self.weight(classes, width), self.weight(classes), transB=1)

    def classifier(self, images: str, channels: int, classes: int = 3) -> str:
        """A small network of images (n, c, h, w)."""
        pooled = self.add("GlobalAveragePool", self.convolution(images, channels))
        return self.linear(self.add("Flatten", pooled), 4, classes)

    def model(self, *outputs: str, shape: list[Any] | None = None, **more: Any) -> Any:
        shape = ["n", "k"] if shape is None else shape
        results = [self.value(name, shape, more.pop("result", self.dtype)) for name in outputs]
        graph = onnx.helper.make_graph(self.nodes, "graph", self.inputs, results, self.held)
        opsets = [onnx.helper.make_opsetid("", self.opset), onnx.helper.make_opsetid("com.microsoft", 1)]
        opsets += [onnx.helper.make_opsetid(domain, 1) for domain in more.pop("domains", ())]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=more.pop("ir", IR), **more)

    def save(self, path: Path, *outputs: str, **more: Any) -> Path:
        path.write_bytes(self.model(*outputs, **more).SerializeToString())
        return path


def nchw(shape: list[Any] | None = None, **options: Any) -> tuple[Graph, str]:
    """A graph of images (n, 3, 8, 8), and its output."""
    graph = Graph(shape or ["n", 3, 8, 8], **options)
    return graph, graph.classifier("images", 3)


def runtime_scores(path: Path, images: Any, output: str | None = None) -> Any:
    """What onnxruntime alone returns."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None if output is None else [output], {session.get_inputs()[0].name: images})
    return scores


def random_images(n: int = 5, channels: int = 3, side: int = 8) -> Any:
    return np.random.default_rng(7).random((n, channels, side, side), dtype=np.float32)
