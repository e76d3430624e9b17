"""Runs a plan: each probe's facts go to the store as soon as they are there."""

from __future__ import annotations

import resource
import sys
import time
import traceback
from collections.abc import Iterable
from typing import Any

import torch
from pydantic import ValidationError

from audit.api import Fact
from audit.engine.budget import Budget
from audit.engine.context import EngineContext
from audit.engine.plan import Plan, Step
from audit.engine.predictions import PREDICTIONS, predict
from audit.engine.session import Interrupted, Session
from audit.errors import AuditError, Inconclusive, StoreError
from audit.schema import (
    Cost,
    Evidence,
    Measurement,
    PositiveControl,
    ProbeResult,
    Reason,
    Status,
)


def run_plan(plan: Plan, session: Session) -> tuple[tuple[ProbeResult, ...], dict[str, Cost]]:
    """Runs every step that is not skipped.

    Returns:
        results in the plan's order, and what each took.

    Raises:
        Interrupted: when the user asked to stop; finished units are stored.
        StoreError: when the folder can no longer be written.
    """
    costs: dict[str, Cost] = {}
    if plan.prediction_seconds:
        _predict_ahead(plan, session, costs)
    results = []
    for place, step in enumerate(plan.steps):
        later = [other.seconds for other in plan.steps[place + 1 :] if other.skip is None]
        result, cost = run_step(step, session, session.budget.share(step.seconds, later))
        results.append(result)
        costs[step.probe.id] = cost
        name = f"probes/{step.probe.id}/result.json"
        session.store.write_json(name, result.model_dump(mode="json"))
    return tuple(results), costs


def run_step(step: Step, session: Session, budget: Budget) -> tuple[ProbeResult, Cost]:
    """One probe, whatever it does: an exception becomes a failed result, never a lost run."""
    probe = step.probe
    common: dict[str, Any] = {
        "probe": probe.id,
        "version": probe.card.version,
        "config": step.config.model_dump(mode="json"),
        "device": session.subject.device.type,
    }
    if step.skip is not None:
        return ProbeResult(status=Status.SKIPPED, reason=step.skip, **common), Cost(seconds=0)
    session.store.write_json(f"probes/{probe.id}/spec.json", step.planned().model_dump(mode="json"))
    session.store.event("probe_started", probe=probe.id)
    ctx = EngineContext(session, probe.id, probe.card.version, budget, config=common["config"])
    start = time.perf_counter()
    facts: list[Fact] = []
    status, reason = _collect(step, session, ctx, facts)
    cost = Cost(seconds=round(time.perf_counter() - start, 3), peak_memory_mb=_peak_memory(session))
    session.store.event("probe_ended", probe=probe.id, status=status.value, seconds=cost.seconds)
    return _result(common, status, reason, facts, ctx), cost


def _collect(step: Step, session: Session, ctx: EngineContext, facts: list[Fact]) -> tuple[Status, Reason | None]:
    """Fills `facts` with what the probe yields; says how it ended."""
    try:
        facts.extend(step.probe.run(session.subject, session.data, step.config, ctx))
        _check_declared(step, facts)
    except Inconclusive as outcome:
        return Status.INCONCLUSIVE, Reason(code=outcome.code, text=outcome.text)
    except (StoreError, Interrupted):
        raise
    except AuditError as error:
        return Status.FAILED, Reason(code=_snake(type(error).__name__), text=str(error))
    except torch.OutOfMemoryError:
        return Status.FAILED, Reason(
            code="out_of_memory", text="The device's memory did not hold it; try --device cpu."
        )
    except Exception as error:  # a probe's defect must not lose the other probes' facts
        session.store.event("traceback", probe=step.probe.id, text=traceback.format_exc())
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{where.name}, line {where.lineno}"
        text = f"{type(error).__name__}: {_brief(error)} ({place}). The traceback is in events.jsonl."
        return Status.FAILED, Reason(code="internal_error", text=text)
    return Status.MEASURED, None


def _check_declared(step: Step, facts: Iterable[Fact]) -> None:
    declared = {metric.id for metric in step.probe.card.metrics}
    stated = {fact.metric for fact in facts if isinstance(fact, Measurement)}
    if not stated <= declared:
        raise ValueError(f"Expected declared metrics, got {', '.join(sorted(stated - declared))}. Declare them.")


def _result(
    common: dict[str, Any], status: Status, reason: Reason | None, facts: list[Fact], ctx: EngineContext
) -> ProbeResult:
    controls = tuple(fact for fact in facts if isinstance(fact, PositiveControl))
    failed = [control for control in controls if not control.passed]
    if status is Status.MEASURED and failed:
        status = Status.INCONCLUSIVE
        names = "; ".join(f"{control.name}: {control.observed}" for control in failed)
        reason = Reason(
            code="control_failed", text=f"A check of the probe's own work failed on this subject ({names})."
        )
    return ProbeResult(
        status=status,
        reason=reason,
        measurements=tuple(fact for fact in facts if isinstance(fact, Measurement)),
        controls=controls,
        evidence=tuple(fact for fact in facts if isinstance(fact, Evidence)),
        figures=tuple(fact for fact in facts if not isinstance(fact, Measurement | PositiveControl | Evidence)),
        diagnostics=tuple(ctx.diagnostics[code] for code in sorted(ctx.diagnostics)),
        **common,
    )


def _predict_ahead(plan: Plan, session: Session, costs: dict[str, Cost]) -> None:
    """The shared pass, on its own share of the budget; its failure is each probe's to report."""
    start = time.perf_counter()
    others = [step.seconds for step in plan.steps if step.skip is None]
    budget = session.budget.share(plan.prediction_seconds, others)
    try:
        predict(EngineContext(session, PREDICTIONS, 1, budget), session, "eval")
    except (StoreError, Interrupted):
        raise
    except Exception as error:  # each probe that asks for predictions meets it again, and says so in its result
        session.store.event("predictions_failed", text=str(error))
    costs[PREDICTIONS] = Cost(seconds=round(time.perf_counter() - start, 3), peak_memory_mb=_peak_memory(session))


def _peak_memory(session: Session) -> float:
    """Peak so far in MB: of the device where it has its own memory, else of the process."""
    if session.subject.device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(session.subject.device) / 2**20, 1)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def _brief(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors()[:3])
    return str(error).splitlines()[0] if str(error) else "no message"


def _snake(name: str) -> str:
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("_")
