import re
from pathlib import Path

import pytest

from audit.schema import Diagnostic, Report
from reports.html import render_html
from reports.text import clean, with_links
from tests.reports import sample
from tests.reports.pages import read

SCRIPT = "<script>alert(1)</script>"


def nasty_report(run_dir: Path) -> Report:
    """Every text that comes with an artefact tries to leave its place."""
    report = sample.sample_report(run_dir)
    names = sample.NASTY
    lines = zip(sample.curve().series, names, strict=False)
    curve = sample.curve().model_copy(
        update={
            "title": SCRIPT, "alt": f"]]> {SCRIPT}", "caption": names[5], "x_label": f"$\\frac{{1}}{{2}}$ {SCRIPT}",
            "series": tuple(line.model_copy(update={"name": name}) for line, name in lines),
        }
    )  # fmt: skip
    histogram = sample.histogram().model_copy(update={"counts": dict.fromkeys(names, (3,) * 20)})
    table = sample.table().model_copy(update={"columns": names[:5], "rows": (names[:5], names[5:])})
    figures = (curve, sample.bars(names), sample.matrix(names), histogram, table)
    first = report.record.results[0]
    result = first.model_copy(
        update={
            "figures": figures, "config": {names[0]: names[0], "nested": {names[1]: [names[0]]}},
            "measurements": tuple(m.model_copy(update={"where": {"class": SCRIPT}}) for m in first.measurements[1:3]),
            "diagnostics": (Diagnostic(code=SCRIPT, text=names[4]),), "device": SCRIPT,
        }
    )  # fmt: skip
    record = sample.record((result, *report.record.results[1:]), names)
    subject = record.subject.model_copy(
        update={"name": "</title></style>" + SCRIPT, "spec": names[5], "preprocessing": {SCRIPT: names[1]}}
    )
    cards = tuple(
        c.model_copy(update={"references": (f'javascript:alert(1) {SCRIPT} https://x.y/"onload=1',)})
        for c in record.cards
    )
    record = record.model_copy(update={"subject": subject, "cards": cards, "argv": ("audit", SCRIPT, "a\nb")})
    gate = report.gate.model_copy(update={"sentence": SCRIPT, "notices": (SCRIPT,)}) if report.gate else None
    return report.model_copy(update={"record": record, "gate": gate})


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    run_dir = tmp_path_factory.mktemp("run")
    return render_html(nasty_report(run_dir), run_dir)


def test_names_stay_text(html: str):
    page = read(html)
    assert page.problems == []
    assert page.all("script") == []
    assert SCRIPT not in html
    assert SCRIPT in page.text
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert len(page.ids) == len(set(page.ids))
    assert "]]>" not in re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)


def test_links_never_run_anything(html: str):
    hrefs = [link["href"] for link in read(html).all("a")]
    assert all(href.startswith(("#", "https://", "data:application/gzip;base64,")) for href in hrefs)
    assert "https://x.y/" in hrefs


def test_dollars_are_not_formulas(html: str):
    page = read(html)
    assert "$\\frac{1}{2}$" in page.text
    assert "a$b$c_{x}" in page.text


def test_directions_cannot_be_overridden(html: str):
    assert "\u202e" not in html
    assert "\x00" not in html
    assert "قطة" in html
    assert "נמר" in html
    assert "é漢🐈" in html


@pytest.mark.parametrize(
    ("dirty", "expected"),
    [("plain", "plain"), ("a\u202eb", "a�b"), ("a\x00\x1b[31m", "a��[31m"), ("\ud800x", "�x"), ("a\tb\nc", "a\tb\nc")],
)  # fmt: skip
def test_clean(dirty: str, expected: str):
    assert clean(dirty) == expected


def test_references_become_pieces():
    pieces = with_links("See arXiv:1706.06083v4, and https://example.org/a_(b).")
    assert [(piece.text, piece.href) for piece in pieces] == [
        ("See ", ""),
        ("arXiv:1706.06083v4", "https://arxiv.org/abs/1706.06083"),
        (", and ", ""),
        ("https://example.org/a_(b", "https://example.org/a_(b"),
        (").", ""),
    ]
