"""Pickles: what they name, call and change, found without unpickling anything."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import IO

from audit.scan.examination import Examination, OverLimit
from audit.scan.kinds import Kind, kind_of_head
from audit.scan.limits import LIMITS, Limits
from audit.scan.parts import Part
from audit.scan.pickle_bytes import Blob, Broken, Ended, Overreach
from audit.scan.pickle_guess import Names, calls_something, is_pickle
from audit.scan.pickle_judge import PLAIN, TORCH, Dialect, PickleJudge
from audit.scan.pickle_opcodes import OpcodeReader
from audit.scan.pickle_steps import follow
from audit.scan.report import Finding

PROTOCOL = b"\x80"
"""The opcode with which pickles begin since Python 2.3."""


def check_pickle(part: Part, exam: Examination) -> None:
    """A file of one pickle or of several; what follows them is a note."""
    at = check_one(part, exam, PLAIN)
    while at is not None and at < part.size:
        further = check_further(part, exam, at)
        if further is None:
            break
        at = further


def check_one(part: Part, exam: Examination, dialect: Dialect, at: int = 0) -> int | None:
    """Follows one pickle.

    Returns:
        Where it ends; None where it does not.
    """
    judge = PickleJudge(part, exam, dialect, lambda what, content: _examine_payload(part, exam, what, content))
    reader = OpcodeReader(part, at)
    try:
        result = follow(reader, judge)
        if dialect.result:
            dialect.result(result)
    except Ended as problem:
        exam.unexamined(part.where, "pickle-truncated", f"is a pickle that {problem}")
        return None
    except Overreach as problem:
        said = f"is a pickle that is not followed to its end: it {problem}"
        (exam.danger if problem.unnatural else exam.unexamined)(part.where, "pickle-not-followed", said)
        return None
    except Broken as problem:
        if not judge.globals and part.read(at, 1) != PROTOCOL:  # by accident; and it could have done nothing up to here
            exam.unexamined(part.where, "pickle-broken", f"begins as a pickle, and is none: it {problem}")
            return None
        exam.danger(part.where, "pickle-not-followed", f"is a pickle that cannot be followed: it {problem}")
        return None
    finally:
        judge.ended()
        exam.saw("pickle opcode", judge.opcodes)
        exam.saw("pickle")
    return reader.at


def check_alone(part: Part, exam: Examination, dialect: Dialect) -> None:
    """A pickle that should be all there is."""
    end = check_one(part, exam, dialect)
    if end is not None and end < part.size:
        exam.note(part.where, "pickle-trailing-data", f"holds {part.size - end:,} bytes behind its pickle")
        if calls_something(part, end):
            check_one(part, exam, dialect, end)


def check_further(part: Part, exam: Examination, at: int) -> int | None:
    """Another pickle behind the first; None where what follows is none."""
    if is_pickle(part, at) or calls_something(part, at):
        return check_one(part, exam, PLAIN, at)
    exam.note(part.where, "pickle-trailing-data", f"holds {part.size - at:,} bytes behind its last pickle")
    return None


def globals_of(stream: IO[bytes], limits: Limits = LIMITS) -> Iterator[str]:
    """Every `module.name` that a pickle names, or several pickles in one file, each once and as it is written.

    Nothing is imported. What cannot be read ends the list: it is a list of names, no verdict.
    """
    part = _part_of_stream(stream, limits)
    seen: dict[str, None] = {}
    at, watch = 0, Names(seen.setdefault, limits.pickle_opcodes)
    try:
        while at < part.size:
            reader = OpcodeReader(part, at)
            follow(reader, watch)
            at = reader.at
    except (Broken, OverLimit):
        pass
    yield from seen


def pickle_findings(
    content: IO[bytes] | bytes, where: str, limits: Limits = LIMITS, dialect: Dialect = TORCH
) -> tuple[Finding, ...]:
    """What is found in a pickle that something else unpacked; `where` names it."""
    exam = Examination(limits, lambda exam, part, _: check_pickle(part, exam))
    part = _part_of_stream(BytesIO(content) if isinstance(content, bytes) else content, limits)
    try:
        check_alone(Part(where, part.stream, part.size), exam, dialect)
    except OverLimit as problem:
        exam.unexamined(where, "over-limit", str(problem))
    return exam.findings()


def _examine_payload(part: Part, exam: Examination, what: str, content: str | bytes | Blob) -> None:
    """Texts and bytes in a pickle that are pickles or archives themselves."""
    name = f"{what} within"
    if isinstance(content, Blob):
        inside = part.within(name, content.at, content.size)
    else:
        held = content if isinstance(content, bytes) else content.encode("latin-1", "replace")
        inside = part.unpacked(name, BytesIO(held), len(held))
    kind = kind_of_head(inside.head())
    if kind in (Kind.TORCH_LEGACY, Kind.ZIP):
        exam.member(inside)
    elif calls_something(inside):
        exam.member(inside, Kind.PICKLE)
    elif kind is Kind.COMPRESSED and inside.size > 64:
        exam.member(inside)


def _part_of_stream(stream: IO[bytes], limits: Limits) -> Part:
    try:
        stream.fileno()
        size = stream.seek(0, 2)
    except (OSError, AttributeError):
        content = stream.read(limits.member_bytes)
        return Part("", BytesIO(content), len(content))
    return Part("", stream, size)
