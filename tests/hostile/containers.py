"""The files that pickles come in: zip, tar and the formats of torch, byte by byte and the same on every run."""

from __future__ import annotations

import io
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Iterable, Sequence

from tests.hostile.opcodes import Call, Node, Persistent, call, glob, program

Members = Sequence[tuple[str, bytes]]
WEIGHT = struct.pack("<30f", *(place / 30 for place in range(30)))
BIAS = struct.pack("<10f", *(place / 10 for place in range(10)))
TORCH_MAGIC = 0x1950A86A20F9469CFC6C


def zip_file(members: Iterable[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive; names may repeat."""
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", compression) as archive:
        warnings.simplefilter("ignore")
        for name, content in members:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = compression
            archive.writestr(entry, content)
    return stream.getvalue()


def tar_file(members: Iterable[tuple[str, bytes]], links: Iterable[tuple[str, str]] = ()) -> bytes:
    """A tar archive; links come first."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, target in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def tensor(key: str, size: tuple[int, ...], **changes: Node) -> Node:
    """A float tensor over the storage of this key; `changes` are lies about it."""
    numel, stride = 1, []
    for length in reversed(size if "stride" not in changes else ()):
        stride.insert(0, numel)
        numel *= length
    given = {"offset": 0, "size": size, "stride": tuple(stride), "numel": numel, "type": glob("torch.FloatStorage")}
    given |= changes
    storage = Persistent(("storage", given["type"], key, "cpu", given["numel"]))
    return call(
        "torch._utils._rebuild_tensor_v2", storage, given["offset"], given["size"], given["stride"], False,
        call("collections.OrderedDict"),
    )  # fmt: skip


def state_dict() -> dict[str, Node]:
    """The weights of a linear layer; their storages are `STORAGES`."""
    return {"fc.weight": tensor("0", (10, 3)), "fc.bias": tensor("1", (10,))}


STORAGES: Members = (("data/0", WEIGHT), ("data/1", BIAS))


def torch_members(data: bytes, storages: Members = STORAGES) -> Members:
    """What lies in a zip of torch, without its folder."""
    rest = [*storages, ("byteorder", b"little"), ("version", b"3\n")]
    return [("data.pkl", data), *rest]


def torch_zip(
    node: Node,
    storages: Members = STORAGES,
    *,
    protocol: int = 2,
    folder: str = "archive/",
    extra: Members = (),
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """A file of `torch.save`; `extra` are members beside the usual ones."""
    members = [*torch_members(program(node, protocol), storages), *extra]
    return zip_file([(folder + name, content) for name, content in members], compression)


def torch_legacy(node: Node, *, system: Node = None, keys: Node = None) -> bytes:
    """A file of torch before 1.6: five pickles, then the storages. `system` and `keys` replace two of the pickles."""
    information = system or {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    heads = (_magic(), program(1001), program(information), program(_viewed(node)), program(keys or []))
    return b"".join(heads)


def _viewed(node: Node) -> Node:
    """The node as this format has it: a storage is named with the view of another that it is, here always none."""
    if isinstance(node, Persistent):
        return Persistent((*node.key, None)) if isinstance(node.key, tuple) and len(node.key) == 5 else node
    if isinstance(node, dict):
        return {key: _viewed(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(_viewed(value) for value in node)
    if isinstance(node, Call):
        return Call(node.function, _viewed(node.arguments))
    return node


def _magic() -> bytes:
    number = TORCH_MAGIC.to_bytes(10, "little")
    return b"\x80\x02\x8a" + bytes([len(number)]) + number + b"."


def torch_tar(node: Node, storages: Node = 0) -> bytes:
    """A file of torch before 0.1.10: a tar of three pickles."""
    return tar_file([("storages", program(storages) + program([])), ("tensors", program(0)), ("pickle", program(node))])
