"""Groups that contradict their labels, and whose residual does not transfer: networks are trained without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from audit.api import DataSplit, RunContext
from probes.backdoor_data.config import GAIN, BackdoorDataConfig
from probes.backdoor_data.findings import Finding
from probes.backdoor_data.samples import Samples
from probes.backdoor_data.taught import FEWEST_KEPT, taught


def retrained(
    findings: Sequence[Finding], split: DataSplit, samples: Samples, config: BackdoorDataConfig, ctx: RunContext,
    name: str,
) -> list[Finding]:  # fmt: skip
    """The findings, the first of them that need it with what retraining says; none does where a residual transferred.

    Of clusters that contradict their labels and stand far apart, or whose content is foreign altogether, foreign ones
    come first, and of these the most significant and the largest: what is left of a group goes on teaching.

    Raises:
        Inconclusive: `budget` when time ended before.
    """
    if any(found.transferred for found in findings):
        return list(findings)
    waiting = [
        place
        for place, found in enumerate(findings)
        if found.place is None and len(found.rows) >= 2 * FEWEST_KEPT and _odd(found)
    ]
    waiting.sort(key=lambda place: _rank(findings[place]))
    made = list(findings)
    for place in waiting[: config.retrained]:
        found = findings[place]
        key = f"{name}-{found.network}-{found.label}-{place}"
        made[place] = replace(found, taught=taught(split, samples, found.rows, found.label, config.epochs, ctx, key))
    return made


def _rank(found: Finding) -> tuple[bool, float, int]:
    return not found.agreement.foreign, found.agreement.p, -len(found.rows)


def _odd(found: Finding) -> bool:
    """Whether it is more than a style: half of the ones of scikit-learn's digits teach one another by nature."""
    return found.contradicted and (found.gain >= GAIN or found.agreement.foreign)
