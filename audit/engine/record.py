"""What a run writes besides its units: the plan before it, the record and the costs after it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence

import torch

from audit import __version__
from audit.engine.keys import digest_of, numerics, package_versions
from audit.engine.plan import Plan
from audit.engine.prepare import Prepared
from audit.engine.store import RunStore, utc_now
from audit.errors import StoreError
from audit.schema import (
    Cost,
    Diagnostic,
    Environment,
    ProbeCard,
    ProbeResult,
    Reason,
    RunRecord,
    Status,
)

UNSTABLE = frozenset({"nondeterministic", "batch_dependent", "stateful"})
"""Findings at load after which a number may come out otherwise next time."""


def environment(device: torch.device) -> Environment:
    """Where and with what this process computes; no user and no host name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else (platform.machine() or "cpu")
    return Environment(
        tool_version=__version__,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        device=f"{device.type} ({name})",
        threads=torch.get_num_threads(),
        packages=package_versions(),
        numerics=dict(numerics(device)),
    )


def make_record(
    prepared: Prepared,
    *,
    cards: Sequence[ProbeCard],
    results: Sequence[ProbeResult],
    seed: int,
    arguments: dict[str, object],
    argv: Sequence[str],
) -> RunRecord:
    """The facts of a run in one record."""
    return RunRecord(
        subject=prepared.info,
        data=prepared.data_infos,
        seed=seed,
        arguments=arguments,
        argv=tuple(argv),
        environment=environment(prepared.subject.device),
        trust_exceptions=prepared.loaded.trust_exceptions,
        cards=tuple(cards),
        results=tuple(in_doubt(result, prepared.info.checks) for result in results),
    )


def in_doubt(result: ProbeResult, checks: Sequence[Diagnostic]) -> ProbeResult:
    """The result, inconclusive where the subject's answers are not its own: random, or made by batch or history."""
    found = [check for check in checks if check.code in UNSTABLE and check.severity == "warning"]
    if not found or result.status is not Status.MEASURED:
        return result
    reason = Reason(code="unstable_subject", text=f"The subject's answers are not repeatable: {found[0].text}")
    said = tuple(_doubted(note) if note.conclusion else note for note in result.diagnostics)
    return result.model_copy(update={"status": Status.INCONCLUSIVE, "reason": reason, "diagnostics": said})


def _doubted(conclusion: Diagnostic) -> Diagnostic:
    text = f"Void, as the subject's answers are not repeatable, is what came out: {conclusion.text}"
    return conclusion.model_copy(update={"text": text, "severity": "warning"})


def begin(store: RunStore, plan: Plan, prepared: Prepared, seed: int, argv: Sequence[str]) -> None:
    """Writes what will be done before anything is done, and withdraws results of other settings.

    Raises:
        StoreError: when the folder holds a run of another model or of other data.
    """
    steps = [step.planned().model_dump(mode="json") for step in plan.steps]
    where = environment(prepared.subject.device).model_dump(mode="json")
    samples = {found.role: found.n_used for found in prepared.data_infos}
    inputs = {
        "subject": prepared.info.digest,
        "data": {found.role: found.digest for found in prepared.data_infos},
        "measured": digest_of([steps, where, samples, seed]),
    }
    earlier = store.read_json("inputs.json")
    if isinstance(earlier, dict):
        if any(earlier.get(part) != inputs[part] for part in ("subject", "data")):
            changed = "another model" if earlier.get("subject") != inputs["subject"] else "other data"
            raise StoreError(
                f"Expected {store.root} to hold a run of this model and data, got one of {changed}. "
                "Choose another --out, or --fresh to forget it."
            )
        if earlier.get("measured") != inputs["measured"]:
            store.forget_results()
    store.write_json("inputs.json", inputs)
    store.write_json("environment.json", where)
    store.write_json("plan.json", steps)
    store.event("run_started", argv=list(argv))


def finish(store: RunStore, record: RunRecord, costs: Mapping[str, Cost], started: str) -> None:
    """Writes the facts, and apart from them what they cost; of two passes over the same work the longer counts."""
    found = store.read_json("costs.json")
    before = found if isinstance(found, dict) else {}
    spent = {name: cost.model_dump(mode="json") for name, cost in costs.items()}
    for name, cost in (before.get("costs") or {}).items():
        if name in spent and cost["seconds"] > spent[name]["seconds"]:
            spent[name] = cost
    store.write_json("results.json", record.model_dump(mode="json"))
    times = {"started": before.get("started") or started, "finished": utc_now(), "costs": spent}
    store.write_json("costs.json", times)
    store.event("run_ended")


def reproducible(argv: Sequence[str]) -> tuple[str, ...]:
    """The command without what does not change the facts: the output folder, `--fresh`, `--policy`."""
    kept: list[str] = []
    skip = False
    for word in argv:
        if skip:
            skip = False
        elif word in ("--out", "--policy"):
            skip = True
        elif word not in ("--fresh", "-v", "--verbose") and not word.startswith(("--out=", "--policy=")):
            kept.append(word)
    return tuple(kept)
