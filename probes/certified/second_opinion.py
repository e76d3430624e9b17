"""What an independent implementation says to some of the certificates.

auto_LiRPA bounds the same margins over the same region, by the same method. Where every relaxed operator is a ReLU and
the region a box, both compute the same numbers, and any difference beyond rounding is a disagreement. Elsewhere ours
may be tighter, so only a contradiction is one: a lower bound of ours above an upper bound of theirs.
"""

from __future__ import annotations

from math import prod

import torch

from audit.adapters.auto_lirpa import Method, NotTaken
from audit.adapters.auto_lirpa_apart import Asked
from audit.api import PositiveControl, RunContext, Tally, Unit
from audit.errors import PrerequisiteError
from audit.lirpa.certify import Certifier, Norm
from audit.lirpa.crown import open_values
from audit.lirpa.intervals import propagate
from audit.lirpa.margins import margin_rows
from audit.lirpa.region import Region
from audit.lirpa.rules import rule_of
from audit.toolkit.modes import evaluating
from probes.certified.outcome import Outcome
from probes.certified.units import Work

SAME = 1e-4
"""By how much bounds that should be equal may differ, relative to 1 + their size."""
MOST = 300_000_000
"""Coefficients that the other implementation may hold at once, about 2.4 GB: rows times the widest operation."""


def asked(work: Work, outcome: Outcome, ctx: RunContext) -> PositiveControl | None:
    """The second opinion on the first certified samples of a norm; None where there is none, which is said."""
    norm, most = outcome.norm, work.config.second_opinion
    places = [int(place) for place in (outcome.correct & (outcome.radius > 0)).nonzero()[0][:most]]
    if not places:
        return None
    params = {"norm": norm, "radii": [float(outcome.radius[place]) for place in places]}
    tallies = ctx.map(
        lambda unit, own: _compared(work, unit, own.seconds_left()),
        [Unit(f"second-opinion/{norm}", params, places)],
        "second opinion",
    )
    if not tallies:
        return None
    said = tallies[0].values
    if said["refused"]:
        text = f"There is no second opinion on the bounds in {norm}: {said['refused']}"
        ctx.diagnose(f"no-second-opinion-{norm}", text, "info")
        return None
    n, disagreed, confirmed = len(places), int(said["disagreed"]), int(said["confirmed"])
    equal = f"the same bounds to {SAME:g}" if said["equal"] else "no upper bound below our lower one"
    return PositiveControl(
        name=f"second-opinion-{norm}",
        passed=disagreed == 0,
        expected=f"by auto_LiRPA 0.3 and {said['method']}, at the certified radius of {n} samples, {equal}",
        observed=f"{disagreed} of {n} disagree; {confirmed} of {n} are certified by it as well",
    )


def _compared(work: Work, unit: Unit, seconds: float) -> Tally:
    """How many samples both implementations disagree on, and how many the other one certifies too."""
    norm: Norm = unit.params["norm"]
    batch = work.split.take(unit.positions)
    images, labels = batch.pixels.double().to(work.subject.device), batch.labels.to(work.subject.device)
    eps = torch.tensor(unit.params["radii"], dtype=torch.float64, device=images.device)
    region = Region.ball(images, norm, eps)
    opened = int(open_values(work.graph, region, propagate(work.graph, region)).max())
    method: Method = "crown" if opened <= work.config.most else "crown-ibp"
    rows = margin_rows(labels, work.subject.num_classes, torch.float64)
    equal = norm == "linf" and all(rule_of(op).exact or op.kind == "relu" for op in work.graph.operations[1:])

    k = rows.shape[1]
    asked_for = rows if equal else torch.cat([rows, -rows], 1)
    try:
        _check_size(work, max(opened, asked_for.shape[1]) if method == "crown" else asked_for.shape[1])
        ours = Certifier(work.graph, norm, (method,)).margins(region, labels, method)
        with work.subject.untouched() as model, evaluating(model):
            asked = Asked(model, work.subject.input_shape, seconds)
        if norm == "linf":
            theirs = asked.box(region.box.lo, region.box.hi, asked_for, method).to(ours)
        else:
            theirs = asked.ball(images, eps, asked_for, method).to(ours)
    except (NotTaken, PrerequisiteError) as reason:
        return Tally(values={"refused": str(reason)})
    low = theirs[:, :k]
    agree = (ours - low).abs() / (1 + low.abs()) <= SAME if equal else ours <= -theirs[:, k:] + SAME
    return Tally(
        values={
            "refused": "",
            "method": method,
            "equal": equal,
            "disagreed": int((~agree).any(1).sum()),  # also where it is not a number
            "confirmed": int((low > 0).all(1).sum()),
        }
    )


def _check_size(work: Work, rows: int) -> None:
    """Whether so many rows fit into the other implementation, which passes all of them at once.

    Raises:
        NotTaken: when they do not.
    """
    widest = max(prod(op.shape) for op in work.graph.operations)
    if rows * widest > MOST:
        raise NotTaken(f"{rows} bounds through {widest} values at once are more than auto_LiRPA is given here")
