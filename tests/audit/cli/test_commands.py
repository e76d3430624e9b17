"""The commands as a user meets them."""

import json
import re
import tomllib

import jsonschema
import pytest

from tests.audit.cli.command import FIXTURE, MODEL, PREPROCESS, digits_run

POLICY = """
schema = "audit-policy/1"
id = "p"
version = "1"
[[rules]]
id = "ACC"
metric = "accuracy.top1"
min = {min}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run folder of the digits fixture, made once."""
    from typer.testing import CliRunner

    from audit.cli.app import app

    folder = tmp_path_factory.mktemp("finished") / "run"
    words = [str(word) for word in digits_run(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["audit", *words])
        ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 0, ended.output
    return folder


@pytest.mark.parametrize(("least", "code", "word"), [(0.5, 0, "PASS"), (0.999, 1, "FAIL"), (0.95, 3, "INCONCLUSIVE")])
def test_the_gate_says_the_verdict_last_and_in_its_exit_code(audit, tmp_path, finished, least, code, word):
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.format(min=least))

    ended = audit("gate", finished, "--policy", policy)

    assert ended.code == code, ended
    last = ended.out.splitlines()[-1]
    assert last.startswith(word)
    assert "ACC" in last or code == 0
    assert last.endswith("report.html")
    assert word in (finished / "report.html").read_text()


def test_gate_and_report_need_no_torch(finished, tmp_path):
    import subprocess
    import sys

    from tests.audit.cli.command import ROOT

    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.format(min=0.5))
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'timm', 'torchvision'): raise ImportError('torch was imported')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from audit.cli import main; sys.argv[0] = 'audit'; main()"
    )
    for words in (["gate", str(finished), "--policy", str(policy)], ["report", str(finished)]):
        found = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, found.stderr


def test_a_run_that_measured_nothing_is_no_success(audit, tmp_path):
    ended = audit(*digits_run(tmp_path / "run"), "--probe", "label-noise", "--probe", "shortcuts")
    assert ended.code == 0

    words = [word for word in digits_run(tmp_path / "skipped") if word not in ("--probe", "accuracy")]
    ended = audit(*words, "--probe", "label-noise", "--probe", "shortcuts")

    assert ended.code == 3
    assert "--data train=SPEC" in ended.out
    last = ended.out.splitlines()[-1]
    assert last.startswith("NOT RUN: nothing was measured; why stands above for label-noise, shortcuts. Report: ")


@pytest.mark.parametrize(("document", "name"), [("report", "audit.json"), ("run", "results.json")])
def test_what_is_written_fits_its_schema(audit, finished, document, name):
    schema = json.loads(audit("schema", document).out)
    content = json.loads((finished / name).read_text())

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(content)


@pytest.mark.parametrize("preset", ["release", "research", "quick"])
def test_init_writes_a_policy_that_the_gate_takes(audit, tmp_path, finished, preset, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert audit("init", "--preset", preset).code == 0
    written = (tmp_path / "policy.toml").read_text()
    schema = json.loads(audit("schema", "policy").out)
    jsonschema.Draft202012Validator(schema).validate(json.loads(json.dumps(tomllib.loads(written))))
    ended = audit("gate", finished, "--policy", "policy.toml")

    assert "error:" not in ended.err, ended
    assert ended.code in (0, 1, 3)
    assert audit("init").code == 2  # never writes over a file


def test_a_dry_run_prints_the_plan_and_leaves_nothing(audit, tmp_path):
    ended = audit("run", "--model", MODEL, "--preprocess", "none/size=32", "--data", "sklearn:digits", "--dry-run",
                  "--out", tmp_path / "run")  # fmt: skip

    assert ended.code == 0
    assert re.search(r"^evasion +at most about", ended.out, re.MULTILINE)
    assert "1797 of 1797 images" in ended.out
    assert not (tmp_path / "run").exists()


def test_running_again_measures_nothing_again(audit, finished):
    before = (finished / "results.json").read_bytes()
    units = {path: path.stat().st_mtime_ns for path in finished.rglob("units/*")}

    assert audit(*digits_run(finished)).code == 0

    assert (finished / "results.json").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("units/*")} == units


