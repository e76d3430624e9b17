"""What the end of a process apart means, in words; whatever text it left may be of the file's making."""

from __future__ import annotations

import errno
import signal
from collections.abc import Mapping

from audit.errors import AuditError, PrerequisiteError, SubjectError, UnsafeArtefactError
from audit.sandbox.limits import GIB, Limits

NOT_LOCKED = "not locked in"
"""Type of the error that a process gives which could not lock itself in."""
OUR_ERRORS: Mapping[str, type[AuditError]] = {"SubjectError": SubjectError, "UnsafeArtefactError": UnsafeArtefactError}
OUT_OF_MEMORY = ("Cannot allocate memory", "not enough memory", "can't allocate memory", "bad_alloc")
LONGEST_REASON = 300


def ended(status: int, said: str, limits: Limits, name: str) -> AuditError:
    """The error for a process that ended without an answer.

    Args:
        status: its exit status, negative for a signal.
        said: what it printed.
        limits: that were in force.
        name: of the file.
    """
    if status == -getattr(signal, "SIGXCPU", 0) != 0:
        return endless(limits, name)
    if status == -getattr(signal, "SIGSYS", 0) != 0:
        return _forbidden(name, "a system call by another convention")
    by = f"exit status {status}" if status > 0 else _signal(-status)
    last = (said.strip().splitlines() or [""])[-1][:LONGEST_REASON]
    by += f" ({last})" if last else ""
    return SubjectError(
        f"Expected tensors from {name}, got a process that ended by {by}. Nothing of it was "
        f"taken. The file is damaged, by accident or on purpose, or needs more than "
        f"{_gib(limits)} of memory: make it again, or give more with `audit convert --memory GB`."
    )


def endless(limits: Limits, name: str) -> SubjectError:
    """The error for a process that took longer than it may."""
    return SubjectError(
        f"Expected {name} to be read within {limits.seconds} s, got no end of it; the process was stopped. "
        "`audit convert --timeout S` gives it longer."
    )


def answered(answer: object, limits: Limits, name: str, *, code: bool) -> AuditError:
    """The error for an answer that is none, or says what went wrong.

    Args:
        answer: as it was parsed.
        limits: that were in force.
        name: of the file.
        code: whether code of the file ran.
    """
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        return UnsafeArtefactError(
            f"Expected a list of tensors from the process that read {name}, got something else. Ask whoever made it."
        )
    kind, text = one_line(str(error.get("type"))), one_line(str(error.get("text")))
    if kind == NOT_LOCKED:
        return PrerequisiteError(
            f"Expected to shut off the process that reads {name}, got {text}. Nothing of it was loaded. Run this on "
            "Linux with seccomp."
        )
    if kind in OUR_ERRORS:
        return OUR_ERRORS[kind](text)
    return _mishap(kind, text[:LONGEST_REASON], limits, name, code=code)


def clean(text: str) -> str:
    """Without control characters: what a stranger's code prints may hold commands for the terminal."""
    return "".join(sign if sign in "\n\t" or sign.isprintable() else "\ufffd" for sign in text)


def one_line(text: str) -> str:
    """The same without line breaks: no line of it can look like one of ours."""
    return " ".join(clean(text).split())


def _mishap(kind: str, text: str, limits: Limits, name: str, *, code: bool) -> AuditError:
    if kind == "MemoryError" or any(sign in text for sign in OUT_OF_MEMORY):
        return SubjectError(
            f"Expected {name} to be read within {_gib(limits)} of memory, got out of memory. Where you expect that "
            "much of it, give more with `audit convert --memory GB`."
        )
    if kind == "OSError" and f"[Errno {errno.EFBIG}]" in text:
        return SubjectError(
            f"Expected at most {limits.file_bytes / GIB:.1f} GiB of tensors in {name}, got more. Ask whoever made it."
        )
    if code and kind == "PermissionError":
        return _forbidden(name, f"{kind}: {text}")
    if code and kind in ("ModuleNotFoundError", "AttributeError", "ImportError"):
        remedy = "What its code needs is not installed here; `audit convert --allow-pickle` alone does without it."
    else:
        remedy = "Save the state_dict alone where the file was made."
    return SubjectError(
        f"Expected tensors from {name}, got {kind} while it was read: {text}. Nothing of it was taken. {remedy}"
    )


def _forbidden(name: str, what: str) -> UnsafeArtefactError:
    return UnsafeArtefactError(
        f"Expected {name} to hold tensors, got an attempt to do what is forbidden to it ({what}). Nothing of it was "
        "taken. Ask whoever made it what it does, or make it again from its source."
    )


def _gib(limits: Limits) -> str:
    return f"{limits.memory_bytes / GIB:.1f} GiB"


def _signal(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
