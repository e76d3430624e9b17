"""What the findings and the canaries come to: numbers, and a verdict in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from audit.api import Claim, FloatArray, Measurement, RunContext
from audit.toolkit.detection import ALPHA, Found, power_text
from audit.toolkit.statistics import lower_limit, proportion
from probes.backdoor_data.canaries import Try
from probes.backdoor_data.config import FEWEST_IN_CLASS, TRANSFER
from probes.backdoor_data.findings import Finding

LIKE_CANARIES = "of poison like the canaries"


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """All that was found.

    Attributes:
        n: images that were scanned for tiles.
        findings: groups under suspicion.
        tries: canaries.
        gains: of each network, of every class.
        names: of the classes.
        reasons: why parts of the search could not be done.
    """

    n: int
    findings: Sequence[Finding]
    tries: Sequence[Try]
    gains: dict[str, FloatArray]
    names: Sequence[str]
    reasons: list[str] = field(default_factory=list)

    def of(self, found: Found) -> list[Finding]:
        """The findings that come to this."""
        return [finding for finding in self.findings if finding.found is found]

    @property
    def found(self) -> Found:
        """The verdict of the whole."""
        for verdict in (Found.DETECTED, Found.SUSPICIOUS):
            if self.of(verdict):
                return verdict
        return Found.NOT_DETECTED if self.shown() else Found.CANNOT_TELL

    def shown(self) -> dict[str, float]:
        """Canaries that were found whenever they took, each with the share of images that were planted."""
        by_name: dict[str, list[Try]] = {}
        for each in self.tries:
            by_name.setdefault(each.name, []).append(each)
        return {
            name: max(each.amount for each in tries)
            for name, tries in by_name.items()
            if all(each.took and each.found for each in tries)
        }

    def bounded(self) -> dict[str, float]:
        """Those that the bound speaks of: without warps, which are planted on many more images, where others are."""
        shown = self.shown()
        return {name: amount for name, amount in shown.items() if name != "wanet"} or shown

    def fraction(self, verdicts: Sequence[Found]) -> tuple[int, int]:
        """Images under suspicion, and of how many: of each class the largest group."""
        best: dict[int, Finding] = {}
        for finding in self.findings:
            if finding.found in verdicts and finding.fraction > getattr(best.get(finding.label), "fraction", 0.0):
                best[finding.label] = finding
        n = min((finding.of for finding in best.values()), default=self.n)
        return min(n, round(sum(finding.fraction for finding in best.values()) * n)), n


def measurements(outcome: Outcome) -> Iterator[Measurement]:
    """The share of images that are poisoned, in the direction in which it is known, and what it rests on."""
    count, n = outcome.fraction([Found.DETECTED, Found.SUSPICIOUS])
    if outcome.found is not Found.CANNOT_TELL:  # what was flagged by a search that is not known to see says nothing
        yield Measurement(
            metric="backdoor-data.suspect_fraction",
            value=count / n,
            n=n,
            claim=Claim.ESTIMATE,
            interval=proportion(count, n),
            assumptions=("groups that were detected or are suspicious",),
        )
    if outcome.found is Found.DETECTED:
        count, n = outcome.fraction([Found.DETECTED])
        yield Measurement(
            metric="backdoor-data.poisoned_fraction",
            value=lower_limit(count, n),
            n=n,
            claim=Claim.LOWER_BOUND,
            assumptions=("all images of a detected group are poisoned", "with 95% confidence for the choice of images"),
        )
    elif outcome.found is Found.NOT_DETECTED:
        bounded = outcome.bounded()
        yield Measurement(
            metric="backdoor-data.poisoned_fraction",
            value=max(bounded.values()),
            n=outcome.n,
            claim=Claim.UPPER_BOUND,
            assumptions=(LIKE_CANARIES, f"that is: {', '.join(sorted(bounded))}"),
        )
    seen = set()
    for finding in sorted(outcome.findings, key=lambda finding: -finding.transfer.rate):
        key = (finding.network, finding.label, finding.place is None)
        if finding.transfer.n and key not in seen:
            seen.add(key)
            yield Measurement(
                metric="backdoor-data.transfer",
                where={"network": finding.network, "class": outcome.names[finding.label],
                       "by": "cluster" if finding.place is None else "tile"},
                value=finding.transfer.rate,
                n=finding.transfer.n,
                claim=Claim.ESTIMATE,
                interval=proportion(finding.transfer.hits, finding.transfer.n),
            )  # fmt: skip


def conclude(outcome: Outcome, ctx: RunContext) -> None:
    """The verdict, said wherever the numbers are."""
    verdict = outcome.found
    if verdict in (Found.DETECTED, Found.SUSPICIOUS):
        text = f"{verdict}: {' '.join(_said_of_classes(outcome.of(verdict), outcome))}"
        ctx.diagnose(verdict.lower(), text, conclusion=True)
    elif verdict is Found.NOT_DETECTED:
        text = (
            f"{verdict}: no group of training images was found that a backdoor explains. Of what was planted in "
            f"copies, {'; '.join(_tried(outcome))}. {' '.join(outcome.reasons)}"
        )
        ctx.diagnose("not_detected", text.strip(), "info", conclusion=True)
    else:
        none = "No canary was found." if outcome.tries else "No canary was planted."
        why = " ".join(outcome.reasons) or none
        tried = f" Of what was planted in copies, {'; '.join(_tried(outcome))}." if outcome.tries else ""
        text = f"{verdict}: nothing was found, and there is no showing that it would have been. {why}{tried}"
        ctx.diagnose("cannot_tell", text, conclusion=True, undecided=True)


def _said_of_classes(findings: Sequence[Finding], outcome: Outcome) -> list[str]:
    """What is said of each class: of its group that says most, and how many others there are."""
    said = []
    for label in dict.fromkeys(found.label for found in findings):
        groups = [found for found in findings if found.label == label]
        first = max(groups, key=_weight)
        others = len(groups) - 1
        more = (
            f" {others} more {'group' if others == 1 else 'groups'} of that class came to the same." if others else ""
        )
        said.append(_said(first, outcome) + more)
    return said


def _weight(found: Finding) -> tuple[bool, bool, bool, bool, int]:
    """How much there is to say of a finding."""
    tile = found.transferred and found.place is not None
    return found.transferred, tile, found.teaches, found.taught is not None, len(found.rows)


def _said(finding: Finding, outcome: Outcome) -> str:
    name = outcome.names[finding.label]
    text = (
        f"{len(finding.rows)} of {finding.of} images labelled {name!r} ({finding.fraction:.2%}) share {finding.kind}."
    )
    who = {"suspect": "the suspect model", "own": "a network trained on these images"}[finding.network]
    if finding.found is Found.DETECTED and finding.acts:
        rate = f"{finding.transfer.hits} of {finding.transfer.n}"
        text += f" Put on images of other classes, it turns {rate} to that class in {who} (p = {finding.p:.2g})."
    if finding.taught is not None and finding.taught.differs:
        taught = finding.taught
        text += (
            f" Of {taught.n} of them that were kept from a network, it gave {taught.shown} that class when it was "
            f"shown the others, and {taught.unshown} when it was not"
        ) + (
            ", and their content is like that of other classes."
            if finding.teaches
            else "; a natural part of a class may do so too."
        )
    if finding.found is Found.SUSPICIOUS:
        text += (
            f" In {who} it turns {finding.transfer.hits} of {finding.transfer.n} images of other classes to that "
            f"class, where {TRANSFER:.0%} and p at most {ALPHA:g} would confirm it."
        )
    return text


def _tried(outcome: Outcome) -> list[str]:
    texts = []
    for name in dict.fromkeys(each.name for each in outcome.tries):
        tries = [each for each in outcome.tries if each.name == name]
        amount = f"{name} at {max(each.amount for each in tries):.1%} of the images"
        if not all(each.took for each in tries):
            rate = min(each.rate or 0.0 for each in tries)
            followed = f"only {rate:.0%} of triggered images followed"
            texts.append(f"{amount} did not take ({followed}), so of its kind: {Found.CANNOT_TELL}")
            continue
        hits = sum(each.found for each in tries)
        blind = "" if hits == len(tries) else f", so of its kind: {Found.CANNOT_TELL}"
        texts.append(f"{amount} was {power_text(hits, len(tries))}{blind}")
    return texts


def notices(outcome: Outcome, sizes: FloatArray, ctx: RunContext) -> None:
    """What a reader should know of what was not examined."""
    few = int(((sizes > 0) & (sizes < FEWEST_IN_CLASS)).sum())
    if few:
        text = (
            f"{few} classes have fewer than {FEWEST_IN_CLASS} of the images whose features are examined: no clusters "
            "are sought in them."
        )
        ctx.diagnose("few-images", text)
    missing = int((sizes == 0).sum())
    if missing:
        ctx.diagnose("no-images", f"{missing} classes of the model have no image here, and are not examined.", "info")
    for network, gains in outcome.gains.items():
        if not np.isfinite(gains).any() and network == "suspect":
            text = (
                "The suspect model gives logits that are NaN or infinite on some of these images: its features were "
                "not examined."
            )
            ctx.diagnose("not-finite", text)
