"""Runs a function on a file in a process apart, and reads back plain data alone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import audit
from audit.errors import PrerequisiteError
from audit.sandbox import failures
from audit.sandbox.limits import Limits
from audit.sandbox.protections import Protections, protections

START = """
import importlib.util, sys
found = importlib.util.spec_from_file_location("audit", sys.argv[1])
sys.modules["audit"] = package = importlib.util.module_from_spec(found)
found.loader.exec_module(package)
from audit.sandbox.child import main
main(sys.argv[2])
"""
"""Finds this very package, however it was installed, without the working folder or PYTHONPATH."""
TENSORS, ANSWER = "tensors.safetensors", "answer.json"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a process apart left.

    Attributes:
        message: plain data, of any shape: whoever asked for it checks it.
        tensors: the file of tensors; empty when none were written.
        said: what was printed, free of control characters and cut.
        protections: what was in force.
    """

    message: Any
    tensors: Path
    said: str
    protections: Protections


def run_apart(
    function: str, argument: Mapping[str, object], *, source: Path, folder: Path, limits: Limits, code: bool
) -> Answer:
    """Runs `function(argument, source, tensors)` in a process that is locked in before it reads anything.

    Args:
        function: as `package.module:name`; gets the argument, the source open for reading, and the file for tensors
            open for writing; returns plain data.
        argument: plain data.
        source: the file that nobody vouches for.
        folder: empty; the process works in it, and the two files of its answer lie there.
        limits: on memory, time and sizes.
        code: whether code of the file will run; where the system cannot hold that, nothing is started.

    Raises:
        PrerequisiteError: when the system has not what is needed, or a lock could not be shut; the file was not read.
        SubjectError: when the process failed, ran out of memory or time, or crashed.
        UnsafeArtefactError: when it did what is forbidden, or answered with something else than it should.
    """
    found, name = protections(), failures.one_line(source.name)
    if not found.limits or (code and not found.hold_code):
        raise PrerequisiteError(
            f"Expected a system that can cut a process off from network, files and programs, got {sys.platform} with "
            f"{found} in force. Nothing of {name} was loaded. Run it on Linux (x86_64, aarch64) with seccomp."
        )
    with source.open("rb") as opened, _new(folder / TENSORS) as tensors, _new(folder / ANSWER) as answer:
        descriptors = tuple(stream.fileno() for stream in (opened, tensors, answer))
        request = {
            "function": function,
            "argument": dict(argument),
            "descriptors": descriptors,
            "limits": dataclasses.asdict(limits),
            "parent": os.getpid(),
            "code": code,
            "calls": found.calls,
            "files": found.files,
        }
        status, said = _run(json.dumps(request), folder, descriptors, limits, name)
    if status != 0:
        raise failures.ended(status, said, limits, name)
    answer = _read_answer(folder / ANSWER, limits.message_bytes)
    if not isinstance(answer, dict) or "message" not in answer:
        raise failures.answered(answer, limits, name, code=code)
    return Answer(answer["message"], folder / TENSORS, said, found)


def _new(path: Path) -> BinaryIO:
    return path.open("xb")


def _run(request: str, folder: Path, descriptors: tuple[int, ...], limits: Limits, name: str) -> tuple[int, str]:
    """The exit status, negative for a signal, and what was printed."""
    command = [sys.executable, "-I", "-B", "-W", "ignore", "-c", START, str(audit.__file__), request]
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own words
        command,
        cwd=folder,
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=descriptors,
        start_new_session=True,
    )
    try:
        said = _listen(process, time.monotonic() + limits.seconds, limits.said_bytes)
        return process.wait(), failures.clean(said.decode("utf-8", "replace"))
    except TimeoutError:
        raise failures.endless(limits, name) from None
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _environment(folder: Path) -> dict[str, str]:
    """What Python needs to start, one thread, no GPU; nothing of the caller's, where secrets may stand."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR"), str(folder))
    places |= {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    libraries = {"LD_LIBRARY_PATH": os.environ["LD_LIBRARY_PATH"]} if "LD_LIBRARY_PATH" in os.environ else {}
    return {**places, **libraries, **one_thread, "CUDA_VISIBLE_DEVICES": ""}


def _listen(process: subprocess.Popen[bytes], deadline: float, most: int) -> bytes:
    """Reads what is printed until the process ends; keeps the first bytes, lets the others go."""
    assert process.stdout is not None
    kept = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if not selector.select(timeout=left):
                continue
            piece = os.read(process.stdout.fileno(), 65_536)
            if not piece:
                break
            kept += piece[: most - len(kept)]
    try:
        process.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    return kept


def _read_answer(path: Path, most: int) -> Any:
    """The plain data in the answer; None where it is none."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(descriptor, "rb") as stream:
        content = stream.read(most + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    try:
        return json.loads(content) if len(content) <= most else None
    except (ValueError, RecursionError):
        return None
