"""Scans files and folders: a report a file, whatever the file holds."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from audit.scan.checks import examine
from audit.scan.examination import Examination
from audit.scan.kinds import Kind
from audit.scan.limits import LIMITS, Limits
from audit.scan.links import VERSION_CONTROL, check_link
from audit.scan.parts import part_of
from audit.scan.report import FileReport, printable, summed
from audit.scan.sniffing import kind_of, kind_of_part


def scan_file(path: Path, limits: Limits = LIMITS, *, read_as: Kind | None = None) -> FileReport:
    """What a file holds that loading it would act on. Nothing of it is run, imported or unpickled.

    A folder's report holds the findings of all files in it.

    Args:
        path: of a file or folder.
        limits: how far to go.
        read_as: the kind as which it will be read, whatever it looks like; it is examined as that, too.

    Raises:
        OSError: when nothing is at the path.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        return _of_folder(path, limits)
    exam = Examination(limits, examine)
    if path.is_symlink():
        said = f"is a symbolic link to {printable(str(path.readlink()))}; what lies there was examined"
        exam.note(_name(path), "symlink", said)
    return _examined(path, _name(path), exam, read_as=read_as)


def scan_paths(paths: Iterable[Path], limits: Limits = LIMITS) -> Iterator[FileReport]:
    """A report for every file, and for every file in every folder, in the order of names; links are not followed.

    Raises:
        OSError: when nothing is at one of the paths.
    """
    for path in paths:
        if path.is_dir():
            yield from _walk(path, limits)
        else:
            yield scan_file(path, limits)


def _walk(root: Path, limits: Limits) -> Iterator[FileReport]:
    """Files below a folder, each folder's in the order of names, and links wherever they lead."""
    count = 0
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            below = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as problem:
            yield _left_out(folder, root, f"is a folder that cannot be listed: {problem.strerror}", limits)
            continue
        folders = [Path(entry.path) for entry in below if entry.is_dir(follow_symlinks=False)]
        files = [Path(entry.path) for entry in below if not entry.is_dir(follow_symlinks=False)]
        count += len(files)
        if count > limits.files:
            yield _left_out(root, root, f"holds more than {limits.files:,} files, the most that are examined", limits)
            return
        yield from _of_files(files, root, limits)
        if folder / VERSION_CONTROL in folders:
            folders.remove(folder / VERSION_CONTROL)
            yield _left_out(folder / VERSION_CONTROL, root, "", limits)
        waiting += reversed(folders)


def _of_files(files: Sequence[Path], root: Path, limits: Limits) -> Iterator[FileReport]:
    """The files of one folder. ONNX models are read first: they say which others hold their numbers."""
    referred: set[Path] = set()
    done: dict[Path, FileReport] = {}
    for path in (path for path in files if path.suffix == ".onnx"):
        done[path], exam = _of_entry(path, root, limits)
        referred |= exam.referred
    for path in files:
        yield done.get(path) or _of_entry(path, root, limits, referred=path in referred)[0]


def _of_entry(path: Path, root: Path, limits: Limits, *, referred: bool = False) -> tuple[FileReport, Examination]:
    """A file in a folder; its name in findings is its path below the folder."""
    where = printable(path.relative_to(root).as_posix())
    exam = Examination(limits, examine)
    if path.is_symlink() and not check_link(path, root, where, exam):
        return FileReport(path, Kind.SPECIAL, 0, exam.looked_at(), exam.findings(), exam.complete), exam
    return _examined(path, where, exam, referred=referred), exam


def _examined(
    path: Path, where: str, exam: Examination, *, referred: bool = False, read_as: Kind | None = None
) -> FileReport:
    kind, size = Kind.UNKNOWN, 0
    try:
        kind = Kind.SPECIAL if not path.is_file() else kind
        size = path.stat().st_size
        if kind is Kind.SPECIAL:
            exam.unexamined(where, "special-file", "is a device, pipe or socket: nothing is read from it")
        else:
            with path.open("rb") as stream:
                part = part_of(path, stream, where, referred=referred)
                kind = kind_of_part(part)
                examine(exam, part, kind)
                if read_as not in (None, kind):
                    examine(exam, part, read_as)
    except OSError as problem:
        exam.unexamined(where, "unreadable", f"cannot be read: {problem.strerror or problem}")
    return FileReport(path, kind, size, exam.looked_at(), exam.findings(), exam.complete)


def _of_folder(path: Path, limits: Limits) -> FileReport:
    reports = list(_walk(path, limits))
    total = Examination(limits, examine)
    for report in reports:
        total.complete = total.complete and report.examined
        total.add(report.findings)
    size = sum(report.size for report in reports)
    looked = summed(words for report in reports for words in report.looked_at)
    return FileReport(path, kind_of(path), size, looked, total.findings(), total.complete)


def _left_out(path: Path, root: Path, why: str, limits: Limits) -> FileReport:
    """A folder that is not examined; version control is told, and is no reason to doubt the rest."""
    exam = Examination(limits, examine)
    where = printable(path.relative_to(root).as_posix()) if path != root else _name(root)
    if why:
        exam.unexamined(where, "folder-not-examined", why)
    else:
        exam.note(where, "version-control", "is version control, which no loader reads: it was left out")
    return FileReport(path, Kind.FOLDER, 0, (), exam.findings(), exam.complete)


def _name(path: Path) -> str:
    return printable(path.name or str(path))
