"""The radius of certified training, step by step: it widens slowly, as a network that is bounded at once collapses.

After a warm-up without bounds it grows as a power of the steps at first and then linearly, without a kink.

Source: Xu et al. 2020, appendix, arXiv 2002.12920, and the code published with it (SmoothedScheduler, beta = 4).
"""

from __future__ import annotations

POWER = 4
BEND = 0.25
"""Share of the widening after which it is linear."""


def share_of_radius(done: float, start: float, end: float) -> float:
    """Which share of the full radius counts.

    Args:
        done: share of all steps before this one, in [0, 1].
        start: share of all steps at which it is still 0.
        end: share at which it is full, at least `start`.
    """
    if done >= end:
        return 1.0
    if done <= start:
        return 0.0
    place = (done - start) / (end - start)
    scale = 1 / ((1 - BEND) * POWER * BEND ** (POWER - 1) + BEND**POWER)
    curved: float = scale * min(place, BEND) ** POWER
    return curved + scale * POWER * BEND ** (POWER - 1) * max(place - BEND, 0)
