"""How much a process apart may use."""

from __future__ import annotations

import sys
from dataclasses import dataclass

GIB = 1 << 30
SECONDS = 300
"""Until a process apart is stopped, unless told otherwise."""
GRACE_SECONDS = 5
OPEN_FILES = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """What a process apart may use; beyond, it is stopped.

    Attributes:
        memory_bytes: of addresses, which is more than what is used: torch alone takes 3 GiB.
        seconds: on the clock, and of computing.
        file_bytes: of each of the two files that it writes.
        said_bytes: of what it prints that are kept.
        message_bytes: of its answer.
    """

    memory_bytes: int
    seconds: int = SECONDS
    file_bytes: int = 8 * GIB
    said_bytes: int = 8_192
    message_bytes: int = 32 << 20


def apply(limits: Limits, *, threads: bool) -> None:
    """Puts the limits in force for this process; none of them can be raised again.

    Args:
        limits: what to put in force.
        threads: whether further threads may be needed; without, no process and no thread can be started where the
            system counts them, which it does not for root.
    """
    import resource  # noqa: PLC0415 - not on every system

    wanted = {
        "RLIMIT_AS": limits.memory_bytes,
        "RLIMIT_CPU": limits.seconds + GRACE_SECONDS,
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_NOFILE": OPEN_FILES,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
        **({} if threads else {"RLIMIT_NPROC": 0}),
    }
    for name, value in wanted.items():
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        _, hard = resource.getrlimit(kind)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        soft = min(most, limits.seconds) if name == "RLIMIT_CPU" else most  # a signal that can be told from others
        try:
            resource.setrlimit(kind, (soft, most))
        except (OSError, ValueError):
            if sys.platform.startswith("linux"):
                raise  # elsewhere, some of them are there in name alone
