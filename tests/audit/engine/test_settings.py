import pytest

from audit.catalog import all_probes
from audit.engine.settings import parse_settings
from audit.errors import UsageError

PROBES = all_probes()


def test_values_reach_the_configuration():
    configs = parse_settings(["accuracy.level=0.9", "evasion.eps_linf=1/255,8/255", "evasion.samples=64"], PROBES)

    assert configs["accuracy"].level == 0.9
    assert configs["evasion"].eps_linf == ("1/255", "8/255")
    assert configs["evasion"].samples == 64


def test_probes_without_settings_keep_their_defaults():
    assert parse_settings([], PROBES) == {}


def test_settings_that_do_not_go_together_are_the_probe_s():
    with pytest.raises(UsageError, match=r"(?m)^evasion: Expected an attack for 'linf', got cw alone.*norms=l2\.$"):
        parse_settings(["evasion.norms=linf", "evasion.attacks=cw"], PROBES)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("steps=many", "evasion.steps: Expected a valid integer, got 'many'."),
        ("samples=0", "evasion.samples: Expected a number greater than or equal to 1, got 0."),
        ("norms=l7", "evasion.norms.0: Expected 'linf', 'l2' or 'l1', got 'l7'."),
        ("norms=", "evasion.norms: Tuple should have at least 1 item after validation, not 0 (got [])."),
        ("eps_linf=-1", "evasion.eps_linf: Expected a radius of at least 0, got -1. Give eps without a sign."),
    ],
)
def test_a_value_that_does_not_do_is_said_once_with_what_would(setting, said):
    with pytest.raises(UsageError) as caught:
        parse_settings([f"evasion.{setting}"], PROBES)

    assert str(caught.value).splitlines() == [said, "Correct --set; `audit probes explain PROBE` lists the keys."]


def test_every_problem_is_named_at_once():
    texts = ["acuracy.level=0.9", "accuracy.levle=0.9", "accuracy.level=2", "accuracy"]

    with pytest.raises(UsageError) as caught:
        parse_settings(texts, PROBES)

    message = str(caught.value)
    assert "Expected a probe among accuracy" in message
    assert "got 'levle'. Did you mean level?" in message
    assert "accuracy.level: Expected a number less than 1, got 2." in message
    assert "Expected PROBE.KEY=VALUE, got 'accuracy'" in message
    assert "audit probes explain PROBE" in message
