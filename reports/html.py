"""One self-contained HTML page from facts, verdicts and costs: no script, no network, nothing beside it."""

import base64
import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from audit.schema import Figure, ImageGrid, Report, dump_json
from reports.figures import Picture, draw_picture
from reports.images import GridView, ImageShelf, within, without_images
from reports.text import clean
from reports.view import Pictures, build_view

BYTES_A_MB = 1_000_000
_MOST_DOWNLOAD_BYTES = 300_000
_SLACK_BYTES = 4_000


@dataclass(frozen=True)
class _Detail:
    """How much of the figures goes in, where a report would be too large otherwise."""

    max_rows: int
    drawing: bool
    note: str


_DETAILS = (
    _Detail(60, drawing=True, note=""),
    _Detail(10, drawing=True, note="The tables of figures were cut to ten rows to keep this report under {} MB."),
    _Detail(10, drawing=False, note="Drawings were left out to keep this report under {} MB; short tables remain."),
)


def render_html(report: Report, run_dir: Path, *, max_mb: float = 5.0) -> str:
    """The report as one HTML document. The same report and files give the same bytes.

    Args:
        report: facts, and policy, verdicts and costs when there are any.
        run_dir: the run folder; only images that the record lists as evidence are read, and only with equal sha256.
        max_mb: size that the document stays under, in millions of bytes. Images go first, then tables of figures, then
            drawings; the page says so.
    """
    room = int(max_mb * BYTES_A_MB) - _SLACK_BYTES
    shelf = ImageShelf(run_dir, {e.path: e.sha256 for result in report.record.results for e in result.evidence})
    drawn: dict[int, tuple[Picture | GridView, ...]] = {}
    notes: tuple[str, ...] = ()
    for detail in _DETAILS:
        drawn = _draw_all(report, shelf, detail)
        notes = (detail.note.format(f"{max_mb:g}"),) if detail.note else ()
        bare = {place: tuple(map(_bare, pictures)) for place, pictures in drawn.items()}
        left = room - _size(_page(report, bare, notes, ""))
        if left >= 0:
            break
    kept = within((p for pictures in drawn.values() for p in pictures if isinstance(p, GridView)), max(0, left))
    chosen = {place: tuple(kept.get(p.key, p) for p in pictures) for place, pictures in drawn.items()}
    if any(chosen[place] != drawn[place] for place in drawn):
        notes += (f"Some images were left out to keep this report under {max_mb:g} MB.",)
    page = _page(report, chosen, notes, "")
    download = _packed(report)
    if len(download) <= min(_MOST_DOWNLOAD_BYTES, room - _size(page)):
        page = _page(report, chosen, notes, download)
    return page


def _bare(picture: Picture | GridView) -> Picture | GridView:
    return without_images(picture) if isinstance(picture, GridView) else picture


def _size(page: str) -> int:
    return len(page.encode())


def _draw_all(report: Report, shelf: ImageShelf, detail: _Detail) -> dict[int, tuple[Picture | GridView, ...]]:
    drawn: dict[int, tuple[Picture | GridView, ...]] = {}
    for index, result in enumerate(report.record.results, start=1):
        keys = (f"fig-{index}-{nth}" for nth in range(1, len(result.figures) + 1))
        drawn[index] = tuple(_draw_figures(zip(result.figures, keys, strict=True), shelf, detail))
    return drawn


def _draw_figures(
    figures: Iterable[tuple[Figure, str]], shelf: ImageShelf, detail: _Detail
) -> Iterable[Picture | GridView]:
    for figure, key in figures:
        if isinstance(figure, ImageGrid):
            yield shelf.grid(figure, key)
        else:
            yield draw_picture(figure, key, max_rows=detail.max_rows, drawing=detail.drawing)


def _packed(report: Report) -> str:
    content = dump_json(report.model_dump(mode="json")).encode()
    packed = gzip.compress(content, compresslevel=9, mtime=0)
    return "data:application/gzip;base64," + base64.b64encode(packed).decode("ascii")


def _page(report: Report, pictures: Pictures, notes: tuple[str, ...], download: str) -> str:
    view = build_view(report, pictures, notes=notes, download=download)
    page: str = _templates().get_template("report.html.j2").render(view=view, css=_style_sheet())
    return page


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_finalize,
    )


def _finalize(value: object) -> object:
    """Every value on its way into the page: markup as it is, texts without control characters."""
    if isinstance(value, Markup):
        return value
    return clean(value) if isinstance(value, str) else value


@cache
def _style_sheet() -> Markup:
    """Our own file, and the only text that enters the page unescaped besides our own drawings."""
    sheet = resources.files("reports").joinpath("templates", "style.css").read_text(encoding="utf-8")
    return Markup(sheet)  # noqa: S704 - a file of this package
