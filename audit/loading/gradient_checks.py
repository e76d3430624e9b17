"""Whether gradients of the loss reach the pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

from audit.api import Batch, Subject
from audit.errors import SubjectError
from audit.schema import Diagnostic

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
    rows = []
    for start in range(0, min(GRADIENT_SAMPLES, len(batch.labels)), BATCH_SIZE):
        pixels = batch.pixels[start : min(start + BATCH_SIZE, GRADIENT_SAMPLES)].clone().requires_grad_()
        labels = batch.labels[start : start + len(pixels)].to(subject.device)
        try:
            loss = F.cross_entropy(subject.logits(pixels), labels, reduction="sum")
            gradient = torch.autograd.grad(loss, pixels, allow_unused=True)[0]
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError, SubjectError) as error:
            return [_no_gradient((str(error.__cause__ or error).strip().splitlines() or [""])[0])]
        if gradient is None:
            return [_no_gradient("its output does not depend on the pixels")]
        rows.append(gradient.flatten(1))
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
