"""What it all comes to: a verdict with its reasons, and the share of the data that is poisoned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from audit.api import Claim, Measurement, RunContext
from audit.toolkit.detection import ALPHA, Found, power_text
from audit.toolkit.statistics import lower_limit
from probes.shortcuts.border import excess_limit
from probes.shortcuts.canaries import Power
from probes.shortcuts.confirm import TrustedGap
from probes.shortcuts.evidence import GAP, GAP_GREY, KNOWN, Evidence
from probes.shortcuts.filters import Gain
from probes.shortcuts.reference import FEWEST_OF_CLASS, lower_share
from probes.shortcuts.transfer import SMALL_NETWORK, Followed

EFFECT = 0.05
"""Share of images that follow, above the controls'; below it a network hardly uses what was found."""
LED = 0.3
"""Share of images that follow, above those that were taken for the class before: then any such change leads there."""
HARM = 0.25
"""Accuracy on suspected above trusted images: what no honest difference between sets is likely to make."""
SEEN_ALIKE = "images of a class that do not carry its pattern are no more like it than those of other classes"
DRAWN_ALIKE = "images of a class that are not filtered are like its trusted images"
ASSUMED = "of filters of the classes like CUDA's planted ones, of 3 x 3 taps on images up to 64 pixels"


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """All that was found.

    Attributes:
        names: of the classes.
        evidence: of the data alone.
        gains: filters of the marked classes.
        follows: by who was asked, whether it follows.
        trusted: the gap to trusted images, where there are any.
        powers: of planted copies.
    """

    names: Sequence[str]
    evidence: Evidence
    gains: Sequence[Gain]
    follows: dict[str, Followed]
    trusted: TrustedGap | None
    powers: Sequence[Power]

    @property
    def confirmed(self) -> bool:
        """Whether a network behaves as what was found would make it behave."""
        judge = self.follows.get(SMALL_NETWORK)
        follows = judge is not None and ((judge.p <= ALPHA and judge.effect >= EFFECT) or judge.gain.low >= LED)
        return follows or (self.trusted is not None and self.trusted.interval().low > HARM)

    @property
    def found(self) -> Found:
        """The verdict."""
        if self.evidence.alarm:
            return Found.DETECTED if self.confirmed else Found.SUSPICIOUS
        if self.trusted is not None and self.trusted.interval().low > HARM:
            return Found.SUSPICIOUS
        return Found.CANNOT_TELL if self.why_not else Found.NOT_DETECTED

    @property
    def why_not(self) -> str:
        """Why nothing can be said where nothing was found; empty where something can."""
        counts = np.bincount(self.evidence.labels)
        if int((counts >= FEWEST_OF_CLASS).sum()) < 2:
            return f"fewer than two classes have {FEWEST_OF_CLASS} images, the least to compare classes by"
        borders, texture = self.evidence.judged
        if not borders and not texture:
            rest = (
                "images are enlarged by repeated pixels, so that texture tells nothing"
                if self.evidence.repeated
                else f"content alone tells {self.evidence.gap.content.mean():.0%} of labels, so that texture cannot "
                f"stand out (from {KNOWN:.0%})"
            )
            return f"borders are framed, black or too few, or images smaller than 28 pixels, and {rest}"
        if not borders and GAP_GREY < self.evidence.gap.value <= GAP:
            return (
                f"texture tells labels better than content by {self.evidence.gap.value:.0%}, near the limit {GAP:.0%}"
            )
        if not self.powers:
            return "no planted copy was tried"
        if self.smallest is None:
            whole = self.powers[0]
            return f"planted filters of {whole.fraction:.0%} of the images were {power_text(whole.hits, whole.keys)}"
        return ""

    @property
    def smallest(self) -> float | None:
        """The smallest planted fraction that was found with every key, and so were larger ones; None for none."""
        found = None
        for power in sorted(self.powers, key=lambda power: -power.fraction):
            if power.hits < power.keys or not power.keys:
                break
            found = power.fraction
        return found

    @property
    def kinds(self) -> str:
        """Which shortcut, in words."""
        own = "its" if len(self.marked) == 1 else "their"
        words, patterned = [], {template.label for template in self.evidence.patterned}
        if any(gain.label not in patterned for gain in self.gains) or not patterned:
            words.append(f"a filter of {own} own (convolution, as CUDA plants it)")
        stamped = [template.stamp.isolated for template in self.evidence.patterned]
        if any(stamped):
            words.append(f"a patch of {own} own at one place")
        if not all(stamped):
            words.append(f"a fine pattern of {own} own (additive noise or a patch)")
        return " and ".join(words)

    @property
    def marked(self) -> list[int]:
        """The classes that something was found in."""
        labels = {gain.label for gain in self.gains} | {peak.label for peak in self.evidence.peaked}
        return sorted(labels | set(self.evidence.textured) | {one.label for one in self.evidence.patterned})

    def share(self) -> tuple[float, float]:
        """Estimated share of all images that are poisoned, and a lower limit of it.

        The limit is a sum over classes that are told by patterns, trusted images, texture and borders, of 99 % each.
        """
        counts = np.bincount(self.evidence.labels, minlength=len(self.names))
        carried = {one.label: one for one in self.evidence.carried}
        referenced = [one for one in self.evidence.referenced if one.gain.label not in carried]
        known = {one.gain.label for one in referenced} | carried.keys()
        peaked = [peak for peak in self.evidence.peaked if peak.label not in known]
        by_texture = [label for label in self.evidence.textured if label not in known]
        by_texture = [label for label in by_texture if self._texture_says(label) > self._border_says(label)]
        peaked = [peak for peak in peaked if peak.label not in by_texture]
        estimate = sum(self._texture_says(label) * counts[label] for label in by_texture)
        estimate += sum(one.share * counts[one.label] for one in carried.values())
        estimate += sum(peak.share * counts[peak.label] for peak in peaked)
        estimate += sum(one.share * one.n for one in referenced)
        lower = sum(self._texture_says(label, 0.99) * counts[label] for label in by_texture)
        lower += sum(one.lower * counts[one.label] for one in carried.values())
        lower += lower_share(referenced) * sum(one.n for one in referenced)
        if peaked:
            hit, background, n = (sum(getattr(peak, name) for peak in peaked) for name in ("hit", "background", "n"))
            lower += excess_limit(hit, background, n) * sum(int(counts[peak.label]) for peak in peaked)
        total = max(1, int(counts.sum()))
        return float(estimate) / total, float(lower) / total

    def _border_says(self, label: int) -> float:
        return next((peak.share for peak in self.evidence.peaked if peak.label == label), 0.0)

    def _texture_says(self, label: int, confidence: float | None = None) -> float:
        """By how much texture tells the class's label more often than content does, of all its images."""
        mine = self.evidence.labels == label
        texture, content = self.evidence.gap.texture[mine], self.evidence.gap.content[mine]
        right = (
            float(texture.mean()) if confidence is None else lower_limit(int(texture.sum()), len(texture), confidence)
        )
        return max(0.0, right - float(content.mean()))


