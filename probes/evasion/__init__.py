"""Evasion: how often the model stays right when someone changes the pixels a little on purpose."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

from audit.api import Data, DataSplit, Diagnostic, Fact, Inconclusive, MetricSpec, RunContext, Subject, Tally, probe
from audit.toolkit.norms import Norm
from probes.evasion.config import EvasionConfig, cost
from probes.evasion.control import control_units, judge_control
from probes.evasion.figures import curve, examples, table
from probes.evasion.notices import diagnose
from probes.evasion.outcome import Outcome, clean_accuracy, measurements
from probes.evasion.selfchecks import Check, check_gradients, check_strength, summary
from probes.evasion.twin import trained_twin
from probes.evasion.units import attack_chunk, chunks

__all__ = ["EvasionConfig", "evasion"]

UNATTACKED = Diagnostic(
    code="evaluation",
    text="Nothing was attacked: no radius but 0, at which what stays right is the accuracy.",
    severity="warning",
)
WHERE = {"norm": "how a change is measured: linf, l2 or l1", "eps": "radius in units of the pixel range, such as 8/255"}
MOST_EXAMPLES = 6


@probe(
    id="evasion",
    version=2,
    question="How often does the model stay right when someone changes the pixels a little on purpose?",
    config=EvasionConfig,
    needs={"gradients", "logits", "data:eval"},
    metrics=[
        MetricSpec(
            id="evasion.robust_accuracy",
            meaning="Share of samples that stay right under every attack tried; a stronger attack may lower it.",
            better="higher",
            where=WHERE,
            low=0,
            high=1,
        ),
        MetricSpec(
            id="evasion.attack_success",
            meaning="Share of otherwise right samples for which a verified adversarial image was found, at least.",
            better="lower",
            where=WHERE,
            low=0,
            high=1,
        ),
        MetricSpec(
            id="evasion.clean_accuracy",
            meaning="Share of the same samples that are right when nobody attacks.",
            better="higher",
            low=0,
            high=1,
        ),
        MetricSpec(
            id="evasion.survives_8bit",
            meaning="Share of the adversarial images found that still fool the model and lie in the same ball when "
            "saved with 8 bits a value; in L2 the rounding alone often leaves the ball.",
            better="neither",
            where={"norm": WHERE["norm"]},
            low=0,
            high=1,
        ),
    ],
    threat_model="Goal: any wrong class for a given image. Knowledge: white-box, weights and gradients. Capability: "
    "change pixels within a ball around the image (Linf, L2 or L1, before rounding to 8 bits) and within [0, 1]. "
    "Budget: the stated steps, targets, random starts and queries an image.",
    how_to_read="Robust accuracy at 8/255 says how many images stay right when every pixel value may move by up to "
    "8 of 255 levels. It is an upper bound: low proves weakness, high proves nothing until stronger attacks and a "
    "certified lower bound agree. Undefended models fall to about zero.",
    limits=[
        "No fixed list of attacks suffices against a defence built to withstand it; an adaptive attack may break more.",
        "Masked gradients make gradient attacks fail: heed the positive control and the notices.",
        "Norm balls only: rotations, patches, weather and unrestricted changes are not covered.",
        "Intervals cover the choice of samples, not the weakness of the attacks.",
    ],
    references=[
        "Goodfellow, Shlens & Szegedy 2015, Explaining and Harnessing Adversarial Examples, arXiv 1412.6572",
        "Madry et al. 2018, Towards Deep Learning Models Resistant to Adversarial Attacks, arXiv 1706.06083",
        "Carlini et al. 2019, On Evaluating Adversarial Robustness, arXiv 1902.06705",
        "Croce & Hein 2020, Reliable Evaluation of Adversarial Robustness, arXiv 2003.01690",
        "Pintor et al. 2021, Fast Minimum-norm Adversarial Attacks, arXiv 2102.12827",
        "Andriushchenko et al. 2020, Square Attack, arXiv 1912.00049",
    ],
    cost=cost,
)
def evasion(subject: Subject, data: Data, config: EvasionConfig, ctx: RunContext) -> Iterator[Fact]:
    """Controls first, then chunks of samples; whatever the budget cuts, it cuts samples and never strength."""
    split = data["eval"]
    n = min(config.samples, len(split))
    units = control_units(config, subject.input_shape, n)
    controls = ctx.map(partial(attack_chunk, subject, split, None), units, "at a radius where all must fall")
    twin = trained_twin(subject, data, config, ctx)
    work = partial(attack_chunk, subject, split, twin)
    size = config.at_once(subject.device.type, math.prod(subject.input_shape))
    units = chunks(config, n, size, twin.digest if twin else "")
    outcomes = _outcomes(config, math.prod(subject.input_shape), ctx.map(work, units))
    if len(controls) < len(config.norms) or len(outcomes) < len(config.norms):
        text = f"The budget ended before {min(size, n)} samples were attacked in each norm; raise it, or lower "
        raise Inconclusive("budget", text + "evasion.chunk.")
    most = max(outcomes.values(), key=lambda outcome: outcome.n)
    yield clean_accuracy(most)
    if not all(outcome.correct.any() for outcome in outcomes.values()):
        text = (
            f"None of the first {most.n} samples is right without an attack, so there is nothing to attack. Check the "
        )
        raise Inconclusive("no_correct_samples", text + "labels' order and the preprocessing.")
    checks = [
        Check(judge_control(tally, norm, subject.num_classes, len(config.attacks)), fatal=True)
        for norm, tally in zip(config.norms, controls, strict=True)
    ]
    checks += check_gradients(most)
    if twin is not None:
        checks += _twin_breaks(twin, split, config, n, ctx)
    for outcome in outcomes.values():
        checks += check_strength(outcome)
    yield from (check.control for check in checks)
    evaluation = summary(checks) if any(config.attacked(norm) for norm in config.norms) else UNATTACKED
    ctx.diagnose(evaluation.code, evaluation.text, evaluation.severity, conclusion=True)
    diagnose(list(outcomes.values()), n, ctx)
    for outcome in outcomes.values():
        yield from measurements(outcome, config, subject.num_classes)
        yield curve(outcome)
        yield from examples(outcome, subject, split, ctx, MOST_EXAMPLES // len(outcomes))
        yield table(outcome, split, ctx)


def _twin_breaks(twin: Subject, split: DataSplit, config: EvasionConfig, n: int, ctx: RunContext) -> list[Check]:
    """That the attacks break an undefended network of the same form where nothing can stand."""
    units = control_units(config, twin.input_shape, n, twin.digest)
    tallies = ctx.map(partial(attack_chunk, twin, split, None), units, "undefended twin")
    return [
        Check(judge_control(tally, norm, twin.num_classes, len(config.attacks), "twin"), fatal=True)
        for norm, tally in zip(config.norms, tallies, strict=False)
    ]


def _outcomes(config: EvasionConfig, pixels: int, tallies: Sequence[Tally]) -> dict[Norm, Outcome]:
    """Tallies in the order of `chunks`, by norm; a norm without any is left out."""
    count = len(config.norms)
    by_norm = {norm: tallies[place::count] for place, norm in enumerate(config.norms)}
    return {norm: Outcome.join(config, norm, pixels, parts) for norm, parts in by_norm.items() if parts}
