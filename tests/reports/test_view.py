import re
from pathlib import Path

import pytest

from audit.catalog import all_probes
from audit.cli.verdict import summary as terminal
from audit.schema import Claim, Diagnostic, Outcome, PositiveControl, ProbeResult, Report, Status
from reports.view import build_view
from reports.view_measures import Registry, headlines
from tests.reports import sample


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return sample.sample_report(tmp_path_factory.mktemp("run"))


def test_summary_follows_from_the_verdicts(report: Report):
    holds, fails, untold, wary, steps = build_view(report, {}).summary
    assert [item.split(":")[0] for item in holds.items] == [
        "Accuracy, top1", "Calibration, ECE", "Certified, accuracy (eps = 2/255, norm = linf)",
    ]  # fmt: skip
    assert fails.items[0] == (
        "Evasion, robust accuracy (eps = 8/255, norm = linf): ≤\u00a012.3\u00a0%; at least 30\u00a0% is required."
    )
    assert fails.items[1].endswith("Waived: Attack surface is closed in this product.")
    assert len(untold.items) == 3
    assert untold.more == ""
    assert wary.items == ("Evasion: Gradients vanish on 3 % of the samples.",)
    assert steps.more == "and 2 more below"
    assert steps.items[0].startswith("Do not rely on poisoning: a control of it failed.")
    assert steps.items[1] == "Rule ROB-1: bring robust accuracy to at least 30\u00a0%, or have a waiver approved."


def test_what_probes_conclude_is_in_the_summary(report: Report):
    said = Diagnostic(code="evaluation", text="Evaluation RELIABLE: all passed.", severity="info", conclusion=True)
    results = tuple(
        found.model_copy(update={"diagnostics": (said, *found.diagnostics)}) if found.probe == "evasion" else found
        for found in report.record.results
    )
    for gate in (report.gate, None):
        record = report.record.model_copy(update={"results": results})
        blocks = build_view(report.model_copy(update={"record": record, "gate": gate}), {}).summary
        items = {block.heading: block.items for block in blocks}
        assert items["What probes conclude"] == ("Evasion: Evaluation RELIABLE: all passed.",)
        assert items["What to be wary of"] == ("Evasion: Gradients vanish on 3 % of the samples.",)


def test_a_detector_that_came_to_nothing_is_among_what_could_not_be_told(report: Report):
    note = Diagnostic(code="any", text="CANNOT TELL whether: too few images", conclusion=True, undecided=True)
    results = tuple(
        found.model_copy(update={"diagnostics": (note,)}) if found.probe == "evasion" else found
        for found in report.record.results
    )
    for gate in (report.gate, None):
        record = report.record.model_copy(update={"results": results})
        blocks = build_view(report.model_copy(update={"record": record, "gate": gate}), {}).summary
        items = {block.heading: block.items for block in blocks}
        assert items["What could not be told"][0] == "Evasion: CANNOT TELL whether: too few images"
        assert "What probes conclude" not in items


def test_numbers_of_a_probe_that_failed_a_check_of_itself_are_not_stated_as_measured(report: Report):
    failed = PositiveControl(name="planted", passed=False, expected="broken", observed="not broken")
    void = tuple(
        found.model_copy(update={"controls": (failed,)}) if found.probe == "evasion" else found
        for found in report.record.results
    )
    for results, believed in ((report.record.results, True), (void, False)):
        ungated = report.model_copy(
            update={"record": report.record.model_copy(update={"results": results}), "gate": None}
        )
        measured = build_view(ungated, {}).summary[0]
        assert any("Accuracy" in item for item in measured.items)
        assert any("Evasion" in item for item in measured.items) is believed
        assert ("Not to be relied on" not in terminal(ungated)) is believed


