"""Weights of a torch.export archive: raw bytes beside a table, or a torch file within the archive."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

from audit.loading.placeholders.elements import ELEMENTS, EXPORTED
from audit.loading.placeholders.records import Blob, Storage, Tensor, tensor

TABLE = "_weights_config.json"
STATE_DICT = "serialized_state_dict"
"""Of torch before 2.9, with `.pt` or `.json` after it; a torch file in either case."""
LARGEST_TABLE = 64 << 20
STRIDED = 7


def exported_weights(archive: zipfile.ZipFile, nested: Callable[[bytes], object]) -> object:
    """The state dict of an archive, or of each of its programs by name.

    Args:
        archive: of `torch.export.save`.
        nested: reads a torch file that lies in another.

    Raises:
        ValueError: when there are no weights in it, or not in a form that is known.
    """
    names = archive.namelist()
    tables = [name for name in names if name.endswith(TABLE)]
    programs = {table.rpartition("/")[2].removesuffix(TABLE): _weights(archive, table, nested) for table in tables}
    if len(programs) == 1:
        return next(iter(programs.values()))
    if programs:
        return programs
    older = next((name for name in names if name.rpartition("/")[2].startswith(STATE_DICT)), None)
    if older is None:
        raise ValueError("no weights in the torch.export archive that are stored in a known form")
    return nested(archive.read(older))


def _weights(archive: zipfile.ZipFile, table: str, nested: Callable[[bytes], object]) -> dict[str, object]:
    if archive.getinfo(table).file_size > LARGEST_TABLE:
        raise ValueError(f"a table of weights of more than {LARGEST_TABLE:,} bytes")
    folder = table.rpartition("/")[0]
    blobs: dict[str, Blob] = {}
    found: dict[str, object] = {}
    for name, entry in json.loads(archive.read(table))["config"].items():
        member = f"{folder}/{entry['path_name']}"
        if entry["use_pickle"]:
            found[name] = nested(archive.read(member))
            continue
        if member not in blobs:
            blobs[member] = Blob(archive.getinfo(member).file_size, partial(archive.read, member))
        found[name] = _tensor(blobs[member], entry["tensor_meta"])
    return found


def _tensor(blob: Blob, meta: Any) -> Tensor:
    if meta["layout"] != STRIDED or meta["dtype"] not in EXPORTED:
        raise ValueError(f"a weight of layout {meta['layout']} and type {meta['dtype']}")
    storage = Storage(blob, ELEMENTS[EXPORTED[meta["dtype"]]])
    shape, stride = ([size["as_int"] for size in meta[name]] for name in ("sizes", "strides"))
    return tensor(storage, meta["storage_offset"]["as_int"], shape, stride)
