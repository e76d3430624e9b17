"""The files of a run folder as the commands read and write them; needs no torch."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from audit.errors import UsageError
from audit.schema import SCHEMA_VERSION, Cost, Frozen, GateResult, Policy, Report, RunRecord, dump_json
from audit.toolkit.writing import write_whole

RESULTS, COSTS, AUDIT, HTML = "results.json", "costs.json", "audit.json", "report.html"


def read_report(run_dir: Path) -> Report:
    """Facts, costs and the last judgement of a run folder.

    Raises:
        UsageError: when there is no finished run, or its record is damaged or of another major version.
    """
    results = run_dir / RESULTS
    if not results.is_file():
        raise UsageError(f"Expected a run folder with {RESULTS}, got {run_dir}. {_way_on(run_dir)}")
    record = _parse(results)
    times = _read_times(run_dir / COSTS)
    judged = _last_judgement(run_dir / AUDIT, record)
    return Report(
        record=record,
        policy=judged.policy if judged else None,
        gate=judged.gate if judged else None,
        costs=times.costs,
        started=times.started,
        finished=times.finished,
    )


def write_report(report: Report, run_dir: Path, formats: tuple[str, ...] = ("json", "html")) -> list[Path]:
    """Writes the asked formats beside the facts and returns their paths."""
    written = []
    if "json" in formats:
        written.append(_write(run_dir / AUDIT, dump_json(report.model_dump(mode="json"))))
    if "html" in formats:
        from reports.html import render_html

        written.append(_write(run_dir / HTML, render_html(report, run_dir)))
    return written


def judged(report: Report, policy: Policy, gate: GateResult) -> Report:
    """The report under another judgement."""
    return report.model_copy(update={"policy": policy, "gate": gate})


def _way_on(run_dir: Path) -> str:
    """What to do about a folder without results."""
    if (run_dir / "plan.json").exists():
        return "Its run has not ended: run the same `audit run` command again, which resumes it."
    if run_dir.is_dir():
        inside = sorted(path.parent.name for path in run_dir.glob(f"*/{RESULTS}"))[:3]
        return f"Name one of the runs in it: {', '.join(inside)}." if inside else "Name what `audit run` wrote."
    return "There is nothing at that path; name what `audit run` wrote."


def _parse(path: Path) -> RunRecord:
    content = path.read_bytes()
    try:
        value = json.loads(content)
        version = str(value["schema_version"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(f"Expected a run record in {path}, got damaged JSON. Run the audit again.") from error
    if version.split(".", maxsplit=1)[0] != SCHEMA_VERSION.split(".")[0]:
        raise UsageError(
            f"Expected a run record of version {SCHEMA_VERSION} in {path}, got {version}. "
            "Use the version of trust-audit that wrote it."
        )
    try:
        return RunRecord.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"Expected a valid run record in {path}, got {place}: {first['msg']}.") from error


class _Times(Frozen):
    """`costs.json`."""

    started: str | None = None
    finished: str | None = None
    costs: dict[str, Cost] = {}


def _read_times(path: Path) -> _Times:
    """Times are no facts: where they are absent or damaged the report goes without."""
    try:
        return _Times.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return _Times()


def _last_judgement(path: Path, record: RunRecord) -> Report | None:
    """The report written last, where it judges these very facts."""
    try:
        report = Report.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return report if report.record == record else None


def _write(path: Path, text: str) -> Path:
    write_whole(path, text.encode())
    return path
