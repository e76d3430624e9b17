"""One search of training images: tiles, clusters by two networks, retraining, canaries."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from audit.api import DataSplit, FloatArray, Inconclusive, RunContext, Subject, Tally, Unit
from probes.backdoor_data.canaries import Try, tile_tries, trained_try
from probes.backdoor_data.config import FEWEST_IN_CLASS, BackdoorDataConfig, Canary
from probes.backdoor_data.examine import Tile, examined, planted_tiles, tile_picture
from probes.backdoor_data.findings import Finding
from probes.backdoor_data.keeping import restored, restored_tiles, stored, stored_tiles
from probes.backdoor_data.network import Network, suspect
from probes.backdoor_data.outcome import Outcome
from probes.backdoor_data.retrained import retrained
from probes.backdoor_data.samples import Samples
from probes.backdoor_data.taught import trained
from probes.backdoor_data.transfer import Transfer

FITS = 0.6
"""Share of the labels that the subject must give back to count as trained on them."""
OVER = "The budget ended before the images were searched. Raise it."
Opened = Callable[[], AbstractContextManager[Network]]


@dataclass(frozen=True, slots=True)
class Search:
    """One search: what it looks at, and by whom."""

    subject: Subject
    split: DataSplit
    samples: Samples
    held: Samples | None
    config: BackdoorDataConfig
    ctx: RunContext

    @property
    def examined(self) -> Samples:
        """The images whose features are examined."""
        return self.samples.first(self.config.trained)

    def run(self) -> Outcome:
        """Tiles, clusters, retraining, canaries."""
        tiles = self._tiles()
        reasons: list[str] = []
        findings: list[Finding] = []
        gains: dict[str, FloatArray] = {}
        tries: list[Try] = []
        names = self.subject.class_names or self.split.class_names or tuple(map(str, range(self.subject.num_classes)))
        if "badnets" in self.config.canaries:
            tries += tile_tries(self.split, self.samples, self.config, self.ctx)
        most = int(np.bincount(self.examined.labels).max())
        if most < FEWEST_IN_CLASS or len(np.unique(self.examined.labels)) < 2:
            reasons.append(
                f"Features were not examined: no two classes, or none of at least {FEWEST_IN_CLASS} images (the "
                f"largest has {most})."
            )
            findings = [_untested(tile, self.samples) for tile in tiles]
        else:
            findings, gains = self._clusters(tiles)
            tries += self._trained_tries()
        return Outcome(len(self.samples), findings, tries, gains, names, reasons)

    def _tiles(self) -> list[Tile]:
        def look(_: Unit, inner: RunContext) -> Tally:
            return stored_tiles(planted_tiles(self.samples, inner.rng("tiles")))

        unit = Unit("tiles", positions=range(len(self.samples)), role="train")
        tallies = self.ctx.map(look, [unit], "tiles")
        if not tallies:
            raise Inconclusive("budget", OVER)
        return restored_tiles(tallies[0])

    def _clusters(self, tiles: list[Tile]) -> tuple[list[Finding], dict[str, FloatArray]]:
        """What both networks say; the subject only where it fits the labels."""
        first = self.examined
        part = self.split.first(len(first))
        net = trained(part, first.classes, self.config.epochs, self.ctx, "own")
        asked: list[tuple[str, Callable[[], AbstractContextManager[Network]]]] = [("own", lambda: nullcontext(net))]
        if self._fits():
            seed = int(self.ctx.rng("subject").integers(2**31))
            asked.insert(0, ("suspect", lambda: suspect(self.subject, seed)))
        findings: list[Finding] = []
        gains: dict[str, FloatArray] = {}
        for name, opened in asked:

            def look(_: Unit, inner: RunContext, opened: Opened = opened) -> Tally:
                with opened() as network:
                    tested = examined(
                        network, first, self.samples, tiles, self.held, self.config, len(asked), inner.rng
                    )
                return stored(*tested)

            unit = Unit(f"clusters/{name}", {"networks": len(asked)}, range(len(self.samples)), "train")
            tallies = self.ctx.map(look, [unit], "clusters")
            if not tallies:
                raise Inconclusive("budget", OVER)
            found, gains[name] = restored(tallies[0])
            findings += found
        return self._retrained(findings, part), gains

    def _retrained(self, findings: list[Finding], part: DataSplit) -> list[Finding]:
        """What was found stays found where the budget ends."""
        try:
            return retrained(findings, part, self.examined, self.config, self.ctx, "retrained")
        except Inconclusive as ended:
            if ended.code != "budget":
                raise
        text = "The budget ended before networks were trained without a group of images: what they teach is not known."
        self.ctx.diagnose("budget-retraining", text)
        return findings

    def _fits(self) -> bool:
        """Whether the subject gives back the labels of these images, as one does that was trained on them."""
        if "logits" not in self.subject.access:
            return False
        first = self.examined

        def look(_: Unit, inner: RunContext) -> Tally:
            with suspect(self.subject, int(inner.rng("subject").integers(2**31))) as network:
                right = (network.answers(first)[0].argmax(dim=1).numpy() == first.labels).mean()
            return Tally(values={"right": float(right)})

        tallies = self.ctx.map(look, [Unit("fits", positions=range(len(first)), role="train")], "subject")
        if not tallies:
            raise Inconclusive("budget", OVER)
        right = tallies[0].values["right"]
        if right < FITS:
            text = (
                f"The suspect model gives only {right:.0%} of these images their label: it seems not to be trained on "
                "them, and its features were not examined. What is said rests on a network that was trained here."
            )
            self.ctx.diagnose("subject-does-not-fit", text)
        return bool(right >= FITS)

    def _trained_tries(self) -> list[Try]:
        tries = []
        for name in self.config.canaries:
            if name != "badnets":
                tried = self._trained_try(name)
                tries += [tried] if tried is not None else []
        return tries

    def _trained_try(self, name: Canary) -> Try | None:
        """None, and a word of it, where the budget ended before: what was found stays found."""
        try:
            tried = trained_try(name, self.split, self.examined, self.held, self.config, self.ctx)
        except Inconclusive as ended:
            if ended.code != "budget":
                raise
            tried = None
        if tried is None:
            text = (
                f"The budget ended before a planted {name} was tried: nothing is shown of how well it would be found."
            )
            self.ctx.diagnose(f"budget-{name}", text)
        return tried


def _untested(tile: Tile, samples: Samples) -> Finding:
    """A tile where no network could be asked."""
    group = tile.group
    place = (group.top, group.left, group.side)
    nothing = Transfer(0, 0, float("nan"), None)
    shown = tile_picture(samples, tile)
    return Finding(
        "own", group.label, group.carriers, len(samples), place, float("nan"), tile.agreement, shown, nothing
    )
