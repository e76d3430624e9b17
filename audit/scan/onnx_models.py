"""ONNX models: where their data lies, which operators they need, and whether their messages are what they claim.

Field numbers are those of onnx.proto3 (onnx 1.23, IR version 13).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from audit.scan.examination import Examination, OverLimit
from audit.scan.external_data import check_location
from audit.scan.parts import Part
from audit.scan.protobuf import LENGTH, VARINT, BadWire, Field, WireReader
from audit.scan.report import printable, quoted

INNER: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 9: "opset", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "tensor": {13: "external"},
}
"""Of each message, the fields that are messages."""
TEXTS: dict[str, tuple[int, ...]] = {
    "opset": (1,),
    "node": (4, 7),
    "function": (1, 10),
    "tensor": (8,),
    "external": (1, 2),
}
"""Of each message, the texts that matter."""
DEEPEST_GRAPH = 24
"""Messages within messages: a loop within a branch of a function takes twelve."""
ELEMENT_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2,
                 17: 1, 18: 1, 19: 1, 20: 1}  # fmt: skip
STANDARD_DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview",
                              "ai.onnx.preview.training"))  # fmt: skip
RUNTIME_DOMAINS = ("com.microsoft", "com.ms.")
"""Built into onnxruntime itself."""
_EXTERNAL = 1
FIELDS_AT_ONCE = 64
LOADING_OPERATORS = {
    "PythonOp": "runs Python functions that the model names",
    "PythonOpGrad": "runs Python functions that the model names",
    "PyOp": "runs Python functions that the model names",
    "PyCustomOp": "runs Python functions that the model names",
    "EPContext": "has the runtime load native code out of a file",
    "ExternalCustomOp": "has the runtime load native code out of a file",
}
"""Operators, in whatever domain, that bring code of their own."""
MOST_ELEMENTS = 1 << 48
MOST_DIMENSIONS = 64
MOST_NAMES = 10_000
GRAPH_FIELD = 7
TOP_FIELDS = frozenset((1, 2, 3, 4, 5, 6, 8, 14, 20, 25, 26))
MOST_TOP_FIELDS = 10_000
NEWEST_OPSET = 28
"""Of onnx 1.23."""


@dataclass
class Message:
    """One message while it is walked.

    Attributes:
        kind: of `INNER` and `TEXTS`.
        fields: what is left of it.
        texts: field number to text.
        numbers: field number to numbers.
        sizes: field number to bytes.
        inner: entries of external data, key to value.
    """

    kind: str
    fields: Iterator[Field]
    texts: dict[int, str] = field(default_factory=dict)
    numbers: dict[int, list[int]] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    inner: dict[str, str] = field(default_factory=dict)


@dataclass
class Seen:
    """What a whole model uses.

    Attributes:
        graphs: how many there are, nested ones among them.
        declared: domains of operators, and the version of each, as imported.
        used: domain to the operators that nodes name.
        defined: operators that the model defines itself, as (domain, name).
        training: whether it says how to train it.
    """

    graphs: int = 0
    declared: dict[str, int] = field(default_factory=dict)
    used: dict[str, dict[str, None]] = field(default_factory=dict)
    defined: dict[tuple[str, str], None] = field(default_factory=dict)
    training: bool = False


def check_onnx(part: Part, exam: Examination) -> None:
    """A model, message by message; the numbers in it are passed over."""
    reader, seen = WireReader(part), Seen()
    waiting = [Message("model", reader.fields(0, part.size))]
    exam.saw("ONNX model")
    try:
        while waiting:
            inner = _step(reader, waiting[-1], exam)
            if inner is not None:
                if len(waiting) >= DEEPEST_GRAPH:
                    exam.danger(
                        part.where, "onnx-too-deep", f"has graphs nested more than {DEEPEST_GRAPH} messages deep"
                    )
                    return
                waiting.append(inner)
                continue
            done = waiting.pop()
            _finish(part, done, waiting[-1] if waiting else None, seen, exam)
        if not seen.graphs:
            exam.unexamined(part.where, "onnx-no-graph", "has no graph, so that it may be something else than a model")
    except BadWire as problem:
        exam.unexamined(part.where, "onnx-damaged", f"is an ONNX model that is truncated or damaged: it {problem}")
    _conclude(part, seen, exam)


def _step(reader: WireReader, message: Message, exam: Examination) -> Message | None:
    """Reads on to the next message within; none at the end."""
    inner, texts = INNER.get(message.kind, {}), TEXTS.get(message.kind, ())
    for found in message.fields:
        if reader.count % FIELDS_AT_ONCE == 0:
            exam.spend("fields of an ONNX model", FIELDS_AT_ONCE, exam.limits.protobuf_fields)
        if found.wire == LENGTH and found.number in inner:
            return Message(inner[found.number], reader.fields(found.at, found.at + found.value))
        if found.wire == LENGTH and found.number in texts:
            message.texts[found.number] = reader.text(found)
        elif message.kind == "opset" and found.number == 2:
            message.numbers[2] = [found.value]
        elif message.kind == "tensor":
            if found.wire == VARINT or found.number == 1:
                kept = message.numbers.setdefault(found.number, [])
                kept.extend(reader.varints(found)[: MOST_DIMENSIONS - len(kept)])
            message.sizes[found.number] = message.sizes.get(found.number, 0) + found.value
    return None


def _finish(part: Part, message: Message, outer: Message | None, seen: Seen, exam: Examination) -> None:
    texts = message.texts
    if message.kind == "opset":
        _add(seen.declared, texts.get(1, ""), message.numbers.get(2, [0])[0])
    elif message.kind == "node":
        _add(seen.used, texts.get(7, ""), {})
        _add(seen.used[texts.get(7, "")], texts.get(4, ""))
    elif message.kind == "function":
        _add(seen.defined, (texts.get(10, ""), texts.get(1, "")))
    elif message.kind == "graph":
        seen.graphs += 1
    elif message.kind == "training":
        seen.training = True
    elif message.kind == "external" and outer is not None:
        outer.inner[texts.get(1, "")] = texts.get(2, "")
    elif message.kind == "tensor":
        exam.saw("ONNX tensor")
        _check_tensor(part, message, exam)


def _add(names: dict[Any, Any], name: object, value: object = None) -> None:
    if name not in names:
        names[name] = value
    if len(names) > MOST_NAMES:
        raise OverLimit(f"names more than {MOST_NAMES:,} different operators, the most that are examined")


def _check_tensor(part: Part, tensor: Message, exam: Examination) -> None:
    """Its data lies where it may, and is as much as its shape says."""
    name = quoted(tensor.texts.get(8, ""), 80)
    if tensor.inner or tensor.numbers.get(14) == [_EXTERNAL]:
        check_location(part, name, tensor.inner, exam)
        return
    elements = 1
    for size in tensor.numbers.get(1, []):
        elements *= size
    if elements > MOST_ELEMENTS:
        exam.danger(
            part.where, "onnx-size", f"has a tensor, {name}, that claims {printable(str(elements), 30)} numbers"
        )
        return
    raw, element = tensor.sizes.get(9), ELEMENT_BYTES.get(tensor.numbers.get(2, [0])[0])
    if raw is not None and element is not None and raw != elements * element:
        said = f"has a tensor, {name}, that claims {elements * element:,} bytes, and holds {raw:,}"
        exam.danger(part.where, "onnx-size", said)


def _conclude(part: Part, seen: Seen, exam: Examination) -> None:
    """Operators that are neither the standard's, nor onnxruntime's, nor the model's own need a native library."""
    for domain, operators in seen.used.items():
        for name in operators.keys() & LOADING_OPERATORS.keys():
            exam.code(part.where, "onnx-loads-code", f"uses the operator {name}, which {LOADING_OPERATORS[name]}")
        foreign = [name for name in operators if (domain, name) not in seen.defined]
        if domain in STANDARD_DOMAINS or domain.startswith(RUNTIME_DOMAINS) or not foreign:
            continue
        listed = ", ".join(printable(name, 60) for name in foreign[:5])
        said = f"uses operators of {quoted(domain, 80)} ({listed}), which need a library of native code"
        exam.code(part.where, "onnx-operators", said)
    newest = seen.declared.get("", 0)
    if newest > NEWEST_OPSET:
        said = f"needs operators of version {newest:,}; the newest that is known here is {NEWEST_OPSET}"
        exam.note(part.where, "onnx-opset", said)
    if seen.defined:
        exam.note(part.where, "onnx-functions", f"defines {len(seen.defined):,} operators of its own out of others")
    if seen.training:
        exam.note(part.where, "onnx-training", "says how to train it, too, which nothing here uses")


def is_onnx(part: Part) -> bool:
    """Whether a file is fields of a model from its first byte to its last, in whatever order, and one is a graph."""
    found: set[int] = set()
    try:
        for count, top in enumerate(WireReader(part).fields(0, part.size)):
            found.add(top.number)
            if count > MOST_TOP_FIELDS or (top.number == GRAPH_FIELD and top.wire != LENGTH):
                return False
    except BadWire:
        return False
    return GRAPH_FIELD in found and (found - {GRAPH_FIELD}) <= TOP_FIELDS
