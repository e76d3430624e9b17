"""What runs in the process apart: first it locks itself in, then it looks at the file.

Started by `apart.run_apart` with the request as its argument. The file, and the two files for the answer, are open
already; from the moment the locks are shut, no other file can be opened for writing. Imports little, as nothing is
locked yet while it is imported.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
import json
import os
import signal
import site
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from audit.errors import AuditError
from audit.sandbox import landlock, limits, seccomp, syscalls
from audit.sandbox.failures import NOT_LOCKED

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
CAPABILITIES_VERSION = 0x20080522
SYSTEM = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/dev/urandom", "/dev/null",
    "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu",
)  # fmt: skip
"""What the C library, numpy and torch open on Linux."""
LONGEST_TEXT = 2_000


def main(request: str) -> None:
    """Carries out a request and writes the answer: `{"message": ...}` or `{"error": {"type": ..., "text": ...}}`."""
    asked = json.loads(request)
    source, tensors, answer = (
        os.fdopen(descriptor, mode) for descriptor, mode in zip(asked["descriptors"], ("rb", "wb", "wb"), strict=True)
    )
    tempfile.tempdir = str(Path.cwd())  # libraries ask for it when imported, and no folder can be tried any more
    try:
        lock_in(asked)
    except Exception as error:  # whatever it was: nothing has been read, and nothing will be
        result: dict[str, Any] = {"error": {"type": NOT_LOCKED, "text": f"{type(error).__name__}: {error}"}}
    else:
        result = _carry_out(asked, source, tensors)
    answer.write(json.dumps(result).encode())
    answer.close()
    sys.stdout.flush()
    os._exit(0)  # nothing that the file may have left behind runs at the end


def _carry_out(asked: dict[str, Any], source: Any, tensors: Any) -> dict[str, Any]:
    module, _, name = asked["function"].partition(":")
    try:
        message = getattr(importlib.import_module(module), name)(asked["argument"], source, tensors)
        tensors.close()
        json.dumps(message)
    except AuditError as error:
        return _failed(type(error).__name__, str(error))
    except MemoryError:
        return _failed("MemoryError", "")
    except BaseException as error:  # also SystemExit, which code of the file may raise
        return _failed(type(error).__name__, f"{error}")
    return {"message": message}


def _failed(kind: str, text: str) -> dict[str, Any]:
    return {"error": {"type": kind, "text": text[:LONGEST_TEXT]}}


def lock_in(asked: dict[str, Any]) -> None:
    """Puts everything in force that the request names; it names what the system was found to have.

    Raises:
        OSError: when the kernel refuses one of them.
        RuntimeError: when what should be denied is not.
    """
    if sys.platform.startswith("linux"):
        _give_up_privileges(asked["parent"])
    allowed = asked["limits"]
    limits.apply(limits.Limits(**allowed), threads=asked["code"])
    if asked["files"]:
        landlock.restrict(readable(code=asked["code"]))
    if asked["calls"]:
        seccomp.restrict()
        _check()
        ctypes.util.find_library = lambda name: None  # it starts compilers; CUDA's bindings ask when torch is imported


def readable(*, code: bool) -> list[Path]:
    """Where Python and its libraries lie; for code also whatever else modules are imported from, save home folders."""
    folders = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *site.getsitepackages()}
    folders.add(str(Path(__file__).parents[1]))
    folders.update(filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")))
    if code:
        import pwd  # noqa: PLC0415 - not on every system

        home = Path(pwd.getpwuid(os.getuid()).pw_dir)
        folders.update(place for place in sys.path if place and not home.is_relative_to(place))
    return [Path(place) for place in (*SYSTEM, *sorted(folders))]


def _give_up_privileges(parent: int) -> None:
    """Ends with the parent, gains nothing by setuid programs, cannot be looked into, and keeps no root's powers."""
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise RuntimeError("the parent has ended")
    if len(os.listdir("/proc/self/task")) != 1:  # noqa: PTH208 - names are enough
        raise RuntimeError("threads run already, which Landlock would leave out")
    library.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "privileges could not be given up")
    if syscalls.architecture() is not None:
        header, nothing = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0), (ctypes.c_uint32 * 6)()
        syscalls.call("capset", header, nothing)


def _check() -> None:
    """The locks are tried before anything is trusted to them."""
    import socket  # noqa: PLC0415

    attempts: tuple[Callable[[], object], ...] = (
        socket.socket,
        lambda: os.kill(os.getpid(), 0),
        lambda: os.open("x", os.O_CREAT | os.O_WRONLY),
    )
    for attempt in attempts:
        try:
            attempt()
        except PermissionError:
            continue
        raise RuntimeError("a forbidden system call went through")
