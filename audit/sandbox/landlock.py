"""Which files the process may still open (Landlock): some for reading, none for writing.

Source: Linux, Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

from audit.sandbox.syscalls import architecture, call

VERSION = 1
PATH_BENEATH = 1
FILE_RIGHTS = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF}
"""All rights that each version knows: executing, writing, reading, making, removing, moving, truncating, devices."""
READ_FILE, READ_FOLDER = 1 << 2, 1 << 3
TCP_RIGHTS_FROM, TCP_RIGHTS = 4, 0b11
SCOPES_FROM, SCOPES = 6, 0b11
"""No abstract Unix sockets and no signals across the border."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _Rule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


def version() -> int:
    """The version that the kernel has; 0 where it has none, or is told not to use it."""
    if architecture() is None:
        return 0
    try:
        return call("landlock_create_ruleset", 0, 0, VERSION)
    except OSError:
        return 0


def restrict(readable: Iterable[Path]) -> None:
    """From now on, this thread and those it starts may open what lies at these paths for reading, and nothing else.

    Files that are open stay open. Privileges must be given up before.

    Raises:
        OSError: when the kernel does not take the rules.
    """
    known = version()
    ruleset = _Ruleset(
        FILE_RIGHTS[min(known, max(FILE_RIGHTS))],
        TCP_RIGHTS if known >= TCP_RIGHTS_FROM else 0,
        SCOPES if known >= SCOPES_FROM else 0,
    )
    size = 24 if known >= SCOPES_FROM else 16 if known >= TCP_RIGHTS_FROM else 8
    descriptor = call("landlock_create_ruleset", ruleset, size, 0)
    try:
        for path in readable:
            _allow(descriptor, path)
        call("landlock_restrict_self", descriptor, 0)
    finally:
        os.close(descriptor)


def _allow(ruleset: int, path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # nothing there to be read
    try:
        rights = READ_FILE | READ_FOLDER if path.is_dir() else READ_FILE
        call("landlock_add_rule", ruleset, PATH_BENEATH, _Rule(rights, descriptor), 0)
    finally:
        os.close(descriptor)