def measurements(outcome: Outcome, level: float = 0.95) -> Iterator[Measurement]:
    """The numbers."""
    gap, n = outcome.evidence.gap, len(outcome.evidence.labels)
    _, lower = outcome.share()
    if outcome.found is Found.DETECTED:
        yield Measurement(
            metric="shortcuts.poisoned_fraction", value=lower, n=n, claim=Claim.LOWER_BOUND,
            assumptions=((SEEN_ALIKE,) if outcome.evidence.carried else ())
            + ((DRAWN_ALIKE,) if outcome.evidence.referenced else ()),
        )  # fmt: skip
    if outcome.found is Found.NOT_DETECTED and outcome.smallest is not None:
        yield Measurement(
            metric="shortcuts.poisoned_fraction", value=outcome.smallest, n=n, claim=Claim.UPPER_BOUND,
            assumptions=(ASSUMED,),
        )  # fmt: skip
    yield Measurement(
        metric="shortcuts.texture_gap", value=gap.value, n=n, claim=Claim.ESTIMATE, interval=gap.interval(level)
    )
    for who, hits in (("texture", gap.texture), ("content", gap.content)):
        yield Measurement(
            metric="shortcuts.accuracy_by", where={"what": who}, value=float(hits.mean()), n=n, claim=Claim.ESTIMATE,
            interval=gap.accuracy(hits, level),
        )  # fmt: skip
    for power in outcome.powers:
        if power.keys:
            yield Measurement(
                metric="shortcuts.power", where={"fraction": power.fraction},
                value=lower_limit(power.hits, power.keys), n=power.keys, claim=Claim.LOWER_BOUND,
            )  # fmt: skip
    if outcome.trusted is not None:
        yield Measurement(
            metric="shortcuts.trusted_gap", value=outcome.trusted.value, n=outcome.trusted.m, claim=Claim.ESTIMATE,
            interval=outcome.trusted.interval(level),
        )  # fmt: skip


def conclude(outcome: Outcome, ctx: RunContext) -> None:
    """The verdict in words."""
    found = outcome.found
    marked = outcome.marked
    names = ", ".join(outcome.names[label] for label in marked[:12])
    names += f" and {len(marked) - 12} more" if len(marked) > 12 else ""
    who = f"the class {names} has" if len(marked) == 1 else f"{len(marked)} classes ({names}) have"
    estimate, lower = outcome.share()
    share = f"about {estimate:.0%} of all images (at least {lower:.1%})" if estimate else "a share that is not known"
    asked = "; ".join(
        f"{who} follows it with {one.hits} of {one.n} images, {one.before} before, controls "
        f"{np.mean(one.controls):.0%} on average (p = {one.p:.2f})"
        for who, one in outcome.follows.items()
    )
    if outcome.trusted is not None:
        gap = outcome.trusted
        asked += "; " if asked else ""
        asked += (
            f"{SMALL_NETWORK} is right on {gap.here / gap.n:.0%} of these data and {gap.there / gap.m:.0%} of trusted"
        )
    if found is Found.DETECTED:
        text = f"{found}: {who} {outcome.kinds}, on {share}; {asked}"
        ctx.diagnose("detected", text, "warning", conclusion=True)
    elif found is Found.SUSPICIOUS:
        text = f"{found}: no shortcut was found in the images, but {asked}"
        if marked:
            text = (
                f"{found}: {who} {outcome.kinds}, on {share}, but behaviour is not enough to confirm it; "
                f"{asked or 'no network could be asked'}"
            )
        if outcome.trusted is None:
            text += "; with trusted images (--data clean=SPEC) more can be said"
        ctx.diagnose("suspicious", text, "warning", conclusion=True)
    elif found is Found.CANNOT_TELL:
        text = f"{found} whether classes have shortcuts: {outcome.why_not}"
        ctx.diagnose("cannot_tell", text, conclusion=True, undecided=True)
    else:
        shown = ", ".join(f"at {power.fraction:.0%} {power_text(power.hits, power.keys)}" for power in outcome.powers)
        kinds = "filter or pattern" if outcome.evidence.templates else "filter"  # patterns were not always looked for
        text = f"{found}: no class-wise {kinds} stands out; planted filters of all classes' images: {shown}"
        ctx.diagnose("not_detected", text, "info", conclusion=True)
