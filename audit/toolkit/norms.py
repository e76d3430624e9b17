"""Balls, boxes and radii: how a perturbation is measured, how a radius is read and printed."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal, get_args

import torch
from torch import Tensor

Norm = Literal["linf", "l2", "l1"]
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
    return vector_length(difference, norm)


def vector_length(rows: Tensor, norm: Norm) -> Tensor:
    """Norm (n,) of each row (n, k), in the rows' own precision."""
    if norm == "linf":
        return rows.abs().amax(dim=1)
    length: Tensor = torch.linalg.vector_norm(rows, ord=2 if norm == "l2" else 1, dim=1)
    return length


def radius_with_slack(eps: float, norm: Norm, pixels: int) -> float:
    """The largest float64 distance that counts as within eps, for images of that many values.

    float32 cannot hold x + delta exactly. Each value is off by at most `ROUNDING`, hence the distance by at most that
    in Linf, sqrt(values) times that in L2 and values times that in L1; nothing more is forgiven than this and
    `RELATIVE_SLACK`.
    """
    return eps * (1 + RELATIVE_SLACK) + ROUNDING * widest(norm, (pixels,))


def in_box(pixels: Tensor) -> Tensor:
    """Whether all values of an image lie in [0, 1], exactly: bool (n,). False where a pixel is NaN."""
    flat = pixels.flatten(1)
    return ((flat >= 0) & (flat <= 1)).all(dim=1)


def to_8bit(pixels: Tensor) -> Tensor:
    """The images after storage with 8 bits a value: rounded to k/255, float32."""
    return pixels.mul(255).round().div(255)


def grey_radius(norm: Norm, shape: tuple[int, int, int]) -> float:
    """The radius at which every image can become plain grey, so that no classifier can be robust on two classes."""
    return 0.5 * widest(norm, shape)


def widest(norm: Norm, shape: tuple[int, ...]) -> float:
    """The largest distance between two images of the box: 1, the root of the number of values, or that number."""
    return {"linf": 1.0, "l2": math.sqrt(math.prod(shape)), "l1": float(math.prod(shape))}[norm]


def noisy(pixels: Tensor, norm: Norm, eps: float, generator: torch.Generator) -> Tensor:
    """Images with blind noise of size eps, cut to the box [0, 1] (which never makes it larger).

    Linf: every value goes up or down by eps. L2 and L1: a uniformly random point of the sphere.

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
        if norm == "l1":  # from normal to Laplacian values, which are uniform on the sphere once normalised
            draw = draw.sign() * -torch.special.erfc(draw.abs() / math.sqrt(2)).clamp(min=1e-30).log()
        noise = draw / vector_length(draw.flatten(1), norm).view(-1, 1, 1, 1) * eps
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
