"""Judging stored facts and saying the verdict; needs no torch."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from audit.cli import console

if TYPE_CHECKING:
    from audit.schema import GateResult, Measurement, MetricSpec, Policy, Report

SYMBOLS = {"PASS": "✓", "FAIL": "✗", "INCONCLUSIVE": "?", "NOT-RUN": "–", "ERROR": "!"}  # noqa: RUF001
MOST_SETTINGS = 9
"""A metric stated at more settings, such as every class, is left to the report."""


def read_policy(path: Path | None) -> tuple[Policy, str] | None:
    """The policy and its digest, refused at once when it names a metric that no probe states."""
    if path is None:
        return None
    from audit.catalog import all_probes
    from audit.gate import check_policy, load_policy

    policy, digest = load_policy(path)
    check_policy(policy, [probe.card for probe in all_probes().values()])
    return policy, digest


def conclude(run_dir: Path, policy: tuple[Policy, str] | None, formats: tuple[str, ...] = ("json", "html")) -> int:
    """Judges what a run folder holds, writes the report and says the verdict on the last line.

    Args:
        run_dir: a folder with `results.json`.
        policy: what to judge by, with its digest; None leaves the facts unjudged.
        formats: `json`, `html`.

    Returns:
        the exit code.
    """
    from audit.cli.files import judged, read_report, write_report
    from audit.gate import judge

    report = read_report(run_dir)
    report = report.model_copy(update={"policy": None, "gate": None})
    gate = None
    if policy is not None:
        gate = judge(*policy, report.record, datetime.now(UTC).date())
        report = judged(report, policy[0], gate)
    written = write_report(report, run_dir, formats)
    console.show(summary(report) + "\n")
    sentence, code = unjudged(report) if gate is None else (gate.sentence, gate.exit_code)
    console.show(f"{sentence} Report: {written[-1]}")
    return code


def unjudged(report: Report) -> tuple[str, int]:
    """What is said of a run without a policy, and the exit code."""
    states = {result.probe: result.status.value for result in report.record.results}
    failed = [name for name, status in states.items() if status == "failed"]
    if failed:
        return f"ERROR: {', '.join(failed)} failed; see above.", 2
    if not states or "measured" in states.values():
        return "NOT JUDGED: no policy was given.", 0
    said = f"why stands above for {', '.join(states)}."
    if set(states.values()) == {"skipped"}:
        return f"NOT RUN: nothing was measured; {said}", 3
    return f"INCONCLUSIVE: nothing was measured that can be relied on; {said}", 3


def summary(report: Report) -> str:
    """The facts, and the verdicts where there are some, as plain text."""
    known = {metric.id: metric for card in report.record.cards for metric in card.metrics}
    lines: list[str] = []
    for result in report.record.results:
        lines.append(f"{result.probe} - {result.status.value}")
        if result.reason is not None:
            lines.append(f"  {result.reason.text}")
        settings = Counter(found.metric for found in result.measurements)
        shown = [found for found in result.measurements if settings[found.metric] <= MOST_SETTINGS]
        failed = [control.name for control in result.controls if not control.passed]
        if failed and result.measurements:
            lines.append(f"  Not to be relied on, as checks of the probe itself failed ({', '.join(failed)}):")
        lines += [f"  {_fact(found, known.get(found.metric))}" for found in shown]
        hidden = len(result.measurements) - len(shown)
        lines += [f"  ... and {hidden} more in the report"] if hidden else []
        lines += [
            f"  warning: {found.text}" if found.severity == "warning" else f"  {found.text}"
            for found in result.diagnostics
            if found.severity == "warning" or found.conclusion
        ]
    if report.gate is not None:
        lines += ["", *_verdicts(report.gate)]
    return "\n".join(lines)


def _fact(found: Measurement, spec: MetricSpec | None) -> str:
    """`evasion.robust_accuracy [eps=8/255, norm=linf]  ≤ 0 %  (n = 512, 95 % interval 0 to 0.8 %)`."""
    from audit.schema import where_text
    from reports.numbers import count_text, interval_text, style_of, value_text

    style = style_of(spec, found.metric)
    setting = f" [{where_text(found.where)}]" if found.where else ""
    interval = ""
    if found.interval is not None:
        span = interval_text(found.value, found.interval, style)
        interval = f", {found.interval.level:.0%} interval {span}"
    value = value_text(found.value, found.interval, style, found.claim)
    return f"{found.metric + setting:<58} {value:>12}  (n = {count_text(found.n)}{interval})"


def _verdicts(gate: GateResult) -> list[str]:
    lines = []
    for verdict in gate.verdicts:
        word = f"{SYMBOLS[verdict.outcome.value]} {verdict.outcome.value:<12}"
        level = "" if verdict.level == "error" else " [warn]"
        waived = f" (waived: {verdict.waived})" if verdict.waived else ""
        lines.append(f"{word} {verdict.rule}{level}: {verdict.reason}{waived}")
    return [*lines, *(f"notice: {notice}" for notice in gate.notices)]
