"""Records of every released schema version still render and gate."""

import json
import shutil
from datetime import date
from pathlib import Path

import pytest

from audit.cli.files import judged, read_report, write_report
from audit.errors import UsageError
from audit.gate import check_policy, judge
from audit.schema import Outcome, Policy

GOLDEN = sorted((Path(__file__).parent / "golden").iterdir())
POLICY = Policy.model_validate(
    {
        "schema": "audit-policy/1",
        "id": "golden",
        "version": "1",
        "rules": [
            {"id": "ACC", "metric": "accuracy.top1", "min": 0.5},
            {"id": "ROB", "metric": "evasion.robust_accuracy", "where": {"norm": "linf", "eps": "8/255"}, "min": 0.9},
            {"id": "CAL", "metric": "calibration.ece", "where": {"binning": "equal-width"}, "max": 0.9},
        ],
    }
)


@pytest.fixture(params=GOLDEN, ids=lambda path: path.name)
def run_dir(request, tmp_path):
    return Path(shutil.copytree(request.param, tmp_path / "run"))


def test_an_old_record_renders_and_gates(run_dir):
    report = read_report(run_dir)
    check_policy(POLICY, report.record.cards)

    gate = judge(POLICY, "0" * 64, report.record, date(2026, 11, 22))
    write_report(judged(report, POLICY, gate), run_dir)

    assert {verdict.rule: verdict.outcome for verdict in gate.verdicts} == {
        "ACC": Outcome.PASS,
        "ROB": Outcome.FAIL,
        "CAL": Outcome.PASS,
    }
    assert gate.exit_code == 1
    assert "FAIL" in (run_dir / "report.html").read_text()


def test_a_newer_minor_version_opens_and_a_newer_major_is_refused(run_dir):
    results = run_dir / "results.json"
    content = json.loads(results.read_text())
    results.write_text(json.dumps(content | {"schema_version": "1.7", "of_the_future": [1]}))
    assert read_report(run_dir).record.subject.num_classes == 10

    results.write_text(json.dumps(content | {"schema_version": "2.0"}))
    with pytest.raises(UsageError, match=r"Expected a run record of version 1\.0 in .*, got 2\.0"):
        read_report(run_dir)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"schema_version": "1.0"}', '{"schema_version": null}'])
def test_a_damaged_record_is_explained(run_dir, damage):
    (run_dir / "results.json").write_text(damage)

    with pytest.raises(UsageError, match="Expected a"):
        read_report(run_dir)
