"""How each kind of figure is drawn. Colours are the sentinels of `reports.svg`; the page's theme fills them in."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from audit.schema import Bars, Curve, Histogram, Matrix, Reliability
from reports.numbers import Style, rounded_text
from reports.svg import GRID, INK, MUTED, SERIES
from reports.text import clean, shorten

DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2.5), (1.5, 2), (7, 2, 1.5, 2))
MARKERS = "osD^vP"
MAX_SERIES = 12
MAX_BARS = 40
MAX_CELLS_DRAWN = 24
_MAX_MARKED = 30
_PRINTED_CELLS = 12
_IMAGE_BLUE = (0.23, 0.50, 0.76)


def _axes(canvas: Canvas, x_label: str = "", y_label: str = "", grid: str = "y") -> Axes:
    axes = canvas.add_subplot()
    _style(axes, x_label, y_label, grid)
    return axes


def _style(axes: Axes, x_label: str, y_label: str, grid: str) -> None:
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color(MUTED)
        spine.set_linewidth(0.8)
    axes.tick_params(length=0, colors=MUTED, labelcolor=INK, pad=5)
    axes.grid(visible=True, axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.set_xlabel(shorten(x_label, 60), color=INK)
    axes.set_ylabel(shorten(y_label, 40), color=INK)


def _linestyle(index: int) -> str | tuple[int, tuple[float, ...]]:
    dash = DASHES[index % len(DASHES)]
    return (0, dash) if dash else "-"


def draw_curve(canvas: Canvas, figure: Curve) -> None:
    """Lines with bands; each has its own colour, dash and marker."""
    axes = _axes(canvas, figure.x_label, figure.y_label)
    for index, series in enumerate(figure.series[:MAX_SERIES]):
        colour = SERIES[index % len(SERIES)]
        marker = MARKERS[index % len(MARKERS)] if len(series.x) <= _MAX_MARKED else ""
        if series.low is not None and series.high is not None:
            axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(
            series.x, series.y, color=colour, linewidth=1.8, linestyle=_linestyle(index), marker=marker, markersize=4.5
        )
    if figure.log_x and any(x > 0 for series in figure.series for x in series.x):
        axes.set_xscale("log", nonpositive="mask")
        axes.xaxis.set_major_locator(LogLocator(numticks=7))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: rounded_text(x, Style())))
        axes.xaxis.set_minor_locator(NullLocator())
    if figure.y_range is not None and figure.y_range[0] < figure.y_range[1]:
        low, high = figure.y_range
        axes.set_ylim(low, high + 0.02 * (high - low))


def bar_order(figure: Bars) -> list[int]:
    """Which bars are drawn: all, or where there are too many the lowest and highest, by value."""
    count = min(len(figure.labels), len(figure.values))
    if count <= MAX_BARS:
        return list(range(count))
    ranked = sorted(range(count), key=lambda index: (figure.values[index], index))
    return ranked[: MAX_BARS // 2] + ranked[-MAX_BARS // 2 :]


def draw_bars(canvas: Canvas, figure: Bars) -> None:
    """Horizontal bars, so that names stay readable, with whiskers and a dashed reference."""
    axes = _axes(canvas, figure.value_label, grid="x")
    order = bar_order(figure)
    rows = range(len(order))
    axes.barh(rows, [figure.values[i] for i in order], height=0.62, color=SERIES[0], alpha=0.45, linewidth=0)
    if figure.low is not None and figure.high is not None:
        for row, index in zip(rows, order, strict=True):
            low, high = _at(figure.low, index), _at(figure.high, index)
            if low is not None and high is not None:
                axes.plot([low, high], [row, row], color=INK, linewidth=1.3, marker="|", markersize=7)
    if figure.reference is not None:
        axes.axvline(figure.reference, color=SERIES[1], linewidth=1.6, linestyle=(0, (5, 2.5)))
    axes.set_yticks(list(rows), [shorten(figure.labels[i], 20) for i in order])
    axes.set_ylim(len(order) - 0.4, -0.6)


def _at(values: Sequence[float], index: int) -> float | None:
    return values[index] if index < len(values) else None


def draw_reliability(canvas: Canvas, figure: Reliability) -> None:
    """Accuracy against confidence over the band of a calibrated model; below, how many samples each bin holds."""
    upper, lower = canvas.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
    _style(upper, "", "accuracy", "both")
    _style(lower, "confidence", "samples", "y")
    xs = [b.confidence for b in figure.bins]
    upper.plot([0, 1], [0, 1], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
    for b in figure.bins:
        width = 0.028
        box = Rectangle((b.confidence - width / 2, b.null_low), width, b.null_high - b.null_low)
        box.set(facecolor=MUTED, alpha=0.28, linewidth=0)
        upper.add_patch(box)
    upper.plot(xs, [b.accuracy for b in figure.bins], color=SERIES[0], linewidth=1.2, marker="o", markersize=5)
    lower.bar(xs, [b.n for b in figure.bins], width=0.028, color=SERIES[0], alpha=0.45, linewidth=0)
    lower.yaxis.set_major_locator(MaxNLocator(nbins=2, integer=True))
    upper.set(xlim=(0, 1.02), ylim=(0, 1.02))


def draw_matrix(canvas: Canvas, figure: Matrix) -> None:
    """A grid of tinted cells; small ones carry their number, large ones are one picture."""
    axes = _axes(canvas, figure.column_label, figure.row_label, grid="both")
    axes.grid(visible=False)
    rows, columns = len(figure.values), max(map(len, figure.values))
    top = max((abs(value) for row in figure.values for value in row), default=0.0) or 1.0
    if max(rows, columns) <= MAX_CELLS_DRAWN:
        _draw_cells(axes, figure, top, printed=max(rows, columns) <= _PRINTED_CELLS)
        names = [shorten(name, 12) for name in figure.columns]
        axes.set_xticks(range(len(names)), names, rotation=60 if max(map(len, names), default=0) > 2 else 0)
        axes.set_yticks(range(len(figure.rows)), [shorten(name, 14) for name in figure.rows])
    else:
        _draw_picture(axes, figure, top, columns)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)


def _draw_cells(axes: Axes, figure: Matrix, top: float, *, printed: bool) -> None:
    for y, row in enumerate(figure.values):
        for x, value in enumerate(row):
            strength = abs(value) / top
            if strength > 0.001:
                colour = SERIES[0] if value > 0 else SERIES[1]
                alpha = round((0.5 if printed else 0.95) * strength, 3)
                axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, alpha=alpha, linewidth=0))
            if printed:
                axes.text(x, y, _cell_text(value), ha="center", va="center", color=INK, fontsize=9.5)


def _cell_text(value: float) -> str:
    return rounded_text(value, Style(), digits=4 if value == int(value) else 2)


def _draw_picture(axes: Axes, figure: Matrix, top: float, columns: int) -> None:
    """One blue whose opacity is the value: it works on light and dark pages alike. At most 200 cells a side."""
    step = max(1, -(-max(len(figure.values), columns) // 200))
    pixels = []
    for y in range(0, len(figure.values), step):
        block = figure.values[y : y + step]
        peaks = [max((abs(v) for row in block for v in row[x : x + step]), default=0) for x in range(0, columns, step)]
        pixels.append([(*_IMAGE_BLUE, (peak / top) ** 0.5) for peak in peaks])
    extent = (-0.5, columns - 0.5, len(figure.values) - 0.5, -0.5)
    axes.imshow(pixels, interpolation="none", extent=extent, aspect="auto")


def draw_histogram(canvas: Canvas, figure: Histogram) -> None:
    """Stepped outlines over shared edges, lightly filled, each with its own colour and dash."""
    axes = _axes(canvas, figure.x_label, "count")
    for index, name in enumerate(sorted(figure.counts)[:MAX_SERIES]):
        counts = figure.counts[name][: len(figure.edges) - 1]
        edges = figure.edges[: len(counts) + 1]
        colour = SERIES[index % len(SERIES)]
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.16)
        axes.stairs(counts, edges, color=colour, linewidth=1.6, linestyle=_linestyle(index), label=clean(name))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.set_ylim(bottom=0)
