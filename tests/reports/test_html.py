# ruff: noqa: RUF001
import base64
import gzip
import json
import re
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from audit.schema import Report, dump_json
from reports.html import render_html
from tests.reports import sample
from tests.reports.pages import Page, read

CSP = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def report(run_dir: Path) -> Report:
    return sample.sample_report(run_dir)


@pytest.fixture(scope="module")
def html(report: Report, run_dir: Path) -> str:
    return render_html(report, run_dir)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return read(html)


def unjudged(report: Report) -> Report:
    return report.model_copy(update={"gate": None, "policy": None})


def with_results(report: Report, results: tuple) -> Report:
    return report.model_copy(update={"record": report.record.model_copy(update={"results": results})})


def well_formed(page: Page) -> None:
    assert page.problems == []
    assert len(page.ids) == len(set(page.ids))
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_structure(page: Page):
    well_formed(page)
    ids = set(page.ids)
    for link in page.all("a"):
        if link["href"].startswith("#"):
            assert link["href"][1:] in ids
    for _, attributes in page.tags:
        for name in ("aria-labelledby", "aria-describedby"):
            assert set(attributes.get(name, "").split()) <= ids
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("main")) == 1
    assert all("alt" in image for image in page.all("img"))
    assert all(head.get("scope") for head in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(svg.get("role") == "img" or svg.get("aria-hidden") == "true" for svg in page.all("svg"))


def test_nothing_is_loaded_and_nothing_runs(html: str, page: Page):
    assert page.all("meta")[1]["content"] == CSP
    for tag in ("script", "link", "iframe", "object", "embed", "form", "base"):
        assert page.all(tag) == []
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        for name, value in attributes.items():
            if name == "src" or (name == "href" and tag != "a"):
                assert value.startswith(("data:image/", "#"))
            if name == "style":
                assert "http" not in value
    assert re.findall(r"url\((?!#)", html) == []
    assert "@import" not in html


def test_links_are_plain_web_addresses(page: Page):
    outside = [link for link in page.all("a") if not link["href"].startswith(("#", "data:application/gzip"))]
    assert [link["href"] for link in outside] == [
        "https://arxiv.org/abs/2003.01690",
        "https://github.com/fra31/auto-attack",
    ]
    assert all(link["rel"] == "noopener noreferrer" for link in outside)


def test_sections_come_in_order(page: Page):
    assert [text.strip() for level, text in page.headings if level == 2] == [
        "Summary",
        "Scorecard",
        "What was not measured, and why",
        "Probe by probe",
        "Model and data",
        "Limitations",
        "Provenance",
        "Sign-off",
        "Glossary",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "✗ FAIL", "✓ PASS", "? INCONCLUSIVE", "– NOT-RUN", "! ERROR", "≤\u00a012.3\u00a0%", "≥\u00a031\u00a0%",
        "not a certification", "--allow-code: py:model.py:make",
        "audit run 'timm:resnet18?num_classes=10'", "A control failed.", "Waived:", "30 min 43 s",
    ],
)  # fmt: skip
def test_what_a_reader_must_find(page: Page, text: str):
    assert text in page.text


def test_same_report_same_bytes(report: Report, run_dir: Path, html: str):
    assert render_html(report, run_dir) == html


def test_another_process_gives_the_same_bytes(report: Report, run_dir: Path, html: str):
    code = (
        "import sys; from pathlib import Path; from audit.schema import Report; from reports.html import render_html;"
        "sys.stdout.buffer.write(render_html(Report.model_validate_json(sys.stdin.buffer.read()), Path(sys.argv[1]))"
        ".encode()); assert not {'torch', 'audit.api', 'probes'} & set(sys.modules)"
    )
    stored = dump_json(report.model_dump(mode="json")).encode()
    done = subprocess.run([sys.executable, "-c", code, str(run_dir)], input=stored, capture_output=True, check=False)
    assert done.stderr.decode() == ""
    assert done.stdout.decode() == html


def test_the_packed_facts_are_audit_json(report: Report, page: Page):
    link = next(link for link in page.all("a") if "download" in link)
    content = gzip.decompress(base64.b64decode(link["href"].partition(",")[2]))
    assert content.decode() == dump_json(report.model_dump(mode="json"))
    assert json.loads(content)["record"]["seed"] == 7


def test_without_a_gate(report: Report, run_dir: Path):
    page = read(render_html(unjudged(report), run_dir))
    well_formed(page)
    assert "Not judged: no policy was given." in page.text
    assert "Key numbers" in [text.strip() for _, text in page.headings]
    assert "94.1\u00a0%" in page.text


@pytest.mark.parametrize("judged", [True, False])
def test_without_results(report: Report, run_dir: Path, judged: bool):
    empty = with_results(report if judged else unjudged(report), ())
    page = read(render_html(empty, run_dir))
    well_formed(page)
    assert "No probe left a result." in page.text


def test_all_probes_skipped(report: Report, run_dir: Path):
    skipped = [result for result in report.record.results if result.probe == "membership"]
    page = read(render_html(with_results(unjudged(report), tuple(skipped)), run_dir))
    well_formed(page)
    assert "No data of role members was given" in page.text
    assert "Nothing was measured." in page.text


@cache
def _many() -> tuple[str, ...]:
    return tuple(f"class number {i} with a name" for i in range(1000))


def test_a_thousand_classes_stay_small(report: Report, run_dir: Path):
    names = _many()
    first = report.record.results[0]
    per_class = tuple(
        first.measurements[2].model_copy(update={"where": {"class": name}, "value": 0.9}) for name in names
    )
    figures = (sample.bars(names), sample.matrix(names))
    wide = first.model_copy(update={"measurements": per_class, "figures": figures})
    big = report.model_copy(update={"record": sample.record((wide, *report.record.results[1:]), names)})
    html = render_html(big, run_dir)
    assert len(html.encode()) < 700_000
    page = read(html)
    well_formed(page)
    assert "960 further settings are in audit.json." in page.text
    assert "The first 24 of 1,000." in page.text
    assert "20 lowest and the 20 highest of 1,000" in page.text


def test_trust_exceptions_say_what_was_allowed(report: Report, run_dir: Path) -> None:
    """Reading a pickle with placeholders runs nothing, and the header does not say that it did."""
    read = "--allow-pickle: checkpoint.pth, read apart with placeholders"
    for exceptions, code, pickles in (
        ((), False, False),
        (("--allow-code: py:model.py:make",), True, False),
        ((read,), False, True),
        (("--allow-code: py:model.py:make", read), True, True),
    ):
        record = report.record.model_copy(update={"trust_exceptions": exceptions})
        html = render_html(report.model_copy(update={"record": record}), run_dir)
        assert ("was allowed to run:" in html) is code
        assert ("nothing of them ran:" in html) is pickles
