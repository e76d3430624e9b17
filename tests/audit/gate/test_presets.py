"""Rules of presets, those that are commented out among them, on what probes state."""

from importlib import resources

import pytest

from audit.catalog import all_probes
from audit.gate import check_policy, load_policy
from audit.gate.grammar import decide
from audit.schema import Claim, Measurement, Outcome

POISON = ("POI-001", "POI-002", "POI-003")


@pytest.fixture
def policy(tmp_path):
    """The release policy with its rules of poison."""
    text = (resources.files("audit") / "presets/release.toml").read_text()
    before, rules, after = text.partition('# [[rules]]\n# id = "POI-001"')
    poison, waivers, rest = (rules + after).partition("# [[waivers]]")
    taken = "\n".join(line.removeprefix("# ").removeprefix("#") for line in poison.splitlines())
    target = tmp_path / "policy.toml"
    target.write_text(before + taken + "\n" + waivers + rest)
    return load_policy(target)[0]


def test_rules_of_poison_are_of_metrics_that_there_are(policy):
    check_policy(policy, [probe.card for probe in all_probes().values()])
    assert [rule.id for rule in policy.rules if rule.id.startswith("POI")] == list(POISON)


@pytest.mark.parametrize("rule", POISON)
@pytest.mark.parametrize(
    ("claim", "value", "outcome"),
    [
        (Claim.UPPER_BOUND, 0.02, Outcome.PASS),
        (Claim.UPPER_BOUND, 0.9, Outcome.INCONCLUSIVE),
        (Claim.LOWER_BOUND, 0.3, Outcome.FAIL),
        (Claim.LOWER_BOUND, 0.001, Outcome.INCONCLUSIVE),
    ],
)
def test_rules_of_poison_pass_and_fail_by_bounds(policy, rule, claim, value, outcome):
    (one,) = [each for each in policy.rules if each.id == rule]
    assert decide(Measurement(metric=one.metric, value=value, n=900, claim=claim), one, policy.stats).outcome is outcome
