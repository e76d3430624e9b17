"""The built wheel: exactly three packages, its templates and demo files with it, and a demo from it alone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_its_content(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"audit", "probes", "reports"}
    for needed in (
        "audit/demo_files/digits.safetensors",
        "audit/demo_files/demo-policy.toml",
        "audit/presets/release.toml",
        "reports/templates/report.html.j2",
        "reports/templates/style.css",
    ):
        assert needed in names


LIGHT = (
    "evasion.samples=16", "evasion.norms=linf", "evasion.eps_linf=8/255", "evasion.steps=5", "evasion.queries=50",
    "distillation.samples=16", "distillation.steps=5", "distillation.cw_steps=5", "distillation.queries=20",
    "certified.samples=2", "certified.method=ibp", "certified.attack_steps=5", "certified.second_opinion=0",
    "smoothing.sigmas=0.12", "smoothing.samples=4", "smoothing.n=100",
)  # fmt: skip
"""The demo's probes on little; `make test-all` runs the demo as it is."""


@pytest.mark.parametrize("settings", [LIGHT, pytest.param(None, marks=pytest.mark.slow)], ids=["light", "whole"])
def test_the_demo_runs_from_the_unpacked_wheel(wheel, tmp_path, settings):
    """Away from the checkout, with the wheel's own files alone on the path before the libraries."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "import sys, audit; from audit.cli import demo, main; print(audit.__file__); sys.argv[0] = 'audit'; "
    code += f"demo.SETTINGS = {settings or 'demo.SETTINGS'}; main()"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONSAFEPATH": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code, "demo", "--out", "demo"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.startswith(str(tmp_path / "site"))
    assert found.stdout.splitlines()[-1].endswith("demo/report.html")
    assert 50_000 < (tmp_path / "demo/report.html").stat().st_size < 5 * 2**20
