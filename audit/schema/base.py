"""The vocabulary that every record shares."""

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from fractions import Fraction
from typing import Any

from pydantic import BaseModel, ConfigDict

Scalar = str | int | float | bool


class Frozen(BaseModel):
    """A record: immutable, and never NaN or Inf (pydantic would otherwise write them as null).

    Unknown fields are ignored on reading, so that a record of a newer minor version still opens; whatever a person
    writes by hand (policies, probe configurations) forbids them instead.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, use_attribute_docstrings=True)


class Claim(StrEnum):
    """In which direction a number can be trusted."""

    ESTIMATE = "estimate"
    """Statistical: the truth lies in the interval at its level."""
    LOWER_BOUND = "lower_bound"
    """Sound: the true value is at least this, save for sampling."""
    UPPER_BOUND = "upper_bound"
    """Sound: the true value is at most this, save for sampling."""


class Status(StrEnum):
    """What became of a probe."""

    MEASURED = "measured"
    SKIPPED = "skipped"
    INCONCLUSIVE = "inconclusive"
    FAILED = "failed"


class Outcome(StrEnum):
    """What became of a rule. Nothing examined is never a pass."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_RUN = "NOT-RUN"
    ERROR = "ERROR"


def dump_json(value: Any) -> str:
    """JSON with sorted keys and a final newline, so that equal content has equal bytes.

    Raises:
        ValueError: when a NaN or Inf is inside.
    """
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "replace").decode()  # a file name that is no UTF-8 must not lose a whole run


RADII = frozenset({"eps", "radius"})
"""Settings that people write rounded: `0.0314` for `8/255`."""
_LONGEST_NUMBER = 40


def _number(value: Scalar) -> Fraction | None:
    """`8/255`, `"8/255"`, `0.5` and `1` as exact fractions; None for what is not a number."""
    text = str(value).replace(" ", "")
    if isinstance(value, bool) or len(text) > _LONGEST_NUMBER or re.search(r"e[+-]?\d{4}", text, re.IGNORECASE):
        return None
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None


def same_setting(key: str, asked: Scalar, found: Scalar) -> bool:
    """Whether two values of a setting mean the same: `15` equals `15.0`, and as a radius `"8/255"` equals `0.0314`.

    Radii may be 0.2 % apart, since people round them; everything else is exact.
    """
    if asked == found and isinstance(asked, bool) == isinstance(found, bool):
        return True
    left, right = _number(asked), _number(found)
    if left is None or right is None:
        return False
    slack = Fraction(1, 500) if key in RADII else Fraction(0)
    return abs(left - right) <= slack * max(abs(left), abs(right))


def where_text(where: Mapping[str, Scalar]) -> str:
    """`norm=linf, eps=8/255`: a setting in one line, keys in sorted order."""
    return ", ".join(f"{key}={where[key]}" for key in sorted(where))
