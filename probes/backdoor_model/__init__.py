"""Backdoor of a model: whether something small leads images of any class to one class, by the checkpoint alone."""

from __future__ import annotations

from collections.abc import Iterator

from audit.api import Data, Fact, MetricSpec, RunContext, Subject, probe
from probes.backdoor_model.config import BackdoorModelConfig, cost
from probes.backdoor_model.copies import corner_is_found, seen_by, twins
from probes.backdoor_model.examination import examined
from probes.backdoor_model.figures import bars, table, triggers
from probes.backdoor_model.outcome import Outcome, conclude, measurements

__all__ = ["BackdoorModelConfig", "backdoor_model"]

CLASS = {"class": "the class that stands out most"}


@probe(
    id="backdoor-model",
    version=2,
    question="Does the model have a trojan-like shortcut, something small that leads images of any class to one class?",
    config=BackdoorModelConfig,
    needs={"gradients", "logits"},
    metrics=[
        MetricSpec(
            id="backdoor-model.shortcut_classes",
            meaning="Classes with a trojan-like shortcut: at least so many where one was found; at most so many, of "
            "planted kinds, where none was.",
            better="lower",
            low=0,
        ),
        MetricSpec(
            id="backdoor-model.margin",
            meaning="Largest margin in logits over all other classes that a search reaches; others may reach more.",
            better="lower",
            where=CLASS,
        ),
        MetricSpec(
            id="backdoor-model.trigger_size",
            meaning="Size of the smallest trigger found that leads images of other classes there: the sum of a mask "
            "that may blend pixels in part. Smaller ones may be.",
            better="higher",
            unit="pixels",
            where=CLASS,
            low=0,
        ),
        MetricSpec(
            id="backdoor-model.trigger_success",
            meaning="Share of images that the trigger leads to the class, of those that it was not made on.",
            better="lower",
            where=CLASS,
            low=0,
            high=1,
        ),
    ],
    threat_model="Goal: that images with a trigger known to the attacker get the attacker's class, and others their "
    "own. "
    "Capability: poisoned training data, or the training itself. One class is the target of all others.",
    how_to_read="The probe searches, for each class, for the smallest patch that turns images of other classes into "
    "it, and for the image that the model prefers it most strongly on. The target of a backdoor stands "
    "out by its patch; the preference is shown beside it and decides nothing, as benign classes may stand out there. "
    "Images are those to audit on, or, with the checkpoint alone, synthetic pictures that "
    "the model takes for all its classes. Whether a class stands out by more than chance is told by a law"
    " for this number of classes, not by a customary index; how much benign classes differ is told by the"
    " model's own, and by clean reference models. DETECTED means that one does, and that its patch works "
    "on images that it was not made on. Benign models have shortcuts as well, so a finding is one of "
    "vulnerability, and no proof of intent. Without training data the probe cannot show how often it "
    "finds a backdoor in this model, and then CANNOT TELL in place of NOT DETECTED.",
    limits=[
        "Triggers that work from some classes alone, or lead each class to another, or bend the whole image, may be "
        "missed.",
        "Fewer than eight classes: none can stand out by chance alone. Where only some are searched, the p-value is an "
        "upper limit.",
        "Trigger sizes of benign classes are taken to be of one log-normal law, whose spread is known in part from "
        "networks of digits and of CIFAR-10; classes that differ much in their number of images "
        "may break that.",
        "A trigger that covers much of the image is no smaller than what benign classes need; nor is any in a network "
        "that a few pixels lead to every class, as some small ones with depthwise convolutions are.",
        "A model trained to hide its backdoor from such searches may do so.",
    ],
    references=[
        "Wang et al. 2024, MM-BD: Post-Training Detection of Backdoor Attacks, arXiv 2205.06900",
        "Wang et al. 2019, Neural Cleanse, IEEE S&P, doi:10.1109/SP.2019.00031",
        "Grubbs 1950, Annals of Mathematical Statistics 21(1)",
        "Tao et al. 2022, Backdoor Vulnerabilities in Normally Trained Deep Learning Models, arXiv 2211.15929",
        "Gu, Dolan-Gavitt & Garg 2017, BadNets, arXiv 1708.06733",
    ],
    cost=cost,
    by_default=False,
)
def backdoor_model(subject: Subject, data: Data, config: BackdoorModelConfig, ctx: RunContext) -> Iterator[Fact]:
    """Margins and triggers of the model, a planted corner that must be found, and copies where data allow."""
    names = subject.class_names or tuple(map(str, range(subject.num_classes)))
    examination = examined(subject, data, config, ctx, "the model")
    avoid = examination.candidate or 0
    yield corner_is_found(subject, examination.bases, avoid, config, ctx)
    both = twins(subject, data, avoid, config, ctx)
    if not isinstance(both, str):
        text = (
            f"A copy trained with a planted patch to class {names[both.label]} (success {both.success:.0%}): "
            f"{seen_by(both.with_trigger)}. A copy trained without: {seen_by(both.without)}"
        )
        ctx.diagnose("copies", text, "info")
    outcome = Outcome(names, examination, both)
    yield from measurements(outcome)
    yield from (bars(outcome), table(outcome))
    yield from triggers(outcome, ctx)
    conclude(outcome, ctx)
