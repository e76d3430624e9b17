"""Weights files to tensors, without running anything that is in them.

Safetensors are plain numbers. Files of `torch.save` are pickles, read by torch's weights-only unpickler; what it
refuses is refused here too, unless `--allow-pickle` lets it be read with placeholders, in a process apart. Nothing
ever falls back to ordinary unpickling.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from audit.errors import SubjectError, UnsafeArtefactError
from audit.loading.apart import is_storage_by_value, most_bytes, read_with_placeholders
from audit.loading.danger import refuse_dangerous
from audit.loading.sniff import CODE, FORMATS, WeightsFormat, needs_code, sniff, truncated, two_ways_on
from audit.loading.sources import shown
from audit.loading.tensor_file import repeated
from audit.scan import Kind
from audit.scan.pickles import globals_of
from audit.schema import FileDigest

PLAIN_TORCH = re.compile(
    r"^(torch\._utils\._rebuild|torch\.\w*(Storage|Tensor)$|torch\.(Size|device|float|int|bfloat)|collections\.)"
)
"""Globals that ordinary state dicts name. Where torch does not say which one it refused, all others are named."""


@dataclass(frozen=True, slots=True, eq=False)
class WeightsFile:
    """A weights file that was read.

    Attributes:
        path: where it lies.
        format: found by content.
        digest: of its bytes.
        content: tensors on the CPU in nested dicts and lists, as the file has them; possibly mapped from the file.
        trust_exception: how it was read beyond weights-only loading; empty where it was not.
    """

    path: Path
    format: WeightsFormat
    digest: FileDigest
    content: object
    trust_exception: str = ""


def read_weights(path: Path, *, allow_pickle: bool = False) -> WeightsFile:
    """Reads a weights file.

    Args:
        path: of the file.
        allow_pickle: whether a file that weights-only loading refuses is read with placeholders, in a process apart.

    Raises:
        SubjectError: for a file that is missing, empty, truncated, damaged, or of another format.
        UnsafeArtefactError: for a file that would need code to be run, or holds what no flag allows; nothing of it was
            run.
    """
    kind = sniff(path)
    refuse_dangerous(path, harmless=is_storage_by_value)
    digest = digest_of(path)
    try:
        return WeightsFile(path, FORMATS[kind], digest, read_plainly(path, kind))
    except UnsafeArtefactError:
        if not allow_pickle:
            raise
    found = read_with_placeholders(path)
    exception = f"--allow-pickle: {shown(path.name)} (sha256 {digest.sha256}), {found.how}"
    return WeightsFile(path, FORMATS[kind], digest, found.content, exception)


def read_plainly(path: Path, kind: Kind) -> object:
    """What a file of this kind holds, where it can be loaded without running code.

    Raises:
        SubjectError: for a file that is truncated or damaged.
        UnsafeArtefactError: for one that would need code to be run, or whose tensors repeat few numbers without end.
    """
    if kind in CODE:
        raise needs_code(path, kind)
    if kind is Kind.SAFETENSORS:
        return _read_safetensors(path)
    content = _read_torch(path, kind)
    _refuse_sparse(content, path)
    in_full, most = _bytes_in_full(content), most_bytes(path.stat().st_size)
    if in_full > most:
        raise repeated(shown(path.name), in_full, most)
    return content


def _bytes_in_full(content: object) -> int:
    """What all dense tensors in nested dicts and lists take once each is stored in full."""
    return sum(
        tensor.numel() * tensor.element_size()
        for _, tensor in _tensors_in(content)
        if tensor.layout is torch.strided and not tensor.is_meta
    )


def _refuse_sparse(content: object, path: Path) -> None:
    names = [name for name, tensor in _tensors_in(content) if tensor.layout is not torch.strided]
    if names:
        raise SubjectError(
            f"Expected dense tensors in {shown(path.name)}, got {len(names)} in a sparse layout: "
            f"{', '.join(map(shown, names[:5]))}. Save them with .to_dense()."
        )


def _tensors_in(content: object) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in nested dicts and lists once, with its key."""
    seen, waiting = set[int](), [("", content)]
    while waiting:
        name, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, Mapping):
            waiting += [(str(key), inner) for key, inner in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(name, inner) for inner in value]


def digest_of(path: Path) -> FileDigest:
    """Name, sha256 and size of a file."""
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileDigest(name=path.name, sha256=sha256, bytes=path.stat().st_size)


def _read_safetensors(path: Path) -> object:
    try:
        return safetensors.torch.load_file(path, device="cpu")
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise truncated(path, f"safetensors says {error}") from None


def _read_torch(path: Path, kind: Kind) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about its own old storage classes
            if path.suffix == ".safetensors":  # by that name alone, torch takes a path for another format
                with path.open("rb") as stream:
                    return torch.load(stream, map_location="cpu", weights_only=True)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=kind is Kind.TORCH_ZIP)
    except pickle.UnpicklingError as error:
        raise _refusal(path, str(error)) from None
    except Exception as error:  # damage shows up as nearly any kind of error
        reason = (str(error).strip().splitlines() or ["nothing more"])[0]
        raise truncated(path, f"torch says {type(error).__name__}: {shown(reason[:160])}") from None


def _refusal(path: Path, message: str) -> SubjectError | UnsafeArtefactError:
    """The error for what the weights-only unpickler does not accept: code where one is named, else damage."""
    found = re.search(r"GLOBAL ([\w.]+)", message)
    offending = [found.group(1)] if found else [name for name in _globals_of(path) if not PLAIN_TORCH.match(name)]
    if not offending:
        return truncated(path, "its pickle cannot be read by torch's weights-only loading")
    named = ", ".join(f"`{shown(name)}`" for name in offending[:5])
    return UnsafeArtefactError(
        f"Expected tensors alone in {shown(path.name)}, got a pickle that needs {named}: a function or class which "
        f"loading would run, and torch's weights-only loading refuses it. Nothing of it was run. {two_ways_on(path)}"
    )


def _globals_of(path: Path) -> list[str]:
    """Every global that the file's pickle names, each once."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            return list(dict.fromkeys(globals_of(stream)))
    with zipfile.ZipFile(path) as archive:
        member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        with archive.open(member) as stream:
            return list(dict.fromkeys(globals_of(stream)))
