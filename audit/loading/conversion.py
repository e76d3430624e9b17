"""Any file that holds weights to safetensors that hold nothing else."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from audit import __version__
from audit.errors import SubjectError, UnsafeArtefactError, UsageError
from audit.loading.apart import Found, is_storage_by_value, most_bytes, read_by_running, read_with_placeholders
from audit.loading.danger import refuse_dangerous
from audit.loading.sniff import sniff
from audit.loading.sources import shown
from audit.loading.state_dicts import Tensors, stated_prefix
from audit.loading.tensor_file import repeated
from audit.loading.weights import digest_of, read_plainly
from audit.loading.weights_choice import chosen, left_out
from audit.loading.weights_out import number_code, write_weights
from audit.sandbox.limits import SECONDS
from audit.scan import Kind, kind_of
from audit.schema import FileDigest

MOST_NAMED = 8
RUN_CODE = "run its code behind locks: audit convert --allow-code"


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """What shall be converted.

    Attributes:
        source: a file that holds weights.
        out: the safetensors file to write.
        weights_key: dotted path of the state dict in the source, or None to find it.
        strip_prefix: what to take off its keys.
        allow_pickle: whether what weights-only loading refuses is read with placeholders, in a process apart.
        allow_code: whether it is loaded as it is meant, in a process apart that can reach nothing.
        memory_bytes: that the process apart may take; None for a few GiB beside the size of the file.
        seconds: that it may take.
        force: whether an existing file is overwritten.
    """

    source: Path
    out: Path
    weights_key: str | None = None
    strip_prefix: str | None = None
    allow_pickle: bool = False
    allow_code: bool = False
    memory_bytes: int | None = None
    seconds: int = SECONDS
    force: bool = False


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was converted.

    Attributes:
        source: the file that was read.
        kind: of it.
        how: it was read.
        place: where in it the weights lay; empty for the file itself.
        dtypes: how many tensors of each type were written.
        tensor_bytes: of them all.
        names: of classes and functions that had placeholders.
        left_out: what of the source was not written, each with its place.
        said: what the file's code printed.
        result: the file that was written.
    """

    source: FileDigest
    kind: str
    how: str
    place: str
    dtypes: Mapping[str, int]
    tensor_bytes: int
    names: tuple[str, ...]
    left_out: tuple[str, ...]
    said: str
    result: FileDigest


def convert(request: ConversionRequest) -> Conversion:
    """Reads the source, chooses its state dict, and writes it.

    Raises:
        UsageError: when the paths, the key or the prefix cannot be used.
        SubjectError: when the source cannot be read, holds no weights or several sets of them, or tensors that are no
            plain numbers.
        UnsafeArtefactError: when it needs more than was allowed, or holds what no flag allows.
        PrerequisiteError: when its code may run, and the system cannot hold it.
        StoreError: when the result cannot be written.
    """
    _check_paths(request)
    kind = sniff(request.source)
    refuse_dangerous(request.source, harmless=is_storage_by_value)
    source = digest_of(request.source)
    found = _read(request, kind)
    more = "dequantise or densify the network there" if request.allow_code else RUN_CODE
    way, tensors = chosen(found.content, shown(source.name), request.weights_key, more)
    place, left = shown(".".join(way)), tuple(left_out(found.content, way))
    if request.strip_prefix is not None:
        prefix = stated_prefix({place: tensors}, request.strip_prefix)
        left += tuple(f"{shown(key)} (without the prefix)" for key in tensors if not key.startswith(prefix))
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    _check_plain(tensors, shown(source.name))
    total, most = sum(tensor.nbytes for tensor in tensors.values()), most_bytes(source.bytes)
    if total > most:
        raise repeated(shown(source.name), total, most)
    metadata = {
        "format": "pt",
        "converted_by": f"trust-audit {__version__}",
        "source": source.name,
        "source_sha256": source.sha256,
        "how": found.how,
    }
    write_weights(request.out, tensors, metadata)
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    result = digest_of(request.out)
    return Conversion(source, str(kind), found.how, place, dtypes, total, found.names, left, found.said, result)


def _check_paths(request: ConversionRequest) -> None:
    source, out = request.source, request.out
    if source.is_file() and kind_of(source) is Kind.ONNX:
        raise UsageError(
            f"Expected a file of weights, got {shown(source.name)}, an ONNX model: a graph with its weights. Audit it "
            f"as it is: --model {shlex.quote(shown(f'onnx:{source}'))}."
        )
    if out.suffix != ".safetensors":
        raise UsageError(f"Expected --out FILE.safetensors, got {shown(out.name)}. Give it that ending.")
    if out.exists() and (not request.force or not out.is_file() or out.samefile(source)):
        raise UsageError(
            f"Expected --out to name a new file, got {shown(str(out))}, which exists. Choose another, or add --force."
        )


def _read(request: ConversionRequest, kind: Kind) -> Found:
    """As plainly as it can be read; beyond that, in the way that was allowed, and in no other."""
    path, memory, seconds = request.source, request.memory_bytes, request.seconds
    how = "safetensors" if kind is Kind.SAFETENSORS else "torch's weights-only loading"
    try:
        return Found(read_plainly(path, kind), (), f"read by {how}", "", None)
    except UnsafeArtefactError:
        if not request.allow_pickle and not request.allow_code:
            raise
    if request.allow_code:
        return read_by_running(path, kind, memory_bytes=memory, seconds=seconds)
    return read_with_placeholders(path, memory_bytes=memory, seconds=seconds)


def _check_plain(tensors: Tensors, name: str) -> None:
    wrong = [
        f"{shown(key)}: {str(tensor.dtype).removeprefix('torch.')}, {str(tensor.layout).removeprefix('torch.')}"
        for key, tensor in tensors.items()
        if tensor.is_quantized or tensor.is_meta or tensor.layout is not torch.strided or not number_code(tensor)
    ]
    if wrong:
        raise SubjectError(
            f"Expected tensors of plain numbers in {name}, got {len(wrong)} that are quantised, sparse or of a type "
            f"that safetensors has not: {', '.join(wrong[:MOST_NAMED])}. Dequantise or densify the network where the "
            "file was made, and save its state_dict."
        )
