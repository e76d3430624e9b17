# ruff: noqa: RUF001
import pytest

from audit.schema import Claim, Interval, MetricSpec
from reports.numbers import Style, duration_text, exact_text, interval_text, rounded_text, style_of, value_text

PERCENT = Style(percent=True)
NB = "\u00a0"


def interval(low: float, high: float) -> Interval:
    return Interval(low=low, high=high, method="m")


@pytest.mark.parametrize(
    ("value", "low", "high", "expected", "spread"),
    [
        (0.4631, 0.4492, 0.4771, "46.3", "44.9 to 47.8"),
        (0.4631, 0.42, 0.51, "46", "42 to 51"),
        (0.46313, 0.459, 0.4672, "46.3", "45.9 to 46.8"),
        (0.5, 0.1, 0.9, "50", "10 to 90"),
        (0.0003, 0.00001, 0.0011, "0.03", "0.00 to 0.11"),
        (1.0, 0.997, 1.0, "100.00", "99.70 to 100.00"),
    ],
)
def test_no_more_digits_than_the_interval_justifies(value, low, high, expected, spread):
    assert value_text(value, interval(low, high), PERCENT) == f"{expected}{NB}%"
    assert interval_text(value, interval(low, high), PERCENT) == f"{spread}{NB}%"


def test_bounds_are_marked_and_rounded_to_the_safe_side():
    around = interval(0.11, 0.14)
    assert value_text(0.12341, around, PERCENT, Claim.UPPER_BOUND) == f"≤{NB}12.4{NB}%"
    assert value_text(0.12341, around, PERCENT, Claim.LOWER_BOUND) == f"≥{NB}12.3{NB}%"
    assert value_text(0.123, None, PERCENT, Claim.UPPER_BOUND) == f"≤{NB}12.3{NB}%"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (0.123456, "0.123"),
        (1234.5, "1,234"),
        (-0.5, "\u22120.5"),
        (1e-9, "1.0 × 10⁻⁹"),
        (1e300, "1.0 × 10³⁰⁰"),
    ],
)
def test_numbers_without_interval(value: float, expected: str):
    assert value_text(value, None, Style()) == expected


@pytest.mark.parametrize(
    ("metric", "unit", "low", "high", "percent"),
    [
        ("accuracy.top1", "1", 0, 1, True),
        ("membership.auc", "1", 0, 1, False),
        ("drift.p_value", "1", 0, 1, False),
        ("poison.gap", "1", -1, 1, False),
        ("calibration.nll", "nats", 0, None, False),
    ],
)
def test_shares_are_written_in_per_cent(metric, unit, low, high, percent):
    spec = MetricSpec(id=metric, meaning="m", better="higher", unit=unit, low=low, high=high)
    assert style_of(spec, metric).percent is percent


def test_thresholds_keep_the_digits_they_were_given():
    assert exact_text(0.955, PERCENT) == f"95.5{NB}%"
    assert exact_text(0.3, PERCENT) == f"30{NB}%"
    assert exact_text(2.0, Style(unit="nats")) == f"2{NB}nats"
    assert exact_text(1e-4, Style()) == "0.0001"


def test_table_numbers_have_no_idle_zeros():
    assert rounded_text(0.15000000000000002, Style(), 4) == "0.15"
    assert rounded_text(1200.0, Style(), 4) == "1,200"
    assert rounded_text(0.00012345, Style(), 3) == "0.000123"
    assert rounded_text(0.00012345, Style(), 4) == "1.234 × 10⁻⁴"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float, text: str):
    assert duration_text(seconds) == text
