"""What keeps a process apart from everything else, on this system."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

from audit.sandbox import landlock, seccomp


@dataclass(frozen=True, slots=True)
class Protections:
    """What this system can put in force for a process apart.

    Attributes:
        limits: on memory, time and sizes of files (POSIX resource limits).
        calls: no network, no other programs or processes, no changes to files (seccomp on Linux).
        files: reading only Python, its libraries and the file in question (Landlock on Linux); its version, or 0.
    """

    limits: bool
    calls: bool
    files: int

    @property
    def hold_code(self) -> bool:
        """Whether a stranger's code may run behind them."""
        return self.limits and self.calls

    def __str__(self) -> str:
        """In words, for records."""
        words = [
            "no network, no other programs, no changes to files" if self.calls else "",
            "reads nothing but Python and this file" if self.files else "",
            "limits on memory, time and file sizes" if self.limits else "",
        ]
        return "; ".join(word for word in words if word) or "nothing"


@cache
def protections() -> Protections:
    """Asks the kernel; nothing of it is put in force here."""
    return Protections(limits=os.name == "posix", calls=seccomp.available(), files=landlock.version())
