"""What attacks by different losses say together: whether a model hides its gradient, and how much hides behind it.

Source: Carlini & Wagner 2016, arXiv 1607.04311 (defensive distillation falls to losses that do not see the softmax);
Athalye, Carlini & Wagner 2018, section 3, arXiv 1802.00420 (signs of masked gradients).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import bdtrc

from audit.attacks.census import SAME, predicted
from probes.distillation.searches import ATTACKS, EASY, ITERATIVE, SATURATION

Verdict = Literal["DETECTED", "SUSPICIOUS", "NOT DETECTED", "CANNOT TELL"]
Mask = npt.NDArray[np.bool_]
LEVEL = 0.001
"""Of every test: so often it fails on a model that hides nothing."""
FEW = 0.01
"""Share of gradients that may be zero in a model that hides nothing."""
FEWEST_RIGHT = 20
"""Right samples below which nothing is said. With as few, only masking of nearly all of them shows in behaviour: ten
samples must differ between two searches for the test to fail."""
SMALLEST_HIDDEN = 0.02
"""Share of right samples that must hide for it to count as behaviour, however significant."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """One model under all attacks; see `units.attacked` for the arrays."""

    arrays: Mapping[str, npt.NDArray[Any]]

    @property
    def n(self) -> int:
        """Samples examined."""
        return len(self.arrays["correct"])

    @property
    def correct(self) -> Mask:
        """Samples that are right without an attack."""
        return np.asarray(self.arrays["correct"], dtype=bool)

    @property
    def n_correct(self) -> int:
        """How many."""
        return int(self.correct.sum())

    def broken(self, *attacks: str) -> Mask:
        """Right samples that one of these attacks breaks; attacks that were not run break none."""
        found = np.zeros(self.n, dtype=bool)
        for name in attacks:
            if f"broken_{name}" in self.arrays:
                found |= self.arrays[f"broken_{name}"].astype(bool)
        return found

    @property
    def attacks(self) -> tuple[str, ...]:
        """Those that were run."""
        return tuple(name for name in ATTACKS if f"broken_{name}" in self.arrays)

    def hidden(self) -> dict[str, tuple[int, int]]:
        """By kind of masking: right samples that only the attack which is not fooled breaks, and the reverse.

        `saturation`: a search by the cross-entropy of scaled logits against the same one by that of the logits.
        `gradients`: single steps and attacks without the gradient against the searches along it.
        """
        plain, scaled = SATURATION
        saturation = self.broken(scaled), self.broken(plain)
        gradients = self.broken(*EASY), self.broken(*ITERATIVE)
        return {
            kind: (int((strong & ~weak).sum()), int((weak & ~strong).sum()))
            for kind, (strong, weak) in {"saturation": saturation, "gradients": gradients}.items()
        }

    @property
    def random(self) -> bool:
        """Whether answers change from call to call."""
        return bool((self.arrays["census_changed"] > SAME).any())

    def flagged(self) -> dict[str, int]:
        """By kind of masking: right samples whose gradient shows it."""
        return {"saturation": zero_gradients(self.arrays), "gradients": useless_gradients(self.arrays)}


def zero_gradients(arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """Right samples with a gradient of the plain cross-entropy of exactly zero, while the margin has one."""
    return int((arrays["census_ce_zero"].astype(bool) & ~arrays["census_margin_zero"].astype(bool)).sum())


def useless_gradients(arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """Right samples whose gradient of the margin is zero, NaN or infinite, or predicts no small step along it."""
    lost = arrays["census_margin_zero"].astype(bool) | arrays["census_nonfinite"].astype(bool)
    random = arrays["census_changed"] > SAME
    return int((lost | (~predicted(arrays["census_rose"]) & ~random)).sum())


def significantly_many(count: int, n: int) -> bool:
    """Whether a count is more than a share of one in a hundred leaves, by an exact binomial test."""
    return n > 0 and count > 0 and float(bdtrc(count - 1, n, FEW)) < LEVEL


def fooled(more: int, less: int, n: int) -> bool:
    """Whether the same search by another loss breaks significantly more of n samples, and a share that matters.

    By McNemar's exact one-sided test on the samples on which the two differ.
    """
    return 0 < more >= SMALLEST_HIDDEN * n and float(bdtrc(more - 1, more + less, 0.5)) < LEVEL


def gone_around(more: int, n: int) -> bool:
    """Whether easier attacks break significantly more than a small share that no search along the gradient broke.

    By an exact binomial test: what the searches find on other samples is no excuse for what they do not find.
    """
    return more > 0 and float(bdtrc(more - 1, n, SMALLEST_HIDDEN)) < LEVEL


def judged(outcome: Outcome, *, controls_passed: bool, behaviour_shown: bool = True) -> tuple[Verdict, str]:
    """The verdict, and the kinds of masking that it rests on in words.

    Args:
        outcome: of the subject.
        controls_passed: whether the gradients of planted copies looked as they should.
        behaviour_shown: whether searches differed on a copy where they should: without it, that they agree on the
            subject says nothing, and that they differ says as much as ever.
    """
    n = outcome.n_correct
    if not controls_passed or n < FEWEST_RIGHT:
        few = (
            f"only {n} {'sample is' if n == 1 else 'samples are'} right" if n < FEWEST_RIGHT else "the controls failed"
        )
        return "CANNOT TELL", few
    flagged = {kind: significantly_many(count, n) for kind, count in outcome.flagged().items()}
    hidden = outcome.hidden()
    random = outcome.random
    behaves = {
        "saturation": fooled(*hidden["saturation"], n),
        "gradients": gone_around(hidden["gradients"][0], n) and not random,  # one lucky call of several is no attack
    }
    both = [kind for kind in KINDS if flagged[kind] and behaves[kind]]
    if both:
        return "DETECTED", " and ".join(KINDS[kind] for kind in both)
    some = [kind for kind in KINDS if flagged[kind] or behaves[kind]]
    if some:
        return "SUSPICIOUS", " and ".join(_half(kind, flagged[kind]) for kind in some)
    if random:
        return "SUSPICIOUS", "answers that change from call to call"
    if not behaviour_shown:
        return "CANNOT TELL", "at this radius, searches did not differ on a copy whose softmax is saturated either"
    return "NOT DETECTED", "no sign of a saturated softmax or of useless gradients"


KINDS = {
    "saturation": "a saturated softmax, as after defensive distillation or with logits scaled up",
    "gradients": "gradients that say nothing, which single steps or attacks without gradients get around",
}


def _half(kind: str, shows: bool) -> str:
    if shows:
        return f"{KINDS[kind]}: it shows in the gradients, yet attacks do not differ significantly for it"
    return f"{KINDS[kind]}: an attack is fooled, yet the gradients do not show why"
