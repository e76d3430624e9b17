"""Time: what is left, and how it is shared out. Samples are cut when it ends, never strength."""

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from audit.errors import UsageError

RESERVE = 0.1
"""Share kept back for judging and reporting."""

LEAST_WEIGHT = 1.0
"""Seconds that any work counts as when time is shared: an estimate of nothing still needs a turn."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "": 1}


def parse_duration(text: str) -> float:
    """`90`, `90s`, `10m`, `1.5h` in seconds.

    Raises:
        UsageError: for anything else, and for zero.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text)
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if seconds <= 0:
        raise UsageError(f"Expected a duration such as 90s, 10m or 1.5h, got {text!r}. Give --budget a positive one.")
    return seconds


@dataclass(frozen=True, slots=True)
class Budget:
    """A point in time after which nothing new is begun.

    Attributes:
        deadline: on the clock below; `inf` without a budget.
        clock: seconds, monotonic.
    """

    deadline: float = math.inf
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def of(cls, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> "Budget":
        """A budget of so many seconds from now, less the reserve; unlimited for None."""
        return cls() if seconds is None else cls(clock() + seconds * (1 - RESERVE), clock)

    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.deadline - self.clock())

    def share(self, estimate: float, others: Sequence[float] = ()) -> "Budget":
        """The part of what is left that falls to work of this estimated length beside others still to come.

        Where there is time for all, in proportion. Else each gets what it is estimated at, but none more than a limit
        that leaves as much to all others: estimates are of the most that work may take, and one that is far too high
        must not leave the others without a turn.
        """
        if math.isinf(self.deadline):
            return self
        mine, *rest = (max(LEAST_WEIGHT, seconds) for seconds in (estimate, *others))
        left, needed = self.left(), mine + sum(rest)
        part = left * mine / needed if needed <= left else min(mine, _limit(left, sorted([mine, *rest])))
        return Budget(self.clock() + part, self.clock)


def _limit(left: float, ascending: Sequence[float]) -> float:
    """The most that each of several needs, which exceed what is left together, is given so that all of it is used."""
    for place, need in enumerate(ascending[:-1]):
        level = left / (len(ascending) - place)
        if need >= level:
            return level
        left -= need
    return left  # for the last
