"""CONTRIBUTING's probe, copied into one new file of a copy of the project: listed, run, reported, gated, conforming."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = "import sys; from audit.cli import main; sys.argv[0] = 'audit'; main()"
END = "End of the list"
LISTED = f"""import sys
words, sys.argv = sys.argv, ['audit', 'probes', 'list']
from audit.cli import main
try: main()
except SystemExit as end: assert not end.code, end
print({END!r}, flush=True)
sys.argv = words
"""
"""Goes before a command, in its process: torch is imported once."""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with one more file, as CONTRIBUTING says."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("audit", "probes", "reports", "fixtures", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    text = (ROOT / "CONTRIBUTING.md").read_text()
    name = re.search(r"Put this into `(probes/\w+\.py)`", text)[1]
    (copy / name).write_text(re.search(r"```python\n(.*?)```", text, re.S)[1])
    return copy


def within(project, *words):
    environment = {**os.environ, "PYTHONPATH": str(project), "PYTHONSAFEPATH": "1", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *words], cwd=project, env=environment, capture_output=True, text=True, check=False
    )


def test_it_is_listed_run_reported_and_gated(project, tmp_path):
    (tmp_path / "policy.toml").write_text(
        'schema = "audit-policy/1"\nid = "p"\nversion = "1"\n'
        '[[rules]]\nid = "CON-1"\nmetric = "constancy.majority_share"\nmax = 0.3\n'
    )
    run = within(
        project, "-c", LISTED + CODE, "run", "--model", "timm:test_efficientnet?num_classes=10&in_chans=1",
        "--weights", "fixtures/digits.safetensors", "--preprocess", "mean=0.5/std=0.5/size=32", "--threads", "1",
        "--data", "sklearn:digits?split=test", "--samples", "200", "--probe", "constancy", "--probe", "accuracy",
        "--policy", str(tmp_path / "policy.toml"), "--out", str(tmp_path / "run"),
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    listed, _, judged = run.stdout.partition(f"{END}\n")
    assert "constancy" in listed, run
    assert judged.splitlines()[-1].startswith("PASS: 1 of 1"), run.stdout

    record = json.loads((tmp_path / "run/results.json").read_text())
    assert {result["probe"] for result in record["results"]} == {"accuracy", "constancy"}
    assert "Does the model ever change its mind?" in (tmp_path / "run/report.html").read_text()


def test_it_passes_the_conformance_suite(project):
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_conformance.py", "-k", "constancy"]
    found = within(project, *words)
    assert re.search(r"\b9 passed", found.stdout), found.stdout + found.stderr
