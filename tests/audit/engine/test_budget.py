import math

import pytest

from audit.engine.budget import Budget, parse_duration
from audit.errors import UsageError


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), (" 2 m ", 120)])
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-5m", "ten", "5d", "1e3"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(UsageError, match=r"Expected a duration such as 90s, 10m or 1.5h, got"):
        parse_duration(text)


def test_a_tenth_is_kept_for_reporting():
    assert Budget.of(100, clock=lambda: 0.0).left() == pytest.approx(90)


def test_no_budget_never_ends():
    assert math.isinf(Budget.of(None).left())
    assert math.isinf(Budget.of(None).share(1, [1]).left())


def test_time_is_shared_by_estimate_and_what_is_unused_flows_on():
    now = [0.0]
    budget = Budget(deadline=90, clock=lambda: now[0])

    assert budget.share(1, [1, 1]).left() == pytest.approx(30)
    now[0] = 10  # the first took only 10
    assert budget.share(1, [1]).left() == pytest.approx(40)
    assert budget.share(1).left() == pytest.approx(80)


@pytest.mark.parametrize(
    ("estimate", "others", "part"),
    [
        (10, [20, 30], 90 * 10 / 60),  # time for all
        (50_000, [20, 30], 40),  # an estimate beyond all bounds leaves the others theirs
        (20, [50_000, 30], 20),
        (50_000, [50_000, 10], 40),
        (40, [40, 40], 30),
        (0, [50_000], 1),
    ],
)
def test_no_estimate_leaves_the_others_without_a_turn(estimate, others, part):
    budget = Budget(deadline=90, clock=lambda: 0.0)

    assert budget.share(estimate, others).left() == pytest.approx(part)
