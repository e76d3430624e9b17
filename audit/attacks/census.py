"""What the model's logits and gradients are like on images it gets right, before anything is attacked.

A defence that hides the gradient shows here: exact zeros, NaN, a softmax that is exactly 1, an answer that changes from
call to call, a gradient that does not say what a small step does.

Source: Carlini & Wagner 2016, arXiv 1607.04311 (saturated softmax of a distilled network); Pintor et al. 2022, arXiv
2106.09947 (unavailable gradients, unstable predictions).
Differs from source: whether the gradient is of use is measured by the step it predicts, not by the loss under noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from audit.attacks import balls, losses
from audit.attacks.rows import Rows
from audit.attacks.target import Look, Target

STEPS = (8 / 255, 1 / 255, 0.1 / 255)
"""Linf lengths of the steps of which the gradient has to predict one: that moves a robust network of 8-bit activations,
that 8-bit preprocessing lets through, and that is small against the distance to an undefended network's boundary."""
PREDICTS = (0.2, 5.0)
"""A step that raises the margin by a share of what the gradient says outside of this was not predicted. On ordinary
networks one of the steps keeps well inside; curvature may halve or double the rise."""
SAME = 1e-4
"""Two calls agree where no logit differs by more than this share of the spread of its row."""


@dataclass(frozen=True, slots=True, eq=False)
class Census(Rows):
    """Of n images, all (n,) on the CPU.

    Attributes:
        ce_zero: bool, the input gradient of the plain cross-entropy is exactly zero.
        margin_zero: bool, that of the margin is.
        nonfinite: bool, that of the margin has an entry that is NaN or infinite.
        gap: float32, the label's logit less the largest other one.
        changed: float32, largest difference of a logit between two calls, over the row's spread.
        rose: (n, 3) float32, how much the margin rises along each of `STEPS` in its steepest direction, over what the
            gradient says; 1 where that says nothing.
    """

    ce_zero: Tensor
    margin_zero: Tensor
    nonfinite: Tensor
    gap: Tensor
    changed: Tensor
    rose: Tensor

    @property
    def random(self) -> Tensor:
        """Whether the answer changes from call to call."""
        return self.changed > SAME


def predicted(rose: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Whether the gradient predicts one of the steps, (n,), by `Census.rose`."""
    return np.asarray(((rose >= PREDICTS[0]) & (rose <= PREDICTS[1])).any(axis=1))


def take_census(target: Target, pixels: Tensor, labels: Tensor) -> Census:
    """Of images (n, c, h, w) with labels (n,), on any device; clean ones that the model gets right, or others.

    Raises:
        Inconclusive: `no_gradients` where the logits do not depend differentiably on the pixels; `memory`.
    """
    if not len(labels):
        flags, values = torch.empty(0, dtype=torch.bool), torch.empty(0)
        return Census(flags, flags, flags, values, values, torch.empty(0, len(STEPS)))
    images, own = pixels.to(target.subject.device), labels.to(target.subject.device)
    plain = target.look(images, lambda z, rows: cross_entropy(z, own[rows], reduction="none"), gradient=True)
    look = target.look(images, lambda z, rows: losses.margin(z, own[rows]), gradient=True)
    assert plain.gradient is not None
    assert look.gradient is not None
    difference = (look.logits - plain.logits).abs().amax(dim=1) / losses.logit_scale(plain.logits)
    found = Census(
        ce_zero=_zero(plain.gradient) & plain.finite,
        margin_zero=_zero(look.gradient) & look.finite,
        nonfinite=~look.finite,
        gap=-look.loss,
        changed=difference.nan_to_num(0.0),
        rose=torch.stack([_rise(target, images, own, look, length) for length in STEPS], dim=1),
    )
    return found.to(torch.device("cpu"))


def _rise(target: Target, images: Tensor, labels: Tensor, look: Look, length: float) -> Tensor:
    """How much the margin rises along a step, over what the gradient says."""
    assert look.gradient is not None
    moved = (images + length * look.gradient.sign()).clamp(0, 1)
    says = (look.gradient * (moved - images)).flatten(1).sum(dim=1)
    after = target.look(moved, lambda z, rows: losses.margin(z, labels[rows]), gradient=False)
    return torch.where(says > 0, (after.loss - look.loss) / says.clamp(min=balls.TINY), 1.0)


def _zero(gradient: Tensor) -> Tensor:
    return (gradient == 0).flatten(1).all(dim=1)
