"""Readers that believe a file: the proof that the hostile corpus is hostile.

Run as a program (`python -m tests.hostile.naive LIST.json`), in a process of its own; each file is read in a fork.
Nothing here is ever imported by the tool.
"""

from __future__ import annotations

import atexit
import base64
import bz2
import gzip
import importlib
import io
import json
import lzma
import marshal
import os
import pickle
import runpy
import signal
import subprocess
import sys
import tarfile
import threading
import time
import types
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

SECONDS_A_FILE = 20
SECONDS_OF_GRACE = 3
"""A process that was started may need a moment after its starter has gone."""


def read_pickle(path: Path) -> object:
    """One pickle, at the beginning."""
    with path.open("rb") as stream:
        return pickle.load(stream)


def read_pickles(path: Path) -> None:
    """All pickles of a file, one after another."""
    with path.open("rb") as stream:
        while True:
            pickle.load(stream)


def read_hidden_pickle(path: Path) -> object:
    """A pickle of protocol 2 or later anywhere in the file."""
    content = path.read_bytes()
    places = [place for protocol in (b"\x80\x02", b"\x80\x04") if (place := content.find(protocol)) >= 0]
    return pickle.loads(content[min(places) :])


def read_torch(path: Path) -> object:
    """`torch.load` as it was before 2.6."""
    import torch

    return torch.load(path, map_location="cpu", weights_only=False)


def read_items(path: Path) -> object:
    """The entries of what a pickle holds."""
    found = read_pickle(path)
    return found.items() if isinstance(found, dict) else found


def read_joblib(path: Path) -> object:
    """joblib, which decompresses by itself."""
    import joblib

    return joblib.load(path)


def read_numpy(path: Path) -> None:
    """Every array of a file of numpy."""
    import numpy as np

    found = np.load(path, allow_pickle=True)
    if isinstance(found, np.lib.npyio.NpzFile):
        for name in found.files:
            with suppress(ValueError):
                found[name]


def read_numpy_header(path: Path) -> object:
    """The header of an array as very old versions of numpy read it."""
    content = path.read_bytes()
    return eval(content[10 : 10 + int.from_bytes(content[8:10], "little")])


def read_members(path: Path) -> None:
    """Whatever lies in an archive, by whatever reads it; archives in archives too."""
    read_everything(path.read_bytes(), depth=0)


def read_everything(content: bytes, depth: int) -> None:
    """Tries all readers on some bytes."""
    if depth > 30 or not content:
        return
    with suppress(Exception):
        pickle.loads(content)
    for unpack in (gzip.decompress, bz2.decompress, lzma.decompress):
        with suppress(Exception):
            read_everything(unpack(content), depth + 1)
    with suppress(Exception), zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            with suppress(Exception):
                read_everything(archive.read(member), depth + 1)
    with suppress(Exception), tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for entry in archive:
            stream = archive.extractfile(entry)
            if stream is not None:
                read_everything(stream.read(), depth + 1)


def extract(path: Path) -> None:
    """Unpacks an archive and believes its names."""
    place = path.parent / "extracted" / path.name
    place.mkdir(parents=True, exist_ok=True)
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            archive.extractall(place, filter="fully_trusted")
        return
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            target = os.path.join(place, name)  # noqa: PTH118 - an absolute name wins, which is the mistake
            with suppress(OSError):
                os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
                Path(target).write_bytes(archive.read(name))


def read_script(path: Path) -> object:
    """TorchScript."""
    import torch

    return torch.jit.load(path)


def run_script(path: Path) -> object:
    """TorchScript, and one batch through it."""
    import torch

    return torch.jit.load(path)(torch.zeros(1, 3, 8, 8))


def read_exported(path: Path) -> object:
    """A `.pt2` file."""
    import torch

    return torch.export.load(path)


def read_package(path: Path) -> object:
    """An archive of torch.package."""
    import torch.package

    return torch.package.PackageImporter(path).load_pickle("model", "model.pkl")


def read_folder(path: Path) -> None:
    """Hugging Face's way with `trust_remote_code`: the folder's code runs, its weights are unpickled."""
    for module in sorted(path.rglob("*.py")):
        with suppress(Exception):
            runpy.run_path(str(module))
    for weights in [*path.rglob("*.bin"), *path.rglob("*.pt")]:
        with suppress(Exception):
            read_torch(weights)


