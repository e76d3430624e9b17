"""Balls, boxes and radii: how a perturbation is measured, how a radius is read and printed."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal, get_args

import torch
from torch import Tensor

Norm = Literal["linf", "l2"]
NORMS: tuple[Norm, ...] = get_args(Norm)

RELATIVE_SLACK = 1e-5
"""A perturbation counts as inside the ball up to eps * (1 + 1e-5)."""
ROUNDING = 2.0**-24
"""On top: storing x + delta in float32 moves a pixel of [0, 1] by at most 2^-25, and storing x by as much again."""


def parse_eps(value: str | float | int, norm: Norm) -> float:
    """A radius in units of the pixel range: `"8/255"`, `"0.0314"` or `0.0314`.

    A value within 1e-9 of a whole multiple of 1/255 means that multiple exactly. 0 is allowed: no perturbation.

    Raises:
        ValueError: when it is no number, negative, not finite, or above 1 in the Linf norm.
    """
    eps = _as_float(value)
    if eps is None or not math.isfinite(eps):
        raise ValueError(
            f"Expected a radius such as 8/255 or 0.0314, got {value!r}. Give a finite number or a fraction."
        )
    if eps < 0:
        raise ValueError(f"Expected a radius of at least 0, got {value!r}. Give eps without a sign.")
    if norm == "linf" and eps > 1:
        raise ValueError(
            f"Expected a linf radius of at most 1, the range of pixels, got {value!r}. Write 8/255 for 8 levels."
        )
    steps = _in_255ths(eps)
    return abs(eps) if steps is None else float(steps / 255)


def eps_text(eps: float) -> str:
    """The canonical form of a radius, the same for every way to write it.

    A decimal of at most three places stays one (`"0.5"`, `"0"`, `"1"`); what lies within 1e-9 of k/255, for k whole or
    a half, third or quarter, becomes a fraction of whole numbers (`"8/255"`, `"1/510"`); the rest is the shortest
    decimal that gives the same number back.
    """
    if math.isclose(eps, round(eps, 3), rel_tol=1e-12):
        return repr(round(eps, 3)).removesuffix(".0")
    steps = _in_255ths(eps)
    if steps is not None:
        return f"{steps.numerator}/{255 * steps.denominator}"
    return repr(eps)


def canonical_eps(value: str | float | int, norm: Norm) -> str:
    """A radius as given, in its canonical form; raises like `parse_eps`."""
    return eps_text(parse_eps(value, norm))


def distance(first: Tensor, second: Tensor, norm: Norm) -> Tensor:
    """Distance (n,) float64 between images (n, c, h, w), image by image; NaN where a pixel is NaN."""
    difference = (first.double() - second.double()).flatten(1)
    if norm == "linf":
        return difference.abs().amax(dim=1)
    length: Tensor = torch.linalg.vector_norm(difference, dim=1)
    return length


def radius_with_slack(eps: float, norm: Norm, pixels: int) -> float:
    """The largest float64 distance that counts as within eps, for images of that many values.

    float32 cannot hold x + delta exactly. Each value is off by at most `ROUNDING`, hence the distance by at most that
    in Linf and sqrt(values) times that in L2; nothing more is forgiven than this and `RELATIVE_SLACK`.
    """
    rounding = ROUNDING if norm == "linf" else ROUNDING * math.sqrt(pixels)
    return eps * (1 + RELATIVE_SLACK) + rounding


def in_box(pixels: Tensor) -> Tensor:
    """Whether all values of an image lie in [0, 1], exactly: bool (n,). False where a pixel is NaN."""
    flat = pixels.flatten(1)
    return ((flat >= 0) & (flat <= 1)).all(dim=1)


def to_8bit(pixels: Tensor) -> Tensor:
    """The images after storage with 8 bits a value: rounded to k/255, float32."""
    return pixels.mul(255).round().div(255)


def grey_radius(norm: Norm, shape: tuple[int, int, int]) -> float:
    """The radius at which every image can become plain grey, so that no classifier can be robust on two classes."""
    return 0.5 if norm == "linf" else 0.5 * math.sqrt(math.prod(shape))


def noisy(pixels: Tensor, norm: Norm, eps: float, generator: torch.Generator) -> Tensor:
    """Images with blind noise of size eps, cut to the box [0, 1] (which never makes it larger).

    Linf: every value goes up or down by eps. L2: a uniformly random direction of length eps.

    Args:
        pixels: (n, c, h, w) float32 in [0, 1].
        norm: which.
        eps: its size.
        generator: on the CPU, so that every device sees the same noise.
    """
    draw = torch.randn(pixels.shape, generator=generator)
    if norm == "linf":
        noise = torch.where(draw >= 0, eps, -eps).float()
    else:
        noise = torch.nn.functional.normalize(draw.flatten(1), dim=1).view_as(draw) * eps
    return (pixels + noise.to(pixels.device)).clamp(0, 1)


def _as_float(value: str | float | int) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        numerator, _, denominator = str(value).strip().partition("/")
        return float(numerator) / (float(denominator) if denominator else 1.0)
    except (ValueError, ZeroDivisionError):
        return None


def _in_255ths(eps: float) -> Fraction | None:
    """Eps * 255 as a fraction above 0 with denominator at most 4; None when eps is not within 1e-9 of such a value."""
    steps = Fraction(eps * 255).limit_denominator(4)
    return steps if steps and abs(float(steps) / 255 - eps) < 1e-9 else None
