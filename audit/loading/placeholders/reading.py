"""Reads a file with placeholders and writes its tensors as safetensors; called in the process apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from audit.errors import SubjectError, UnsafeArtefactError
from audit.loading.placeholders.collection import Collection
from audit.loading.placeholders.containers import Opened
from audit.loading.placeholders.records import Blob, Tensor, steps
from audit.loading.placeholders.unpickler import Census
from audit.loading.tensor_file import StoredTensor, repeated, write_tensors

MOST_NAMED = 100


def read(argument: Mapping[str, Any], source: BinaryIO, tensors: BinaryIO) -> dict[str, Any]:
    """What the file holds.

    Args:
        argument: `name` of the file, and `most_bytes` that its tensors may have together.
        source: the file.
        tensors: where they are written, each by its number.

    Returns:
        `tree` (see `collection.Node`), `names` of what had placeholders, and `subclasses` of tensors that were taken
        for plain ones.

    Raises:
        SubjectError: for a file that is damaged, on purpose or not.
        UnsafeArtefactError: for tensors that repeat few numbers without end.
    """
    census = Census()
    try:
        found = Collection(Opened(source, census).read())
        sizes = [tensor.numel * tensor.element.size for tensor in found.tensors]
        if sum(sizes) > argument["most_bytes"]:
            raise repeated(argument["name"], sum(sizes), argument["most_bytes"])
        write(found.tensors, sizes, tensors)
    except (MemoryError, OSError, SubjectError, UnsafeArtefactError):
        raise
    except Exception as error:  # damage shows up as nearly any kind of error
        reason = (str(error).strip().splitlines() or ["nothing more"])[0][:200]
        raise SubjectError(
            f"Expected a whole weights file, got {argument['name']}, which cannot be read with placeholders: "
            f"{type(error).__name__}: {reason}. Copy or download it again and compare its sha256."
        ) from error
    return {
        "tree": found.tree,
        "names": list(census.names)[:MOST_NAMED],
        "subclasses": list(census.subclasses)[:MOST_NAMED],
    }


def write(tensors: Sequence[Tensor], sizes: Sequence[int], stream: BinaryIO) -> None:
    """Writes tensors, each by its number, those of one storage after another, so that each storage is read once."""
    first = {id(tensor.storage.blob): place for place, tensor in reversed(list(enumerate(tensors)))}
    order = sorted(range(len(tensors)), key=lambda place: (first[id(tensors[place].storage.blob)], place))
    latest = _Latest()
    stored = [
        StoredTensor(
            str(place),
            tensors[place].element.code,
            tensors[place].shape,
            sizes[place],
            partial(_numbers, tensors[place], latest),
        )
        for place in order
    ]
    write_tensors(stream, stored)


class _Latest:
    """The bytes of the storage that was read last."""

    def __init__(self) -> None:
        self._blob: Blob | None = None
        self._content = b""

    def of(self, blob: Blob) -> bytes:
        if blob is not self._blob:
            self._blob, self._content = blob, b"" if blob.read is None else blob.read()
        return self._content


def _numbers(tensor: Tensor, latest: _Latest) -> Any:
    """The numbers of a tensor, contiguous."""
    size = tensor.element.size
    start = tensor.storage.start + tensor.offset * size
    extent = 1 + sum((length - 1) * step for length, step in zip(tensor.shape, tensor.stride, strict=True))
    if tensor.numel == 0:
        return b""
    content = latest.of(tensor.storage.blob)
    if start + extent * size > len(content):
        raise SubjectError("Expected a whole weights file, got one that is cut off. Copy or download it again.")
    numbers = np.frombuffer(content, f"u{size}", count=extent, offset=start)
    if tensor.stride != steps(tensor.shape):
        strides = tuple(step * size for step in tensor.stride)
        view = np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides, writeable=False)
        numbers = np.ascontiguousarray(view)
    if tensor.element.code == "BOOL":
        numbers = (numbers != 0).view(np.uint8)  # another byte is no truth value
    return numbers.data
