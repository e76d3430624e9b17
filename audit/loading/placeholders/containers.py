"""The files that tensors come in: torch's zip, legacy and tar files, plain pickles, TorchScript, torch.export."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, BinaryIO

from audit.loading.placeholders.exported import exported_weights
from audit.loading.placeholders.records import Blob, Storage, Tensor, tensor
from audit.loading.placeholders.stand_ins import stand_ins, storage_of
from audit.loading.placeholders.unpickler import Census, Unpickler
from audit.scan.kinds import HEAD_BYTES, Kind, kind_of_head, kind_of_members

MOST_NESTED = 4
"""Torch files in torch files, as storages that were pickled by value are."""
LARGEST_PICKLE = 1 << 30
"""Bytes of the pickle alone, beside the numbers."""
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LITTLE_ENDIAN = b"little"


class Opened:
    """A file, or bytes within one, that holds tensors."""

    def __init__(self, stream: BinaryIO, census: Census, depth: int = 0) -> None:
        """Prepares to read.

        Args:
            stream: can be sought in.
            census: counts what is made.
            depth: in how many other files it lies.

        Raises:
            pickle.UnpicklingError: when it lies too deep.
        """
        if depth > MOST_NESTED:
            raise pickle.UnpicklingError(f"files within files, more than {MOST_NESTED} deep")
        self._stream, self._census, self._depth = stream, census, depth
        self._size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        self._stand_ins = stand_ins(census, self.nested)

    def nested(self, content: bytes) -> object:
        """What bytes hold that are a whole file of torch."""
        return Opened(io.BytesIO(content), self._census, self._depth + 1).read()

    def read(self) -> object:
        """Records, placeholders, dicts and lists, as the file has them.

        Raises:
            pickle.UnpicklingError: for a file that is damaged, on purpose or not.
            ValueError: for a file of another kind.
        """
        head = self._stream.read(HEAD_BYTES)
        self._stream.seek(0)
        kind = kind_of_head(head)
        if kind is Kind.ZIP:
            return self._read_zip()
        readers: Mapping[Kind, Callable[[], object]] = {
            Kind.TORCH_LEGACY: self._read_legacy,
            Kind.TAR: self._read_tar,
        }
        return readers.get(kind, self._read_plain)()

    def _unpickle(self, stream: Any, storage: Callable[[object], object] | None = None) -> Any:
        return Unpickler(stream, self._stand_ins, self._census, storage).load()

    def _read_plain(self) -> object:
        content = self._unpickle(self._stream)
        if content != LEGACY_MAGIC:
            return content
        self._stream.seek(0)  # a legacy file of another protocol than the usual one
        return self._read_legacy()

    def _read_zip(self) -> object:
        archive = zipfile.ZipFile(self._stream)
        names = archive.namelist()
        if kind_of_members(names) is Kind.EXPORTED_PROGRAM:
            return exported_weights(archive, self.nested)
        found = [name for name in names if name.partition("/")[2] == "data.pkl" or name == "data.pkl"]
        if len(found) != 1:
            raise ValueError(f"{len(found)} members named data.pkl")
        folder = found[0].removesuffix("data.pkl")
        order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in names else LITTLE_ENDIAN
        if order != LITTLE_ENDIAN:
            raise ValueError("numbers in big-endian order")
        if archive.getinfo(found[0]).file_size > LARGEST_PICKLE:
            raise ValueError(f"a pickle of more than {LARGEST_PICKLE:,} bytes")
        blobs: dict[str, Blob] = {}

        def storage(identity: object) -> object:
            kind, key, size = _identity(identity, 5)
            element, content_bytes = storage_of(kind, size)
            name = f"{folder}data/{key}"
            if name not in blobs:
                blobs[name] = Blob(archive.getinfo(name).file_size, partial(archive.read, name))
            return Storage(blobs[name], element, 0, content_bytes)

        return self._unpickle(io.BytesIO(archive.read(found[0])), storage)

    def _read_legacy(self) -> object:
        """Magic number, protocol, system, content, keys, then the storages in the order of the keys."""
        for _ in range(3):
            self._unpickle(self._stream)
        blobs: dict[str, Blob] = {}
        sizes: dict[str, int] = {}
        views: dict[object, Storage] = {}

        def storage(identity: object) -> object:
            if isinstance(identity, tuple) and identity[:1] in (("module",), (b"module",)):
                return identity[1]
            kind, key, size = _identity(identity, 6)
            element, content_bytes = storage_of(kind, size)
            blob = blobs.setdefault(key, Blob(content_bytes))
            sizes.setdefault(key, element.size)
            view = identity[5] if isinstance(identity, tuple) else None
            if not isinstance(view, tuple) or len(view) != 3:
                return Storage(blob, element)
            part, offset, length = view
            if part not in views:
                views[part] = Storage(blob, element, offset * element.size, length * element.size)
            return views[part]

        content = self._unpickle(self._stream, storage)
        for key in self._unpickle(self._stream):
            self._place(blobs[str(key)], sizes[str(key)])
        return content

    def _place(self, blob: Blob, number_bytes: int) -> None:
        """The numbers of a storage follow: how many, then they themselves."""
        count = int.from_bytes(self._stream.read(8), "little")
        start = self._stream.tell()
        if count * number_bytes != blob.size or start + blob.size > self._size:
            raise pickle.UnpicklingError("a storage of another size than the pickle tells, or cut off")
        self._stream.seek(blob.size, io.SEEK_CUR)
        blob.read = partial(self._at, start, blob.size)

    def _at(self, start: int, size: int) -> bytes:
        self._stream.seek(start)
        return self._stream.read(size)

    def _read_tar(self) -> object:
        with tarfile.open(fileobj=self._stream, mode="r:") as archive:
            parts = {}
            for name in ("storages", "tensors", "pickle"):
                member = archive.extractfile(name)
                if member is None:
                    raise ValueError(f"no {name} in the tar file")
                parts[name] = io.BytesIO(member.read())
        storages = self._tar_storages(parts["storages"])
        tensors = self._tar_tensors(parts["tensors"], storages)

        def persistent(identity: object) -> object:
            if isinstance(identity, tuple):
                return identity[0]
            return tensors[int(identity)] if isinstance(identity, int | str) else None

        return self._unpickle(parts["pickle"], persistent)

    def _tar_storages(self, stream: BinaryIO) -> dict[int, Storage]:
        found: dict[int, Storage] = {}
        for _ in range(self._unpickle(stream)):
            key, _, kind = self._unpickle(stream)
            count = int.from_bytes(stream.read(8), "little")
            element, size = storage_of(kind, count)
            content = stream.read(size)
            found[int(key)] = Storage(Blob(size, partial(bytes, content)), element)
        for target, root, offset, numel in self._unpickle(stream):
            whole = found[int(root)]
            size = whole.element.size
            found[int(target)] = Storage(whole.blob, whole.element, offset * size, numel * size)
        return found

    def _tar_tensors(self, stream: BinaryIO, storages: Mapping[int, Storage]) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}
        for _ in range(self._unpickle(stream)):
            key, storage, _ = self._unpickle(stream)
            (dimensions, _) = struct.unpack("<ii", stream.read(8))
            numbers = struct.unpack(f"<{2 * dimensions + 1}q", stream.read(8 * (2 * dimensions + 1)))
            shape, stride = numbers[:dimensions], numbers[dimensions:-1]
            found[int(key)] = tensor(storages[int(storage)], numbers[-1], shape, stride)
        return found


def _identity(identity: object, length: int) -> tuple[object, str, object]:
    """Kind, key and size of a storage out of its persistent id."""
    if not isinstance(identity, tuple) or len(identity) != length or identity[0] not in ("storage", b"storage"):
        raise pickle.UnpicklingError("a persistent id that names no storage")
    key = identity[2]
    if not isinstance(key, str | int):
        raise pickle.UnpicklingError("a storage without a key")
    return identity[1], str(key), identity[4]
