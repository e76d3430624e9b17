"""Shortcuts: whether the images of a class share what gives the class away and has nothing to do with its content."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from audit.api import Data, Fact, Inconclusive, IntArray, MetricSpec, RunContext, Subject, probe
from probes.shortcuts.canaries import own_images, power, shams_stay_silent
from probes.shortcuts.config import ShortcutsConfig, cost
from probes.shortcuts.figures import bars, pictures, suspects, table
from probes.shortcuts.filters import gains
from probes.shortcuts.images import look
from probes.shortcuts.outcome import Outcome, conclude, measurements
from probes.shortcuts.reference import FEWEST_OF_CLASS
from probes.shortcuts.study import behaviour, evidence_in, follow_measurements, marked, trusted_traces

__all__ = ["ShortcutsConfig", "shortcuts"]


@probe(
    id="shortcuts",
    version=2,
    question="Do the training images of a class share something that gives the class away without its content, such as "
    "a filter or a pattern?",
    config=ShortcutsConfig,
    needs={"data:train"},
    metrics=[
        MetricSpec(
            id="shortcuts.poisoned_fraction",
            meaning="Share of the training images that carry a class-wise shortcut: at least so many where one was "
            "found, at most so many of planted kinds where none was.",
            better="lower",
            low=0,
            high=1,
        ),
        MetricSpec(
            id="shortcuts.texture_gap",
            meaning="How much better texture tells the label than coarse content does.",
            better="lower",
            low=-1,
            high=1,
        ),
        MetricSpec(
            id="shortcuts.accuracy_by",
            meaning="How often a discriminant names the label of images that it was not fitted on.",
            better="neither",
            where={"what": "texture or content"},
            low=0,
            high=1,
        ),
        MetricSpec(
            id="shortcuts.power",
            meaning="Share of keys of a planted class-wise filter that the probe finds in copies of these data.",
            better="higher",
            where={"fraction": "share of every class's images that is filtered"},
            low=0,
            high=1,
        ),
        MetricSpec(
            id="shortcuts.trusted_gap",
            meaning="Accuracy of a network trained on these data, on others of them above that on trusted images.",
            better="lower",
            low=-1,
            high=1,
        ),
        MetricSpec(
            id="shortcuts.followed",
            meaning="Share of images that are taken for the class whose estimated filter or pattern is put on them, "
            "above that under random ones.",
            better="lower",
            where={"who": "who is asked"},
            low=-1,
            high=1,
        ),
    ],
    threat_model="Goal: that a model trained on the data learns nothing of use, or follows a mark in place of content. "
    "Capability: changes images, not labels, by something of each class's own: a filter, additive noise, a patch.",
    how_to_read="A class-wise filter, as CUDA plants it, leaves traces that the eye does not see: borders that darken "
    "alike, textures that tell the class far better than content does. The probe looks for both, for fine patterns and "
    "for patches at one place, estimates each class's filter, and asks a small network that it trains on the data "
    "whether it follows them. "
    "DETECTED means that traces and behaviour agree. What NOT DETECTED is worth is said by filters that were planted "
    "in copies of these very data. Images of one colour at the border, or cropped after they were poisoned, hide the "
    "first trace.",
    limits=[
        "Filters weaker than CUDA's, and those on less than the planted fractions, may be missed.",
        "Borders that were cropped or framed tell nothing; texture alone, or spectra against those of trusted images, "
        "find filters of more than half of the images.",
        "Poison made by optimisation for single images (not for classes) is not looked for, and triggers are not: see "
        "backdoor-data.",
        "Classes that differ in nature by texture alone, as kinds of cloth do, raise suspicion.",
        "Aligned drawings such as digits have class-wise patterns by nature; fine patterns are not told from these.",
        "A patch of up to an eighth of the image across is found where it lies at one place of a class's images: on "
        "nearly all of them if these are drawings, on about a fifth and more if they are photographs (of two classes "
        "twice as many, and on drawings not), by how alike they are there and not by exact pixels.",
        "Whether a network follows a pattern is tried on suspected images, of which the pattern of their own class was "
        "taken. Where content tells classes as well, networks need no noise, and hardly follow it.",
    ],
    references=[
        "Sadasivan, Soltanolkotabi & Feizi 2023, CUDA: Convolution-based Unlearnable Datasets, arXiv 2303.04278",
        "Wang et al. 2025, COIN and the edge-pixel detector, arXiv 2311.18403",
        "Zhu et al. 2024, Detection and Defense of Unlearnable Examples, arXiv 2312.08898",
        "Ledoit & Wolf 2004, Journal of Multivariate Analysis 88(2), doi:10.1016/S0047-259X(03)00096-4",
        "Holm 1979, Scandinavian Journal of Statistics 6(2)",
        "Westfall & Young 1993, Resampling-Based Multiple Testing, Wiley",
    ],
    cost=cost,
)
def shortcuts(subject: Subject, data: Data, config: ShortcutsConfig, ctx: RunContext) -> Iterator[Fact]:
    """Traces of all images, planted copies of some, and behaviour where something stands out or images are trusted."""
    split, classes = data["train"], subject.num_classes
    names = subject.class_names or split.class_names or tuple(map(str, range(classes)))
    seen = look(split, min(config.samples, len(split)), ctx)
    if seen is None:
        raise Inconclusive("budget", "The budget ended before traces of any image were computed. Raise it.")
    n = len(seen.traces.edge)
    labels: IntArray = split.labels[split.order[:n]]
    yield own_images(ctx)
    theirs = trusted_traces(data, ctx)
    evidence = evidence_in(seen, theirs, data, labels, classes, ctx)
    base = min(n, config.canary_samples)
    some = seen.traces.of(np.arange(base))
    powers = power(split, some, labels[:base], classes, config, ctx)
    if not evidence.alarm:
        sham = shams_stay_silent(split, some, labels[:base], classes, ctx)
        yield from [sham] if sham is not None else []
    known = [one.gain for one in evidence.referenced]
    found = gains(seen.traces, labels, marked(evidence, classes), known)
    follows, trusted = behaviour(subject, data, seen, theirs, evidence, found, config, ctx)
    small = int((np.bincount(labels, minlength=classes) < FEWEST_OF_CLASS).sum())
    outcome = Outcome(names, evidence, found, follows, trusted, powers)
    if small:
        text = f"{small} of {classes} classes have fewer than {FEWEST_OF_CLASS} images; of these nothing is said"
        ctx.diagnose("small_classes", text)
    yield from measurements(outcome)
    yield from follow_measurements(follows)
    yield from bars(outcome)
    yield table(outcome)
    yield from pictures(outcome, ctx)
    listed = suspects(outcome, split)
    yield from [listed] if listed is not None else []
    conclude(outcome, ctx)
