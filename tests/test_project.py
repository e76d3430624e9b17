"""What the project promises about itself: sizes, layers, README, packaging."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("audit", "probes", "reports")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MOST_LINES, MOST_LINES_OF_FUNCTION = 400, 80
EXPLAIN_LINES, EXPLAIN_LINES_OF_FUNCTION = 300, 50


def functions(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_readable(path):
    lines = len(path.read_text().splitlines())
    longest = max(functions(path), key=lambda found: found[1], default=("", 0))
    assert lines <= MOST_LINES, f"Expected at most {MOST_LINES} lines, got {lines}. Split the file."
    assert longest[1] <= MOST_LINES_OF_FUNCTION, f"Expected shorter functions, got {longest}. Split it."
    if lines > EXPLAIN_LINES or longest[1] > EXPLAIN_LINES_OF_FUNCTION:
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert "Size:" in docstring, f"Expected a line 'Size: why' in the module docstring ({lines} lines, {longest})."


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text())), "Expected a module docstring, got none."


def test_no_drawers():
    drawers = [path for path in SOURCES if re.search(r"(utils?|helpers?|managers?|misc|common)\.py$", path.name)]
    names = [
        name
        for path in SOURCES
        for name in re.findall(r"^class (\w*(?:Manager|Handler|Helper))\b", path.read_text(), re.M)
    ]
    assert not drawers
    assert not names


def help_of(*words):
    code = "import sys; from audit.cli import main; sys.argv[0] = 'audit'; main()"
    environment = {"COLUMNS": "100", "TERM": "dumb", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", code, *words, "--help"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("words", [(), ("run",)], ids=["audit", "audit run"])
def test_readme_shows_the_help_as_it_is(words):
    shown = re.findall(r"```text\n\$ (audit[^\n]*) --help\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    blocks = {command: text.strip() for command, text in shown}
    assert blocks[" ".join(["audit", *words])] == help_of(*words).strip(), "run: python tests/readme_help.py"


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from audit.cli.app import app\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'scipy', 'timm', 'jinja2', 'matplotlib'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_the_lock_names_no_index_and_pins_everything():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--" not in re.sub(r"#.*", "", lock)
    pins = [line for line in lock.splitlines() if line and not line.startswith((" ", "#"))]
    assert all("==" in pin for pin in pins)


def test_fixtures_are_those_of_the_manifest():
    import hashlib
    import json

    manifest = json.loads((ROOT / "fixtures/manifest.json").read_text())
    for name, entry in manifest.items():
        content = (ROOT / "fixtures" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], f"{name}: run fixtures/build.py"
        assert len(content) < 1_000_000
