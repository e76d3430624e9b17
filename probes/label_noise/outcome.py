"""What it comes to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from audit.api import Claim, Interval, Measurement, PositiveControl, RunContext
from audit.toolkit.detection import ALPHA, Found
from audit.toolkit.statistics import lower_limit, proportion
from probes.label_noise.aum import Areas
from probes.label_noise.canary import Flipped
from probes.label_noise.config import LabelNoiseConfig
from probes.label_noise.duplicates import Contradictions
from probes.label_noise.judging import CONFIDENCE, Judged

ALIKE = "wrong labels look like labels drawn from all other classes, of the class most confused, or the likeliest other"
UNLEARNT = "no pattern in the images, as a trigger, tells which labels are wrong: networks would learn it"
REPRESENTATIVE = "trusted images are of the same kind as the others"
ONE_RIGHT = "an image has one right label"
RECALL = 0.5
"""Of flipped labels, below which nothing can be said where nothing is found."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """All that was found.

    Attributes:
        names: of the classes.
        judged: of the labels.
        same: identical images under different labels.
        flipped: copies with flipped labels.
        areas: margins while training; None where they were not asked for.
        config: which rates matter.
    """

    names: Sequence[str]
    judged: Judged
    same: Contradictions
    flipped: Sequence[Flipped]
    areas: Areas | None
    config: LabelNoiseConfig

    @property
    def found(self) -> Found:
        """The verdict."""
        trusted, least = self.judged.trusted, self.config.least_rate
        if certain(self.same, self.config) or (trusted is not None and trusted.p < ALPHA and trusted.low > least):
            return Found.DETECTED
        if self.why_not:
            return Found.CANNOT_TELL
        return Found.SUSPICIOUS if self.doubtful else Found.NOT_DETECTED

    @property
    def doubtful(self) -> bool:
        """Whether more labels than matter surely score as wrong ones do, or more than trusted ones and than chance."""
        trusted, half = self.judged.trusted, int(self.judged.second.sum())
        if trusted is not None:
            return trusted.p < ALPHA
        return half > 0 and lower_limit(round(self.judged.bound.share * half), half) > self.config.least_rate

    @property
    def why_not(self) -> str:
        """Why nothing can be said; empty where something can."""
        judged = self.judged
        if judged.accuracy <= judged.commonest + 0.05:
            return f"networks learnt hardly anything of these labels (right on {judged.accuracy:.0%})"
        high = judged.bound.limit if judged.trusted is None else judged.trusted.high
        if high > self.config.most_rate and judged.confident.rate > self.config.most_rate and judged.accuracy < 0.8:
            return (
                f"images are too hard for the networks (right on {judged.accuracy:.0%}): right and wrong labels look "
                f"alike, and up to {high:.0%} may be wrong"
            )
        if min((one.flagged / max(1, one.n) for one in self.flipped), default=1.0) < RECALL:
            return "labels that were flipped in a copy were not flagged: " + _recalls(self.flipped)
        return ""


def certain(same: Contradictions, config: LabelNoiseConfig) -> bool:
    """Whether identical images alone show more wrong labels than matter."""
    return same.wrong > 0 and lower_limit(same.wrong, same.n) > config.least_rate


def control(outcome: Outcome) -> PositiveControl:
    """Labels that were flipped are flagged more often than the others are."""
    hits, n = sum(one.flagged for one in outcome.flipped), sum(one.n for one in outcome.flipped)
    usual = float(outcome.judged.confident.suspects.mean())
    return PositiveControl(
        name="labels flipped in a copy",
        passed=lower_limit(hits, n) > usual if n else False,
        expected=f"flagged more often than labels as they are ({usual:.0%})",
        observed=_recalls(outcome.flipped),
    )


def _recalls(flipped: Sequence[Flipped]) -> str:
    return ", ".join(f"{one.flagged} of {one.n} ({one.to})" for one in flipped) or "none were flipped"


def contradicted(same: Contradictions) -> Measurement:
    """Labels that are certainly wrong."""
    return Measurement(
        metric="label-noise.contradictions", value=same.wrong / same.n, n=same.n, claim=Claim.LOWER_BOUND,
        assumptions=(ONE_RIGHT,),
    )  # fmt: skip


def at_least(same: Contradictions) -> Measurement:
    """The rate, of which identical images show so much."""
    return Measurement(
        metric="label-noise.rate", value=same.wrong / same.n, n=same.n, claim=Claim.LOWER_BOUND,
        assumptions=(ONE_RIGHT,),
    )  # fmt: skip


def measurements(outcome: Outcome) -> Iterator[Measurement]:
    """The numbers."""
    judged, found = outcome.judged, outcome.found
    n, half = len(judged.labels), int(judged.second.sum())
    trusted = judged.trusted
    if trusted is not None:
        interval = Interval(low=trusted.low, high=trusted.high, level=0.9, method="two one-sided exact limits")
        yield Measurement(
            metric="label-noise.rate", value=trusted.value, n=half, claim=Claim.ESTIMATE, interval=interval,
            assumptions=(ALIKE, UNLEARNT, REPRESENTATIVE),
        )  # fmt: skip
    elif certain(outcome.same, outcome.config):
        yield at_least(outcome.same)
    elif found is not Found.CANNOT_TELL and half:
        yield Measurement(
            metric="label-noise.rate", value=judged.bound.limit, n=half, claim=Claim.UPPER_BOUND,
            assumptions=(ALIKE, UNLEARNT),
        )  # fmt: skip
    flagged = int(judged.confident.suspects.sum())
    yield Measurement(
        metric="label-noise.flagged", value=flagged / n, n=n, claim=Claim.ESTIMATE, interval=proportion(flagged, n)
    )
    for one in outcome.flipped:
        yield Measurement(
            metric="label-noise.recall", where={"flipped": one.to}, value=one.flagged / one.n, n=one.n,
            claim=Claim.ESTIMATE, interval=proportion(one.flagged, one.n),
        )  # fmt: skip


def conclude(outcome: Outcome, ctx: RunContext) -> None:
    """The verdict in words."""
    found, judged = outcome.found, outcome.judged
    n, trusted = len(judged.labels), judged.trusted
    flagged = int(judged.confident.suspects.sum())
    of_distinct = " of different images" if outcome.same.wrong else ""
    known = (
        f"at most {judged.bound.limit:.1%} of labels{of_distinct} are wrong (confidence {CONFIDENCE:.0%})"
        if trusted is None
        else f"between {trusted.low:.1%} and {trusted.high:.1%} of labels are wrong, by comparison with {trusted.n} "
        f"trusted images (p = {trusted.p:.2g})"
    )
    said = (
        f"{known}, but for those that a trigger explains (see backdoor-data); {flagged} of {n} are flagged; of labels "
        f"flipped in copies {_recalls(outcome.flipped)} were"
    )
    if outcome.same.wrong:
        said = f"{_certainly(outcome.same)}; {said}"
    if found is Found.DETECTED:
        ctx.diagnose("detected", f"{found}: wrong labels: {said}", conclusion=True)
    elif found is Found.SUSPICIOUS:
        need = "" if trusted is not None else "; with trusted images (--data clean=SPEC) more can be said"
        ctx.diagnose("suspicious", f"{found}: labels may be wrong: {said}{need}", conclusion=True)
    elif found is Found.CANNOT_TELL:
        text = f"{found} how many labels are wrong: {outcome.why_not}; {flagged} of {n} are flagged"
        text += f"; {_certainly(outcome.same)}" if outcome.same.wrong else ""
        ctx.diagnose("cannot_tell", text, conclusion=True, undecided=True)
    else:
        ctx.diagnose("not_detected", f"{found}: {said}", "info", conclusion=True)


def only_certain(same: Contradictions, unknown: str, ctx: RunContext) -> None:
    """The verdict where identical images show enough, and networks could show nothing."""
    text = f"{Found.DETECTED}: wrong labels: {_certainly(same)}. How many others are wrong is not known: {unknown}"
    ctx.diagnose("detected", text, conclusion=True)


def _certainly(same: Contradictions) -> str:
    labels = "1 label is" if same.wrong == 1 else f"{same.wrong} labels are"
    return f"{labels} certainly wrong, at least {same.wrong / same.n:.1%}, as identical images have others"
