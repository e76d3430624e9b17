# ruff: noqa: RUF001
import re

import pytest

from audit.schema import Bars, Curve, Histogram, Matrix, Reliability, Series, Table
from reports.figures import draw_picture
from tests.reports import sample
from tests.reports.pages import read

DRAWN = [sample.curve(), sample.roc(), sample.bars(), sample.reliability(), sample.matrix(), sample.histogram()]
AXES = {"x_label": "x", "y_label": "y"}
TEXTS = {"id": "x", "title": "t", "caption": "c", "alt": "a"}


@pytest.mark.parametrize("figure", DRAWN, ids=lambda figure: figure.id)
def test_each_kind_is_drawn_with_its_texts_and_table(figure):
    picture = draw_picture(figure, "fig-1")
    assert picture.svg is not None
    page = read(picture.svg)
    assert page.problems == []
    assert figure.title in page.text
    assert figure.alt in page.text
    root = page.all("svg")[0]
    assert root["role"] == "img"
    assert root["aria-labelledby"] == "fig-1-t fig-1-d"
    assert root["viewbox"].startswith("0 0 420 ")
    assert "width" not in root
    assert picture.table is not None
    assert len(picture.table.rows) > 1
    assert all(len(row) == len(picture.table.columns) for row in picture.table.rows)


@pytest.mark.parametrize("figure", DRAWN, ids=lambda figure: figure.id)
def test_drawings_are_themed_prefixed_and_equal_each_time(figure):
    svg = draw_picture(figure, "fig-9").svg
    assert svg == draw_picture(figure, "fig-9").svg
    assert svg is not None
    assert all(name.startswith("fig-9-") for name in read(svg).ids)
    assert not re.search(r"#[0-9a-fA-F]{6}\b", svg), "a colour that the dark theme cannot reach"
    assert "<style" not in svg
    assert "var(--" in svg


@pytest.mark.parametrize("log_x", [True, False])
def test_log_axis_has_plain_ticks(log_x: bool):
    figure = sample.roc().model_copy(update={"log_x": log_x})
    assert "mathdefault" not in str(draw_picture(figure, "f").svg)


def test_table_kind_is_its_own_table():
    picture = draw_picture(sample.table(), "f")
    assert picture.svg is None
    assert picture.table is not None
    assert picture.table.rows[0] == ("FGSM", "1", "0.312", "yes", "–")
    assert picture.table.numeric == (False, True, True, False, False)


EMPTY = [
    Curve(**TEXTS, x_label="x", y_label="y", series=()),
    Curve(**TEXTS, x_label="x", y_label="y", series=(Series(name="s", x=(), y=()),)),
    Bars(**TEXTS, value_label="v", labels=(), values=()),
    Reliability(**TEXTS, bins=()),
    Matrix(**TEXTS, row_label="r", column_label="c", rows=(), columns=(), values=()),
    Matrix(**TEXTS, row_label="r", column_label="c", rows=("a",), columns=(), values=((),)),
    Histogram(**TEXTS, x_label="x", edges=(), counts={}),
    Table(**TEXTS, columns=(), rows=()),
]


@pytest.mark.parametrize("figure", EMPTY, ids=lambda figure: figure.kind)
def test_nothing_to_draw_is_said(figure):
    picture = draw_picture(figure, "f")
    assert picture.svg is None
    assert "nothing to draw" in picture.note or figure.kind == "table"


ODD = [
    Curve(**TEXTS, **AXES, series=(Series(name="s", x=(0, 0), y=(1, 1)),), log_x=True, y_range=(1, 1)),
    Curve(**TEXTS, **AXES, series=(Series(name="s", x=(1,), y=(1e300,), low=(-1e300,), high=(1e300,)),)),
    Bars(**TEXTS, value_label="v", labels=("a", "b", "c"), values=(1.0,), low=(0.5,), high=()),
    Matrix(**TEXTS, row_label="r", column_label="c", rows=("a",), columns=("b", "c"), values=((1.0,), (2.0, 3.0))),
    Histogram(**TEXTS, x_label="x", edges=(0, 1), counts={"a": (1, 2, 3), "b": ()}),
    Histogram(**TEXTS, x_label="x", edges=(0, 1), counts={"none": (0,)}),
]  # fmt: skip


@pytest.mark.parametrize("figure", ODD)
def test_odd_shapes_never_break_the_report(figure):
    picture = draw_picture(figure, "f")
    assert picture.svg is not None or picture.note
    assert picture.table is not None


def test_many_series_are_cut_and_told():
    series = tuple(Series(name=f"s{i}", x=(0, 1), y=(0, i)) for i in range(30))
    picture = draw_picture(Curve(**TEXTS, x_label="x", y_label="y", series=series), "f")
    assert picture.note == "The first 12 of 30 series are drawn."
    assert len(picture.legend) == 12
    assert len({(item.series, item.dash) for item in picture.legend}) == 12, "told apart without colour alone"


def test_long_curves_are_thinned_in_the_table_alone():
    xs = tuple(i / 1000 for i in range(1000))
    figure = Curve(**TEXTS, x_label="x", y_label="y", series=(Series(name="s", x=xs, y=xs),))
    table = draw_picture(figure, "f").table
    assert table is not None
    assert len(table.rows) == 60
    assert (table.rows[0][1], table.rows[-1][1]) == ("0", "0.999")
    assert table.note == "60 of 1,000 rows, evenly spaced. All are in audit.json."


def test_large_matrix_lists_its_largest_errors():
    names = tuple(f"c{i}" for i in range(100))
    values = tuple(
        tuple(50.0 if i == j else (9.0 if (i, j) == (3, 7) else 0.0) for j in range(100)) for i in range(100)
    )
    figure = Matrix(**TEXTS, row_label="true", column_label="said", rows=names, columns=names, values=values)
    picture = draw_picture(figure, "f")
    assert picture.table is not None
    assert picture.table.rows == (("c3", "c7", "9"),)
    assert "data:image/png" in str(picture.svg)
