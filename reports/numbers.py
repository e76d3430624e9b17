"""Numbers as a reader may believe them: never more digits than the interval justifies."""

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from math import floor, log10

from audit.schema import Claim, Interval, MetricSpec

CLAIM_MARKS = {Claim.ESTIMATE: "", Claim.LOWER_BOUND: "≥\u00a0", Claim.UPPER_BOUND: "≤\u00a0"}
CLAIM_WORDS = {Claim.ESTIMATE: "estimate", Claim.LOWER_BOUND: "lower bound", Claim.UPPER_BOUND: "upper bound"}
_CLAIM_ROUNDING = {
    Claim.ESTIMATE: ROUND_HALF_EVEN,
    Claim.LOWER_BOUND: ROUND_FLOOR,
    Claim.UPPER_BOUND: ROUND_CEILING,
}
_NOT_PERCENT = {"auc", "auroc", "kappa", "score", "index", "correlation", "value", "pvalue", "ssim", "cosine"}
"""Last words of metrics in [0, 1] that nobody reads as a share."""
_LARGEST, _MOST_DECIMALS = 1e15, 6
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Style:
    """How the values of a metric are written."""

    percent: bool = False
    unit: str = ""

    @property
    def suffix(self) -> str:
        """What follows the digits, with a no-break space before it."""
        return "\u00a0%" if self.percent else f"\u00a0{self.unit}" if self.unit else ""

    def scaled(self, value: float) -> Decimal:
        """The value in the unit that is printed, without binary noise."""
        return Decimal(repr(float(value))) * (100 if self.percent else 1)


def style_of(spec: MetricSpec | None, metric: str) -> Style:
    """Shares of a whole (unit "1", range 0 to 1) are written in per cent; the rest as they are, with their unit."""
    if spec is None:
        return Style()
    is_share = spec.unit == "1" and spec.low == 0 and spec.high == 1
    if is_share and metric.rsplit("_", 1)[-1].rsplit(".", 1)[-1] not in _NOT_PERCENT:
        return Style(percent=True)
    return Style(unit="" if spec.unit == "1" else spec.unit)


def _decimals(value: Decimal, half_width: Decimal) -> int:
    """Decimal places: the uncertainty keeps two digits up to 35, one above; three digits where there is none."""
    if half_width > 0:
        exponent = floor(log10(half_width))
        leading = float(half_width) / 10.0**exponent
        return max(0, (1 if leading < 3.5 else 0) - exponent)
    if value == 0:
        return 0
    places = max(0, 2 - floor(log10(abs(value))))
    return min(places, max(0, -int(value.normalize().as_tuple().exponent)))


def _written(value: Decimal, decimals: int, rounding: str, digits: int = 2) -> str:
    if abs(value) >= _LARGEST or (decimals > _MOST_DECIMALS and value != 0):
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"  # noqa: RUF001
    rounded = value.quantize(Decimal(1).scaleb(-min(decimals, _MOST_DECIMALS)), rounding=rounding)
    return f"{rounded + 0:,}".replace("-", "\u2212")


def _places(value: float, interval: Interval | None, style: Style) -> int:
    width = style.scaled(interval.high) - style.scaled(interval.low) if interval else Decimal(0)
    return _decimals(style.scaled(value), width / 2)


def value_text(value: float, interval: Interval | None, style: Style, claim: Claim | None = None) -> str:
    """`46.3 %`, `≤ 12.3 %` for an upper bound, `≥ 31 %` for a lower one; bounds are rounded to their safe side."""
    claim = claim or Claim.ESTIMATE
    digits = _written(style.scaled(value), _places(value, interval, style), _CLAIM_ROUNDING[claim])
    return f"{CLAIM_MARKS[claim]}{digits}{style.suffix}"


def interval_text(value: float, interval: Interval | None, style: Style) -> str:
    """`44.9 to 47.7 %`, ends rounded outwards; empty without an interval."""
    if interval is None:
        return ""
    places = _places(value, interval, style)
    low = _written(style.scaled(interval.low), places, ROUND_FLOOR)
    high = _written(style.scaled(interval.high), places, ROUND_CEILING)
    return f"{low} to {high}{style.suffix}"


def exact_text(value: float, style: Style) -> str:
    """A threshold or the end of a scale, with the digits that a person gave it."""
    plain = format(style.scaled(value).normalize(), ",f") if abs(value) < _LARGEST else f"{value:.3g}"
    return plain.replace("-", "\u2212") + style.suffix


def rounded_text(value: float, style: Style, digits: int = 3) -> str:
    """A number without an interval, at most `digits` significant digits; for scales and tables of plots."""
    scaled = style.scaled(value)
    if scaled == 0:
        return "0" + style.suffix
    places = digits - 1 - floor(log10(abs(scaled)))
    text = _written(scaled, max(0, places), ROUND_HALF_EVEN, digits)
    return (text.rstrip("0").rstrip(".") if "." in text and "×" not in text else text) + style.suffix  # noqa: RUF001


def count_text(count: int) -> str:
    """`12,345`."""
    return f"{count:,}"


def duration_text(seconds: float) -> str:
    """`0.4 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
