"""A report as everything that its page shows; the templates only lay it out."""

from collections.abc import Mapping
from dataclasses import dataclass

from audit.schema import Report
from reports.figures import Picture
from reports.glossary import Entry, glossary, limitations
from reports.images import GridView
from reports.text import shorten
from reports.view_cards import DataCard, ModelCard, Provenance, data_cards, model_card, provenance
from reports.view_measures import Number, Registry, headlines
from reports.view_probe import GapView, ProbeView, gap_views, has_section, probe_title, probe_view
from reports.view_scorecard import Badge, RuleRow, badge, rule_rows, waiver_rows
from reports.view_summary import Block, summary_blocks

Pictures = Mapping[int, tuple[Picture | GridView, ...]]
"""What was drawn, by the place (from 1) of the probe's result in the record."""
NOT_JUDGED = Badge("–", "NOT JUDGED", "not-run")  # noqa: RUF001
PICKLE_FLAG = "--allow-pickle"
"""With what a trust exception begins that let a pickle be read; every other let code run."""


@dataclass(frozen=True)
class Header:
    """The first thing that is read."""

    title: str
    badge: Badge
    sentence: str
    digest: str
    date: str
    policy: str
    data: tuple[str, ...]
    tool: str
    code_allowed: tuple[str, ...]
    pickles_allowed: tuple[str, ...]


@dataclass(frozen=True)
class Scorecard:
    """Rules with their verdicts, or key numbers where no policy was given."""

    judged: bool
    rows: tuple[RuleRow, ...]
    tally: tuple[tuple[Badge, int], ...]
    notices: tuple[str, ...]
    waivers: tuple[tuple[str, ...], ...]
    confidence: str
    key_numbers: tuple[tuple[str, tuple[Number, ...]], ...]


@dataclass(frozen=True)
class View:
    """The whole page."""

    header: Header
    summary: tuple[Block, ...]
    scorecard: Scorecard
    gaps: tuple[GapView, ...]
    not_asked: tuple[str, ...]
    probes: tuple[ProbeView, ...]
    model: ModelCard
    data: tuple[DataCard, ...]
    limitations: tuple[str, ...]
    provenance: Provenance
    glossary: tuple[Entry, ...]
    notes: tuple[str, ...] = ()
    download: str = ""


def build_view(report: Report, pictures: Pictures, *, notes: tuple[str, ...] = (), download: str = "") -> View:
    """Turn facts and judgement into texts.

    Args:
        report: facts, and the gate's verdicts when there are any.
        pictures: figures as drawn, by place.
        notes: what was left out of this page.
        download: data URI of the packed `audit.json`, or empty.
    """
    registry = Registry(report.record)
    asked = {result.probe for result in report.record.results}
    return View(
        header=_header(report),
        summary=summary_blocks(report, registry),
        scorecard=_scorecard(report, registry),
        gaps=gap_views(report.record),
        not_asked=tuple(card.id for card in report.record.cards if card.id not in asked),
        probes=_probes(report, registry, pictures),
        model=model_card(report.record),
        data=data_cards(report.record),
        limitations=limitations(report),
        provenance=provenance(report),
        glossary=glossary(report),
        notes=notes,
        download=download,
    )


def short_digest(digest: str) -> str:
    """The first twelve characters."""
    return digest.removeprefix("sha256:")[:12]


def _header(report: Report) -> Header:
    record, gate = report.record, report.gate
    finished = report.finished or ""
    return Header(
        title=shorten(record.subject.name, 120) or "unnamed model",
        badge=badge(gate.outcome) if gate else NOT_JUDGED,
        sentence=gate.sentence.removeprefix(f"{gate.outcome.value}: ")
        if gate
        else "No policy was given: these are measurements, without a judgement.",
        digest=short_digest(record.subject.digest),
        date=f"{finished[:10]}, {finished[11:16]} UTC" if len(finished) >= 16 else finished or "not on record",
        policy=f"{gate.policy_id}, version {gate.policy_version}" if gate else "none",
        data=tuple(f"{d.role}: {shorten(d.spec, 60)}, {d.n_used:,} of {d.n:,} images" for d in record.data),
        tool=f"trust-audit {record.environment.tool_version}",
        code_allowed=tuple(text for text in record.trust_exceptions if not text.startswith(PICKLE_FLAG)),
        pickles_allowed=tuple(text for text in record.trust_exceptions if text.startswith(PICKLE_FLAG)),
    )


def _judged(report: Report) -> tuple[str, ...]:
    return tuple(v.measurement for v in report.gate.verdicts if v.measurement) if report.gate else ()


def _scorecard(report: Report, registry: Registry) -> Scorecard:
    gate = report.gate
    if gate is None:
        numbers = tuple((probe_title(r.probe), headlines(r, registry, ())) for r in report.record.results)
        return Scorecard(False, (), (), (), (), "", tuple(pair for pair in numbers if pair[1]))
    counts = [(outcome, sum(v.outcome is outcome for v in gate.verdicts)) for outcome in type(gate.outcome)]
    return Scorecard(
        judged=True,
        rows=rule_rows(gate, registry),
        tally=tuple((badge(outcome), count) for outcome, count in counts if count),
        notices=gate.notices,
        waivers=waiver_rows(report.policy),
        confidence=f"{report.policy.stats.confidence * 100:g}\u00a0%" if report.policy else "",
        key_numbers=(),
    )


def _probes(report: Report, registry: Registry, pictures: Pictures) -> tuple[ProbeView, ...]:
    cards = {card.id: card for card in report.record.cards}
    judged = _judged(report)
    return tuple(
        probe_view(
            index,
            result,
            cards.get(result.probe),
            registry=registry,
            judged=judged,
            pictures=pictures.get(index, ()),
            cost=report.costs.get(result.probe),
        )
        for index, result in enumerate(report.record.results, start=1)
        if has_section(result)
    )
