"""JSON read with bounds, and walked without recursion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from audit.scan.examination import Examination
from audit.scan.limits import Limits
from audit.scan.parts import Part
from audit.scan.report import printable

MOST_VALUES = 600_000
"""In one document: a few bytes of text become a hundred in memory."""


class NotJson(Exception):  # noqa: N818 - an outcome, not an error
    """Bytes that are no JSON document, or one beyond the limits; its text says which."""


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed document.

    Attributes:
        content: of lists, dicts, texts and numbers.
        repeated: keys that one object has twice; readers differ in which they take.
    """

    content: Any
    repeated: tuple[str, ...]


def parse(data: bytes, limits: Limits) -> Document:
    """A document out of bytes.

    Raises:
        NotJson: where they are none, too many, or nested too deep.
    """
    if len(data) > limits.json_bytes:
        raise NotJson(f"is larger than the {limits.json_bytes:,} bytes that are read")
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MOST_VALUES:
        raise NotJson(f"has more than {MOST_VALUES:,} values, the most that are read")
    repeated: dict[str, None] = {}

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs) and len(repeated) < 10:
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    repeated[key] = None
                seen.add(key)
        return found

    try:
        content = json.loads(data.decode("utf-8-sig"), object_pairs_hook=collect)
    except RecursionError:
        raise NotJson(f"is nested deeper than {limits.json_depth}") from None
    except ValueError as problem:
        raise NotJson(f"is no JSON: {printable(str(problem), 100)}") from None
    if any(depth > limits.json_depth for depth, _, _ in walk(content)):
        raise NotJson(f"is nested deeper than {limits.json_depth}")
    return Document(content, tuple(repeated))


def walk(content: Any) -> Iterator[tuple[int, str, Any]]:
    """Every value with its depth and the key that it has, or that the list around it has; the outermost first."""
    waiting: list[tuple[int, str, Any]] = [(0, "", content)]
    while waiting:
        depth, key, value = waiting.pop()
        yield depth, key, value
        if isinstance(value, dict):
            waiting += [(depth + 1, below, inner) for below, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(depth + 1, key, inner) for inner in value]


def read_document(part: Part, exam: Examination, *, required: bool = True) -> Document | None:
    """The JSON document that a part is; none, with a finding where one is required."""
    try:
        document = parse(part.read(0, min(part.size, exam.limits.json_bytes + 1)), exam.limits)
    except NotJson as problem:
        if required:
            exam.unexamined(part.where, "json", f"{problem}")
        return None
    exam.saw("JSON document")
    return document
