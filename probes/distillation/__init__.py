"""Distillation: does the model hide its gradient, as defensive distillation does, and how much hides behind that?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np

from audit.api import (
    Data,
    DataSplit,
    Fact,
    Inconclusive,
    MetricSpec,
    PositiveControl,
    RunContext,
    Subject,
    Tally,
    Unit,
    probe,
)
from audit.errors import AuditError
from audit.toolkit.norms import eps_text
from probes.distillation import units
from probes.distillation.config import DistillationProbeConfig, cost
from probes.distillation.experiment import conclude
from probes.distillation.figures import bars, gaps, measurements, table
from probes.distillation.outcome import (
    LEVEL,
    Outcome,
    fooled,
    judged,
    significantly_many,
    useless_gradients,
    zero_gradients,
)
from probes.distillation.reference import Reference, reference_pair
from probes.distillation.searches import Strength

__all__ = ["DistillationProbeConfig", "distillation"]

MODEL = {"model": "subject, or of the reference pair: student (distilled) or twin (not distilled)"}
ATTACKED = MODEL | {
    "attack": "fgsm and pgd by the plain cross-entropy; fgsm-scaled, pgd-scaled and pgd-margin by losses that do not "
    "change with the logits' scale; cw, square, transfer",
    "norm": "linf, or l2 with cw",
    "eps": "radius in units of the pixel range",
}


def _share(name: str, meaning: str, better: str = "lower", where: dict[str, str] | None = None) -> MetricSpec:
    return MetricSpec.model_validate(
        {
            "id": f"distillation.{name}",
            "meaning": meaning,
            "better": better,
            "where": where or MODEL,
            "low": 0,
            "high": 1,
        }
    )


@probe(
    id="distillation",
    version=1,
    question="Is the model protected by nothing but a hidden gradient, as after defensive distillation?",
    config=DistillationProbeConfig,
    needs={"gradients", "logits", "data:eval"},
    metrics=[
        _share(
            "hidden_share",
            "Share of right samples that others break and attacks fooled by the masking do not, less the reverse.",
            where=MODEL | {"masking": "saturation (of the softmax) or gradients (that say nothing)"},
        ),
        _share("zero_gradient_share", "Share of right samples whose gradient of the cross-entropy is exactly zero."),
        _share(
            "useless_gradient_share",
            "Share of right samples whose gradient of the margin is zero, not finite, or wrong.",
        ),
        _share("saturated_share", "Share of right samples whose probability is exactly 1 in float32.", "neither"),
        _share("robust_accuracy", "Share of samples that stay right under one attack alone.", "higher", ATTACKED),
        _share("clean_accuracy", "Share of the same samples that are right when nobody attacks.", "higher"),
        MetricSpec(
            id="distillation.median_gap",
            meaning="Median of the largest logit less the second; about T times as large after distillation at T.",
            better="neither",
            where=MODEL,
            low=0,
        ),
    ],
    threat_model="Goal: any wrong class. Knowledge: weights and gradients, and that the gradient may be hidden. "
    "Capability: change pixels within a Linf ball (L2 for Carlini & Wagner) and the box. Budget: the stated steps.",
    how_to_read="A hidden share whose interval lies well above zero means that tests by the usual attacks overstate "
    "robustness: the model falls to an attack that takes another way. A hidden share of zero proves no robustness. "
    "What searches alone break is set off in it. That they break other samples does not excuse gradients that say "
    "nothing, so masking may be DETECTED beside a small share.",
    limits=[
        "A model whose logits were merely multiplied looks like a distilled one, and is as fragile.",
        "Other masking shows only where the gradient is useless, or where easier attacks break what searches leave.",
        "The reference pair is trained shortly, on part of the training data; it shows what distillation does to this "
        "architecture, not how this checkpoint was made.",
    ],
    references=[
        "Papernot et al. 2016, Distillation as a Defense to Adversarial Perturbations, arXiv 1511.04508",
        "Carlini & Wagner 2016, Defensive Distillation is Not Robust to Adversarial Examples, arXiv 1607.04311",
        "Carlini & Wagner 2017, Towards Evaluating the Robustness of Neural Networks, arXiv 1608.04644",
        "Athalye, Carlini & Wagner 2018, Obfuscated Gradients Give a False Sense of Security, arXiv 1802.00420",
        "Sarkar et al. 2024, arXiv 2404.04245 (the experiment that the reference pair repeats)",
    ],
    cost=cost,
)
def distillation(subject: Subject, data: Data, config: DistillationProbeConfig, ctx: RunContext) -> Iterator[Fact]:
    """The radius, controls, the subject, and with training data the reference pair and the experiment on it."""
    split = data["eval"]
    n = min(config.samples, len(split))
    strength = units.chosen_radii(subject, split, config, ctx)
    planted = units.controls(subject, split, n, strength, ctx) if strength else {}
    if strength is None or len(planted) < len(units.COPIES):
        raise Inconclusive("budget", "The budget ended before the first attack; raise it.")
    controls, behaviour = list(_controls(planted)), _behaviour_control(planted["saturated"])
    yield from controls
    pair = _reference(subject, data, config, ctx)
    models = {"subject": subject} | ({"student": pair.student, "twin": pair.twin} if pair else {})
    outcomes: dict[str, Outcome] = {}
    for name, model in models.items():
        source = pair.twin if pair and name != "twin" else None
        outcome = _outcome(name, model, source, split, config, strength, ctx)
        if outcome is None:
            break
        outcomes[name] = outcome
    if "subject" not in outcomes:
        raise Inconclusive("budget", f"The budget ended before {min(config.chunk, n)} samples were attacked; raise it.")
    verdict, why = judged(
        outcomes["subject"],
        controls_passed=all(control.passed for control in controls),
        behaviour_shown=behaviour.passed,
    )
    if behaviour.passed or verdict == "CANNOT TELL":
        yield behaviour
    else:  # what was found needs no proof that it can be
        text = f"A control that only an absence of masking needs did not pass: {behaviour.name}, {behaviour.observed}."
        ctx.diagnose("control_not_needed", text, "info")
    severity: Literal["info", "warning"] = "info" if verdict == "NOT DETECTED" else "warning"
    undecided = verdict == "CANNOT TELL"
    ctx.diagnose("masking", f"Masking {verdict}: {why}.", severity, conclusion=True, undecided=undecided)
    if {"student", "twin"} <= set(outcomes):
        for code, text in conclude(outcomes, config.temperature):
            ctx.diagnose(code, text, "info")
    yield from _stated(outcomes, strength)


def _controls(planted: dict[str, Tally]) -> Iterator[PositiveControl]:
    """That planted masking is seen on this very subject, and none where there is none."""
    expectations = (
        ("saturated", "zero gradients of the cross-entropy on a copy with logits of spread 10,000", _zero, True),
        ("unsaturated", "no saturation on a copy with logits of spread 1", zero_gradients, False),
        ("flat", "useless gradients on a copy whose gradient is zero", useless_gradients, True),
    )
    for name, expected, count, wanted in expectations:
        arrays = planted[name].arrays
        n, found = len(arrays["census_gap"]), count(arrays)
        yield PositiveControl(
            name=f"planted-{name}",
            passed=n > 0 and significantly_many(found, n) is wanted,
            expected=f"{expected} (exact binomial test against 1 %, level 0.001)",
            observed=f"on {found} of {n} right samples",
        )


def _behaviour_control(saturated: Tally) -> PositiveControl:
    """That a saturated softmax shows in what searches break, on this very subject at this radius."""
    copy = Outcome({**saturated.arrays, "correct": np.ones(len(saturated.arrays["census_gap"]), dtype=bool)})
    more, less = copy.hidden()["saturation"]
    return PositiveControl(
        name="planted-fooled",
        passed=fooled(more, less, copy.n),
        expected="on the copy with logits of spread 10,000, PGD on scaled logits breaking significantly more than PGD "
        f"on the logits as they are (McNemar, exact, level {LEVEL})",
        observed=f"{more} of {copy.n} right samples more, {less} less",
    )


def _zero(arrays: Mapping[str, Any]) -> int:
    """Right samples with a gradient of the cross-entropy of exactly zero, whatever that of the margin is."""
    return int(arrays["census_ce_zero"].sum())


def _reference(subject: Subject, data: Data, config: DistillationProbeConfig, ctx: RunContext) -> Reference | None:
    """The reference pair where it is wanted and can be had; else a notice of why not."""
    if config.reference == "off":
        return None
    if "train" not in data:
        ctx.diagnose("no_reference", "Without --data train=SPEC no reference pair was trained to compare with.", "info")
        return None
    if subject.untrained is None:
        text = "The subject's architecture cannot be built anew from this spec, so no reference pair was trained."
        ctx.diagnose("no_reference", text, "info")
        return None
    try:
        pair = reference_pair(subject, data["train"], config, ctx)
    except (AuditError, Inconclusive) as error:
        ctx.diagnose("no_reference", f"The reference pair was not trained: {error}")
        return None
    if pair is None:
        ctx.diagnose("no_reference", "The budget ended before the reference pair was trained.")
    return pair


def _outcome(
    name: str,
    model: Subject,
    source: Subject | None,
    split: DataSplit,
    config: DistillationProbeConfig,
    strength: Strength,
    ctx: RunContext,
) -> Outcome | None:
    """Every attack on a model; None where time ended before its first chunk."""
    n = min(config.samples, len(split))
    depends = f"{model.digest}/{source.digest if source else ''}"
    work = partial(_attacked, model, source, split)
    tallies = ctx.map(work, units.attack_units(config, name, strength, n, depends), f"attacks on the {name}")
    return Outcome(units.joined(tallies)) if tallies else None


def _attacked(model: Subject, source: Subject | None, split: DataSplit, unit: Unit, ctx: RunContext) -> Tally:
    return units.attacked(model, source, split, unit, ctx)


def _stated(outcomes: dict[str, Outcome], strength: Strength) -> Iterator[Fact]:
    assumptions = (
        f"Linf {eps_text(strength.eps)}, L2 {eps_text(strength.eps_l2)} for Carlini & Wagner",
        f"{strength.steps} steps, {strength.queries} queries of Square; every candidate verified in float32",
    )
    for name, outcome in outcomes.items():
        yield from measurements(outcome, strength, name, assumptions)
    yield table(outcomes, strength)
    for name, outcome in outcomes.items():
        yield bars(outcome, name)
    yield gaps(outcomes)
