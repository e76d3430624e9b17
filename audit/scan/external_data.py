"""Data that an ONNX model keeps in other files: beside the model, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from audit.scan.examination import Examination
from audit.scan.links import enters_version_control, is_cache_link
from audit.scan.parts import Part
from audit.scan.report import quoted
from audit.scan.zip_structure import is_outside

LONGEST_LOCATION = 2000
"""Letters; of what is longer, not all may have been read."""


def check_location(part: Part, tensor: str, entries: Mapping[str, str], exam: Examination) -> None:
    """Where one tensor's data lies, and that it is there.

    Args:
        part: the model; its folder is known where it is a file of its own.
        tensor: its name, for people.
        entries: `location`, `offset` and `length`, as the model has them.
        exam: what the findings go to.
    """
    location = entries.get("location", "")
    shown = quoted(location, 120)
    if not location:
        exam.danger(part.where, "onnx-external", f"has a tensor, {tensor}, whose data lie in a file without a name")
    elif len(location) > LONGEST_LOCATION:
        exam.danger(part.where, "onnx-external-outside", f"reads a tensor, {tensor}, from a path of too many letters")
    elif is_outside(location):
        exam.danger(
            part.where, "onnx-external-outside", f"reads a tensor, {tensor}, from outside of its folder: {shown}"
        )
    elif enters_version_control(location):
        said = f"reads a tensor, {tensor}, from version control, where nothing is examined: {shown}"
        exam.danger(part.where, "onnx-external-outside", said)
    elif part.folder is None:
        exam.unexamined(part.where, "onnx-external-missing", f"keeps data in {shown}, beside itself in an archive")
    else:
        _check_file(part, part.folder, location, entries, exam)


def _check_file(part: Part, folder: Path, location: str, entries: Mapping[str, str], exam: Examination) -> None:
    shown = quoted(location, 120)
    try:
        path = folder / location
        outside = not path.resolve().is_relative_to(folder.resolve())
        if outside and not is_cache_link(path):
            said = f"reads tensors through a symbolic link that leads out of its folder: {shown}"
            exam.danger(part.where, "onnx-external-outside", said)
            return
        size = path.stat().st_size if path.is_file() else None
    except (OSError, ValueError, RuntimeError):
        size = None
    if size is None:
        exam.unexamined(part.where, "onnx-external-missing", f"keeps data in {shown}, which is not there")
        return
    exam.referred.add(path)
    offset, length = _whole(entries.get("offset", "0")), _whole(entries.get("length", "0"))
    if offset is None or length is None:
        exam.danger(part.where, "onnx-external", f"keeps data in {shown} at a place that is no number")
    elif offset + length > size:
        said = f"keeps data in {shown}, of which {offset + length - size:,} bytes are missing"
        exam.unexamined(part.where, "truncated", said)


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
