"""Copies of the data in which something is planted: what must be found, and what must not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from audit.api import DataSplit, IntArray, PositiveControl, RunContext, Tally, Unit
from audit.poisons.filters import Cuda
from audit.poisons.recipe import Recipe
from audit.poisons.shams import Brightness, RandomPatch
from probes.shortcuts.config import ShortcutsConfig
from probes.shortcuts.evidence import evidence_of
from probes.shortcuts.images import Pixels, changed, replanted
from probes.shortcuts.traces import Traces, traces_of

SHAMS: dict[str, Recipe] = {
    "one blur for all classes": Cuda(shared=True),
    "one blur on a third of the images": Cuda(shared=True, fraction=1 / 3),
    "brightness": Brightness(),
    "one patch on some images of all classes": RandomPatch(),
}
OWN_IMAGES, OWN_SIDE = 400, 32


@dataclass(frozen=True, slots=True)
class Power:
    """How many planted keys were found at one fraction."""

    fraction: float
    hits: int
    keys: int


def power(
    split: DataSplit, traces: Traces, labels: IntArray, classes: int, config: ShortcutsConfig, ctx: RunContext
) -> list[Power]:
    """Of CUDA in copies of the first images, at each fraction; those that time allowed."""
    seeds = ctx.rng("canaries").integers(2**31, size=config.canaries).tolist()
    units = [
        Unit(f"canary/{fraction:g}/{place}", {"key": key, "fraction": fraction, "n": len(labels)}, role="train")
        for fraction in config.fractions
        for place, key in enumerate(seeds)
    ]

    def tried(unit: Unit, inner: RunContext) -> Tally:
        recipe = Cuda(key=unit.params["key"], fraction=unit.params["fraction"])
        return Tally(values={"alarm": _alarm(split, traces, labels, classes, recipe, inner)})

    tallies = ctx.map(tried, units, "planted copies")
    found: dict[float, list[bool]] = {}
    for unit, tally in zip(units, tallies, strict=False):
        found.setdefault(unit.params["fraction"], []).append(bool(tally.values["alarm"]))
    return [Power(fraction, sum(hits), len(hits)) for fraction, hits in found.items()]


def shams_stay_silent(
    split: DataSplit, traces: Traces, labels: IntArray, classes: int, ctx: RunContext
) -> PositiveControl | None:
    """Changes that tell nothing of the class raise no alarm; None where time ended."""

    def tried(unit: Unit, inner: RunContext) -> Tally:
        alarm = _alarm(split, traces, labels, classes, SHAMS[unit.params["sham"]], inner)
        return Tally(values={"alarm": alarm})

    units = [Unit(f"sham/{place}", {"sham": name, "n": len(labels)}, role="train") for place, name in enumerate(SHAMS)]
    tallies = ctx.map(tried, units, "sham copies")
    if len(tallies) < len(units):
        return None
    alarmed = [name for name, tally in zip(SHAMS, tallies, strict=True) if tally.values["alarm"]]
    return PositiveControl(
        name="sham changes of a copy",
        passed=not alarmed,
        expected=f"no alarm by any of {len(SHAMS)}",
        observed=f"alarms: {', '.join(alarmed)}" if alarmed else "none",
    )


def _alarm(split: DataSplit, traces: Traces, labels: IntArray, classes: int, recipe: Recipe, ctx: RunContext) -> bool:
    rng = ctx.rng("planting")
    changed = replanted(split, traces, labels, classes, recipe, rng)
    return evidence_of(changed, labels, classes, rng, []).alarm


def own_images(ctx: RunContext) -> PositiveControl:
    """In images of its own making the probe finds a filter of one class, and none where all classes have it.

    Noise whose power falls with the square of the frequency, as that of photographs does (Field 1987, Journal of the
    Optical Society of America A 4(12)).
    """
    rng = ctx.rng("own images")
    images, labels = _photographs(rng), np.arange(OWN_IMAGES, dtype=np.int64) % 2
    key = int(rng.integers(2**31))
    planted = {"one class": Cuda(key, size=3, blur=0.3, only=(1,)), "all classes": Cuda(key, size=3, shared=True)}
    found = {name: _own_alarm(images, labels, recipe, ctx) for name, recipe in planted.items()}
    return PositiveControl(
        name="a filter planted in noise like photographs",
        passed=found == {"one class": True, "all classes": False},
        expected="an alarm where one of two classes is filtered, none where both are by the same filter",
        observed=", ".join(f"{name}: {'alarm' if alarm else 'none'}" for name, alarm in found.items()),
    )


def _own_alarm(images: Sequence[Pixels], labels: IntArray, recipe: Recipe, ctx: RunContext) -> bool:
    rng = ctx.rng(f"own/{recipe.name}")
    rows = recipe.choose(labels, 2, rng).poisoned
    made = list(images)
    for row, image in zip(rows, changed([images[row] for row in rows], labels[rows], recipe), strict=True):
        made[row] = image
    return evidence_of(traces_of(made), labels, 2, rng, []).alarm


def _photographs(rng: np.random.Generator) -> list[Pixels]:
    frequency = np.hypot(np.fft.fftfreq(2 * OWN_SIDE)[:, None], np.fft.rfftfreq(2 * OWN_SIDE)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.rfft2(rng.standard_normal((OWN_IMAGES, 2 * OWN_SIDE, 2 * OWN_SIDE))) / frequency
    made = np.fft.irfft2(noise)[:, :OWN_SIDE, :OWN_SIDE]  # a part, so that opposite borders do not meet
    spread = made.std(axis=(1, 2), keepdims=True)
    return list((np.clip(0.5 + 0.2 * (made - made.mean()) / spread, 0, 1) * 255).astype(np.uint8)[:, None])
