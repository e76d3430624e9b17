"""What a reader of calibration numbers should know about the samples and the logits."""

from __future__ import annotations

import numpy as np

from audit.api import RunContext
from probes.calibration.selective import FEW_ERRORS
from probes.calibration.study import Study
from probes.calibration.temperature import Fit

FEW_SAMPLES = 200
SATURATED_SHARE = 0.1


def diagnose(study: Study, fitted: Fit, ctx: RunContext) -> None:
    """Records each condition that weakens the numbers."""
    _samples(study, ctx)
    saturated = float(np.mean(study.scores.confidence.astype(np.float32) == np.float32(1)))
    if saturated > SATURATED_SHARE:
        text = f"{saturated:.1%} of the confidences are exactly 1 in float32: they cannot be told apart or ranked."
        ctx.diagnose("saturated_confidence", text)
    tied = 1 - len(study.ranking.starts) / len(study)
    if tied > SATURATED_SHARE:
        text = f"{tied:.1%} of the samples share their confidence with another; results are averaged over their order."
        ctx.diagnose("tied_confidence", text, "info")
    if not fitted.identified:
        ctx.diagnose("temperature_unidentified", "Every logit vector is constant: all temperatures fit equally well.")
    elif fitted.at_bound:
        text = f"The best temperature lies at the end of the searched range ({fitted.temperature:g})."
        ctx.diagnose("temperature_at_bound", text)


def _samples(study: Study, ctx: RunContext) -> None:
    n, errors = len(study), study.errors
    if n < FEW_SAMPLES:
        text = f"{n} samples: calibration errors of this size are mostly noise; {FEW_SAMPLES} or more are advised."
        ctx.diagnose("few_samples", text)
    if errors == 0:
        ctx.diagnose("no_errors", "Every prediction is right: AURC is 0 and over-confidence cannot be seen.")
    elif errors == n:
        ctx.diagnose("no_hits", "Every prediction is wrong: check that labels and classes are in the same order.")
    elif errors < FEW_ERRORS:
        text = f"{errors} errors carry the error ranking (AURC, AUGRC); their intervals are widened for it."
        ctx.diagnose("few_errors", text, "info")
    if len(np.unique(study.labels)) == 1:
        ctx.diagnose("single_class", "All labels are of one class: nothing is said about the others.")
