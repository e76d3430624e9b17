"""Whether two networks compute the same, on seeded inputs of several kinds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from audit.loading.preprocess_choice import Shape

TOLERANCE = 1e-4
"""Largest difference allowed, relative to how far scores spread over inputs of one kind.

float32 rounds to 6e-8. Sums of K terms in another order differ by about sqrt(K) roundings, and L layers add up like
sqrt(L) of them: 6e-8 * sqrt(1e4) * sqrt(100) = 6e-5 for a hundred layers of ten thousand terms. What a wrong padding,
pooling, epsilon or order of axes does is larger by far: hundredths and more.
"""
ROUNDING = 1e-5
"""The same, relative to the largest score: what a small spread around large scores is rounded by."""
HALF_TOLERANCE = 2e-2
"""Instead of the first between float16 and float32: float16 rounds to 5e-4, and some roundings lie in a row."""
KINDS = (("plain", 0.0, 3), ("pixels", 0.0, 4), ("faint", 0.1, 4), ("normalised", 1.0, 4), ("loud", 3.0, 4))
"""Name, standard deviation and number of inputs: black, grey and white; uniform in [0, 1]; noise of three scales."""
LARGE_IMAGE = 2**14
"""Pixels of an image from which on there are half as many inputs of noise."""
SEED = 0
TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two networks are apart.

    Attributes:
        difference: the largest difference of a score, relative to the spread of scores on inputs of its kind.
        reason: why they do not agree; empty where they do.
    """

    difference: float
    reason: str

    def __bool__(self) -> bool:
        return not self.reason


def seeded_inputs(shape: Shape) -> list[Tensor]:
    """Images (n, c, h, w), one tensor for each kind in `KINDS`; the same at every call."""
    generator = torch.Generator().manual_seed(SEED)
    inputs = []
    for name, deviation, most in KINDS:
        n = most // 2 if shape[1] * shape[2] > LARGE_IMAGE and name != "plain" else most
        if name == "plain":
            inputs.append(torch.tensor([0.0, 0.5, 1.0])[:, None, None, None].expand(n, *shape).contiguous())
        elif name == "pixels":
            inputs.append(torch.rand((n, *shape), generator=generator))
        else:
            inputs.append(deviation * torch.randn((n, *shape), generator=generator))
    return inputs


def first_of_each(inputs: list[Tensor]) -> list[Tensor]:
    """One image of each kind, in a batch of one."""
    return [images[:1] for images in inputs]


def scores_of(network: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    """Scores (n, classes) on each kind of input, all of a kind at once."""
    with torch.no_grad():
        return [network(images) for images in inputs]


def compare(expected: list[Tensor], found: list[Tensor], tolerance: float = TOLERANCE) -> Agreement:
    """Whether scores agree; rows that are not finite must be so in both.

    Where they agree, the predicted class can differ only where the first two scores are closer than twice what is
    allowed, which is a tie for this purpose.
    """
    worst, fits = 0.0, True
    for ours, theirs in zip(expected, found, strict=True):
        if ours.shape != theirs.shape:
            return Agreement(math.inf, f"it returns {tuple(theirs.shape)} instead of {tuple(ours.shape)}")
        finite = torch.isfinite(ours).all(1)
        if not torch.equal(finite, torch.isfinite(theirs).all(1)):
            return Agreement(math.inf, "it is NaN or Inf on other inputs")
        if not finite.any():
            continue
        scores = ours[finite].double()
        difference = float((scores - theirs[finite].double()).abs().max())
        largest = float(scores.abs().max())
        spread = float(scores.amax() - scores.amin()) if scores.numel() > 1 else largest
        worst = max(worst, difference / max(spread, TINY))
        fits = fits and difference <= tolerance * spread + ROUNDING * largest
    if fits:
        return Agreement(worst, "")
    return Agreement(worst, f"its scores differ by {worst:.2g} of their spread, more than {tolerance:g}")
