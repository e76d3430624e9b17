"""ONNX files (onnx 1.17 or newer; 1.23 read and run), parsed and checked; nothing in them is run here.

What is walled off, how it was seen, and the test in tests/audit/adapters/test_onnx.py that pins it:

- `onnx.load` follows external data by itself. Here the bytes are parsed first, every location is resolved and must lie
  in the model's own folder and be no link, and only then is it read, once, into memory: what is checked is what runs.
  `test_external_data_is_read`, `test_external_data_outside_the_folder_is_refused`.
- A truncated protobuf may parse into an empty model (run). `test_damaged_files`.
- A graph of the future fails deep inside an engine. Versions are compared here. `test_versions_of_the_future`.
- Domains of custom operators would need a library of machine code: they are named, and never loaded.
  `test_custom_operators_are_named`.
- Protobuf stops at 2 GiB, some of its functions by crashing. Larger models are refused by their size on disk, where
  external data counts for each tensor that takes it: many may take the same bytes of a small file (run: 11 GB, and a
  crash). `test_large_models_are_refused_by_their_size`, and `test_external_data_counts_for_each_tensor` in
  test_onnx_limits.py.
- Functions that call functions, and sparse tensors, grow as they are opened. What they become is worked out first, by
  `onnx_limits`. `test_functions_that_multiply`, `test_sparse_tensors_are_counted_filled_in` in test_onnx_limits.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from graphlib import CycleError
from pathlib import Path
from typing import Any

from audit.adapters.onnx import STANDARD_DOMAINS, OnnxModel, first_line, messages, onnx_package, shown
from audit.adapters.onnx_limits import dense_bytes, inlined_extent
from audit.errors import SubjectError, UnsafeArtefactError

MOST_BYTES = 2**31 - 2**20
"""Model and external data together; protobuf's own limit, with room for what is added."""
MOST_NODES, DEEPEST = 100_000, 100
"""Operators once functions are written out, and functions within functions. Large classifiers have ten thousand
operators; onnxruntime opens a hundred thousand in half a minute (run), and takes no function deeper than that."""
OLDEST_IR = 3
BUILT_IN_DOMAINS = STANDARD_DOMAINS | {"ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"}
"""Operators that onnxruntime brings with it."""


def read_model(path: Path) -> OnnxModel:
    """Parses a file and its external data, and checks both; `objection` says whether the graph follows the standard.

    Args:
        path: of a file that is there, and that the static scan let through.

    Raises:
        PrerequisiteError: when onnx is not installed.
        SubjectError: for a file that is too large, damaged, from the future, or needs custom operators.
        UnsafeArtefactError: for external data outside the model's folder, and for a graph that grows beyond measure as
            it is opened.
    """
    package = onnx_package()
    _check_size(path, path.stat().st_size)
    try:
        proto = package.load_model_from_string(path.read_bytes())
    except Exception as error:  # protobuf's own errors; their class depends on its implementation
        raise _damaged(path, first_line(error)) from None
    if not proto.graph.output:
        raise _damaged(path, "it holds no graph with an output")
    _check_versions(path, proto)
    _check_operators(path, proto)
    external = _read_external(path, proto)
    _check_growth(path, proto)
    return OnnxModel(proto, external)


def objection(model: OnnxModel) -> str:
    """What the checker of onnx objects to, or nothing; runtimes take many graphs that break a rule of the standard."""
    try:
        onnx_package().checker.check_model(model.proto)
    except Exception as error:
        return first_line(error)
    return ""


def _damaged(path: Path, why: str) -> SubjectError:
    return SubjectError(
        f"Expected a whole ONNX model, got {path.name}, which cannot be read: {why}. Export or download it again."
    )


def _check_size(path: Path, size: int) -> None:
    if size > MOST_BYTES:
        raise SubjectError(
            f"Expected an ONNX model below 2 GiB with its external data, got {path.name} with {size / 2**30:.1f} GiB. "
            "Take the network from its source instead (timm:, hf:, py:)."
        )


