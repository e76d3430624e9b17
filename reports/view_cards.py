"""Model card, data cards and provenance as texts."""

import shlex
from dataclasses import dataclass

from audit.schema import DataInfo, Diagnostic, FileDigest, GateResult, Policy, Report, RunRecord
from reports.numbers import count_text
from reports.view_probe import settings_rows

Rows = tuple[tuple[str, str], ...]
_MOST_CLASSES = 24
_MOST_EVIDENCE = 200


@dataclass(frozen=True)
class ModelCard:
    """The classifier as it was audited."""

    rows: Rows
    preprocessing: Rows
    files: tuple[FileDigest, ...]
    checks: tuple[Diagnostic, ...]
    classes: tuple[str, ...]
    classes_note: str


@dataclass(frozen=True)
class DataCard:
    """A data split as it was used."""

    role: str
    rows: Rows
    classes: tuple[tuple[str, str], ...]
    classes_note: str


@dataclass(frozen=True)
class Provenance:
    """What it takes to make the run again, and to check its files."""

    command: str
    run: Rows
    policy: Rows
    arguments: Rows
    packages: Rows
    evidence: tuple[tuple[str, str, str, str], ...]
    evidence_note: str


def model_card(record: RunRecord) -> ModelCard:
    """Facts of the subject; at most 24 class names."""
    subject = record.subject
    channels, height, width = subject.input_shape
    rows = (
        ("Name", subject.name),
        ("Specification", subject.spec),
        ("Digest", subject.digest),
        ("Parameters", count_text(subject.parameters)),
        ("Input", f"{channels} × {height} × {width} (channels, height, width), pixels in [0, 1]"),  # noqa: RUF001
        ("Classes", count_text(subject.num_classes)),
        ("Raw output", subject.output),
        ("Access used", ", ".join(subject.access)),
    )
    names = subject.class_names
    note = f"The first {_MOST_CLASSES} of {count_text(len(names))}." if len(names) > _MOST_CLASSES else ""
    return ModelCard(
        rows, settings_rows(subject.preprocessing), subject.files, subject.checks, names[:_MOST_CLASSES], note
    )


def data_cards(record: RunRecord) -> tuple[DataCard, ...]:
    """One card a split; class counts largest first, at most 24."""
    return tuple(map(_data_card, record.data))


def _data_card(data: DataInfo) -> DataCard:
    rows = (
        ("Specification", data.spec),
        ("Digest", data.digest),
        ("Images", count_text(data.n)),
        ("Used", f"{count_text(data.n_used)} (a seeded random choice)" if data.n_used < data.n else "all"),
    )
    ranked = sorted(data.class_counts.items(), key=lambda item: (-item[1], item[0]))
    note = ""
    if len(ranked) > _MOST_CLASSES:
        fewest, most = ranked[-1][1], ranked[0][1]
        note = (
            f"The {_MOST_CLASSES} largest of {count_text(len(ranked))} classes; "
            f"counts go from {count_text(fewest)} to {count_text(most)}."
        )
    return DataCard(data.role, rows, tuple((name, count_text(n)) for name, n in ranked[:_MOST_CLASSES]), note)


def provenance(report: Report) -> Provenance:
    """Environment, seed, command and files."""
    record, environment = report.record, report.record.environment
    evidence = [(e.path, e.kind, e.text, e.sha256) for result in record.results for e in result.evidence]
    rest = len(evidence) - _MOST_EVIDENCE
    return Provenance(
        command=shlex.join(record.argv),
        run=(
            ("Tool", f"trust-audit {environment.tool_version}"),
            ("Record schema", record.schema_version),
            ("Seed", str(record.seed)),
            ("Started", report.started or "not on record"),
            ("Finished", report.finished or "not on record"),
            ("Device", environment.device),
            ("Threads", str(environment.threads)),
            ("Python", environment.python),
            ("Platform", environment.platform),
            *((f"Numerics: {key}", value) for key, value in settings_rows(environment.numerics)),
        ),
        policy=_policy_rows(report.policy, report.gate),
        arguments=settings_rows(record.arguments),
        packages=tuple(sorted(environment.packages.items())),
        evidence=tuple(evidence[:_MOST_EVIDENCE]),
        evidence_note=f"{count_text(rest)} further files are in audit.json." if rest > 0 else "",
    )


def _policy_rows(policy: Policy | None, gate: GateResult | None) -> Rows:
    rows: list[tuple[str, str]] = []
    if gate is not None:
        rows += [
            ("Policy", f"{gate.policy_id}, version {gate.policy_version}"),
            ("Policy digest", gate.policy_sha256),
            ("Judged on", f"{gate.judged_on.isoformat()} (UTC)"),
            ("Exit code", str(gate.exit_code)),
        ]
    if policy is not None:
        stats, reactions = policy.stats, policy.gate
        rows += [
            ("Description", policy.description or "none"),
            ("One-sided confidence", f"{stats.confidence * 100:g} %"),
            ("Fewest samples", count_text(stats.min_samples)),
            ("Fails on", f"rules of level {reactions.fail_on}" + (" or error" if reactions.fail_on == "warn" else "")),
            ("When inconclusive", reactions.on_inconclusive),
            ("When not run", reactions.on_not_run),
            ("When a waiver expired", reactions.on_expired_waiver),
        ]
    return tuple(rows)
