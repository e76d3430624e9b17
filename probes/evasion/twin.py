"""An undefended twin: a network of the subject's form, trained on labels alone.

It shows on this architecture and these images that the attacks work, and its adversarial images are tried on the
subject: they need no gradient of the subject, so a masked one does not stop them.

Source: Carlini et al. 2019, sections 3.3 and 4.5, arXiv 1902.06705 (attack an undefended model; transfer).
"""

from __future__ import annotations

from audit.api import Data, DataSplit, Inconclusive, RunContext, Subject
from audit.errors import AuditError
from audit.toolkit.verification import decide
from audit.training.units import initial_model, undefended_twin
from probes.evasion.config import CONTROLLED, EvasionConfig


def trained_twin(subject: Subject, data: Data, config: EvasionConfig, ctx: RunContext) -> Subject | None:
    """The twin where there is `train` data; None where there is not, or, with a notice, where it cannot be trained."""
    if config.twin == "off" or "train" not in data:
        return None
    if subject.untrained is None:
        text = "The architecture cannot be built anew from this spec, so no undefended twin was trained to attack."
        ctx.diagnose("no_twin", text, "info")
        return None
    part = data["train"].first(config.twin_samples)
    try:
        twin = undefended_twin(subject, initial_model(subject, ctx), part, config.twin_epochs, ctx)
    except (AuditError, Inconclusive) as error:
        ctx.diagnose("no_twin", f"No undefended twin was trained: {error}")
        return None
    if twin is None:
        ctx.diagnose("no_twin", "The budget ended before an undefended twin was trained.")
        return None
    return twin if _worth_attacking(twin, subject, data["eval"], ctx) else None


def _worth_attacking(twin: Subject, subject: Subject, split: DataSplit, ctx: RunContext) -> bool:
    """Whether the twin is right at least half as often as the subject: one that learnt little shows nothing."""
    batch = split.batch(0, CONTROLLED)
    theirs, ours = (int(decide(model, batch.pixels, batch.labels).correct.sum()) for model in (twin, subject))
    said = f"The undefended twin is right on {theirs} of the first {len(batch.labels)} images, the model on {ours}"
    if theirs == 0 or 2 * theirs < ours:
        ctx.diagnose("no_twin", f"{said}: too few to compare with, so it is left out. Raise evasion.twin_epochs.")
        return False
    ctx.diagnose("twin", f"{said}.", "info")
    return True
