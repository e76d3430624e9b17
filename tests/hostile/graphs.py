"""ONNX models that read other files, need code, never end, or never begin."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.hostile.oddities import link
from tests.hostile.site import Corpus, Site

COMMANDS = ("scan", "onnx", "bare", "weights", "convert")
SENT_ELSEWHERE = {"weights": (2, 4), "convert": (2, 4)}
"""An ONNX file is no weights file, whatever is in it."""
DAMAGED = SENT_ELSEWHERE | {"scan": (0, 3, 4), "onnx": (2, 4), "bare": (2, 4)}
OUTSIDE = SENT_ELSEWHERE | {"scan": (4,), "onnx": (4,), "bare": (4,)}


def add_graphs(corpus: Corpus) -> None:
    """All of them."""
    _external(corpus)
    _operators(corpus)
    _broken(corpus)


def linear(*nodes: NodeProto, weight: TensorProto | None = None, **changes: object) -> ModelProto:
    """Images (n, 3, 8, 8) to ten logits; `nodes` run between flattening and the product, from `flat` to `seen`."""
    kernel = weight or numpy_helper.from_array(np.zeros((192, 10), np.float32), "weight")
    steps = [helper.make_node("Flatten", ["x"], ["flat"]), *nodes]
    steps.append(helper.make_node("MatMul", ["seen" if nodes else "flat", "weight"], ["logits"]))
    graph = helper.make_graph(
        steps, "hostile",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
        [kernel],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, **changes)  # type: ignore[arg-type]


def external(location: str, **more: object) -> ModelProto:
    """A model whose weight lies in another file."""
    weight = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[192, 10])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        weight.external_data.add(key=key, value=str(value))
    return linear(weight=weight)


def _external(corpus: Corpus) -> None:
    """Weights outside the folder of the model: whoever opens it hands over another file."""
    size = 192 * 10 * 4

    def add(name: str, why: str, model: Callable[[Site, Path], ModelProto], codes: dict = OUTSIDE) -> None:
        site = corpus.site(f"onnx-{name}")
        path = site.path("-folder") / "model.onnx"
        path.parent.mkdir()
        path.write_bytes(model(site, path.parent).SerializeToString())
        corpus.enter(site.name, path, why, kind="model", commands=COMMANDS, codes=codes)

    def linked(site: Site, folder: Path) -> ModelProto:
        link(folder / "weight.bin", site.plant(".bin", bytes(size)))
        return external("weight.bin")

    def linked_folder(site: Site, folder: Path) -> ModelProto:
        link(folder / "inside", site.plant(".bin", bytes(size)).parent)
        return external(f"inside/{site.plant('.bin', bytes(size)).name}")

    def piped(_: Site, folder: Path) -> ModelProto:
        os.mkfifo(folder / "weight.bin")
        return external("weight.bin")

    def beside(folder: Path, **more: object) -> ModelProto:
        (folder / "weight.bin").write_bytes(bytes(size))
        return external("weight.bin", **more)

    add("absolute", "weights at an absolute path", lambda s, _: external(str(s.plant(".bin", bytes(size)))))
    add("passwd", "weights at /etc/passwd", lambda *_: external("/etc/passwd", length=100))
    add(
        "parent", "weights above the folder",
        lambda s, _: external(f"../planted/{s.plant('.bin', bytes(size)).name}"),
    )  # fmt: skip
    add("parent-hidden", "weights above the folder, in a roundabout way",
        lambda s, _: external(f"a/../../planted/{s.plant('.bin', bytes(size)).name}"))  # fmt: skip
    add("linked", "weights behind a link that leads out of the folder", linked)
    add("linked-folder", "weights behind a folder that is a link", linked_folder)
    add("device", "weights at /dev/zero", lambda *_: external("/dev/zero", length=size))
    add("fifo", "weights that are a named pipe", piped, DAMAGED)
    add("huge-offset", "weights at an offset of 2^62", lambda _, f: beside(f, offset=2**62), DAMAGED)
    add("huge-length", "weights of 2^62 bytes", lambda _, f: beside(f, length=2**62), DAMAGED)
    add("negative-offset", "weights at a negative offset", lambda _, f: beside(f, offset=-100, length=size), DAMAGED)
    add("text-offset", "weights at an offset that is no number", lambda _, f: beside(f, offset="far"), DAMAGED)
    add("itself", "weights within the model's own file", lambda *_: external("model.onnx", length=100), DAMAGED)
    add("empty-location", "weights nowhere", lambda *_: external(""), DAMAGED)
    add("escape-location", "weights at a path of escape sequences", lambda *_: external("\x1b[2J\nPASSED"), DAMAGED)


def nested_ifs(depth: int) -> bytes:
    """A model with a subgraph in a subgraph, written as bytes: the library itself refuses to make it."""
    graph = b""
    for level in range(depth):
        attribute = field(1, b"then_branch") + field(6, graph or field(2, b"g")) + b"\xa0\x01\x05"
        node = field(1, b"c") + field(2, b"o%d" % level) + field(4, b"If") + field(5, attribute)
        graph = field(1, node) + field(2, b"g%d" % level)
    return b"\x08\x08" + field(7, graph) + field(8, field(1, b"") + b"\x10\x11")


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """A number as protocol buffers write it."""
    written = b""
    while value > 127:
        written += bytes([value & 127 | 128])
        value >>= 7
    return written + bytes([value])


def _loop(trips: int) -> ModelProto:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Sin", ["state"], ["next"])], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info(
            "go", TensorProto.BOOL, []
        ), helper.make_tensor_value_info("state", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
         helper.make_tensor_value_info("next", TensorProto.FLOAT, None)],
    )  # fmt: skip
    count = helper.make_node("Constant", [], ["trips"], value=numpy_helper.from_array(np.array(trips, np.int64)))
    yes = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    return linear(count, yes, helper.make_node("Loop", ["trips", "yes", "flat"], ["seen"], body=body))


def _constant(value: np.ndarray, name: str) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


def _function_that_calls_itself() -> ModelProto:
    function = helper.make_function(
        "own", "Again", ["a"], ["b"], [helper.make_node("Again", ["a"], ["b"], domain="own")],
        [helper.make_opsetid("own", 1), helper.make_opsetid("", 17)],
    )  # fmt: skip
    model = linear(helper.make_node("Again", ["flat"], ["seen"], domain="own"))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


def _custom(domain: str, kind: str, **attributes: object) -> ModelProto:
    model = linear(helper.make_node(kind, ["flat"], ["seen"], domain=domain, **attributes))
    model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


def _operators(corpus: Corpus) -> None:
    big = np.array([2**20, 2**20], np.int64)
    models = {
        "custom-operator": (_custom("com.evil", "Run"), "an operator of a native library"),
        "ep-context": (
            _custom("com.microsoft", "EPContext", ep_cache_context="../../evil.bin", embed_mode=0, source="QNN"),
            "an operator that has a runtime load a native library",
        ),
        "python-operator": (_custom("com.microsoft", "PythonOp", name="os.system"), "an operator that is Python"),
        "loop": (_loop(2**31), "a loop of 2^31 rounds"),
        "loop-forever": (_loop(2**63 - 1), "a loop of 2^63 rounds"),
        "expand": (
            linear(_constant(big, "big"), helper.make_node("Expand", ["flat", "big"], ["seen"])),
            "a tensor of four terabytes",
        ),
        "constant-of-shape": (
            linear(_constant(big, "big"), helper.make_node("ConstantOfShape", ["big"], ["seen"])),
            "a constant of four terabytes",
        ),
        "random": (
            linear(helper.make_node("RandomNormal", [], ["seen"], shape=[2**20, 2**20])), "noise of four terabytes"
        ),
        "recursive-function": (_function_that_calls_itself(), "a function that calls itself"),
        "cycle": (
            linear(helper.make_node("Add", ["flat", "b"], ["a"]), helper.make_node("Add", ["a", "flat"], ["b"]),
                   helper.make_node("Identity", ["a"], ["seen"])),
            "a graph that runs in a circle",
        ),
        "escape-names": (linear(helper.make_node("Id\x1b[2Jentity\nPASSED", ["flat"], ["seen"])), "a name that writes to the terminal"),
        "two-definitions": (
            linear(helper.make_node("Identity", ["flat"], ["seen"]), helper.make_node("Neg", ["flat"], ["seen"])),
            "one name for two values",
        ),
    }  # fmt: skip
    for name, (model, why) in models.items():
        corpus.add(
            f"onnx-{name}", ".onnx", model.SerializeToString(), why, kind="model", commands=COMMANDS, expect="plain",
            codes=DAMAGED,
        )  # fmt: skip


def _weight(**changes: object) -> ModelProto:
    weight = numpy_helper.from_array(np.zeros((192, 10), np.float32), "weight")
    for key, value in changes.items():
        if key == "dims":
            del weight.dims[:]
            weight.dims.extend(value)  # type: ignore[arg-type]
        else:
            setattr(weight, key, value)
    return linear(weight=weight)


def _long_chain() -> ModelProto:
    names = ["flat", *(f"v{place}" for place in range(20_000)), "seen"]
    return linear(*(helper.make_node("Relu", [a], [b]) for a, b in zip(names, names[1:], strict=False)))


def _broken(corpus: Corpus) -> None:
    whole = linear().SerializeToString()
    contents = {
        "nested-1000": (nested_ifs(1000), "subgraphs a thousand deep"),
        "nested-3000": (nested_ifs(3000), "subgraphs three thousand deep"),
        "length-10-gb": (b"\x08\x08" + varint(7 << 3 | 2) + varint(10 * 2**30) + whole, "a graph of ten gigabytes"),
        "length-negative": (b"\x08\x08" + varint(7 << 3 | 2) + b"\xff" * 9 + b"\x01" + whole, "a graph of length -1"),
        "truncated": (whole[: len(whole) // 2], "half a model"),
        "garbage-after": (whole + bytes(1000), "zeros after a model"),
        "dims-overflow": (_weight(dims=[2**40, 2**40]).SerializeToString(), "a weight of 2^80 numbers"),
        "dims-negative": (_weight(dims=[-192, -10]).SerializeToString(), "a weight of negative size"),
        "dims-short": (_weight(raw_data=struct.pack("<f", 1)).SerializeToString(), "a weight without its bytes"),
        "dtype": (_weight(data_type=999).SerializeToString(), "a weight of no known type"),
        "opset": (linear().SerializeToString().replace(b"\x10\x11", b"\x10\x7f"), "an operator set of the future"),
        "no-graph": (b"\x08\x08\x12\x07pytorch", "a model without a graph"),
        "long-chain": (_long_chain().SerializeToString(), "twenty thousand operators"),
        "string-input": (_string_input().SerializeToString(), "a model that takes text"),
    }
    for name, (content, why) in contents.items():
        loads = name in ("garbage-after", "long-chain", "opset")
        codes = DAMAGED | ({"onnx": (0, 2, 4), "bare": (0, 2, 4)} if loads else {})
        corpus.add(f"onnx-{name}", ".onnx", content, why, kind="model", commands=COMMANDS, expect="plain", codes=codes)


def _string_input() -> ModelProto:
    model = linear()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    return model
