"""Whether gradients of the loss reach the pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

from audit.api import Batch, Subject
from audit.errors import SubjectError
from audit.schema import Diagnostic
from audit.toolkit.batching import Batching

GRADIENT_SAMPLES = 64
BATCH_SIZE = 32
ZERO_GRADIENT_SHARE = 0.01


def gradient_diagnostics(subject: Subject, batch: Batch) -> list[Diagnostic]:
    """Whether input gradients of the cross-entropy are there, finite, and not zero, on up to 64 samples.

    Args:
        subject: as loaded.
        batch: pixels of the subject's shape, with labels below its number of classes.

    Returns:
        Diagnostics with the codes `no_gradient` alone, or `nonfinite_gradient` and `zero_gradient`.
    """

    def gradient(rows: slice) -> Tensor | None:
        pixels, labels = batch.pixels[rows].clone().requires_grad_(), batch.labels[rows].to(subject.device)
        loss = F.cross_entropy(subject.logits(pixels), labels, reduction="sum")
        return torch.autograd.grad(loss, pixels, allow_unused=True)[0]

    try:
        found = Batching(BATCH_SIZE).parts(min(GRADIENT_SAMPLES, len(batch.labels)), gradient)
    except (RuntimeError, NotImplementedError, SubjectError) as error:
        return [_no_gradient((str(error.__cause__ or error).strip().splitlines() or [""])[0])]
    rows = [part.flatten(1) for part in found if part is not None]
    if len(rows) < len(found):
        return [_no_gradient("its output does not depend on the pixels")]
    return _oddities(torch.cat(rows))


def _oddities(gradients: Tensor) -> list[Diagnostic]:
    """NaN, Inf and zero among gradients (n, pixels)."""
    finite = torch.isfinite(gradients).all(1)
    zero = float((gradients == 0).all(1).float().mean())
    found = []
    if not finite.all():
        text = f"input gradients are NaN or Inf for {1 - float(finite.float().mean()):.1%} of {len(finite)} samples"
        found.append(Diagnostic(code="nonfinite_gradient", text=text))
    if zero > ZERO_GRADIENT_SHARE:
        text = (
            f"the input gradient of the cross-entropy is exactly zero for {zero:.1%} of {len(finite)} samples: "
            "gradients are masked, and attacks that follow them look weaker than they are"
        )
        found.append(Diagnostic(code="zero_gradient", text=text))
    return found


def _no_gradient(why: str) -> Diagnostic:
    text = f"no gradient reaches the pixels ({why}); probes that need gradients are not run"
    return Diagnostic(code="no_gradient", text=text)
