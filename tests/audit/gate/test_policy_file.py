"""What a policy file may say, and the texts of refusal."""

import hashlib
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from audit.errors import UsageError
from audit.gate import check_policy, load_policy
from tests.audit.gate.build import CARDS, ECE, GAP, ROBUST, policy, rule

HEAD = 'schema = "audit-policy/1"\nid = "release"\nversion = "2026.1"\n'
RULE = '[[rules]]\nid = "ROB-001"\nmetric = "evasion.robust_accuracy"\nmin = 0.4\n'
WAIVER = '[[waivers]]\nrule = "ROB-001"\nreason = "soon"\nexpires = 2027-01-31\n'


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(text: str | bytes) -> Path:
        path = tmp_path / "policy.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_policy(path)
    return str(caught.value).replace(str(path), "policy.toml")


def test_a_full_policy_is_read_with_the_digest_of_its_bytes(written: Any) -> None:
    text = (
        HEAD
        + '[stats]\nconfidence = 0.99\n[gate]\nfail_on = "warn"\n'
        + RULE
        + 'where = { eps = "8/255", queries = 100 }\n'
        + WAIVER
        + 'model_sha256 = "sha256:ABABABABABAB"\n'
    )
    loaded, digest = load_policy(written(text))
    assert digest == hashlib.sha256(text.encode()).hexdigest()
    assert loaded.stats.confidence == 0.99
    assert loaded.rules[0].where == {"eps": "8/255", "queries": 100}
    assert loaded.waivers[0].expires == date(2027, 1, 31)
    assert loaded.waivers[0].model_sha256 == "abababababab"


def test_a_whole_number_is_a_threshold_and_tables_may_stand_apart(written: Any) -> None:
    loaded, _ = load_policy(written(HEAD + RULE.replace("0.4", "1") + '[rules.where]\neps = "8/255"\n'))
    assert loaded.rules[0].min == 1.0
    assert loaded.rules[0].where == {"eps": "8/255"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            HEAD + RULE.replace("min = 0.4", "threshhold = 0.4"),
            "policy.toml:7: rule ROB-001, threshhold: Expected one of 'id', 'metric', 'where', 'min', 'max', 'level', "
            "'on_inconclusive', 'note', got 'threshhold'. Did you mean 'min' or 'max'?",
        ),
        (
            HEAD + RULE + "[gate]\nfail_onn = 'warn'\n",
            "policy.toml:9: gate.fail_onn: Expected one of 'fail_on', 'on_inconclusive', 'on_not_run', "
            "'on_expired_waiver', got 'fail_onn'. Did you mean 'fail_on'?",
        ),
        (
            "frameworks = 1\n" + HEAD + RULE,
            "policy.toml:1: frameworks: Expected one of 'schema', 'id', 'version', 'description', 'stats', 'gate', "
            "'rules', 'waivers', got 'frameworks'. Remove it.",
        ),
        (
            HEAD + RULE.replace("0.4", '"0.4"'),
            'policy.toml:7: rule ROB-001, min: Expected a number, got "0.4". Correct it.',
        ),
        (HEAD + RULE.replace("0.4", "true"), "policy.toml:7: rule ROB-001, min: Expected a number, got true."),
        (HEAD + RULE.replace("0.4", "nan"), "policy.toml:7: rule ROB-001, min: Expected a finite number, got NaN."),
        (HEAD + RULE.replace("0.4", "-inf"), "policy.toml:7: rule ROB-001, min: Expected a finite number, got -Inf"),
        (
            HEAD + RULE + "level = 'eror'\n",
            "policy.toml:8: rule ROB-001, level: Expected one of 'error', 'warn', got \"eror\". Did you mean 'error'?",
        ),
        (
            HEAD + RULE + "where = { eps = [1, 2] }\n",
            "policy.toml:8: rule ROB-001, where.eps: Expected text, a number or true/false, got [1, 2]. Correct it.",
        ),
        (
            HEAD + RULE + "max = 0.5\n",
            "policy.toml:4: rule ROB-001: Expected exactly one of min and max in rule 'ROB-001'. Give one threshold.",
        ),
        (
            HEAD + RULE + WAIVER.replace("expires = 2027-01-31\n", ""),
            "policy.toml:8: waiver ROB-001, expires: Expected this key, got none. Add it.",
        ),
        (
            HEAD + RULE + WAIVER.replace("2027-01-31", '"next year"'),
            'policy.toml:11: waiver ROB-001, expires: Expected a date such as 2027-01-31, got "next year".',
        ),
        (
            HEAD + RULE + WAIVER + 'scope = { model_sha256 = "ab" }\n',
            "policy.toml:12: waiver ROB-001, scope: Expected one of 'rule', 'reason', 'expires', 'model_sha256', "
            "'approved_by', 'ticket', got 'scope'. Did you mean 'model_sha256'?",
        ),
        (
            HEAD + RULE + WAIVER + 'model_sha256 = "abc"\n',
            "policy.toml:12: waiver ROB-001, model_sha256: Expected a sha256 or its first 12 or more hexadecimal "
            "digits, got 'abc'. Copy it from the run record",
        ),
        (
            HEAD + RULE + RULE + WAIVER.replace("ROB-001", "ROB-002"),
            "policy.toml: Expected rule ids used once, got ROB-001 more than once. Rename one. Expected waivers for "
            "rules of this policy, got ROB-002. Correct the id.",
        ),
        (
            HEAD + RULE + "[stats]\nconfidence = 0.2\n",
            "policy.toml:9: stats.confidence: Expected a value greater than or equal to 0.5, got 0.2. Correct it.",
        ),
        (HEAD + "rules = []\n", "policy.toml:4: rules: Expected at least one entry, got []. Correct it."),
        (HEAD.replace("policy/1", "policy/9") + RULE, "policy.toml:1: schema: Expected one of 'audit-policy/1', got "),
    ],
)
def test_refusals_name_place_expectation_finding_and_remedy(written: Any, text: str, expected: str) -> None:
    message = refusal(written(text))
    assert message.startswith(expected)
    assert "\n" not in message