def _check_versions(path: Path, proto: Any) -> None:
    """Versions that the installed onnx knows."""
    package = onnx_package()
    known = f"onnx {package.__version__} knows up to"
    remedy = "Export it again for an older opset, or update the packages onnx and onnxruntime."
    if not OLDEST_IR <= proto.ir_version <= package.IR_VERSION:
        raise SubjectError(
            f"Expected an ONNX file of format (IR) version {OLDEST_IR} to {package.IR_VERSION}, which is what {known}, "
            f"got {proto.ir_version} in {path.name}. {remedy}"
        )
    newest = package.defs.onnx_opset_version()
    found = max((o.version for o in proto.opset_import if o.domain in STANDARD_DOMAINS), default=1)
    if found > newest:
        raise SubjectError(f"Expected opset 1 to {newest}, which {known}, got {found} in {path.name}. {remedy}")


def _check_operators(path: Path, proto: Any) -> None:
    own = {(function.domain, function.name) for function in proto.functions}
    foreign = {
        f"{shown(node.op_type)} of {shown(node.domain)}"
        for node in messages(proto, "NodeProto")
        if node.domain not in BUILT_IN_DOMAINS and (node.domain, node.op_type) not in own
    }
    if foreign:
        raise SubjectError(
            f"Expected operators of ONNX or onnxruntime in {path.name}, got custom ones: {', '.join(sorted(foreign))}. "
            "A library with them would be code, and is never loaded. Export the network with standard operators."
        )


def _check_growth(path: Path, proto: Any) -> None:
    """What the model becomes as it is opened, before anything opens it."""
    try:
        extent = inlined_extent(proto)
    except CycleError:
        raise SubjectError(
            f"Expected functions in {path.name} that do not call themselves, got one that does. Export it again."
        ) from None
    if extent.nodes > MOST_NODES or extent.depth > DEEPEST:
        raise UnsafeArtefactError(
            f"Expected at most {MOST_NODES:,} operators in {path.name} once its functions are written out, {DEEPEST} "
            "deep, got more. Opening it would take hours and all memory. Ask whoever made it, or export it again "
            "without functions."
        )
    if extent.copied + dense_bytes(proto) > MOST_BYTES:
        raise UnsafeArtefactError(
            f"Expected {path.name} to stay below 2 GiB once its functions are written out and its sparse tensors "
            "filled in, got more. Ask whoever made it, or export it again without them."
        )


def _read_external(path: Path, proto: Any) -> tuple[Path, ...]:
    """Reads the tensors that lie in other files of the folder into the model."""
    package = onnx_package()
    uses_external_data = package.external_data_helper.uses_external_data
    outside = [tensor for tensor in messages(proto, "TensorProto") if uses_external_data(tensor)]
    places = {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"}
    files = {place: _inside(path, place) for place in sorted(places)}
    _check_size(path, path.stat().st_size + sum(_taken(path, tensor, files) for tensor in outside))
    try:
        for tensor in outside:
            package.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
            del tensor.external_data[:]
            tensor.data_location = package.TensorProto.DEFAULT
    except Exception as error:
        raise _damaged(path, f"its external data: {first_line(error)}") from None
    return tuple(files.values())


def _taken(path: Path, tensor: Any, files: Mapping[str, Path]) -> int:
    """Bytes that a tensor takes from its file; other tensors may take the same ones."""
    try:
        data = onnx_package().external_data_helper.ExternalDataInfo(tensor)
    except ValueError as error:  # a length or an offset that is no number of bytes
        raise _damaged(path, f"its external data: {first_line(error)}") from None
    size = files[data.location].stat().st_size if data.location in files else 0
    rest = max(size - (data.offset or 0), 0)
    return rest if data.length is None else min(data.length, rest)


def _inside(path: Path, place: str) -> Path:
    """The file of external data, which lies in the model's folder and is neither a link nor behind one."""
    folder = path.parent.resolve()
    file = folder / place
    try:
        inside = Path(os.path.realpath(file)) == file and file.is_relative_to(folder) and not Path(place).is_absolute()
        there = inside and file.is_file()
    except (OSError, ValueError):  # a name too long for the system, or with a zero byte
        raise SubjectError(
            f"Expected the external data of {path.name} under a name that a file can have, got {shown(place)!r}. "
            "Export it again with its data beside it."
        ) from None
    if not inside:
        raise UnsafeArtefactError(
            f"Expected the external data of {path.name} in its own folder and no link, got {shown(place)!r}. Nothing "
            "of it was read. Ask whoever made it, or export it again with its data beside it."
        )
    if not there:
        raise SubjectError(
            f"Expected the external data {shown(place)!r} beside {path.name}, got none. Put the file there."
        )
    return file