def read_pickled_files(path: Path) -> None:
    """CIFAR's Python version: every file is a pickle."""
    for file in sorted(path.rglob("*")):
        with suppress(Exception):
            pickle.loads(file.read_bytes(), encoding="bytes")


def read_keras(path: Path) -> object:
    """The Lambda layer of a Keras archive: a marshalled function."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    code = config["config"]["layers"][0]["config"]["function"]["config"]["code"]
    return types.FunctionType(marshal.loads(base64.b64decode(code)), {})(0)


def read_extension(path: Path) -> None:
    """Parquet's Python extension types, as pyarrow before 14 read them (CVE-2023-47248)."""
    import pyarrow.parquet

    for column in pyarrow.parquet.read_schema(path):
        pickle.loads((column.metadata or {})[b"ARROW:extension:metadata"])


def run_python(path: Path) -> object:
    """A Python file that is named like weights."""
    return runpy.run_path(str(path))


def run_shell(path: Path) -> object:
    """A shell script that is named like weights."""
    return subprocess.run(["sh", path], check=False)


def open_library(path: Path) -> object:
    """A native library that is named like weights."""
    import ctypes

    return ctypes.CDLL(str(path))


READERS: dict[str, Callable[[Path], object]] = {
    "pickle": read_pickle,
    "pickles": read_pickles,
    "hidden pickle": read_hidden_pickle,
    "torch": read_torch,
    "items": read_items,
    "joblib": read_joblib,
    "numpy": read_numpy,
    "numpy header": read_numpy_header,
    "members": read_members,
    "extract": extract,
    "script": read_script,
    "script and run": run_script,
    "export": read_exported,
    "package": read_package,
    "folder": read_folder,
    "pickled files": read_pickled_files,
    "keras": read_keras,
    "extension": read_extension,
    "python": run_python,
    "shell": run_shell,
    "library": open_library,
}


def is_live(path: Path, reader: str, canary: Path) -> tuple[bool, str]:
    """Whether the canary appears when the file is read, and how the reading ended."""
    canary.unlink(missing_ok=True)
    said = canary.with_name("said.txt")
    child = os.fork()
    if not child:
        _read_in_child(path, reader, said)
    status = _wait(child)
    patience = time.monotonic() + SECONDS_OF_GRACE
    while not canary.exists() and time.monotonic() < patience:
        time.sleep(0.05)
    live = canary.exists()
    canary.unlink(missing_ok=True)
    return live, f"status {status}: {said.read_text(errors='replace')[-400:]}"


def _read_in_child(path: Path, reader: str, said: Path) -> None:
    answers, typed = os.pipe()
    os.write(typed, b"continue\n" * 9)  # for a debugger that asks
    os.close(typed)
    os.dup2(answers, 0)
    sys.stdin = open(0, closefd=False)  # noqa: PTH123, SIM115 - the child ends by _exit
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        READERS[reader](path)
    except BaseException as error:
        print(type(error).__name__, error)
    finally:
        with suppress(BaseException):
            threading._shutdown()  # waits for threads, as the end of a program does
        with suppress(BaseException):
            atexit._run_exitfuncs()
        with suppress(BaseException):
            sys.stdout.flush()
        os._exit(0)


def _wait(child: int) -> int:
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.alarm(SECONDS_A_FILE)
    try:
        return os.waitpid(child, 0)[1]
    finally:
        signal.alarm(0)


def wants_torch(path: Path, reader: str) -> bool:
    """Whether reading a file imports torch, which takes seconds, and makes every later fork slower."""
    alone = {"members", "extract", "pickled files", "keras", "extension", "python", "shell", "library", "numpy header"}
    return reader not in alone and (reader != "pickle" or b"torch" in path.read_bytes())


def main() -> None:
    """Reads every file of a list, `[[name, path, reader], ...]` and the canary, and prints what was live."""
    warnings.simplefilter("ignore")
    task = json.loads(Path(sys.argv[1]).read_text())
    canary = Path(task["canary"])
    files = [(name, Path(path), reader) for name, path, reader in task["files"]]
    first = [file for file in files if not wants_torch(*file[1:])]
    found = {name: is_live(path, reader, canary) for name, path, reader in first}
    rest = sorted((file for file in files if file[0] not in found), key=lambda file: file[2] == "export")
    for name, path, reader in rest:
        importlib.import_module("torch._export.serde.serialize" if reader == "export" else "torch")
        found[name] = is_live(path, reader, canary)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
