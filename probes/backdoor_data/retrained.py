"""Groups that contradict their labels, and whose residual does not transfer: networks are trained without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from audit.api import DataSplit, RunContext
from probes.backdoor_data.config import BackdoorDataConfig
from probes.backdoor_data.findings import Finding
from probes.backdoor_data.samples import Samples
from probes.backdoor_data.taught import FEWEST_KEPT, taught


def retrained(
    findings: Sequence[Finding], split: DataSplit, samples: Samples, config: BackdoorDataConfig, ctx: RunContext,
    name: str,
) -> list[Finding]:  # fmt: skip
    """The findings, the first of them that need it with what retraining says; none does where a residual transferred.

    Clusters with images of another content come first, those with the most significant contradiction before others.

    Raises:
        Inconclusive: `budget` when time ended before.
    """
    if any(found.transferred for found in findings):
        return list(findings)
    waiting = [
        place
        for place, found in enumerate(findings)
        if found.place is None and not found.transferred and found.contradicted and len(found.rows) >= 2 * FEWEST_KEPT
    ]
    waiting.sort(key=lambda place: findings[place].agreement.p)
    made = list(findings)
    for place in waiting[: config.retrained]:
        found = findings[place]
        key = f"{name}-{found.network}-{found.label}"
        made[place] = replace(found, taught=taught(split, samples, found.rows, found.label, config.epochs, ctx, key))
    return made
