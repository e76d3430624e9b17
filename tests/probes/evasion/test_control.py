import numpy as np
import pytest

from audit.api import Tally
from probes.evasion.config import EvasionConfig
from probes.evasion.control import control_units, judge_control
from probes.evasion.samples import NEVER


def tally(n, standing, *, classes=10, attack=0, nan=0, wrong=0):
    """`standing` of n right samples hold out, `nan` of those end in NaN, and `wrong` more are never right."""
    broken = np.where(np.arange(n + wrong) < standing, NEVER, 0).astype(np.int16)
    return Tally(
        arrays={
            "clean_correct": np.arange(n + wrong) < n,
            "labels": np.arange(n + wrong) % classes,
            "broken": broken,
            "attack": np.where(broken == 0, attack, -1),
            "broke_down": np.where(np.arange(n + wrong) < nan, 0, NEVER),
        }
    )


@pytest.mark.parametrize(
    ("found", "classes", "passed"),
    [
        (tally(60, 0), 10, True),
        (tally(60, 9), 10, True),  # 15 %, which is 1.5 times chance
        (tally(60, 20), 10, False),
        (tally(60, 60), 10, False),
        (tally(60, 60, nan=60), 10, True),  # driving the model to NaN is finding something
        (tally(60, 0, attack=1), 10, False),  # only the noise (one past the last attack) broke them
        (tally(13, 13, wrong=51), 10, False),  # judged among right samples, or a weak model would pass by being wrong
        (tally(64, 48, classes=2), 2, True),
        (tally(64, 62, classes=2), 2, False),
        (tally(4, 4, classes=2), 2, False),  # the test cannot fail at n = 4, so one at least must break
        (tally(4, 3, classes=2), 2, True),
        (tally(64, 3, classes=1000), 1000, True),
        (tally(64, 10, classes=1000), 1000, False),
        (tally(0, 0), 10, False),
        (tally(20, 20, classes=1), 10, True),  # all of one class: each may become grey and stay right
    ],
)
def test_control_is_judged_by_what_stands(found, classes, passed):
    assert judge_control(found, "linf", classes, 1).passed is passed


def test_false_alarms_of_a_working_attack_are_rare():
    # What stands is at most binomial with the tested share: rejection then has probability at most 0.1 %.
    rng = np.random.default_rng(0)
    draws = rng.binomial(64, 0.15, 4000)
    failed = sum(not judge_control(tally(64, int(standing)), "linf", 10, 1).passed for standing in draws)
    assert failed <= 13  # Poisson with mean 4 exceeds this about once in 10,000 times


def test_one_control_a_norm_at_the_grey_radius():
    units = control_units(EvasionConfig(), (3, 4, 4), 100)
    assert [unit.name for unit in units] == ["control/linf", "control/l2"]
    assert [unit.params["eps"] for unit in units] == [["0.5"], [repr(0.5 * 48**0.5)]]
    assert all(len(unit.positions) == 64 for unit in units)
