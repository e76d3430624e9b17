"""Whether the attacks worked: checks that can void the result, and the outcome that they come to.

RELIABLE where all hold. BROKEN-EVALUATION where one fails without which the attacks say nothing about this model;
SUSPECT where another fails. Every check is a control of the result, so under a failed one no rule can pass, while what
was broken stays broken.

A check of a share fails when the share is significantly above what a working evaluation leaves, by an exact one-sided
binomial test at level 0.001: so many checks raise a false alarm in at most so many of a thousand runs. One
that passes has not shown the share to be small; how large it may be unseen is said with it.

Source: Carlini et al. 2019, section 4, arXiv 1902.06705; Tramer et al. 2020, arXiv 2002.08347; Pintor et al. 2022,
section 3, arXiv 2106.09947.
Differs from source: shares with a test, where the sources have single samples; "incomplete optimisation" is seen by
    running longer, and "silent success" cannot be, as searches keep their best image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import bdtrc, betaincinv

from audit.api import Diagnostic, PositiveControl
from audit.attacks.census import PREDICTS, SAME, predicted
from probes.evasion.outcome import Outcome

Verdict = Literal["RELIABLE", "SUSPECT", "BROKEN-EVALUATION"]
LEVEL = 0.001
BAD_GRADIENTS, MISLED, MISSED, UNFINISHED = 0.01, 0.02, 0.002, 0.02
"""Shares that a working evaluation may leave: of useless gradients, of gradients that predict no step, of samples that
a weaker attack breaks on top, and a longer one of what stands."""
POWER = 0.9
FEWEST = 10
"""Right samples below which nothing is called reliable: of so many, a half must be bad for a check to see it."""
LEAVES_MORE = frozenset({"cross-entropy", "right-samples"})
"""Checks that fail where the numbers may be right all the same."""


@dataclass(frozen=True, slots=True)
class Check:
    """One self-check of a run.

    Attributes:
        control: what was expected and observed.
        fatal: whether the evaluation is broken where it fails, rather than suspect.
    """

    control: PositiveControl
    fatal: bool


def check_share(name: str, short: str, what: str, count: int, n: int, most: float, *, fatal: bool) -> Check:
    """That `count` of `n` is not significantly more than the share `most`; nothing to look at passes.

    `short` and `what` both say what is counted: beside the count, and in full.
    """
    if not 0 <= count <= n:
        raise ValueError(f"Expected a count of 0 to {n}, got {count}. Count each sample once.")
    failing = next((found for found in range(1, n + 1) if bdtrc(found - 1, n, most) < LEVEL), n + 1)
    control = PositiveControl(
        name=name,
        passed=count < failing,
        expected=f"{what} on not significantly more than {most:.1%} of samples (exact binomial test, level {LEVEL}; "
        f"{_seen(failing, n)})",
        observed=f"{short} on {count} of {n}",
    )
    return Check(control, fatal)


def _seen(failing: int, n: int) -> str:
    """From which share on a check of n samples fails that needs so many, with probability 0.9."""
    if failing > n:
        return "too few samples for it to fail"
    share = float(betaincinv(failing, n - failing + 1, POWER))
    return f"{share:.0%} would fail it nine times of ten"


def check_gradients(outcome: Outcome) -> list[Check]:
    """What the census at right samples says of gradients and randomness, and that there are some; in no norm alone."""
    census = _census(outcome, "census_")
    enough = PositiveControl(
        name="right-samples",
        passed=len(census["gap"]) >= FEWEST,
        expected=f"at least {FEWEST} right samples to attack, as the other checks see little on fewer",
        observed=f"{len(census['gap'])} of {len(outcome.correct)} samples right, {FEWEST} are needed",
    )
    n, flat = len(census["gap"]), "a gradient of the plain cross-entropy of exactly zero, as after distillation,"
    ce_zero, random = _count(census["ce_zero"]), _count(census["changed"] > SAME)
    return [
        Check(enough, fatal=False),
        *_check_census(census, "", "at the image"),
        check_share("cross-entropy", "no gradient of the cross-entropy", flat, ce_zero, n, BAD_GRADIENTS, fatal=False),
        check_share(
            "deterministic", "random answers", "logits that differ between calls", random, n, BAD_GRADIENTS, fatal=False
        ),
    ]


def _check_census(census: dict[str, npt.NDArray[Any]], suffix: str, where: str) -> list[Check]:
    useless = census["margin_zero"] | census["nonfinite"]
    misled = ~useless & ~(census["changed"] > SAME) & ~predicted(census["rose"])
    lost = f"a zero, NaN or infinite gradient of the margin, which the attacks climb, {where}"
    lies = f"no step of 8, 1 or 0.1 of 255 along the gradient {where} giving {PREDICTS[0]:g} to {PREDICTS[1]:g} times "
    lies += "what it says"
    n = len(useless)
    return [
        check_share(f"gradient{suffix}", "useless gradients", lost, _count(useless), n, BAD_GRADIENTS, fatal=True),
        check_share(
            f"direction{suffix}", "gradients that predict no step", lies, _count(misled), n, MISLED, fatal=True
        ),
    ]


def _census(outcome: Outcome, prefix: str) -> dict[str, npt.NDArray[Any]]:
    arrays = outcome.arrays.items()
    return {name.removeprefix(prefix): array for name, array in arrays if name.startswith(prefix)}


def check_strength(outcome: Outcome) -> list[Check]:
    """That gradients hold inside a norm's balls, and nothing weaker or longer breaks what the attacks did not."""
    n, norm, values = int(outcome.correct.sum()), outcome.norm, outcome.values
    by_noise = _count(outcome.arrays["attack"] == outcome.place("noise"))
    longer = "a search of twice the steps from other starts breaking what withstood the attacks"
    broke, tried = values["longer_broke"], values["longer_tried"]
    short = "broken by a longer search alone"
    noise = "blind noise breaking what no attack did"
    found = [
        *_check_census(_census(outcome, "away_"), f"-in-{norm}", "within the ball"),
        check_share(f"noise-{norm}", "broken by noise alone", noise, by_noise, n, MISSED, fatal=False),
        check_share(f"converged-{norm}", short, longer, broke, tried, UNFINISHED, fatal=False),
    ]
    if values["transfer_tried"]:
        text = "adversarial images of the undefended twin breaking what the attacks did not"
        tried, broke = values["transfer_tried"], values["transfer_broke"]
        short = "broken by images of the twin alone"
        found.append(check_share(f"transfer-{norm}", short, text, broke, tried, MISSED, fatal=False))
    if set(outcome.attacks) != {"square"}:
        text = "Square, which sees no gradient, breaking what gradients did not"
        tried = n if "square" in outcome.attacks else values["square_tried"]  # what is broken before need not be tried
        broke, short = values["square_broke"], "broken without gradients alone"
        found.append(check_share(f"black-box-{norm}", short, text, broke, tried, MISSED, fatal=False))
    return found


def judge(checks: Sequence[Check]) -> Verdict:
    """What the checks come to."""
    failed = [check for check in checks if not check.control.passed]
    if any(check.fatal for check in failed):
        return "BROKEN-EVALUATION"
    return "SUSPECT" if failed else "RELIABLE"


def summary(checks: Sequence[Check]) -> Diagnostic:
    """What the checks come to, in one sentence."""
    verdict = judge(checks)
    failed = [check.control for check in checks if not check.control.passed]
    said = "; ".join(f"{control.name}: {control.observed}" for control in failed)
    if failed:
        text = f"{len(failed)} of {len(checks)} self-checks failed ({said})"
        if any(control.name not in LEAVES_MORE for control in failed):
            text += ". Robust accuracy may be far lower"
    else:
        text = f"all {len(checks)} self-checks of the attacks passed"
    return Diagnostic(
        code="evaluation", text=f"Evaluation {verdict}: {text}.", severity="warning" if failed else "info"
    )


def _count(mask: npt.NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(mask))
