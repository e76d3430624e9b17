"""The positive control: at a radius where no classifier can be robust, the attack has to break nearly everything.

Within Linf 0.5, L2 0.5 * sqrt(values of an image) and L1 0.5 * values, every image can become plain grey, which has one
class. So at most the samples of one class can be robust there, and an attack that leaves more alone does not work on
this model: masked gradients, or a defect.

Source: Carlini et al. 2019, section 4.2 (unbounded attacks reach 100 %), arXiv 1902.06705.
"""

from __future__ import annotations

import numpy as np
from scipy.special import bdtrc

from audit.api import PositiveControl, Tally, Unit
from audit.toolkit.norms import Norm, grey_radius
from probes.evasion.config import CONTROLLED, EvasionConfig
from probes.evasion.samples import NEVER
from probes.evasion.searches import Plan

LEVEL = 0.001
"""A working attack fails the control at most this often."""
CHANCE_FACTOR = 1.5
"""What may stay correct: this many times 1/classes, or the largest class's share of the samples where that is more."""


def control_units(config: EvasionConfig, shape: tuple[int, int, int], n: int, twin: str = "") -> list[Unit]:
    """One unit a norm, on the first samples of the order; of the twin where its digest is given."""
    units = []
    for norm in config.norms:
        params = Plan.of(config, norm).params() | {"eps": [repr(grey_radius(norm, shape))], "pressed": 0, "twin": twin}
        name = f"control-twin/{norm}" if twin else f"control/{norm}"
        units.append(Unit(name=name, params=params, positions=range(min(n, CONTROLLED))))
    return units


def judge_control(
    tally: Tally, norm: Norm, num_classes: int, attacks: int, name: str = "grey-radius"
) -> PositiveControl:
    """Whether the attacks of the plan, without the noise, left no more than chance could.

    Judged among samples that are right on the clean image, by an exact one-sided binomial test at level 0.001. Where
    there are too few of them for the test to ever fail, at least one must be broken. Where all are of one class, all
    may stay right, and nothing is shown.
    """
    arrays = tally.arrays
    correct = arrays["clean_correct"].astype(bool)
    by_attack = (arrays["broken"] != NEVER) & (arrays["attack"] < attacks)
    standing = int((correct & ~by_attack & (arrays["broke_down"] == NEVER)).sum())
    n = int(correct.sum())
    radius = {"linf": "0.5", "l2": "0.5*sqrt(values of an image)", "l1": "0.5*values of an image"}[norm]
    largest = np.bincount(arrays["labels"][correct]).max() / n if n else 1.0
    share = min(1.0, max(CHANCE_FACTOR / num_classes, float(largest)))
    passed = n > 0 and (standing < n or share == 1) and float(bdtrc(standing - 1, n, share)) >= LEVEL
    return PositiveControl(
        name=f"{name}-{norm}",
        passed=passed,
        expected=f"at {norm} radius {radius}, where every image can become grey, at least one right sample breaks and "
        f"not significantly more than {share:.1%} stay correct (exact binomial test, level {LEVEL})",
        observed=(f"{standing} of {n} stayed correct" + (", all of one class" if largest == 1 else ""))
        if n
        else "no correct sample to attack",
    )
