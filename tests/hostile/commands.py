"""The command line on hostile files: commands in a warm process of their own, with limits of time, memory and disk.

A command cannot take the tests down with it: a hang or a crash ends that process alone, which is then replaced. (A
fork for each command would be cleaner; where torch is loaded it costs six times what refusing a file does.) Run as a
program (`python -m tests.hostile.commands`), one request a line.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 60
"""For one command on a busy machine; what is refused takes a fraction of a second."""
LARGEST_MEMORY, LARGEST_FILE = 6 << 30, 50 << 20
"""Bytes of address space above what the warm process has, and of a file: enough for every honest command here."""
WARMING_SECONDS = 300
SAYS = ("said-out", "said-err")
"""Files with what a command printed, beside its home."""
MODEL = "timm:test_efficientnet?num_classes=10"
SMALL = ["--preprocess", "none/size=32", "--device", "cpu"]
DATA_COMMANDS = ("npz", "csv", "parquet", "imagefolder", "cifar10", "wds", "mnist")
MODEL_COMMANDS = ("onnx", "script", "export", "hf")


def words(command: str, path: Path, out: Path) -> list[str]:
    """The command line for a hostile file; default flags alone."""
    match command:
        case "scan":
            return ["scan", str(path)]
        case "bare":
            return ["describe", "--model", str(path), "--device", "cpu"]
        case "weights":
            return ["describe", "--model", MODEL, "--weights", str(path), *SMALL]
        case "convert" | "convert --allow-pickle" | "convert --allow-code":
            flags = ["--allow-pickle", *(["--allow-code", "--timeout", "30"] if command.endswith("code") else [])]
            more = flags if command != "convert" else []
            return ["convert", str(path), "--out", str(out / "converted.safetensors"), *more]
        case "run":
            return ["run", "--model", MODEL, "--weights", str(path), *SMALL, "--data", "sklearn:digits",
                    "--samples", "20", "--probe", "accuracy", "--out", str(out / "run")]  # fmt: skip
        case _ if command in MODEL_COMMANDS:
            return ["describe", "--model", f"{command}:{path}", "--device", "cpu"]
        case _ if command in DATA_COMMANDS:
            return ["describe", "--model", MODEL, *SMALL, "--data", f"{command}:{path}"]
    raise ValueError(command)


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit code; None when it was killed.
        end: `exit`, `time` (it ran past its limit) or `signal N` (it crashed).
        out: what it printed.
        err: what it said on stderr.
        seconds: how long it took.
    """

    code: int | None
    end: str
    out: str
    err: str
    seconds: float


class Commands:
    """A warm process that runs commands, and is replaced when one of them ends it; use as a context manager.

    Args:
        place: a folder for its home, temporary files and working directory.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.says = tuple(str(place / name) for name in SAYS)
        self._process: subprocess.Popen[str] | None = None
        for name in ("home", "tmp", "cwd"):
            (place / name).mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Commands:
        """Starts nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process, and whatever it started."""
        self._end()

    def __call__(self, *line: str, seconds: int = SECONDS) -> Ended:
        """Runs `audit *line`."""
        process = self._process or self._start()
        assert process.stdin
        started = time.monotonic()
        process.stdin.write(json.dumps(line) + "\n")
        process.stdin.flush()
        code, end = self._answer(process, seconds)
        if end != "exit":
            self._end()
        said = [self._said(name) for name in SAYS]
        return Ended(code, end, said[0], said[1], time.monotonic() - started)

    def _start(self) -> subprocess.Popen[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AUDIT_")}
        environment |= {
            "HOME": str(self.place / "home"), "TMPDIR": str(self.place / "tmp"), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.commands"], cwd=self.place / "cwd", env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self._answer(self._process, WARMING_SECONDS) == (0, "exit"), "Expected a process that is warm."
        return self._process

    def _answer(self, process: subprocess.Popen[str], seconds: int) -> tuple[int | None, str]:
        assert process.stdout
        if not select.select([process.stdout], [], [], seconds)[0]:
            return None, "time"
        answer = process.stdout.readline()
        return (int(answer), "exit") if answer else (None, f"signal {-process.wait()}")

    def _end(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            self._process = None

    def _said(self, name: str) -> str:
        path = self.place / name
        return path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else ""


def main() -> None:
    """Answers each request by the exit code, until there are no more."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    place = Path(os.environ["TMPDIR"]).parent
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _warm_up()
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (held + LARGEST_MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE,) * 2)
    for code in _codes(requests, place):
        answers.write(f"{code}\n")
        answers.flush()


def _codes(requests: Iterable[str], place: Path) -> Iterator[int]:
    yield 0
    for request in requests:
        for number, name in enumerate(SAYS, start=1):
            file = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
            os.close(file)
        yield _run(json.loads(request))


def _warm_up() -> None:
    """Imports what nearly every command needs."""
    import timm
    import torch

    import audit.cli.app
    import audit.engine.prepare

    timm.create_model("test_efficientnet", num_classes=10)
    torch.set_num_threads(1)
    assert audit.cli.app.app
    assert audit.engine.prepare.prepare


def _run(line: list[str]) -> int:
    from audit.cli import main as audit_main

    sys.argv = ["audit", *line]
    try:
        audit_main()
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:  # the tests look for what this prints
        print("Traceback, uncaught:", type(error).__name__, error, file=sys.stderr)
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    main()
