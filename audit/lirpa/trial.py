"""Bounds of two images, so that what cannot be bounded shows before the first sample."""

from __future__ import annotations

import torch

from audit.api.subject import out_of_memory
from audit.lirpa.graph import Graph
from audit.lirpa.intervals import propagate
from audit.lirpa.margins import bounds_from
from audit.lirpa.region import Region
from audit.lirpa.rules import NoRule, rule_of

EPS = 1e-3


def tried(graph: Graph) -> str:
    """Where intervals around two images are first infinite, within a small radius; empty where they are not.

    Raises:
        NoRule: where an operator has none, or bounds cannot be computed.
    """
    for op in graph.operations[1:]:
        rule_of(op)
    generator = torch.Generator().manual_seed(0)
    device = next((arg.device for op in graph.operations for arg in op.args if isinstance(arg, torch.Tensor)), None)
    images = torch.rand(2, *graph.pixels.shape[1:], generator=generator).to(device=device, dtype=graph.dtype)
    region, labels = Region.ball(images, "linf", EPS), torch.zeros(2, dtype=torch.int64, device=images.device)
    try:
        with torch.no_grad():
            known = propagate(graph, region)
            bounds_from(graph, region, known, labels, others=labels[:, None] + 1)
    except NoRule:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise NoRule(f"the bounds of two images could not be computed: {reason}") from error
    unknown = (
        op for op in graph.operations if not bool((known.intervals[op].hi - known.intervals[op].lo).isfinite().all())
    )
    return next((f"{op.kind} (in {op.module or op.name})" for op in unknown), "")
