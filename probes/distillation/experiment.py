"""What the reference pair shows about distillation, in sentences that rest on tests.

The experiment of Sarkar et al. 2024 (arXiv 2404.04245): does distillation protect against FGSM and Carlini & Wagner?
Differs from source: an undistilled twin of the same initial values and training, attacks that know of the defence, the
    radius in pixels, and a test of every difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from scipy.special import bdtr

from probes.distillation.outcome import LEVEL, Outcome
from probes.distillation.searches import ADAPTIVE

COMPARED = ("fgsm", "pgd", "cw")
MOST_BEHIND = 0.1
"""How far the clean accuracy of the pair may differ before they no longer compare."""
APART = 3.0
"""Factor between the medians of the pair from which on the subject can be said to be nearer to one."""


def conclude(outcomes: Mapping[str, Outcome], temperature: float) -> Iterator[tuple[str, str]]:
    """Codes and sentences."""
    student, twin = outcomes["student"], outcomes["twin"]
    behind = (twin.n_correct - student.n_correct) / twin.n
    if abs(behind) > MOST_BEHIND or not twin.n_correct or not student.n_correct:
        shares = f"{student.n_correct / student.n:.1%} and {twin.n_correct / twin.n:.1%}"
        text = f"The reference pair does not compare: student and twin are right on {shares}. Train longer"
        yield "experiment", f"{text} (distillation.epochs, distillation.train_samples)."
        return
    parts = [_compared(student, twin, (name,), name.upper()) for name in COMPARED]
    parts.append(_compared(student, twin, ADAPTIVE, "the strongest of the attacks that know of it"))
    head = f"Distillation at temperature {temperature:g}, student against twin on {min(student.n, twin.n)} images"
    yield "experiment", f"{head}: {'; '.join(parts)}."
    yield from _resemblance(outcomes)


def _compared(student: Outcome, twin: Outcome, attacks: tuple[str, ...], name: str) -> str:
    """Accuracies under an attack, and whether the difference is more than chance (McNemar, exact, two-sided)."""
    ours, theirs = (model.correct & ~model.broken(*attacks) for model in (student, twin))
    more, less = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    chance = min(1.0, 2 * float(bdtr(min(more, less), more + less, 0.5))) if more + less else 1.0
    said = "higher" if more > less else "lower"
    verdict = f"significantly {said}" if chance < LEVEL else "no significant difference"
    return f"under {name} {ours.mean():.1%} against {theirs.mean():.1%} ({verdict})"


def _resemblance(outcomes: Mapping[str, Outcome]) -> Iterator[tuple[str, str]]:
    """Whether the subject's logits are more like the student's or the twin's."""
    medians = {name: float(np.median(outcome.arrays["gap"])) for name, outcome in outcomes.items()}
    ours, student, twin = (max(medians[name], 1e-9) for name in ("subject", "student", "twin"))
    if max(student, twin) < APART * min(student, twin):
        return
    nearer = "student" if abs(np.log(ours / student)) < abs(np.log(ours / twin)) else "twin"
    text = (
        f"The median gap between the two largest logits is {ours:.3g} of the subject, {student:.3g} of the distilled "
    )
    yield "resemblance", f"{text}student and {twin:.3g} of the undistilled twin: it is nearer to the {nearer}'s."
