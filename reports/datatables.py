"""The numbers behind a picture, as a table for those who cannot see it or want to read a value."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any, TypeVar

from audit.schema import Bars, Curve, Figure, Histogram, Matrix, Reliability, Scalar, Table
from reports.numbers import Style, count_text, rounded_text

_LARGEST_CELLS = 30
_DIGITS = 3
_T = TypeVar("_T")


@dataclass(frozen=True)
class DataTable:
    """Texts in rows.

    Attributes:
        columns: heads.
        rows: cells; the first of a row names it.
        note: what was left out, or empty.
        numeric: columns to set flush right.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    numeric: tuple[bool, ...] = ()


def data_table(figure: Figure, max_rows: int) -> DataTable | None:
    """The table of a figure; None for image grids, which are tables already.

    Args:
        figure: any kind.
        max_rows: longer tables are thinned evenly (curves, histograms) or cut, and say so.
    """
    make = _MAKERS.get(type(figure))
    return make(figure, max_rows) if make else None


def _number(value: float) -> str:
    return rounded_text(value, Style(), _DIGITS)


def _thinned(values: Sequence[_T], limit: int) -> list[_T]:
    if len(values) <= limit:
        return list(values)
    step = (len(values) - 1) / (limit - 1)
    return [values[round(index * step)] for index in range(limit)]


def _left_out(shown: int, total: int, how: str) -> str:
    return "" if shown >= total else f"{count_text(shown)} of {count_text(total)} rows, {how}. All are in audit.json."


def _curve(figure: Curve, max_rows: int) -> DataTable:
    banded = any(series.low is not None for series in figure.series)
    rows: list[tuple[str, ...]] = []
    total = sum(len(series.x) for series in figure.series)
    share = max(2, max_rows // max(1, len(figure.series)))
    for series in figure.series:
        for index in _thinned(range(len(series.x)), share):
            band = [_number(ends[index]) if ends is not None else "" for ends in (series.low, series.high)]
            row = (series.name, _number(series.x[index]), _number(series.y[index]))
            rows.append((*row, *band) if banded else row)
    rows = rows[: 2 * max_rows]
    columns = ("series", figure.x_label, figure.y_label, *(("low", "high") if banded else ()))
    return DataTable(columns, tuple(rows), _left_out(len(rows), total, "evenly spaced"), _after_name(len(columns)))


def _after_name(columns: int) -> tuple[bool, ...]:
    return (False, *(True for _ in range(columns - 1)))


def _bars(figure: Bars, max_rows: int) -> DataTable:
    ends = [values for values in (figure.low, figure.high) if values is not None]
    rows = tuple(
        (label, *(_number(values[index]) if index < len(values) else "" for values in (figure.values, *ends)))
        for index, label in enumerate(figure.labels[:max_rows])
    )
    heads = [head for head, values in (("low", figure.low), ("high", figure.high)) if values is not None]
    columns = ("", figure.value_label, *heads)
    return DataTable(
        columns, rows, _left_out(len(rows), len(figure.labels), "the first ones"), _after_name(len(columns))
    )


def _reliability(figure: Reliability, _: int) -> DataTable:
    rows = tuple(
        (*map(_number, (b.confidence, b.accuracy)), count_text(b.n), f"{_number(b.null_low)} to {_number(b.null_high)}")
        for b in figure.bins
    )
    columns = ("mean confidence", "accuracy", "n", f"calibrated model ({figure.null_level:.0%})")
    return DataTable(columns, rows, numeric=(True,) * len(columns))


def _matrix(figure: Matrix, max_rows: int) -> DataTable:
    if max(len(figure.rows), len(figure.columns)) <= min(max_rows, 24):
        rows = tuple((name, *map(_number, row)) for name, row in zip(figure.rows, figure.values, strict=False))
        columns = (f"{figure.row_label} \\ {figure.column_label}", *figure.columns)
        return DataTable(columns, rows, numeric=_after_name(len(columns)))
    ranked = nsmallest(_LARGEST_CELLS, _cells(figure), key=lambda cell: (-abs(cell[2]), cell[0], cell[1]))
    rows = tuple((_name(figure.rows, y), _name(figure.columns, x), _number(value)) for y, x, value in ranked)
    total = sum(map(len, figure.values))
    note = _left_out(len(rows), total, "the largest off the diagonal")
    return DataTable((figure.row_label, figure.column_label, "value"), rows, note, (False, False, True))


def _cells(figure: Matrix) -> Iterable[tuple[int, int, float]]:
    """Cells off the diagonal where rows and columns are the same classes, else all of them."""
    square = figure.rows == figure.columns
    for y, row in enumerate(figure.values):
        for x, value in enumerate(row):
            if value and not (square and x == y):
                yield y, x, value


def _name(names: Sequence[str], index: int) -> str:
    return names[index] if index < len(names) else str(index)


def _histogram(figure: Histogram, max_rows: int) -> DataTable:
    names = sorted(figure.counts)
    spans = list(enumerate(zip(figure.edges, figure.edges[1:], strict=False)))
    rows = tuple(
        (
            f"{_number(low)} to {_number(high)}",
            *(count_text(figure.counts[name][i]) if i < len(figure.counts[name]) else "" for name in names),
        )
        for i, (low, high) in _thinned(spans, max_rows)
    )
    columns = (figure.x_label, *names)
    return DataTable(columns, rows, _left_out(len(rows), len(spans), "evenly spaced"), _after_name(len(columns)))


def _scalar(value: Scalar | None) -> str:
    if value is None:
        return "–"  # noqa: RUF001
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count_text(value)
    return _number(value) if isinstance(value, float) else value


def _table(figure: Table, max_rows: int) -> DataTable:
    rows = tuple(tuple(map(_scalar, row)) for row in figure.rows[:max_rows])
    numeric = tuple(
        any(len(row) > i and isinstance(row[i], int | float) and not isinstance(row[i], bool) for row in figure.rows)
        for i in range(len(figure.columns))
    )
    return DataTable(figure.columns, rows, _left_out(len(rows), len(figure.rows), "the first ones"), numeric)


_MAKERS: dict[type, Callable[[Any, int], DataTable]] = {
    Curve: _curve,
    Bars: _bars,
    Reliability: _reliability,
    Matrix: _matrix,
    Histogram: _histogram,
    Table: _table,
}
