"""The steps of the probe: what the data say alone, which images are marked, and what networks make of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from audit.api import Claim, Data, DataSplit, Inconclusive, IntArray, Interval, Measurement, RunContext, Subject
from audit.errors import AuditError
from audit.toolkit.statistics import proportion
from probes.shortcuts.border import members
from probes.shortcuts.config import ShortcutsConfig
from probes.shortcuts.confirm import (
    FEWEST,
    Judge,
    TrustedGap,
    asks,
    bare_images,
    followed,
    other_images,
    scaled,
    trained_judge,
    trusted_gap,
)
from probes.shortcuts.evidence import Evidence, evidence_of
from probes.shortcuts.filters import Gain, Mask
from probes.shortcuts.images import Seen, averaged, look, repeats_pixels
from probes.shortcuts.reference import CLASSES, FEWEST_OF_CLASS, FEWEST_TRUSTED, Compared, compared
from probes.shortcuts.templates import COMPARED, can_be_averaged, carriers
from probes.shortcuts.transfer import SMALL_NETWORK, SUBJECT, Followed

WHOLE = 0.6
"""Estimated share from which all images of a class are taken for poisoned."""


def trusted_traces(data: Data, ctx: RunContext) -> Seen | None:
    """Of the first trusted images; None where there are none, or time ended."""
    clean = data.get("clean")
    return look(clean, min(len(clean), COMPARED), ctx, "clean") if clean is not None else None


def evidence_in(
    seen: Seen, theirs: Seen | None, data: Data, labels: IntArray, classes: int, ctx: RunContext
) -> Evidence:
    """Of the data, and of trusted ones; fine patterns are looked for where the classes' means fit into memory."""
    split = seen.split(data["train"])
    evidence = evidence_of(seen.traces, labels, classes, ctx.rng("halves"), [])
    if theirs is not None:
        evidence = replace(evidence, compared=against_trusted(seen, theirs, data["clean"], labels, ctx))
    if repeats_pixels(split):
        text = (
            "Neither texture nor fine patterns were looked for: images are enlarged by repeated pixels, whose edges "
            "are both. Give them as they were before."
        )
        ctx.diagnose("enlarged", text)
        return replace(evidence, repeated=True)
    if not can_be_averaged(split, classes):
        text = "Fine patterns were not looked for: images are too small, or the means of all classes too large"
        ctx.diagnose("no_patterns", text, "info")
        return evidence
    second = ctx.rng("halves").random(len(labels)) < 0.5
    templates = averaged(split, len(labels), classes, second, ctx)
    whole = replace(evidence, templates=templates)
    if not whole.patterned:
        return whole
    n = min(len(labels), COMPARED)
    return replace(whole, carried=carriers(split, labels[:n], second[:n], whole.patterned))


def against_trusted(seen: Seen, theirs: Seen, clean: DataSplit, labels: IntArray, ctx: RunContext) -> list[Compared]:
    """Classes held against trusted images, where these are of the same size."""
    if theirs.size is None or theirs.size != seen.size:
        text = "Spectra were not held against those of trusted images: these are of another size, or of several."
        ctx.diagnose("trusted_size", text, "info")
        return []
    trusted = theirs.traces.spectrum
    own = clean.labels[clean.order[: len(trusted)]]
    found = compared(seen.traces.spectrum, labels, trusted, own, ctx.rng("trusted"))
    present = len(np.unique(labels))
    if len(found) < present:
        text = (
            f"{len(found)} of {present} classes were held against trusted images: it takes {FEWEST_TRUSTED} of these, "
            f"{FEWEST_OF_CLASS} suspected ones, and {CLASSES} such classes."
        )
        ctx.diagnose("few_trusted", text, "info")
    return found


