"""The executive summary, derived from verdicts and results alone."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from audit.schema import Outcome, ProbeResult, Report, Status, Verdict
from reports.numbers import count_text
from reports.text import capital, metric_name, sentence, setting_text, words
from reports.view_measures import Registry, headlines
from reports.view_scorecard import threshold_text, verdict_value

_MOST = 3
_MOST_STEPS = 4
_UNDECIDED = "What could not be told"
_UNTOLD = (Outcome.INCONCLUSIVE, Outcome.NOT_RUN, Outcome.ERROR)


@dataclass(frozen=True)
class Block:
    """A short list under a heading; `more` says how many were left out, `none` what stands for an empty list."""

    heading: str
    style: str
    mark: str
    items: tuple[str, ...]
    more: str
    none: str


def summary_blocks(report: Report, registry: Registry) -> tuple[Block, ...]:
    """What holds, what does not, what could not be told, and what to do next."""
    if report.gate is None:
        return _ungated(report, registry)
    verdicts = sorted(report.gate.verdicts, key=lambda verdict: verdict.level != "error")
    lists = {outcome: [_line(v, registry) for v in verdicts if v.outcome is outcome] for outcome in Outcome}
    undecided = _undecided(report)
    untold = undecided + [line for outcome in _UNTOLD for line in lists[outcome]] + _unjudged_gaps(report)
    steps = _steps(verdicts, report, registry)
    return (
        _block("What holds", "pass", "✓", lists[Outcome.PASS], "No rule passed."),
        _block("What does not hold", "fail", "✗", lists[Outcome.FAIL], "No rule failed."),
        _block(_UNDECIDED, "inconclusive", "?", untold, "Every rule was decided.", _MOST + len(undecided)),
        *_said(report),
        _block("What to do next", "next", "→", steps, "Read the limitations, then sign or send back.", _MOST_STEPS),
    )


def _ungated(report: Report, registry: Registry) -> tuple[Block, ...]:
    numbers: list[str] = []
    for result in report.record.results:
        believed = all(control.passed for control in result.controls)
        for number in headlines(result, registry, ())[:1] if believed else ():
            setting = f" ({number.setting})" if number.setting else ""
            spread = f", {number.how} {number.interval}" if number.interval else ""
            numbers.append(f"{metric_name(number.metric)}{setting}: {number.value}{spread}, n = {number.n}.")
    held = any(result.measurements for result in report.record.results)
    none = "Nothing that can be relied on." if held else "Nothing was measured."
    steps = [
        *_control_steps(report),
        "Write down what a release must satisfy as a policy, and judge these facts by it.",
    ]
    undecided = _undecided(report)
    untold = undecided + _gaps(report.record.results)
    return (
        _block("What was measured", "next", "•", numbers, none),
        _block(_UNDECIDED, "inconclusive", "?", untold, "Every probe that ran told.", _MOST + len(undecided)),
        *_said(report),
        _block("What to do next", "next", "→", steps, "", _MOST_STEPS),
    )


def _said(report: Report) -> tuple[Block, ...]:
    """What probes conclude, and what they warn of; no block where there is nothing."""
    notes = [(result.probe, found) for result in report.record.results for found in result.diagnostics]
    concluded = [
        f"{capital(probe)}: {found.text}" for probe, found in notes if found.conclusion and not found.undecided
    ]
    warnings = [
        f"{capital(probe)}: {found.text}"
        for probe, found in notes
        if found.severity == "warning" and not found.conclusion
    ]
    blocks = (
        _block("What probes conclude", "next", "•", concluded, ""),
        _block("What to be wary of", "inconclusive", "!", warnings, ""),
    )
    return tuple(block for block in blocks if block.items)


def _block(heading: str, style: str, mark: str, items: list[str], none: str, most: int = _MOST) -> Block:
    rest = len(items) - most
    more = f"and {count_text(rest)} more below" if rest > 0 else ""
    return Block(heading, style, mark, tuple(items[:most]), more, none)


def subject_of(verdict: Verdict) -> str:
    """`Evasion, robust accuracy (eps = 8/255)`."""
    setting = setting_text(verdict.where)
    return metric_name(verdict.metric) + (f" ({setting})" if setting else "")


def _line(verdict: Verdict, registry: Registry) -> str:
    style = registry.style(verdict.metric)
    value = verdict_value(verdict, style)
    waived = f" Waived: {sentence(verdict.waived)}" if verdict.waived else ""
    if verdict.outcome in (Outcome.PASS, Outcome.FAIL) and value:
        return f"{subject_of(verdict)}: {value}; {threshold_text(verdict, style)} is required.{waived}"
    return f"{subject_of(verdict)}: {sentence(verdict.reason)}{waived}"


def _undecided(report: Report) -> list[str]:
    """What detectors measured and could come to nothing about, with their reasons."""
    return [
        f"{capital(result.probe)}: {found.text}"
        for result in report.record.results
        for found in result.diagnostics
        if found.conclusion and found.undecided
    ]


def _gaps(results: Iterable[ProbeResult]) -> list[str]:
    return [f"{capital(r.probe)}: {r.reason.text}" for r in results if r.status is not Status.MEASURED and r.reason]


def _unjudged_gaps(report: Report) -> list[str]:
    """Probes without a full result that no rule speaks of."""
    judged = {verdict.metric.split(".")[0] for verdict in report.gate.verdicts} if report.gate else set()
    return _gaps(result for result in report.record.results if result.probe not in judged)


def _control_steps(report: Report) -> list[str]:
    failed = [r.probe for r in report.record.results if any(not control.passed for control in r.controls)]
    return [f"Do not rely on {probe}: a control of it failed. Repair the set-up and run it again." for probe in failed]


def _steps(verdicts: list[Verdict], report: Report, registry: Registry) -> list[str]:
    order = (Outcome.FAIL, Outcome.ERROR, Outcome.INCONCLUSIVE, Outcome.NOT_RUN)
    ranked = sorted((v for v in verdicts if v.outcome in order), key=lambda v: order.index(v.outcome))
    return _control_steps(report) + [_NEXT[verdict.outcome](verdict, registry) for verdict in ranked]


def _after_fail(verdict: Verdict, registry: Registry) -> str:
    if verdict.waived:
        return f"Rule {verdict.rule}: close the waived gap before the waiver ends."
    goal = threshold_text(verdict, registry.style(verdict.metric))
    return f"Rule {verdict.rule}: bring {words(verdict.metric)} to {goal}, or have a waiver approved."


def _after_inconclusive(verdict: Verdict, _: Registry) -> str:
    if verdict.samples_needed:
        return f"Rule {verdict.rule}: audit about {count_text(verdict.samples_needed)} further images to settle it."
    return f"Rule {verdict.rule}: remove what left it open. {verdict.reason}"


def _after_not_run(verdict: Verdict, _: Registry) -> str:
    return f"Rule {verdict.rule}: have {verdict.metric} measured. {verdict.reason}"


def _after_error(verdict: Verdict, _: Registry) -> str:
    return f"Rule {verdict.rule}: find out why it could not be judged. {verdict.reason}"


_NEXT: dict[Outcome, Callable[[Verdict, Registry], str]] = {
    Outcome.FAIL: _after_fail,
    Outcome.INCONCLUSIVE: _after_inconclusive,
    Outcome.NOT_RUN: _after_not_run,
    Outcome.ERROR: _after_error,
}
