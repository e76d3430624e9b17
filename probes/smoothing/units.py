"""One unit of work: count what the model answers to noisy copies of a chunk of samples, at one sigma."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from audit.api import DataSplit, Subject, Tally, Unit
from audit.attacks.census import SAME
from audit.attacks.losses import logit_scale
from probes.smoothing.config import COPIES, SmoothingConfig
from probes.smoothing.noise import NO_CLASS, Noisy, classes_of

Streams = Callable[[str], np.random.Generator]
"""Random streams by purpose, of the whole probe: what is drawn for a sample hangs on no unit."""


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What all units share."""

    subject: Subject
    split: DataSplit
    config: SmoothingConfig
    streams: Streams


@dataclass(frozen=True, slots=True)
class Count:
    """What the draws for one image say.

    Attributes:
        chosen: the class that most of the first n0 copies got, the first of equals; `NO_CLASS` where none got any.
        successes: how many of the n further copies got it.
        unanswered: copies of both kinds that got no class.
    """

    chosen: int
    successes: int
    unanswered: int


def count(noisy: Noisy, image: Tensor, sigma: float, config: SmoothingConfig, streams: Streams, key: str) -> Count:
    """Chooses a class by n0 draws, and counts it among n others; `key` names the image's random streams."""
    choosing = noisy.votes(image, sigma, config.n0, streams(f"choose/{key}"))
    counting = noisy.votes(image, sigma, config.n, streams(f"count/{key}"))
    chosen = int(choosing[:-1].argmax()) if choosing[:-1].any() else NO_CLASS
    successes = int(counting[chosen]) if chosen != NO_CLASS else 0
    return Count(chosen, successes, int(choosing[-1] + counting[-1]))


def chunks(config: SmoothingConfig, n: int) -> list[Unit]:
    """The units of n samples; sigmas alternate, so that a budget that ends cuts all alike."""
    return [
        Unit(f"{sigma!r}/{start}-{stop}", {"sigma": sigma}, range(start, stop))
        for start, stop in ((start, min(start + config.chunk, n)) for start in range(0, n, config.chunk))
        for sigma in config.sigmas
    ]


def count_chunk(work: Work, unit: Unit) -> Tally:
    """The counts of every sample, which hang neither on the chunk nor on the other samples.

    Returns:
        Arrays of one row a sample: `labels`; `clean`, the class without noise; `chosen`, `successes` and `unanswered`
        as in `Count`; `random`, whether two passes of the same images differ; `shared`, whether they do so by numbers
        that all images of a pass have in common.
    """
    sigma: float = unit.params["sigma"]
    batch, ids = work.split.take(unit.positions), work.split.sample_ids(unit.positions)
    rows: list[tuple[int, ...]] = []
    for image, identity in zip(batch.pixels, ids, strict=True):
        key = f"{sigma!r}/{identity}"
        with work.subject.frozen(seed_of(work.streams, key)):
            noisy = Noisy(work.subject)
            clean = int(classes_of(noisy.logits(image[None]))[0])
            found = count(noisy, image, sigma, work.config, work.streams, key)
            changes = _repeated(noisy, image, sigma, work.streams(f"repeat/{key}"))
        rows.append((clean, found.chosen, found.successes, found.unanswered, *changes))
    names = ("clean", "chosen", "successes", "unanswered", "random", "shared")
    arrays: dict[str, npt.NDArray[np.int64]] = dict(zip(names, np.array(rows, dtype=np.int64).T, strict=True))
    return Tally(arrays={"labels": batch.labels.numpy(), **arrays})


def seed_of(streams: Streams, key: str) -> int:
    """Of what a model that answers at random draws by itself, for one image."""
    return int(streams(f"subject/{key}").integers(2**31))


def _repeated(noisy: Noisy, image: Tensor, sigma: float, rng: np.random.Generator) -> tuple[bool, bool]:
    """Whether two passes of copies of one image differ between passes; and whether they do so, yet never within one."""
    noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32)).mul_(sigma)
    same = torch.stack([image + noise] * COPIES)
    first, second = noisy.logits(same), noisy.logits(same)
    between = _apart(first, second)
    within = _apart(first, first[:1].expand_as(first)) or _apart(second, second[:1].expand_as(second))
    return between, between and not within


def _apart(first: Tensor, second: Tensor) -> bool:
    """Whether a logit differs by more than rounding."""
    difference = (first - second).abs().amax(dim=1).nan_to_num(0.0)
    return bool((difference > SAME * logit_scale(first).nan_to_num(torch.inf)).any())
