"""What a reader should know of the certificates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from audit.api import PositiveControl, RunContext
from audit.toolkit.norms import eps_text, parse_eps
from probes.smoothing.config import SmoothingConfig
from probes.smoothing.outcome import Outcome


def conclude(outcomes: Sequence[Outcome], failed: Sequence[str], ctx: RunContext) -> None:
    """Of what the numbers are, said wherever they are; or that they are void, where a control failed."""
    if failed:
        text = (
            f"The certificates of the smoothed classifier are void, as checks of them failed ({', '.join(failed)}): "
            "nothing follows of it, nor of the model as deployed."
        )
        ctx.diagnose("smoothed-classifier", text, conclusion=True)
        return
    noise = ", ".join(
        f"{outcome.certified(0.0).mean():.1%} at sigma {outcome.sigma:g} "
        f"({outcome.correct.mean():.1%} of the same images without noise)"
        for outcome in outcomes
    )
    text = (
        "These are certificates of the smoothed classifier, the class that most noisy copies of an image get, and not "
        f"of the model as deployed. It is certified to be right on {noise}. Unless the model was trained on such "
        "noise, low figures are expected, and say nothing of its own robustness."
    )
    ctx.diagnose("smoothed-classifier", text, "info", conclusion=True)


def notice(outcome: Outcome, config: SmoothingConfig, n: int, ctx: RunContext) -> None:
    """What is to be said of one sigma, of `n` samples asked for."""
    sigma, code = outcome.sigma, f"{outcome.sigma:g}"
    if outcome.n < n:
        ctx.diagnose("budget", f"The budget ended after {outcome.n} of {n} samples.")
    asked = [parse_eps(text, "l2") for text in config.above_zero]
    if outcome.abstained.all() or (asked[0] <= outcome.cap and not outcome.certified(asked[0]).any()):
        ctx.diagnose(f"vacuous-{code}", _vacuous(outcome, asked[0]))
    beyond = [eps_text(eps) for eps in asked if eps > outcome.cap]
    if beyond:
        text = (
            f"At sigma {sigma:g} no radius above {outcome.cap:.3g} can be certified by {outcome.draws} draws, whatever "
            f"the model: the zeros at {', '.join(beyond)} say nothing. More draws (smoothing.n) or a larger sigma "
            "reach further."
        )
        ctx.diagnose(f"beyond-cap-{code}", text, "warning" if len(beyond) == len(asked) else "info")
    if outcome.at_cap():
        text = (
            f"At sigma {sigma:g} {outcome.at_cap()} of {outcome.n} samples kept their class in all {outcome.draws} "
            f"draws: their radius is the largest that so many draws give ({outcome.cap:.3g}), and more draws "
            "(smoothing.n) would raise it."
        )
        ctx.diagnose(f"at-cap-{code}", text, "info")
    unanswered = int(outcome.arrays["unanswered"].sum())
    if unanswered:
        copies = outcome.n * (config.n0 + config.n)
        text = (
            f"At sigma {sigma:g} {unanswered} of {copies} noisy copies got no class (logits that are NaN or infinite, "
            "or tied at the top). They count for no class."
        )
        ctx.diagnose(f"unanswered-{code}", text)


def _vacuous(outcome: Outcome, smallest: float) -> str:
    known = int((~outcome.abstained).sum())
    text = (
        f"Vacuous at sigma {outcome.sigma:g} at every radius from {eps_text(smallest)} on: nothing is certified there"
    )
    if not known:
        return f"{text}, as the smoothed classifier abstains on all {outcome.n} samples: it could not be told."
    return (
        f"{text}, which says nothing of the model. The smoothed classifier gives {known} of {outcome.n} samples a "
        f"class, and the label to {int(outcome.certified(0.0).sum())}."
    )


def independent(outcomes: Iterable[Outcome], ctx: RunContext) -> PositiveControl | None:
    """Of a model that answers at random, whether it draws anew for every image; None where it does not."""
    random = sum(int(outcome.arrays["random"].sum()) for outcome in outcomes)
    shared = sum(int(outcome.arrays["shared"].sum()) for outcome in outcomes)
    if not random:
        return None
    text = (
        "The model answers at random. Its own randomness is then part of the classifier that is smoothed, and the "
        "certificates hold where it draws anew for every image that it is given."
    )
    ctx.diagnose("random", text)
    return PositiveControl(
        name="independent-draws",
        passed=shared < random,
        expected="where two passes of equal images differ, equal images within one pass differ too: draws that are "
        "shared by a batch are not independent, and nothing follows from them",
        observed=f"passes differ on {random} images, on {shared} of them never within one",
    )
