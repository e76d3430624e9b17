"""What an independent implementation says to some of the certificates.

auto_LiRPA bounds the same margins over the same region, by the same method. Where every relaxed operator is a ReLU and
the region a box, both compute the same numbers, and any difference beyond rounding is a disagreement. Elsewhere ours
may be tighter, so only a contradiction is one: a lower bound of ours above an upper bound of theirs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from audit.adapters.auto_lirpa import Method, NotTaken, ball_bounds, box_bounds
from audit.api import PositiveControl, RunContext, Tally, Unit
from audit.errors import PrerequisiteError
from audit.lirpa.certify import Certifier, Norm
from audit.lirpa.crown import open_values
from audit.lirpa.margins import margin_rows
from audit.lirpa.region import Region
from audit.lirpa.rules import rule_of
from probes.certified.outcome import Outcome
from probes.certified.units import Work

SAME = 1e-4
"""By how much bounds that should be equal may differ, relative to 1 + their size."""


def asked(work: Work, outcome: Outcome, ctx: RunContext) -> PositiveControl | None:
    """The second opinion on the first certified samples of a norm; None where there is none, which is said."""
    norm, most = outcome.norm, work.config.second_opinion
    places = [int(place) for place in (outcome.correct & (outcome.radius > 0)).nonzero()[0][:most]]
    if not places:
        return None
    params = {"norm": norm, "radii": [float(outcome.radius[place]) for place in places]}
    tallies = ctx.map(lambda unit, _: _compared(work, unit), [Unit(f"second-opinion/{norm}", params, places)])
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


def _compared(work: Work, unit: Unit) -> Tally:
    """How many samples both implementations disagree on, and how many the other one certifies too."""
    norm: Norm = unit.params["norm"]
    batch = work.split.take(unit.positions)
    images, labels = batch.pixels.double().to(work.subject.device), batch.labels.to(work.subject.device)
    eps = torch.tensor(unit.params["radii"], dtype=torch.float64, device=images.device)
    region = Region.ball(images, norm, eps)
    few = int(open_values(work.graph, region).max()) <= work.config.most
    method: Method = "crown" if few else "crown-ibp"
    ours = Certifier(work.graph, norm, (method,)).margins(region, labels, method)
    rows = margin_rows(labels, work.subject.num_classes, torch.float64)
    equal = norm == "linf" and all(rule_of(op).exact or op.kind == "relu" for op in work.graph.operations[1:])

    def theirs(rows: Tensor) -> Tensor:
        with work.subject.untouched() as model:
            if norm == "linf":
                return box_bounds(model, region.box.lo, region.box.hi, rows, method)
            return ball_bounds(model, images, eps, rows, method)

    try:
        low = theirs(rows)
        apart = (ours - low).abs() / (1 + low.abs()) > SAME if equal else ours > -theirs(-rows) + SAME
    except (NotTaken, PrerequisiteError) as reason:
        return Tally(values={"refused": str(reason)})
    return Tally(
        values={
            "refused": "",
            "method": method,
            "equal": equal,
            "disagreed": int(apart.any(1).sum()),
            "confirmed": int((low > 0).all(1).sum()),
        }
    )