def test_inconclusive_says_how_many_more_samples(report: Report):
    assert report.gate is not None
    only = tuple(v for v in report.gate.verdicts if v.outcome is Outcome.INCONCLUSIVE)
    judged = report.model_copy(update={"gate": report.gate.model_copy(update={"verdicts": only})})
    steps = build_view(judged, {}).summary[-1]
    assert "Rule ACC-2: audit about 4,200 further images to settle it." in steps.items


def test_whisker_stays_on_its_scale(report: Report):
    for row in build_view(report, {}).scorecard.rows:
        w = row.whisker
        xs = [w.threshold_x, w.required_x, w.required_x + w.required_width]
        xs += [w.value_x] if w.value_x is not None else []
        xs += list(w.interval_x or ())
        assert all(8 <= x <= 292 for x in xs)
        assert w.value_x is None or w.interval_x is None or w.interval_x[0] <= w.value_x <= w.interval_x[1]


def test_bounds_point_where_the_truth_lies(report: Report):
    arrows = {row.rule: row.whisker.arrow for row in build_view(report, {}).scorecard.rows}
    assert (arrows["ROB-1"], arrows["CERT-1"], arrows["ACC-1"]) == ("left", "right", "")


def test_an_arrow_without_room_is_left_out(report: Report):
    assert report.gate is not None
    zero = {"value": 0.0, "interval": None, "threshold": 0.4}
    verdicts = tuple(v.model_copy(update=zero) for v in report.gate.verdicts if v.rule == "ROB-1")
    judged = report.model_copy(update={"gate": report.gate.model_copy(update={"verdicts": verdicts})})
    assert build_view(judged, {}).scorecard.rows[0].whisker.arrow == ""


def test_required_side_follows_the_rule(report: Report):
    rows = {row.rule: row for row in build_view(report, {}).scorecard.rows}
    at_least, at_most = rows["ACC-1"].whisker, rows["CAL-1"].whisker
    assert at_least.required_x == at_least.threshold_x
    assert at_most.required_x + at_most.required_width == pytest.approx(at_most.threshold_x)
    assert rows["CAL-1"].threshold == "at most 5\u00a0%"


def test_headlines_are_the_judged_numbers(report: Report):
    accuracy = build_view(report, {}).probes[0]
    assert [number.metric for number in accuracy.answer] == ["accuracy.top1", "accuracy.worst_class"]


def test_of_bounds_over_radii_the_last_leads_and_of_others_the_first():
    found = tuple(
        sample._share(metric, value, 0.1, 100, Claim.UPPER_BOUND, **{key: name})
        for metric, key in (("evasion.robust_accuracy", "eps"), ("distillation.hidden_share", "model"))
        for name, value in (("1", 0.75), ("2", 0.5))
    )
    result = ProbeResult(probe="evasion", version=1, status=Status.MEASURED, measurements=found)
    numbers = headlines(result, Registry(sample.record(())), ())
    assert [number.setting for number in numbers] == ["eps = 2", "model = 1"]


@pytest.mark.parametrize("success", [0.0, 0.3])
def test_a_model_that_no_attack_breaks_is_stated_at_the_largest_radius(success):
    found = tuple(
        sample._share(f"evasion.{metric}", value, 0.1, 100, claim, norm="linf", eps=eps)
        for eps in ("1/255", "8/255")
        for metric, value, claim in (
            ("robust_accuracy", 0.9, Claim.UPPER_BOUND), ("attack_success", success, Claim.LOWER_BOUND),
        )
    )  # fmt: skip
    result = ProbeResult(probe="evasion", version=1, status=Status.MEASURED, measurements=found)
    record = sample.record(()).model_copy(update={"cards": (all_probes()["evasion"].card,)})
    numbers = headlines(result, Registry(record), ())
    assert {number.setting for number in numbers} == {"eps = 8/255, norm = linf"}


