"""Runs the factory of a `py:` spec: the one place where a user's code is executed, after `--allow-code`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from audit.errors import SubjectError, UsageError
from audit.loading.model_spec import Architecture, ModelSpec
from audit.loading.preprocess_option import read_steps
from audit.loading.weights import digest_of
from audit.schema import FileDigest

OUR_PACKAGES = frozenset({"audit", "probes", "reports"})
RETURNED_KEYS = frozenset({"model", "preprocess", "classes"})


def run_factory(spec: ModelSpec) -> Architecture:
    """Imports the file or module of the spec, calls its factory, and reads what it returns.

    The code sees its own folder, or the working folder for a module, at the *end* of the import path, so that nothing
    of it can stand in for this tool. What was imported from a file's folder is forgotten afterwards: two subjects may
    both have a `layers.py`, and copies for other processes carry the classes with them.

    Raises:
        UsageError: when the file, the module or the factory is not there, or the factory declares what cannot be read.
        SubjectError: when the code fails, naming the exception, the file and the line; or returns no model.
    """
    location, _, name = spec.target.rpartition(":")
    is_file = location.endswith(".py")
    folder = Path(location).expanduser().resolve().parent if is_file else Path.cwd()
    before = set(sys.modules)
    with _importable(folder), _defaults_kept():
        try:
            module = (
                _run_file(Path(location).expanduser().resolve(), spec) if is_file else _import(location, spec, folder)
            )
            factory = _factory(module, name, spec)
            returned = _guarded(lambda: factory(**spec.arguments), spec, folder)
            files = _files_of(module, folder, before)
        finally:
            if is_file:
                _forget(folder, before)
    return _read(returned, spec, files, f"--allow-code: {spec.text} (sha256 {files[0].sha256})")


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """The folder at the end of the import path."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        last = next((place for place in reversed(range(len(sys.path))) if sys.path[place] == str(folder)), None)
        if last is not None:  # the code may have taken it out itself
            del sys.path[last]


@contextlib.contextmanager
def _defaults_kept() -> Iterator[None]:
    """Puts back torch's global defaults, whatever the code sets."""
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)


def _run_file(path: Path, spec: ModelSpec) -> ModuleType:
    """Runs the very bytes whose sha256 is recorded; no stale bytecode can step in."""
    if not path.is_file():
        near = ", ".join(sorted(other.name for other in path.parent.glob("*.py"))[:8]) or "no .py file"
        raise UsageError(f"Expected a file at {path}, got none ({near} in its folder). Correct the path.")
    source = path.read_bytes()
    name = "_audit_subject_" + hashlib.sha256(str(path).encode() + source).hexdigest()[:12]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    _guarded(lambda: exec(compile(source, str(path), "exec"), module.__dict__), spec, path.parent)  # noqa: S102
    return module


def _import(name: str, spec: ModelSpec, folder: Path) -> ModuleType:
    module = _guarded(lambda: importlib.import_module(name), spec, folder)
    assert isinstance(module, ModuleType)
    if module.__file__ is None:
        raise UsageError(f"Expected a module with a file, got the folder {name}. Name a module inside.")
    return module


def _factory(module: ModuleType, name: str, spec: ModelSpec) -> Any:
    found = getattr(module, name, None)
    if callable(found):
        return found
    own = sorted(
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__
    )
    got = "none" if found is None else f"a {type(found).__name__}"
    raise UsageError(
        f"Expected a function {name!r} in {spec.text}, got {got}. "
        f"Defined there: {', '.join(own[:8]) or 'nothing that can be called'}."
    )


def _guarded(run: Any, spec: ModelSpec, folder: Path) -> Any:
    """Runs user code; whatever it raises becomes an error with its file and line."""
    try:
        return run()
    except (UsageError, SubjectError):
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if Path(frame.filename).is_relative_to(folder)]
        if isinstance(error, SyntaxError) and error.filename:
            place = f"{Path(error.filename).name}, line {error.lineno}"
        else:
            place = f"{Path(own[-1].filename).name}, line {own[-1].lineno}" if own else spec.text
        what = f"{type(error).__name__} in {place}: {error}"
        raise SubjectError(f"Expected {spec.text} to return a model, got {what}. Correct that code.") from error


def _files_of(module: ModuleType, folder: Path, before: set[str]) -> tuple[FileDigest, ...]:
    """The file of the spec, then the other files of its folder whose code ran."""
    first = str(module.__file__)
    others = sorted(set(_fresh(folder, before).values()) - {first})
    return tuple(digest_of(Path(file)).model_copy(update={"kind": "code"}) for file in (first, *others))


def _forget(folder: Path, before: set[str]) -> None:
    for name in _fresh(folder, before):
        del sys.modules[name]


def _fresh(folder: Path, before: set[str]) -> Mapping[str, str]:
    """Modules that were imported since, out of the folder, with their files."""
    new = (
        (name, getattr(module, "__file__", None)) for name, module in list(sys.modules.items()) if name not in before
    )
    return {
        name: file
        for name, file in new
        if file
        and Path(file).resolve().is_relative_to(folder)
        and "site-packages" not in Path(file).parts
        and name.partition(".")[0] not in OUR_PACKAGES
    }


def _read(returned: Any, spec: ModelSpec, files: tuple[FileDigest, ...], exception: str) -> Architecture:
    """An `nn.Module`, or a dict with one."""
    told = returned if isinstance(returned, Mapping) else {"model": returned}
    unknown = sorted(str(key) for key in set(told) - RETURNED_KEYS)
    if not isinstance(told.get("model"), nn.Module) or unknown:
        got = f"a dict with the keys {sorted(map(str, told))}" if told is returned else f"a {type(returned).__name__}"
        raise SubjectError(
            f"Expected {spec.text} to return an nn.Module, or a dict of model, preprocess and classes, got {got}. "
            "Return one of these."
        )
    declared = told.get("preprocess")
    if declared is not None and not isinstance(declared, Mapping):
        raise UsageError(f"Expected a dict as preprocess of {spec.text}, got a {type(declared).__name__}. Correct it.")
    steps = None if declared is None else read_steps(declared, f"preprocess of {spec.text}")
    classes = tuple(str(name) for name in told.get("classes") or ())
    name = spec.target.rpartition(":")[2]
    return Architecture(told["model"], name, steps, classes, files, (exception,))
