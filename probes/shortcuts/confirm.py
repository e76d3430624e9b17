"""Behaviour: what a network that learns from the data does with what was found in them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from audit.api import DataSplit, IntArray, RunContext, Subject, Tally, Unit
from audit.schema import Interval
from audit.toolkit.statistics import difference
from audit.training.config import TrainingConfig
from audit.training.quick import ASKED_AT_ONCE, fitted, quick_net
from audit.training.recipes import standard
from audit.training.units import batch_size_for
from probes.shortcuts.config import ShortcutsConfig
from probes.shortcuts.filters import Gain, Mask, unfiltered
from probes.shortcuts.templates import Carriers, Template
from probes.shortcuts.transfer import ASKED, Ask, Followed, follows_filters, follows_patterns

LEAST_SHARE = 0.1
"""Share of a class that is taken to carry its pattern at least, as an estimate may be far too small."""
FEWEST = 30
"""Images of other classes that something is put on."""


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """A network that was trained on a part of the data, and the part that it was not trained on.

    Attributes:
        net: in evaluation mode.
        rest: the other images.
        positions: their positions in the split.
    """

    net: nn.Module
    rest: DataSplit
    positions: IntArray

    def ask(self, pixels: Tensor) -> IntArray:
        """Classes (n,) of pixels (n, c, h, w)."""
        device = next(self.net.parameters()).device
        with torch.inference_mode():
            parts = [self.net(part.to(device)).argmax(dim=1).cpu() for part in torch.split(pixels, ASKED_AT_ONCE)]
        found: IntArray = torch.cat(parts).numpy()
        return found


def trained_judge(split: DataSplit, n: int, classes: int, config: ShortcutsConfig, ctx: RunContext) -> Judge:
    """Trained on at most half of the first n images.

    Raises:
        Inconclusive: when time ended before it was trained.
        AuditError: when it cannot be trained.
    """
    half = min(config.trained, n // 2)
    settings = TrainingConfig(epochs=config.epochs, batch_size=batch_size_for(half) // 2 + 16, learning_rate=1e-2)
    task = standard(quick_net(split, classes, ctx, "judge"), split.first(half), settings, "judge")
    net = fitted(task, ctx)
    positions = np.arange(half, n)
    return Judge(net, replace(split, order=split.order[positions]), positions)


def asks(subject: Subject) -> Ask:
    """The subject, as a judge."""

    def ask(pixels: Tensor) -> IntArray:
        with torch.inference_mode():
            parts = [subject.logits(part).argmax(dim=1).cpu() for part in torch.split(pixels, ASKED_AT_ONCE)]
        found: IntArray = torch.cat(parts).numpy()
        return found

    return ask


def bare_images(
    judge: Judge, labels: IntArray, found: Sequence[Gain], clean: DataSplit | None
) -> tuple[Tensor, IntArray]:
    """Images (n, c, h, w) without a filter, and the class (n,) to which one shall lead, not their own.

    Trusted ones where there are any; else those of the suspected data without a mark; else marked ones, of which their
    estimated filter is taken back.
    """
    by_label = {gain.label: gain for gain in found}
    if clean is not None and len(clean) >= FEWEST:
        batch = clean.batch(0, 4 * ASKED)
        return aimed(batch.pixels, batch.labels.numpy(), sorted(by_label))
    own = labels[judge.positions]
    marked: Mask = np.any([gain.rows[judge.positions] for gain in found], axis=0)
    free = np.flatnonzero(~marked)[: 4 * ASKED]
    if len(free) >= 2 * FEWEST:
        return aimed(judge.rest.take(free.tolist()).pixels, own[free], sorted(by_label))
    taken = np.flatnonzero(marked & np.isin(own, list(by_label)))[: 2 * ASKED]
    pixels = judge.rest.take(taken.tolist()).pixels
    back = [unfiltered(pixels[i : i + 1], by_label[int(own[row])].taps) for i, row in enumerate(taken)]
    return aimed(torch.cat(back) if back else pixels, own[taken], sorted(by_label))


def scaled(found: Sequence[Template], carried: Sequence[Carriers]) -> list[Template]:
    """Patterns as an image that carries one has it: a mean over the class has only so much as images carry it."""
    share = {one.label: max(LEAST_SHARE, one.share) for one in carried}
    return [
        replace(template, pattern=(template.pattern / share.get(template.label, 1.0)).clip(-1, 1)) for template in found
    ]


def other_images(
    judge: Judge, labels: IntArray, found: Sequence[Template], carried: Sequence[Carriers]
) -> tuple[Tensor, IntArray]:
    """Images (n, c, h, w) of the suspected data that the judge was not trained on, and a class (n,) not their own.

    The pattern of their own class is taken off those that carry it. Patterns of another size are left.
    """
    places = np.arange(min(len(judge.positions), 4 * ASKED))
    pixels, own = judge.rest.take(places.tolist()).pixels.clone(), labels[judge.positions[places]]
    patterns = {template.label: torch.from_numpy(template.pattern) for template in found}
    for one in carried:
        pattern = patterns.get(one.label)
        if pattern is not None and pattern.shape == pixels.shape[1:]:
            pixels[torch.from_numpy(np.isin(judge.positions[places], one.places))] -= pattern
    return aimed(pixels.clamp(0, 1), own, [template.label for template in found])


def aimed(pixels: Tensor, labels: IntArray, targets: Sequence[int]) -> tuple[Tensor, IntArray]:
    """Each image with a target that is not its class, in turns; images that no target is left for are left out."""
    aims = [
        others[place % len(others)] if (others := [target for target in targets if target != label]) else -1
        for place, label in enumerate(labels.tolist())
    ]
    aim = np.array(aims, dtype=np.int64)
    use = np.flatnonzero(aim >= 0)[:ASKED]
    return pixels[torch.from_numpy(use)], aim[use]


def followed(
    judge: Ask, images: Tensor, targets: IntArray, found: Sequence[Gain] | Sequence[Template], who: str, ctx: RunContext
) -> Followed | None:
    """Whether the judge follows filters or patterns; None where time ended, or images are too few."""
    if len(targets) < FEWEST:
        return None

    def tried(_: Unit, inner: RunContext) -> Tally:
        rng = inner.rng("controls")
        gains = [one for one in found if isinstance(one, Gain)]
        patterns = {one.label: torch.from_numpy(one.pattern) for one in found if isinstance(one, Template)}
        result = (
            follows_filters(judge, images, targets, gains, rng)
            if gains
            else follows_patterns(judge, images, targets, patterns, rng)
        )
        return Tally(
            values={"hits": result.hits, "n": result.n, "before": result.before, "controls": list(result.controls)}
        )

    what = {str(one.label): _digest(one) for one in found}
    tallies = ctx.map(tried, [Unit(f"follows/{who}", {"what": what, "n": len(targets)}, role="train")], f"asking {who}")
    if not tallies:
        return None
    values: Mapping[str, object] = tallies[0].values
    return Followed(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})  # type: ignore[arg-type]


def _digest(found: Gain | Template) -> str:
    array = found.taps if isinstance(found, Gain) else found.pattern
    return hashlib.sha256(array.astype(np.float32).tobytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class TrustedGap:
    """How much better the judge does on the suspected data than on trusted images.

    Attributes:
        here, n: right, of so many suspected images that it was not trained on.
        there, m: right, of so many trusted ones.
    """

    here: int
    n: int
    there: int
    m: int

    @property
    def value(self) -> float:
        """Difference of the two accuracies."""
        return self.here / self.n - self.there / self.m

    def interval(self, level: float = 0.95) -> Interval:
        """Of the difference."""
        return difference(self.here, self.n, self.there, self.m, level)


def trusted_gap(judge: Judge, labels: IntArray, clean: DataSplit, most: int = 1000) -> TrustedGap:
    """Of the first images of either."""
    rest, own = judge.rest.first(most), labels[judge.positions[:most]]
    said = np.concatenate([judge.ask(rest.batch(at, at + 256).pixels) for at in range(0, len(rest), 256)])
    clean = clean.first(most)
    batches = [clean.batch(at, at + 256) for at in range(0, len(clean), 256)]
    right = sum(int((judge.ask(batch.pixels) == batch.labels.numpy()).sum()) for batch in batches)
    return TrustedGap(int((said == own).sum()), len(own), right, len(clean))