def test_every_problem_is_told_at_once_in_the_order_of_the_file(written: Any) -> None:
    text = HEAD.replace('id = "release"\n', "") + RULE.replace("0.4", "nan") + "[stats]\nmin_samples = 1.5\n" + WAIVER
    assert refusal(written(text + "ticket = 7\n")).splitlines() == [
        "policy.toml: id: Expected this key, got none. Add it.",
        "policy.toml:6: rule ROB-001, min: Expected a finite number, got NaN. Correct it.",
        "policy.toml:8: stats.min_samples: Expected a whole number, got 1.5. Correct it.",
        "policy.toml:13: waiver ROB-001, ticket: Expected text in quotes, got 7. Correct it.",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD + "a = = 2\n", "policy.toml:4:5: Expected TOML, got a syntax error: Invalid value. Correct the line."),
        (HEAD + "x = [", "policy.toml: Expected TOML, got a syntax error at the end of the file: Invalid value."),
        (b"id = '\xff'\n", "policy.toml:1: Expected UTF-8 text, got other bytes. Save the file as UTF-8."),
        ("", "policy.toml: schema: Expected this key, got none. Add it."),
    ],
)
def test_what_is_not_toml_is_refused_with_line_and_column(written: Any, text: str | bytes, expected: str) -> None:
    assert refusal(written(text)).startswith(expected)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Expected a policy file, got '.*absent.toml': No such file.*Check the path"):
        load_policy(tmp_path / "absent.toml")


# ---------------------------------------------------------------------------------------------- known metrics


@pytest.mark.parametrize(
    ("the_rule", "expected"),
    [
        (
            rule(metric="evasion.robust_acuracy"),
            "Expected a metric of a known probe, got 'evasion.robust_acuracy'. Did you mean 'evasion.robust_accuracy'?",
        ),
        (rule(metric="evasion.zzz"), "got 'evasion.zzz'. That probe measures 'evasion.robust_accuracy'."),
        (rule(metric="weather.rain"), "got 'weather.rain'. List what can be measured with `audit probes`."),
        (
            rule(metric=ROBUST, where={"epss": 1}),
            "Expected one of 'eps', 'norm' in where for evasion.robust_accuracy, got 'epss'. Did you mean 'eps'?",
        ),
        (rule(where={"eps": 1}), "Expected no setting in where for accuracy.top1, got 'eps'. Remove it."),
        (
            rule(metric=ECE, min=0.05),
            "Expected max for calibration.ece, of which less is better, got min: it would pass the worst model. "
            "Write max = 0.05.",
        ),
        (
            rule(max=0.9),
            "Expected min for accuracy.top1, of which more is better, got max: it would pass the worst model. "
            "Write min = 0.9.",
        ),
        (
            rule(min=92),
            "Expected a threshold within the range of accuracy.top1, 0 to 1, got 92.000. Write a fraction: 0.92.",
        ),
        (
            rule(metric=GAP, max=-1),
            "Expected a threshold within the range of unlearning.gap, 0 or more, got -1.000. Correct the threshold.",
        ),
    ],
)
def test_rules_that_no_probe_can_answer_are_refused(the_rule: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_policy(policy(the_rule), CARDS)
    assert expected in str(caught.value)
    assert str(caught.value).startswith("Expected rules that the probes can answer, got 1 problem in policy 'release':")


def test_all_rules_are_checked_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        check_policy(policy(rule("A", metric="x.y"), rule("B"), rule("C", max=3, where={"q": 1})), CARDS)
    lines = str(caught.value).splitlines()
    assert "got 4 problems" in lines[0]
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["rule A", "rule C", "rule C", "rule C"]


def test_rules_that_can_be_answered_pass_the_check() -> None:
    check_policy(
        policy(
            rule("A"),
            rule("B", ROBUST, where={"eps": "8/255"}),
            rule("C", ECE, max=0.05),
            rule("D", GAP, min=0.1),
            rule("E", GAP, max=0.1),
        ),
        CARDS,
    )


def test_the_gate_reaches_neither_torch_nor_the_probes() -> None:
    unwanted = ("torch", "audit.api", "audit.engine", "audit.loading", "probes", "scipy.stats")
    code = f"import sys, audit.gate; print([name for name in {unwanted} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
