"""The positive control: a classifier that smoothing does not change, so that every radius is known.

Two classes on either side of a hyperplane: under Gaussian noise the class of x keeps the probability
Phi(distance / sigma), and the smoothed classifier is the same one, with the distance to the hyperplane as its radius
(Cohen, Rosenfeld & Kolter 2019, appendix B, arXiv 1902.02918). Its images are counted by the code that counts the
subject's. No certified radius may be above its distance more often than alpha allows, and none below what n draws give
in all but a millionth of runs.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import bdtr, bdtrc, bdtri, ndtr, ndtri
from torch import Tensor, nn

from audit.api import PositiveControl, Subject, Tally, Unit
from probes.smoothing.certificate import certified_radius
from probes.smoothing.config import SmoothingConfig
from probes.smoothing.noise import Noisy
from probes.smoothing.units import Work, count, seed_of

IMAGES = 16
NEAREST, FARTHEST = 1.0, 3.0
"""Distances of the images from the hyperplane, in sigmas: evenly spaced."""
LEVEL = 5e-7
"""Chance of each of two false alarms, a radius too large and one too small."""


class HalfSpace(nn.Module):
    """Class 1 on the side of a hyperplane through mid-grey that its normal points to, class 0 on the other."""

    def __init__(self, normal: Tensor) -> None:
        super().__init__()
        self.normal = nn.Parameter(normal, requires_grad=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, 2)."""
        signed = (pixels - 0.5).flatten(1) @ self.normal
        return torch.stack([-signed, signed], dim=1)


def control_units(config: SmoothingConfig) -> list[Unit]:
    """One for each sigma."""
    return [Unit(f"control/{sigma!r}", {"sigma": sigma}) for sigma in config.sigmas]


def count_control(work: Work, unit: Unit) -> Tally:
    """The counts of images at known distances, on both sides of a random hyperplane.

    Returns:
        Arrays of one row an image: `distance` and `successes`, of the right class; 0 where the other class was chosen.
    """
    sigma: float = unit.params["sigma"]
    rng = work.streams(f"images/{unit.name}")
    shape = work.subject.input_shape
    normal = rng.standard_normal(int(np.prod(shape)))
    normal /= np.linalg.norm(normal)
    distance = sigma * np.linspace(NEAREST, FARTHEST, IMAGES)
    subject = half_space(work.subject, torch.from_numpy(normal).float())
    successes = []
    with subject.frozen(seed_of(work.streams, unit.name)):
        noisy = Noisy(subject)
        for place in range(IMAGES):
            label = place % 2
            image = _at(normal, (1 if label else -1) * distance[place], shape, rng)
            found = count(noisy, image, sigma, work.config, work.streams, f"{unit.name}/{place}")
            successes.append(found.successes if found.chosen == label else 0)
    return Tally(arrays={"distance": distance, "successes": np.array(successes)})


def half_space(subject: Subject, normal: Tensor) -> Subject:
    """A subject of two classes that takes the same images."""
    model = HalfSpace(normal).to(subject.device).eval()
    return dataclasses.replace(subject, model=model, num_classes=2, class_names=(), output="logits", untrained=None)


def _at(
    normal: npt.NDArray[np.float64], signed: float, shape: tuple[int, int, int], rng: np.random.Generator
) -> Tensor:
    """An image (c, h, w) around mid-grey at a signed distance from the hyperplane."""
    offset = rng.uniform(-0.1, 0.1, len(normal))
    offset += (signed - offset @ normal) * normal
    return torch.from_numpy(0.5 + offset).float().reshape(shape)


def known_radius(tally: Tally, sigma: float, alpha: float, config: SmoothingConfig) -> PositiveControl:
    """Whether radii from the counts of `count_control` are what the known probabilities allow."""
    distance, successes = tally.arrays["distance"], tally.arrays["successes"]
    radius = np.array([certified_radius(int(found), config.n, sigma, alpha) for found in successes])
    above = int((radius > distance).sum())
    allowed = next(most for most in range(len(distance) + 1) if bdtrc(most, len(distance), alpha) < LEVEL)
    least = np.array([least_radius(far / sigma, alpha, config, len(distance)) for far in distance]) * sigma
    reachable = ~np.isnan(least)
    short = int((reachable & ~(radius >= least)).sum())
    return PositiveControl(
        name=f"known-radius-{sigma:g}",
        passed=above <= allowed and short == 0 and bool(reachable.any()),
        expected=f"of a linear classifier of two classes, which smoothing does not change, at most {allowed} of "
        f"{len(distance)} certified radii above the distance to its boundary, and all that {config.n} draws can reach "
        f"({int(reachable.sum())}) at least what the binomial law leaves them; false alarms in one of a million runs",
        observed=f"{above} above the distance; {short} of {int(reachable.sum())} too small; radii of up to "
        f"{np.nanmax(radius, initial=0.0):.3g} at distances of up to {distance.max():.3g}",
    )


def least_radius(sigmas: float, alpha: float, config: SmoothingConfig, images: int) -> float:
    """The radius, in sigmas, that an image so many sigmas from the boundary reaches in all but `LEVEL / images` runs.

    By the binomial law and its inverse, without the limits that `certified_radius` uses. NaN where it may reach none,
    or where the wrong class may be chosen.
    """
    right, level = float(ndtr(sigmas)), LEVEL / images / 2
    if bdtrc((config.n0 - 1) // 2, config.n0, 1 - right) > level:
        return float("nan")
    successes = int(np.searchsorted(bdtr(np.arange(config.n + 1), config.n, right), level))
    if successes == 0:
        return float("nan")
    probability = float(bdtri(successes - 1, config.n, 1 - alpha))
    return float(ndtri(probability)) if probability > 0.5 else float("nan")
