"""Whether fresh noise contradicts a certificate, on the audited samples themselves.

A radius r says that the class has a probability of at least Phi(r / sigma) at the image, and of at least 1/2 at every
image within r. Both are tested by further draws, the second at images moved by the whole radius: a share of the class
that is significantly below what is said voids the result. The image is moved in a random direction, towards an image of
another class, and along the mean noise of those copies that lost the class. An adversary who sees the gradient would
find worse directions.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import bdtr, ndtr
from torch import Tensor

from audit.api import IntArray, PositiveControl, RunContext, Tally, Unit
from probes.smoothing.config import CHECKING, CHECKING_AWAY, DIRECTIONS
from probes.smoothing.noise import Noisy
from probes.smoothing.outcome import Outcome
from probes.smoothing.units import Streams, Work, seed_of

LEVEL = 1e-6
"""Of the tests at one sigma together."""


def contradicted(work: Work, outcome: Outcome, ctx: RunContext) -> PositiveControl | None:
    """Whether fresh draws agree with the first certified samples of a sigma; None where there is none, or no time."""
    places = [int(place) for place in (~outcome.abstained).nonzero()[0][: work.config.checked]]
    if not places:
        return None
    others = [_other(outcome.arrays["labels"], place) for place in places]
    params = {
        "sigma": outcome.sigma,
        "radii": [float(outcome.radius[place]) for place in places],
        "classes": [int(outcome.arrays["chosen"][place]) for place in places],
    }
    unit = Unit(f"fresh/{outcome.sigma!r}", params, [*places, *others])
    tallies = ctx.map(lambda unit, _: check(work, unit), [unit], "fresh noise")
    if not tallies:
        text = "The budget ended before fresh noise was compared with any certificate."
        ctx.diagnose("budget-fresh", text)
        return None
    return judged(tallies[0], outcome, places)


def _other(labels: IntArray, place: int) -> int:
    """The next sample of another label; the sample itself where there is none."""
    other = (labels != labels[place]).nonzero()[0]
    return int(other[np.searchsorted(other, place) % len(other)]) if len(other) else place


def check(work: Work, unit: Unit) -> Tally:
    """How many fresh noisy copies get the certified class, around each image and around moved ones.

    Returns:
        `kept`: (images, 1 + DIRECTIONS) int64, of `CHECKING` copies at the image and `CHECKING_AWAY` in each direction.
    """
    sigma, radii, classes = (unit.params[name] for name in ("sigma", "radii", "classes"))
    images, ids = work.split.take(unit.positions).pixels, work.split.sample_ids(unit.positions)
    count = len(radii)
    kept = np.zeros((count, 1 + DIRECTIONS), dtype=np.int64)
    for place in range(count):
        key = f"fresh/{sigma!r}/{ids[place]}"
        with work.subject.frozen(seed_of(work.streams, key)):
            noisy = Noisy(work.subject)
            kept[place] = _kept(
                noisy, images[place], images[count + place], (sigma, radii[place], classes[place]), work.streams, key
            )
    return Tally(arrays={"kept": kept})


def _kept(
    noisy: Noisy, image: Tensor, other: Tensor, claimed: tuple[float, float, int], streams: Streams, key: str
) -> list[int]:
    sigma, radius, chosen = claimed
    lost, kept = torch.zeros_like(image), 0
    for noise, classes in noisy.answers(image, sigma, CHECKING, streams(f"at/{key}")):
        lost += noise[classes != chosen].sum(dim=0)
        kept += int((classes == chosen).sum())
    rng = streams(f"directions/{key}")
    found = [kept]
    for place, direction in enumerate((torch.zeros_like(image), other - image, lost)):
        towards = direction
        if not bool(direction.any()):
            towards = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
        moved = image + radius * towards / towards.norm()
        votes = noisy.votes(moved, sigma, CHECKING_AWAY, streams(f"away/{place}/{key}"))
        found.append(int(votes[chosen]))
    return found


def judged(tally: Tally, outcome: Outcome, places: list[int]) -> PositiveControl:
    """Whether the fresh counts are possible where the certificates hold, by exact binomial tests."""
    kept = tally.arrays["kept"]
    level = LEVEL / kept.size
    broken = np.zeros(kept.shape, dtype=bool)
    for row, place in enumerate(places):
        claimed = float(ndtr(outcome.radius[place] / outcome.sigma))
        broken[row, 0] = bdtr(kept[row, 0], CHECKING, claimed) < level
        broken[row, 1:] = bdtr(kept[row, 1:], CHECKING_AWAY, 0.5) < level
    least = kept[:, 1:].min() / CHECKING_AWAY
    return PositiveControl(
        name=f"fresh-noise-{outcome.sigma:g}",
        passed=not broken.any(),
        expected="no share of the certified class among fresh noisy copies significantly below what the certificate "
        f"says, at the image and {DIRECTIONS} times at its radius (exact binomial tests, level {LEVEL:g} together)",
        observed=f"{int(broken.any(axis=1).sum())} of {len(places)} samples contradicted; at the radius at least "
        f"{least:.0%} of copies kept the class",
    )
