"""Symbolic links in a folder: where they lead, and whether that is still within it."""

from __future__ import annotations

import re
from pathlib import Path

from audit.scan.examination import Examination
from audit.scan.report import printable

VERSION_CONTROL = ".git"
"""A folder that is left out of a scan, whatever is in it."""
_CACHE_LINK = re.compile(r"(\.\./)+blobs/[0-9a-f]{40}([0-9a-f]{24})?")
"""How a Hugging Face cache keeps its snapshots: every file is a link to a blob, named by its digest."""


def check_link(path: Path, root: Path, where: str, exam: Examination) -> bool:
    """Whether what a link leads to is to be examined in its place: the blobs of a Hugging Face cache alone.

    What lies elsewhere in the folder is examined where it lies; what lies outside is not read.
    """
    try:
        target = str(path.readlink())
        resolved = path.resolve()
    except (OSError, RuntimeError) as problem:
        exam.unexamined(where, "symlink", f"is a symbolic link that leads nowhere ({problem})")
        return False
    if is_cache_link(path):
        return True
    shown = printable(target)
    if not resolved.is_relative_to(root.resolve()):
        exam.danger(where, "symlink-outside", f"is a symbolic link out of the folder, to {shown}")
    elif not resolved.exists() or VERSION_CONTROL in resolved.parts:
        exam.unexamined(where, "symlink", f"is a symbolic link to {shown}, where nothing is examined")
    elif resolved.is_dir():
        exam.note(where, "symlink", f"is a symbolic link to the folder {shown}, which is examined where it lies")
    else:
        exam.note(where, "symlink", f"is a symbolic link to {shown}, which is examined where it lies")
    return False


def enters_version_control(name: str) -> bool:
    """Whether the path of a file leads into what is left out of a scan, on systems that ignore case, too."""
    return any(step.rstrip(". ").lower() == VERSION_CONTROL for step in re.split(r"[/\\]", name))


def is_cache_link(path: Path) -> bool:
    """Whether a path is a link as a Hugging Face cache has them, to a blob that is there."""
    return path.is_symlink() and _CACHE_LINK.fullmatch(str(path.readlink())) is not None and path.is_file()