def test_more_samples_reuse_nothing_wrongly(audit, tmp_path):
    assert audit(*digits_run(tmp_path / "a")).code == 0
    assert audit(*digits_run(tmp_path / "a", "--samples", "90")).code == 0
    assert audit(*digits_run(tmp_path / "b", "--samples", "90")).code == 0

    assert (tmp_path / "a/results.json").read_bytes() == (tmp_path / "b/results.json").read_bytes()


def test_a_tiny_budget_is_inconclusive_and_never_a_weaker_number(audit, tmp_path):
    words = [word for word in digits_run(tmp_path / "run", "--budget", "0.001s") if word]

    ended = audit(*words)

    record = json.loads((tmp_path / "run/results.json").read_text())
    assert ended.code == 3
    assert record["results"][0]["status"] == "inconclusive"
    assert record["results"][0]["reason"]["code"] == "budget"
    assert record["results"][0]["measurements"] == []


def test_describe_says_what_was_loaded(audit):
    ended = audit("describe", "--model", MODEL, "--preprocess", "none/size=32", "--data", "sklearn:digits")

    assert ended.code == 0
    for part in ("test_efficientnet", "classes", "parameters", "RANDOM WEIGHTS", "accuracy"):
        assert part in ended.out + ended.err, part


def test_the_list_of_probes_says_what_runs_by_default(audit):
    from audit.catalog import all_probes

    lines = {line.split()[0]: line for line in audit("probes", "list").out.splitlines()[2:]}
    by_default = {name: probe.by_default for name, probe in all_probes().items()}
    assert set(by_default.values()) == {True, False}
    assert {name: "  by default  " in line for name, line in lines.items()} == by_default
    assert all(("  when named  " in line) is not by_default[name] for name, line in lines.items())


def test_doctor_and_explain_say_what_there_is(audit):
    assert "torchattacks" in audit("doctor").out
    explained = audit("probes", "explain", "evasion").out
    for part in ("evasion.robust_accuracy", "Threat model", "steps = 100", "Limits", "References"):
        assert part in explained, part
    assert "--version" in audit("--help").out
    assert audit("--version").out.startswith("trust-audit ")


QUICK = [f"backdoor-model.{name}" for name in ("starts=1", "margin_steps=1", "trigger_steps=10", "bases=20")]


def test_a_checkpoint_alone_is_examined_where_a_probe_needs_no_data(audit, tmp_path):
    words = ["run", "--model", MODEL, "--weights", FIXTURE, "--preprocess", PREPROCESS, "--threads", "1"]

    ended = audit(
        *words, "--probe", "backdoor-model", "--probe", "accuracy", "--out", tmp_path / "run",
        *(word for setting in QUICK for word in ("--set", setting)),
    )  # fmt: skip

    assert ended.code == 3, ended.err
    assert ended.out.splitlines()[-1].startswith("INCONCLUSIVE: nothing was measured that can be relied on")
    results = json.loads((tmp_path / "run/results.json").read_text())["results"]
    by_probe = {result["probe"]: result for result in results}
    assert by_probe["backdoor-model"]["reason"]["code"] == "control_failed"  # ten steps find no corner
    assert by_probe["accuracy"]["reason"]["code"] == "missing_role"
    assert (tmp_path / "run/report.html").is_file()


def test_without_data_and_without_such_a_probe_there_is_nothing_to_do(audit):
    ended = audit("run", "--model", MODEL, "--weights", FIXTURE, "--preprocess", PREPROCESS)
    assert ended.code == 2
    assert "Expected at least one --data SPEC, got none." in ended.err
    assert "--probe backdoor-model" in ended.err
