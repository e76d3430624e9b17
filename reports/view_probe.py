"""One probe as a section of the report."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from audit.schema import Cost, Diagnostic, PositiveControl, ProbeCard, ProbeResult, Reason, RunRecord, Status
from reports.figures import Picture
from reports.images import GridView
from reports.numbers import count_text, duration_text
from reports.text import Piece, capital, plain, shorten, slug, with_links
from reports.view_measures import MetricGroup, Number, Registry, headlines, metric_groups

_STATUS_MARKS = {
    Status.MEASURED: ("✓", "Measured", "measured"),
    Status.SKIPPED: ("–", "Skipped", "not-run"),  # noqa: RUF001
    Status.INCONCLUSIVE: ("?", "Inconclusive", "inconclusive"),
    Status.FAILED: ("!", "Failed", "error"),
}
_LONGEST_SETTING = 300
_NO_CARD = ProbeCard(id="?", version=0, question="")


@dataclass(frozen=True)
class StatusView:
    """Symbol, word and style of a probe's status."""

    mark: str
    word: str
    style: str


@dataclass(frozen=True)
class ProbeView:
    """All that a probe's section shows."""

    anchor: str
    id: str
    title: str
    version: int
    status: StatusView
    reason: Reason | None
    card: ProbeCard
    answer: tuple[Number, ...]
    references: tuple[tuple[Piece, ...], ...]
    pictures: tuple[Picture | GridView, ...]
    groups: tuple[MetricGroup, ...]
    controls: tuple[PositiveControl, ...]
    diagnostics: tuple[Diagnostic, ...]
    settings: tuple[tuple[str, str], ...]
    cost: str
    device: str

    @property
    def control_failed(self) -> bool:
        """Whether the probe missed what was planted for it, or another check of itself failed."""
        return any(not control.passed for control in self.controls)


@dataclass(frozen=True)
class GapView:
    """A probe that told nothing, or not all."""

    id: str
    anchor: str
    question: str
    status: StatusView
    code: str
    text: str


def status_view(status: Status) -> StatusView:
    """Symbol and word of a status."""
    return StatusView(*_STATUS_MARKS[status])


def probe_anchor(index: int, probe: str) -> str:
    """A unique anchor for the probe at this place of the record."""
    return f"probe-{index}-{slug(probe)}"


def has_section(result: ProbeResult) -> bool:
    """A probe without anything to show appears only among what was not measured."""
    held = (result.measurements, result.figures, result.controls, result.diagnostics)
    return result.status is Status.MEASURED or any(held)


def probe_view(
    index: int,
    result: ProbeResult,
    card: ProbeCard | None,
    *,
    registry: Registry,
    judged: Iterable[str],
    pictures: tuple[Picture | GridView, ...],
    cost: Cost | None,
) -> ProbeView:
    """The section of one probe; `judged` holds the ids of the measurements that verdicts used."""
    texts = card or _NO_CARD
    return ProbeView(
        anchor=probe_anchor(index, result.probe),
        id=result.probe,
        title=probe_title(result.probe),
        version=result.version,
        status=status_view(result.status),
        reason=result.reason,
        card=texts,
        answer=headlines(result, registry, judged),
        references=tuple(map(with_links, texts.references)),
        pictures=pictures,
        groups=metric_groups(result, registry),
        controls=result.controls,
        diagnostics=result.diagnostics,
        settings=settings_rows(result.config),
        cost=_cost_text(cost),
        device=result.device,
    )


def probe_title(probe: str) -> str:
    """`label_noise` as `Label noise`."""
    return capital(plain(probe))


def gap_views(record: RunRecord) -> tuple[GapView, ...]:
    """Probes that were skipped, failed, or could not tell, with the reason."""
    questions = {card.id: card.question for card in record.cards}
    return tuple(
        GapView(
            id=result.probe,
            anchor=probe_anchor(index, result.probe) if has_section(result) else "",
            question=questions.get(result.probe, ""),
            status=status_view(result.status),
            code=result.reason.code if result.reason else "",
            text=result.reason.text if result.reason else "",
        )
        for index, result in enumerate(record.results, start=1)
        if result.status is not Status.MEASURED
    )


def settings_rows(settings: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """Names and values in sorted order; lists and tables as compact JSON, cut when long."""
    return tuple((key, shorten(_setting(settings[key]), _LONGEST_SETTING)) for key in sorted(settings))


def _setting(value: object) -> str:
    if value is None:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _cost_text(cost: Cost | None) -> str:
    if cost is None:
        return ""
    memory = f", peak memory {count_text(round(cost.peak_memory_mb))} MB" if cost.peak_memory_mb is not None else ""
    return duration_text(cost.seconds) + memory
