"""A `Figure` of the record as what a page shows: a drawing, its legend, and the table of its numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

from markupsafe import Markup
from matplotlib.figure import Figure as Canvas
from pydantic import TypeAdapter

from audit.schema import Bars, Curve, Figure, Histogram, Matrix, Reliability
from reports.datatables import DataTable, data_table
from reports.plots import (
    DASHES,
    MAX_BARS,
    MAX_CELLS_DRAWN,
    MAX_SERIES,
    draw_bars,
    draw_curve,
    draw_histogram,
    draw_matrix,
    draw_reliability,
)
from reports.svg import SERIES, render_svg
from reports.text import clean, shorten

_EMPTY = "There is nothing to draw: the figure holds no values."
_FAILED = "The figure could not be drawn; its numbers are in the table."
_FIGURE: TypeAdapter[Figure] = TypeAdapter(Figure)


@dataclass(frozen=True)
class LegendItem:
    """One entry: `shape` is `line`, `area`, `band` or `rule`; colour by `series` (1 to 6), dash as SVG writes it."""

    label: str
    shape: str
    series: int
    dash: str = ""


@dataclass(frozen=True)
class Picture:
    """What a page shows of a figure.

    Attributes:
        key: unique on the page.
        kind: as in the record.
        title: short.
        caption: what to see in it.
        alt: the same for someone who cannot see it.
        svg: the drawing; None for tables, image grids, and what cannot be drawn.
        legend: what the colours and dashes mean.
        table: the numbers.
        note: what was left out of the drawing, or why there is none.
    """

    key: str
    kind: str
    title: str
    caption: str
    alt: str
    svg: Markup | None = None
    legend: tuple[LegendItem, ...] = ()
    table: DataTable | None = None
    note: str = ""


def draw_picture(figure: Figure, key: str, *, max_rows: int = 60, drawing: bool = True) -> Picture:
    """Draw a figure; equal figures and keys give equal bytes.

    Args:
        figure: any kind.
        key: unique on the page.
        max_rows: of its table.
        drawing: False gives the table alone.
    """
    base = Picture(key, figure.kind, figure.title, figure.caption, figure.alt, table=data_table(figure, max_rows))
    plan = _plan(figure)
    if plan is None:
        return base
    if plan[0] == 0:
        return _with(base, note=_EMPTY)
    if not drawing:
        return _with(base, note="The drawing was left out to keep the report small.")
    svg = _drawn(figure.model_dump_json(), key)
    return _with(base, svg=svg, legend=_legend(figure), note=_left_out(figure)) if svg else _with(base, note=_FAILED)


@lru_cache(maxsize=128)
def _drawn(content: str, key: str) -> Markup | None:
    """The drawing of a figure given as JSON; kept, since a report that is too large is laid out several times."""
    figure = _FIGURE.validate_json(content)
    plan = _plan(figure)
    try:
        return plan and render_svg(*plan, key=key, title=clean(figure.title), description=clean(figure.alt))
    except (ValueError, ArithmeticError, IndexError, MemoryError):
        return None


def _with(picture: Picture, *, svg: Markup | None = None, legend: tuple[LegendItem, ...] = (), note: str) -> Picture:
    same = (picture.key, picture.kind, picture.title, picture.caption, picture.alt)
    return Picture(*same, svg=svg, legend=legend, table=picture.table, note=note)


def _plan(figure: Figure) -> tuple[int, Callable[[Canvas], None]] | None:
    """Height (0 when there is nothing to draw) and drawing function; None for kinds that are no drawing."""
    match figure:
        case Curve():
            return (290 if any(s.x for s in figure.series) else 0), partial(draw_curve, figure=figure)
        case Bars():
            count = min(len(figure.labels), len(figure.values), MAX_BARS)
            return (60 + 25 * count if count else 0), partial(draw_bars, figure=figure)
        case Reliability():
            return (420 if figure.bins else 0), partial(draw_reliability, figure=figure)
        case Matrix():
            return (400 if any(figure.values) else 0), partial(draw_matrix, figure=figure)
        case Histogram():
            enough = len(figure.edges) > 1 and any(figure.counts.values())
            return (270 if enough else 0), partial(draw_histogram, figure=figure)
        case _:
            return None


def _dash(index: int) -> str:
    return " ".join(f"{length:g}" for length in DASHES[index % len(DASHES)])


def _item(index: int, label: str, shape: str) -> LegendItem:
    return LegendItem(shorten(label, 60), shape, index % len(SERIES) + 1, _dash(index))


def _legend(figure: Figure) -> tuple[LegendItem, ...]:
    match figure:
        case Curve() if len(figure.series) > 1 or any(s.low is not None for s in figure.series):
            return tuple(_item(i, s.name, "line") for i, s in enumerate(figure.series[:MAX_SERIES]))
        case Histogram():
            return tuple(_item(i, name, "area") for i, name in enumerate(sorted(figure.counts)[:MAX_SERIES]))
        case Bars() if figure.reference is not None:
            label = figure.reference_label or "reference"
            return (LegendItem(f"{shorten(label, 60)} ({figure.reference:.4g})", "rule", 2, "5 2.5"),)
        case Reliability():
            band = f"where a calibrated model falls ({figure.null_level:.0%})"
            return (LegendItem("measured", "line", 1), LegendItem(band, "band", 0))
        case _:
            return ()


def _left_out(figure: Figure) -> str:
    match figure:
        case Curve() if len(figure.series) > MAX_SERIES:
            return f"The first {MAX_SERIES} of {len(figure.series)} series are drawn."
        case Bars() if len(figure.labels) > MAX_BARS:
            half = MAX_BARS // 2
            return f"Drawn are the {half} lowest and the {half} highest of {len(figure.labels):,}."
        case Matrix() if max(len(figure.rows), len(figure.columns)) > MAX_CELLS_DRAWN:
            return f"{len(figure.rows):,} × {len(figure.columns):,} cells; opacity is the square root of the value."  # noqa: RUF001
        case _:
            return ""
