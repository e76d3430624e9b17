"""What a search climbs: one number a row, larger where the model is nearer to a wrong answer.

Every loss but one is unchanged when a constant is added to a row's logits or all of them are multiplied by a positive
factor. A model whose logits are a thousand times too large (defensive distillation, a temperature left in) saturates
the softmax, and the plain cross-entropy of such a model has gradients of exactly zero. These do not. The exception is
`plain-ce`, the cross-entropy of the logits as they are, by which an attack that is fooled so can be shown.

Source: Croce & Hein 2020, sections 4 and 5, arXiv 2003.01690 (DLR and its targeted form); Carlini & Wagner 2017,
section V-A, arXiv 1608.04644 (margin).
Differs from source: the cross-entropy is of logits over their spread on the clean image, not of the logits; with fewer
    than four classes DLR's denominator, which ranks that many logits, is replaced by that spread.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from audit.attacks.rows import Jobs

Loss = Literal["ce", "margin", "dlr", "plain-ce"]
SPREAD = 3.0
"""Spread that logits are brought to before the softmax: about that of ordinary classifiers, so that for these the
cross-entropy is nearly the plain one."""
TINY = 1e-12


def logit_scale(logits: Tensor) -> Tensor:
    """Spread of each row of logits (n, k) over classes, (n,), standard deviation; 1 where it is 0 or not finite."""
    spread = logits.double().std(dim=1, correction=0)
    usable = spread.isfinite() & (spread > 0)
    return torch.where(usable, spread, torch.ones_like(spread)).float()


def of(name: Loss, logits: Tensor, jobs: Jobs) -> Tensor:
    """The named loss (n,) of logits (n, k); with a target, of reaching it."""
    if name == "plain-ce":
        return _cross_entropy(logits, jobs)
    if name == "ce" and logits.shape[1] > 2:
        return _cross_entropy(logits * (SPREAD / jobs.scale)[:, None], jobs)
    gap = _target_gap(logits, jobs)  # of two classes the cross-entropy rises with it, and is flat where it is far
    if name in ("ce", "margin") or logits.shape[1] < 4:
        return gap / jobs.scale
    top = logits.topk(4, dim=1).values
    targeted = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return gap / (torch.where(jobs.targets >= 0, targeted, top[:, 0] - top[:, 2]) + TINY)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest logit of a wrong class less the label's, (n,): at least 0 where the decision is not correct."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    return logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1) - own


def _target_gap(logits: Tensor, jobs: Jobs) -> Tensor:
    """Logit of the target, or of the best wrong class, less the label's."""
    own = logits.gather(1, jobs.labels[:, None]).squeeze(1)
    wanted = logits.gather(1, jobs.targets.clamp(min=0)[:, None]).squeeze(1)
    return torch.where(jobs.targets >= 0, wanted - own, margin(logits, jobs.labels))


def _cross_entropy(logits: Tensor, jobs: Jobs) -> Tensor:
    """Of the label, or for a target the log-probability of it."""
    log_probabilities = logits.log_softmax(dim=1)
    own = log_probabilities.gather(1, jobs.labels[:, None]).squeeze(1)
    wanted = log_probabilities.gather(1, jobs.targets.clamp(min=0)[:, None]).squeeze(1)
    return torch.where(jobs.targets >= 0, wanted, -own)
