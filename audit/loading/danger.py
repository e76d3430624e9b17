"""Refuses files in which the static scan finds what no flag lifts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from audit.errors import UnsafeArtefactError
from audit.loading.sources import shown
from audit.scan import Finding, Kind, scan_file, scan_paths
from audit.scan.report import printable

MOST_NAMED = 3
OF_CODE = (
    "A flag lifts this, once you decide: with --weights, --allow-pickle reads the tensors of a pickle and runs nothing "
    "of it; --allow-code runs what is a program. The safe way: have the tensors alone saved where it was made."
)
REMEDY = (
    "No flag lifts this, since no checkpoint needs it. Two safe ways on: have the tensors alone saved where it was "
    "made (safetensors.torch.save_file); or take the file from its first source and compare its sha256."
)


def refuse_dangerous(
    path: Path,
    *,
    remedy: str = REMEDY,
    harmless: Callable[[Finding], bool] = lambda finding: False,
    read_as: Kind | None = None,
) -> None:
    """Goes on when the static scan of a file or folder finds nothing dangerous; what is merely code is let through.

    Args:
        path: of the file or folder.
        remedy: the end of the message.
        harmless: tells findings that the caller's way of reading makes so.
        read_as: the kind as which a file will be read, whatever it looks like.

    Raises:
        UnsafeArtefactError: naming the file, the first findings, and what to do.
    """
    _refuse(path, ("danger",), remedy, harmless, read_as)


def refuse_unsafe(path: Path, *, of_code: str = "") -> None:
    """The same where nothing of the file may run at all: code is refused too.

    Args:
        path: of the file or folder.
        of_code: the end of the message where nothing dangerous was found, only code.

    Raises:
        UnsafeArtefactError: as above.
    """
    _refuse(path, ("danger", "code"), REMEDY, of_code=of_code or OF_CODE)


def _refuse(
    path: Path,
    severities: tuple[str, ...],
    remedy: str,
    harmless: Callable[[Finding], bool] = lambda finding: False,
    read_as: Kind | None = None,
    of_code: str = "",
) -> None:
    reports = list(scan_paths([path])) if path.is_dir() else [scan_file(path, read_as=read_as)]
    found = [
        finding
        for report in reports
        for finding in report.findings
        if finding.severity in severities and not harmless(finding)
    ]
    if not found:
        return
    if all(finding.severity == "code" for finding in found):
        remedy = of_code
    named = "; ".join(f"{_place(finding, path)}{finding.text}" for finding in found[:MOST_NAMED])
    more = f"; and {len(found) - MOST_NAMED} more (audit scan lists them)" if len(found) > MOST_NAMED else ""
    raise UnsafeArtefactError(
        f"Expected a file that can be loaded without harm, got {shown(path.name)}: {named}{more}. "
        f"Nothing of it was loaded. {remedy}"
    )


def _place(finding: Finding, path: Path) -> str:
    """Where it lies within the file, which the message has named already."""
    member = finding.where.removeprefix(printable(path.name)).removeprefix("!")
    return f"{member}: " if member else ""