def marked(evidence: Evidence, classes: int) -> dict[int, Mask]:
    """By class with an alarm of a filter, which images (n,) are taken for poisoned."""
    labels = evidence.labels
    found = {
        peak.label: members(evidence.traces, labels, peak, classes) if peak.share < WHOLE else labels == peak.label
        for peak in evidence.peaked
    }
    patterned = {template.label for template in evidence.patterned}  # a pattern is texture as well
    textured = [label for label in evidence.textured if label not in patterned]
    return {label: labels == label for label in textured} | found


def behaviour(
    subject: Subject, data: Data, seen: Seen, theirs: Seen | None, evidence: Evidence, found: list[Gain],
    config: ShortcutsConfig, ctx: RunContext,
) -> tuple[dict[str, Followed], TrustedGap | None]:  # fmt: skip
    """What networks do: a small one trained on the data, and the model under audit.

    Nothing is trained where no alarm is to be confirmed and no trusted images are there to compare with.
    """
    clean = data.get("clean")
    if clean is not None and (theirs is None or theirs.size != seen.size):
        seen = replace(seen, size=None)  # one network is to be shown both, so both are shown as the subject sees them
        sizes = [tuple(split.batch(0, 1).pixels.shape[1:]) for split in (data["train"], clean)]
        if sizes[0] != sizes[1]:
            here, there = ("x".join(map(str, size[1:])) for size in sizes)
            text = (
                f"Trusted images were not used: they are of {there} pixels, the others of {here}. Bring both to one "
                "size, as by --preprocess none/size=S."
            )
            ctx.diagnose("trusted_other_size", text)
            data, clean = {role: split for role, split in data.items() if role != "clean"}, None
    if not evidence.alarm and clean is None:
        return {}, None
    split, labels = seen.split(data["train"]), evidence.labels
    try:
        judge = trained_judge(split, len(labels), subject.num_classes, config, ctx)
    except (AuditError, Inconclusive) as error:
        ctx.diagnose("no_judge", f"No small network could be trained on these data to ask: {error}")
        return {}, None
    trusted = None
    if clean is not None and len(clean) >= FEWEST:
        trusted = trusted_gap(judge, labels, seen.split(clean))
    return _follows(subject, judge, seen, data, evidence, found, ctx), trusted


def _follows(
    subject: Subject, judge: Judge, seen: Seen, data: Data, evidence: Evidence, found: list[Gain], ctx: RunContext
) -> dict[str, Followed]:
    labels, clean = evidence.labels, data.get("clean")
    what = found if len(found) > len(evidence.patterned) else evidence.patterned or found
    if not what:
        return {}
    if what is found:
        images, targets = bare_images(judge, labels, found, seen.split(clean) if clean is not None else None)
    else:
        what = scaled(evidence.patterned, evidence.carried)
        images, targets = other_images(judge, labels, what, evidence.carried)
        if len(images) and images.shape[1:] != what[0].pattern.shape:
            text = (
                "Whether a network follows the patterns was not tried: images as stored are of another size than what "
                "it is shown, so that trusted ones can be shown too. Bring all to one size."
            )
            ctx.diagnose("not_followed", text)
            return {}
    said = {SMALL_NETWORK: followed(judge.ask, images, targets, what, SMALL_NETWORK, ctx)}
    if "logits" in subject.access and len(images) and tuple(images.shape[1:]) == tuple(subject.input_shape):
        said[SUBJECT] = followed(asks(subject), images, targets, what, SUBJECT, ctx)
    return {who: one for who, one in said.items() if one is not None}


def follow_measurements(follows: dict[str, Followed], level: float = 0.95) -> Iterator[Measurement]:
    """How much each follows, above the controls' mean."""
    for who, one in follows.items():
        mean, around = float(np.mean(one.controls)), proportion(one.hits, one.n, level)
        yield Measurement(
            metric="shortcuts.followed", where={"who": who}, value=one.effect, n=one.n, claim=Claim.ESTIMATE,
            interval=Interval(low=around.low - mean, high=around.high - mean, level=level, method=around.method),
        )  # fmt: skip
