"""What a reader of the numbers should know beside them."""

from __future__ import annotations

from collections.abc import Sequence

from audit.api import RunContext
from probes.evasion.outcome import Outcome
from probes.evasion.samples import NEVER

ZERO_GRADIENT_SHARE = 0.01
"""Above this share of exactly zero gradients, attacks on the cross-entropy are taken to be blind."""

TEXTS = {
    "budget": "The budget ended early; intervals are wider for it",
    "nan_on_clean": "Clean images give NaN or infinite logits and count as not right",
    "nan_under_attack": "Samples were driven to NaN or infinity in the ball; counted as not robust, not as fooled",
    "noise_beats_attack": "Blind noise broke samples that the attacks had not; the attacks are too weak here",
    "nonfinite_gradient": "Correct samples have a gradient of NaN or infinity; those entries were taken as zero",
    "rejected_candidates": "Candidates left the box or the ball; none was counted",
    "tied": "Clean images have the label's class and others tied at the top, as after clamping, and count as not right",
    "zero_gradient": "Correct samples have a gradient of the cross-entropy of exactly zero; attacks that climb it are "
    "blind there, those of this probe climb margins",
}


def diagnose(outcomes: Sequence[Outcome], n: int, ctx: RunContext) -> None:
    """Records each notice that applies once, with its counts in every norm; n samples were asked for."""
    for code, text in TEXTS.items():
        found = [(outcome, _count(code, outcome, n)) for outcome in outcomes]
        counts = [f"{count} of {_base(code, outcome, n)} in {outcome.norm}" for outcome, count in found if count]
        if counts:
            ctx.diagnose(code, f"{text}: {', '.join(counts)}.")


def _count(code: str, outcome: Outcome, n: int) -> int:
    """How often a notice applies in a norm; 0 when it need not be said."""
    arrays, correct = outcome.arrays, outcome.correct
    zero = int(arrays["census_ce_zero"].sum())
    return {
        "budget": outcome.n if outcome.n < n else 0,
        "nan_on_clean": int((~arrays["clean_finite"].astype(bool)).sum()),
        "nan_under_attack": int((correct & (arrays["broke_down"] != NEVER)).sum()),
        "noise_beats_attack": int((arrays["attack"] == outcome.place("noise")).sum()),
        "nonfinite_gradient": int(arrays["census_nonfinite"].sum()),
        "rejected_candidates": outcome.values["rejected"],
        "tied": int(arrays["clean_tied"].sum()),
        "zero_gradient": zero if zero > ZERO_GRADIENT_SHARE * int(correct.sum()) else 0,
    }[code]


def _base(code: str, outcome: Outcome, n: int) -> str:
    """What a count is a part of."""
    if code == "budget":
        return f"{n} samples"
    if code in ("nan_on_clean", "tied"):
        return f"{outcome.n} samples"
    if code == "rejected_candidates":
        return f"{outcome.values['proposed']} candidates"
    return f"{int(outcome.correct.sum())} correct samples"