@pytest.mark.parametrize(("proven", "eps"), [((0.9, 0.5, 0.0), "2"), ((0.0, 0.0, 0.0), "1"), ((0.9, 0.5, 0.1), "3")])
def test_a_bracket_is_stated_at_the_largest_radius_at_which_its_lower_end_says_anything(proven, eps):
    found = tuple(
        sample._share(f"certified.{metric}", value, 0.1, 100, claim, norm="linf", eps=str(place + 1))
        for place, low in enumerate(proven)
        for metric, value, claim in (
            ("certified_accuracy", low, Claim.LOWER_BOUND), ("attacked_accuracy", 0.95, Claim.UPPER_BOUND),
        )
    )  # fmt: skip
    result = ProbeResult(probe="certified", version=1, status=Status.MEASURED, measurements=found)
    record = sample.record(()).model_copy(update={"cards": (all_probes()["certified"].card,)})
    numbers = headlines(result, Registry(record), ())
    assert [(number.metric, number.setting) for number in numbers] == [
        (f"certified.{metric}", f"eps = {eps}, norm = linf") for metric in ("certified_accuracy", "attacked_accuracy")
    ]


def test_the_metric_that_is_declared_first_leads_in_the_first_norm():
    told = [("evasion.clean_accuracy", Claim.ESTIMATE, {})]
    told += [("evasion.robust_accuracy", Claim.UPPER_BOUND, {"norm": norm, "eps": eps})
             for norm, eps in (("linf", "1/255"), ("linf", "8/255"), ("l2", "0.5"), ("l2", "1"))]  # fmt: skip
    found = tuple(sample._share(metric, 0.5, 0.1, 100, claim, **where) for metric, claim, where in told)
    result = ProbeResult(probe="evasion", version=1, status=Status.MEASURED, measurements=found)
    record = sample.record(()).model_copy(update={"cards": (all_probes()["evasion"].card,)})
    numbers = headlines(result, Registry(record), ())
    assert [(number.metric, number.setting) for number in numbers] == [
        ("evasion.robust_accuracy", "eps = 8/255, norm = linf"), ("evasion.clean_accuracy", ""),
    ]  # fmt: skip


def test_what_was_not_measured(report: Report):
    view = build_view(report, {})
    assert [(gap.id, gap.status.word, gap.code) for gap in view.gaps] == [
        ("certified", "Inconclusive", "budget"),
        ("membership", "Skipped", "missing_role"),
        ("poisoning", "Failed", "control_failed"),
    ]
    assert view.not_asked == ("unlearning",)


def test_glossary_holds_what_is_used(report: Report):
    terms = [term for term, _ in build_view(report, {}).glossary]
    assert "Upper bound (≤)" in terms
    assert "Waiver" in terms
    bare = report.model_copy(update={"gate": None, "policy": None, "record": sample.record(())})
    terms = [term for term, _ in build_view(bare, {}).glossary]
    assert "Upper bound (≤)" not in terms
    assert "PASS ✓" not in terms


def test_templates_hold_no_logic_that_trusts_data():
    folder = Path(__file__).parents[2] / "reports" / "templates"
    for template in folder.glob("*.j2"):
        text = template.read_text(encoding="utf-8")
        assert "|safe" not in text.replace(" ", "")
        assert "autoescape" not in text
    sheet = (folder / "style.css").read_text(encoding="utf-8")
    assert "url(" not in sheet
    assert "</" not in sheet


def _luminance(colour: str) -> float:
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast(theme: int):
    """WCAG 2.2 AA: 4.5 for text, 3 for what is drawn."""
    sheet = (Path(__file__).parents[2] / "reports" / "templates" / "style.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", sheet.split(":root")[theme + 1]))
    texts = ("ink", "muted", "link", "pass", "fail", "inconclusive", "not-run", "error")
    for ground in ("paper", "wash"):
        assert min(_contrast(colours[name], colours[ground]) for name in texts) >= 4.5
    assert min(_contrast(colours[f"s{i}"], colours["paper"]) for i in range(1, 7)) >= 3
