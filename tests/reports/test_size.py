from pathlib import Path

import pytest

from audit.schema import Report
from reports.html import BYTES_A_MB, render_html
from tests.reports import sample
from tests.reports.pages import read


def with_images(run_dir: Path, rows: int, size: int) -> Report:
    report = sample.sample_report(run_dir)
    evidence = sample.write_images(run_dir, rows=rows, size=size)
    results = tuple(
        r.model_copy(update={"figures": (sample.grid(evidence),), "evidence": evidence}) if r.probe == "evasion" else r
        for r in report.record.results
    )
    return report.model_copy(update={"record": report.record.model_copy(update={"results": results})})


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def test_images_go_first_and_last_rows_before_first_ones(run_dir: Path):
    report = with_images(run_dir, rows=8, size=64)
    whole = render_html(report, run_dir)
    assert len(read(whole).all("img")) == 24
    cap = (len(whole.encode()) - 120_000) / BYTES_A_MB
    html = render_html(report, run_dir, max_mb=cap)
    page = read(html)
    assert len(html.encode()) <= cap * BYTES_A_MB
    shown = page.all("img")
    assert 3 <= len(shown) < 24
    assert len(shown) % 3 == 0
    assert [image["src"] for image in shown] == [image["src"] for image in read(whole).all("img")][: len(shown)]
    assert "Some images were left out to keep this report under" in page.text
    assert "images were left out to keep the report small" in page.text


def test_then_tables_then_drawings(run_dir: Path):
    report = with_images(run_dir, rows=8, size=64)
    least = render_html(report, run_dir, max_mb=0.000001)
    assert "Drawings were left out" in least
    assert 'class="plot"' not in least
    cap = (len(least.encode()) + 40_000) / BYTES_A_MB
    middle = render_html(report, run_dir, max_mb=cap)
    assert len(middle.encode()) <= cap * BYTES_A_MB
    assert read(middle).problems == []


def test_an_image_used_twice_costs_twice(run_dir: Path):
    """The budget counts what stands in the page, not what was read."""
    report = with_images(run_dir, rows=4, size=64)
    evasion = report.record.result("evasion")
    assert evasion is not None
    doubled = evasion.model_copy(update={"figures": evasion.figures * 2})
    record = report.record.model_copy(update={"results": (doubled,)})
    whole = len(render_html(report.model_copy(update={"record": record}), run_dir).encode())
    cap = (whole - 60_000) / BYTES_A_MB
    html = render_html(report.model_copy(update={"record": record}), run_dir, max_mb=cap)
    assert len(html.encode()) <= cap * BYTES_A_MB
