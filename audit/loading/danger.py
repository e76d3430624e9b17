"""Refuses files in which the static scan finds what no flag lifts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from audit.errors import UnsafeArtefactError
from audit.scan import Finding, scan_file, scan_paths

MOST_NAMED = 3


def refuse_dangerous(
    path: Path,
    *,
    remedy: str = "Ask whoever made it, or make it again from its source.",
    harmless: Callable[[Finding], bool] = lambda finding: False,
) -> None:
    """Goes on when the static scan of a file or folder finds nothing dangerous; what is merely code is let through.

    Args:
        path: of the file or folder.
        remedy: the end of the message.
        harmless: tells findings that the caller's way of reading makes so.

    Raises:
        UnsafeArtefactError: naming the file, the first findings, and what to do.
    """
    _refuse(path, ("danger",), remedy, harmless)


def refuse_unsafe(path: Path, *, remedy: str = "Ask whoever made it, or make it again from its source.") -> None:
    """The same where nothing of the file may run at all: code is refused too.

    Raises:
        UnsafeArtefactError: as above.
    """
    _refuse(path, ("danger", "code"), remedy)


def _refuse(
    path: Path, severities: tuple[str, ...], remedy: str, harmless: Callable[[Finding], bool] = lambda finding: False
) -> None:
    reports = list(scan_paths([path])) if path.is_dir() else [scan_file(path)]
    found = [
        finding
        for report in reports
        for finding in report.findings
        if finding.severity in severities and not harmless(finding)
    ]
    if not found:
        return
    named = "; ".join(f"{finding.where}: {finding.text}" for finding in found[:MOST_NAMED])
    more = f"; and {len(found) - MOST_NAMED} more (audit scan lists them)" if len(found) > MOST_NAMED else ""
    raise UnsafeArtefactError(
        f"Expected a file that can be loaded without harm, got {path.name}: {named}{more}. "
        f"Nothing of it was loaded. {remedy}"
    )
