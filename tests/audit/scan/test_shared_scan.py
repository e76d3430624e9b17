"""Real checkpoints by other people: nothing is found in any of them."""

from pathlib import Path

import pytest

from audit.scan import scan_paths

CHECKPOINTS = Path(__file__).parents[4] / "shared" / "checkpoints"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not CHECKPOINTS.is_dir(), reason="the real checkpoints are not beside the project"),
]


def test_real_checkpoints():
    reports = list(scan_paths([CHECKPOINTS]))
    assert len(reports) > 10
    for report in reports:
        assert (report.findings, report.examined) == ((), True), report.path
