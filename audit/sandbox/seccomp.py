"""A filter on system calls (seccomp), which nothing in the process can take off again."""

from __future__ import annotations

import ctypes
import errno
import struct

from audit.sandbox.syscalls import ARGUMENT_RULES, DENIED, NEWEST_KNOWN, UNKNOWN, architecture, call, number

ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000
AUDIT_ARCH = (0xC000003E, 0xC00000B7)
"""What the kernel calls x86_64 and aarch64; a call by another convention has other numbers."""
X32 = 0x40000000
"""From here on, numbers are those of x86_64's 32-bit pointers."""
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16
SET_FILTER, ACTION_AVAILABLE, ALL_THREADS = 1, 2, 1

Instruction = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def available() -> bool:
    """Whether this kernel filters system calls, on an architecture whose numbers are known here."""
    if architecture() is None:
        return False
    try:
        call("seccomp", ACTION_AVAILABLE, 0, ctypes.c_uint32(FAIL))
    except OSError:
        return False
    return True


def restrict() -> None:
    """From now on, and for all threads, the calls of `syscalls.DENIED` fail; privileges must be given up before.

    Raises:
        OSError: when the kernel does not take the filter.
    """
    code = b"".join(struct.pack("<HBBI", *instruction) for instruction in program())
    if call("seccomp", SET_FILTER, ALL_THREADS, _Program(len(code) // 8, code)) != 0:
        raise OSError(errno.EBUSY, "a thread did not take the filter")


def program() -> list[Instruction]:
    """The filter, as instructions of the kernel's packet filter."""
    place = architecture()
    assert place is not None
    steps: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (EQUAL, 1, 0, AUDIT_ARCH[place]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
        (AT_LEAST, 0, 1, X32),
        (RETURN, 0, 0, KILL),
        (AT_LEAST, 0, 1, NEWEST_KNOWN + 1),
        (RETURN, 0, 0, FAIL | errno.ENOSYS),
    ]
    for name in UNKNOWN:
        steps += _answer(number(name), errno.ENOSYS)
    for name in DENIED:
        steps += _answer(number(name), errno.EPERM)
    for name, argument, test, value in ARGUMENT_RULES:
        steps += _answer_if(number(name), argument, test, value)
    return [*steps, (RETURN, 0, 0, ALLOW)]


def _answer(found: int | None, error: int) -> list[Instruction]:
    return [] if found is None else [(EQUAL, 0, 1, found), (RETURN, 0, 0, FAIL | error)]


def _answer_if(found: int | None, argument: int, test: str, value: int) -> list[Instruction]:
    """Denies a call when the low half of an argument passes the test; all of them are ints or flags."""
    if found is None:
        return []
    code = EQUAL if test in ("is", "other than") else ANY_BIT
    deny, allow = (0, 1) if test in ("is", "any of") else (1, 0)
    return [
        (EQUAL, 0, 4, found),
        (LOAD, 0, 0, ARGUMENTS_AT + 8 * argument),
        (code, deny, allow, value),
        (RETURN, 0, 0, FAIL | errno.EPERM),
        (LOAD, 0, 0, NUMBER_AT),
    ]
