"""`audit scan`: what files hold that loading them would act on; nothing of them is run."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audit.cli import console
from audit.errors import UsageError

if TYPE_CHECKING:
    from audit.scan import FileReport

SCHEMA_VERSION = "1.0"
MANY_FILES = 100
"""Without findings; more of them are counted by kind rather than listed."""
LONGEST_PATH = 4096
MEANING = (
    "No finding means that no known indicator was seen in what was looked at. It is not proof that a file does no harm."
)
WAYS_ON = {
    "danger": "no checkpoint needs this and no flag lifts it. Do not load the file: take it from its first source and "
    "compare its sha256, or have the tensors alone saved where it was made.",
    "code": "loading the file as it is meant would run code: audit refuses it unless allowed. Out of weights, `audit "
    "convert FILE --allow-pickle --out weights.safetensors` takes the tensors and runs nothing; --allow-code is for "
    "programs that you trust.",
}
"""What to do, by the worst that a file holds."""


def scan(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Files and folders; links are not followed.")],
    as_json: Annotated[bool, typer.Option("--json", help="Write the result as JSON to stdout.")] = False,
) -> None:
    """Check files for what would run when they are loaded, without loading them.

    Exit codes: 4 a file is refused; 3 none is, but one could not be examined; 0 otherwise.
    """
    from audit.scan import scan_paths

    missing = [str(path) for path in paths if not _is_there(path)]
    if missing:
        raise UsageError(f"Expected files or folders, got nothing at {', '.join(missing)}. Check the path.")
    reports = list(scan_paths(paths))
    if as_json:
        _show_json(reports)
    else:
        _show(reports)
    raise typer.Exit(exit_code(reports))


def exit_code(reports: Sequence["FileReport"]) -> int:
    """4 where a file is refused, else 3 where one could not be examined, else 0."""
    outcomes = {report.outcome for report in reports}
    return 4 if "refused" in outcomes else 3 if "not examined" in outcomes else 0


def document(reports: Sequence["FileReport"]) -> dict[str, Any]:
    """The result as JSON; its schema changes with `SCHEMA_VERSION`."""
    from dataclasses import asdict

    from audit import __version__
    from audit.scan import LIMITS
    from audit.scan.report import printable, summed

    files = [
        {
            "path": printable(str(report.path), LONGEST_PATH),
            "kind": report.kind.name.lower(),
            "kind_text": report.kind.value,
            "size_bytes": report.size,
            "outcome": report.outcome,
            "worst": report.worst,
            "examined": report.examined,
            "looked_at": list(report.looked_at),
            "findings": [asdict(finding) for finding in report.findings],
        }
        for report in reports
    ]
    outcomes = Counter(report.outcome for report in reports)
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "trust-audit", "version": __version__},
        "limits": asdict(LIMITS),
        "files": files,
        "looked_at": list(summed(words for report in reports for words in report.looked_at)),
        "outcomes": {name: outcomes[name] for name in ("refused", "not examined", "no known indicator")},
        "exit_code": exit_code(reports),
        "meaning": MEANING,
    }


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return False
    return True


def _show(reports: Sequence["FileReport"]) -> None:
    """A line for every file, but where very many have no findings: these are counted by kind."""
    silent = [report for report in reports if not report.findings]
    for report in reports:
        if report.findings or len(silent) <= MANY_FILES:
            _show_file(report)
    if len(silent) > MANY_FILES:
        for kind, count in Counter(report.kind.value for report in silent).most_common():
            console.show(f"no known indicator  {count:,} files, each {kind}")
    _show_end(reports)


def _show_file(report: "FileReport") -> None:
    """One line a file, and one a finding below it, the worst first."""
    from audit.scan.report import printable

    shown = printable(str(report.path), LONGEST_PATH)
    console.show(f"{report.outcome:<18}  {shown}  ({report.kind.value}, {_bytes(report.size)})")
    for finding in report.findings:
        console.show(f"    {finding.severity:<6}  {finding.where}: {finding.text}  [{finding.code}]")


def _show_end(reports: Sequence["FileReport"]) -> None:
    """What was looked at, and what that means."""
    from audit.scan.report import summed

    outcomes = Counter(report.outcome for report in reports)
    looked = ", ".join(summed(words for report in reports for words in report.looked_at))
    console.show()
    said = ", ".join(f"{count:,} {name}" for name, count in outcomes.items())
    console.show(f"{len(reports):,} file{'s' if len(reports) != 1 else ''}: {said or 'nothing to look at'}")
    console.show(f"Looked at: {looked or 'nothing'}.")
    found = {report.worst for report in reports}
    for severity, way_on in WAYS_ON.items():
        if severity in found:
            console.show(f"{severity}: {way_on}")
    console.show(MEANING)


def _show_json(reports: Sequence["FileReport"]) -> None:
    import json

    console.show(json.dumps(document(reports), indent=1, sort_keys=True))


def _bytes(size: int) -> str:
    if size < 10_000:
        return f"{size:,} bytes"
    power = min(4, len(f"{size}") // 3 - (len(f"{size}") % 3 == 0))
    return f"{size / 1000**power:,.1f} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"
