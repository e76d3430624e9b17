"""An undefended twin: a network of the subject's form, trained on labels alone.

It shows on this architecture and these images that the attacks work, and its adversarial images are tried on the
subject: they need no gradient of the subject, so a masked one does not stop them.

Source: Carlini et al. 2019, sections 3.3 and 4.5, arXiv 1902.06705 (attack an undefended model; transfer).
"""

from __future__ import annotations

import torch

from audit.api import Data, Inconclusive, RunContext, Subject
from audit.errors import AuditError
from audit.training.config import TrainingConfig
from audit.training.recipes import standard
from audit.training.units import batch_size_for, trained_subject
from probes.evasion.config import EvasionConfig


def undefended_twin(subject: Subject, data: Data, config: EvasionConfig, ctx: RunContext) -> Subject | None:
    """The twin where there is `train` data; None where there is not, or, with a notice, where it cannot be trained."""
    if config.twin == "off" or "train" not in data:
        return None
    if subject.untrained is None:
        text = "The architecture cannot be built anew from this spec, so no undefended twin was trained to attack."
        ctx.diagnose("no_twin", text, "info")
        return None
    seed = int(torch.randint(2**31, (), generator=ctx.torch_generator("twin")))
    part = data["train"].first(config.twin_samples)
    try:
        settings = TrainingConfig(epochs=config.twin_epochs, batch_size=batch_size_for(len(part)))
        twin = trained_subject(standard(subject.untrained(seed), part, settings, "twin"), subject, ctx)
    except (AuditError, Inconclusive) as error:
        ctx.diagnose("no_twin", f"No undefended twin was trained: {error}")
        return None
    if twin is None:
        ctx.diagnose("no_twin", "The budget ended before an undefended twin was trained.")
    return twin
