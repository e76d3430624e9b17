"""`audit run`: measure, store, and judge where a policy is given."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit.cli import console, options
from audit.cli.verdict import conclude, read_policy
from audit.errors import UsageError

if TYPE_CHECKING:
    from audit.api import Probe
    from audit.engine.budget import Budget
    from audit.engine.plan import Plan
    from audit.engine.prepare import Inputs, Prepared
    from audit.engine.store import RunStore


RUNS = Path("audit-runs")
"""Where runs go that are given no folder."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `audit run` was asked, beyond model and data."""

    probes: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    budget: str | None = None
    policy: Path | None = None
    out: Path | None = None
    dry_run: bool = False
    fresh: bool = False


def run(
    model: options.Model,
    weights: options.Weights = None,
    weights_key: options.WeightsKey = None,
    strip_prefix: options.StripPrefix = None,
    preprocess: options.Preprocess = "auto",
    data: options.DataSpecs = None,
    probe: Annotated[
        list[str] | None,
        typer.Option("--probe", metavar="ID", help="Probe to run; may be repeated. Defaults: see `audit probes list`."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PROBE.KEY=VALUE", help="A probe's setting; see `audit probes explain ID`."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", metavar="N", min=1, help="At most N samples, a seeded random choice.")
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, help="CPU threads; by default the cores there are.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="TIME", help="Such as 10m: samples are cut to fit, never strength."),
    ] = None,
    policy: options.PolicyFile = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Run folder; audit-runs/... by default.")
    ] = None,
    allow_code: options.AllowCode = False,
    allow_pickle: options.AllowPickle = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what the run folder holds.")] = False,
) -> None:
    """Measure a checkpoint and write a run folder with its report.

    The same command resumes an interrupted run. With --policy the facts are also judged and the exit code says how.
    """
    from audit.engine.prepare import Inputs
    from audit.loading.models import ModelRequest

    request = ModelRequest(model, weights, weights_key, strip_prefix, preprocess, allow_code, allow_pickle)
    inputs = Inputs(request, tuple(data or ()), samples, seed, device, threads)
    wanted = RunOptions(tuple(probe or ()), tuple(setting or ()), budget, policy, out, dry_run, fresh)
    raise typer.Exit(execute(inputs, wanted, sys.argv[1:]))


def execute(inputs: Inputs, wanted: RunOptions, argv: Sequence[str]) -> int:
    """Carries out a run and returns the exit code."""
    from audit.catalog import all_probes, choose
    from audit.engine.budget import Budget, parse_duration
    from audit.engine.plan import make_plan, measure_speed
    from audit.engine.prepare import prepare
    from audit.engine.settings import parse_settings
    from audit.engine.store import check_folder, open_store

    probes = choose(wanted.probes)
    if not inputs.data:
        check_none_needed(probes)
    configs = parse_settings(wanted.settings, all_probes())
    policy = read_policy(wanted.policy)
    seconds = parse_duration(wanted.budget) if wanted.budget else None
    if not wanted.dry_run:
        check_folder(wanted.out or RUNS / "new")
    prepared = prepare(inputs, note=lambda text: console.say(console.indented(f"note: {text}")))
    for check in prepared.info.checks:
        if check.severity == "warning":
            console.say(f"warning: {check.text}")
    speed = measure_speed(prepared.subject, prepared.data)
    plan = make_plan(probes, configs, prepared.subject, prepared.data, speed)
    (console.show if wanted.dry_run else console.say)(plan_text(plan, prepared))
    if wanted.dry_run:
        return 0
    out = wanted.out or _default_folder(prepared, plan, inputs.seed)
    with open_store(out, fresh=wanted.fresh) as store:  # held until the report is there, so no other run comes between
        done = measure(store, plan, prepared, inputs, wanted, argv, Budget.of(seconds))
        return conclude(out, policy) if done else 130


def check_none_needed(probes: Sequence[Probe]) -> None:
    """Goes on when one of the probes examines a checkpoint without any data.

    Raises:
        UsageError: when all of them need some.
    """
    from audit.catalog import all_probes

    if not any(needs_no_data(probe) for probe in probes):
        free = " ".join(f"--probe {name}" for name, probe in all_probes().items() if needs_no_data(probe))
        raise UsageError(
            "Expected at least one --data SPEC, got none. Give labelled images, such as imagefolder:DIR; or ask for "
            f"what needs none: {free}."
        )


def needs_no_data(probe: Probe) -> bool:
    """Whether it examines a checkpoint alone."""
    return not any(need.startswith("data:") for need in probe.card.needs)


def measure(
    store: RunStore,
    plan: Plan,
    prepared: Prepared,
    inputs: Inputs,
    wanted: RunOptions,
    argv: Sequence[str],
    budget: Budget,
) -> bool:
    """Runs the plan and stores the facts; False when the user stopped it, after saying how to resume."""
    from audit.catalog import all_probes
    from audit.cli.progress import make_reporter
    from audit.engine import record
    from audit.engine.run import run_plan
    from audit.engine.session import Interrupted, Session
    from audit.engine.store import utc_now

    record.begin(store, plan, prepared, inputs.seed, argv)
    started = utc_now()
    with _interruptible() as stop:
        session = Session(prepared.subject, prepared.data, store, inputs.seed, budget, make_reporter(), stop)
        try:
            results, costs = run_plan(plan, session)
        except Interrupted:
            again = shlex.join(word for word in argv if word != "--fresh")
            console.say(f"Stopped; what was measured is kept in {store.root}. Resume with:\n  audit {again}")
            return False
    facts = record.make_record(
        prepared,
        cards=[probe.card for probe in all_probes().values()],
        results=results,
        seed=inputs.seed,
        arguments=_arguments(inputs, wanted),
        argv=record.reproducible(argv),
    )
    record.finish(store, facts, costs, started)
    return True


def plan_text(plan: Plan, prepared: Prepared) -> str:
    """The plan in words: what is audited, and per probe what runs at what cost."""
    from reports.numbers import duration_text as duration

    info = prepared.info
    lines = [f"{info.name}: {info.num_classes} classes, input {'x'.join(map(str, info.input_shape))}, {info.output}"]
    lines += [f"{found.role} data: {found.n_used} of {found.n} images ({found.spec})" for found in prepared.data_infos]
    rows = [
        (
            step.probe.id,
            f"at most about {duration(step.seconds)}" if step.skip is None else f"skipped: {step.skip.text}",
        )
        for step in plan.steps
    ]
    if plan.prediction_seconds:
        rows.insert(0, ("predictions", f"about {duration(plan.prediction_seconds)}, shared by all probes"))
    return "\n".join([*lines, console.columns(rows), f"in all at most about {duration(plan.seconds)}"])


def _arguments(inputs: Inputs, wanted: RunOptions) -> dict[str, object]:
    """The effective settings; data specs as they were typed."""
    model = inputs.model
    return {
        "model": model.spec,
        "weights": model.weights.name if model.weights else None,
        "weights_key": model.weights_key,
        "strip_prefix": model.strip_prefix,
        "preprocess": model.preprocess,
        "data": list(inputs.data),
        "probes": list(wanted.probes),
        "settings": list(wanted.settings),
        "samples": inputs.samples,
        "seed": inputs.seed,
        "device": inputs.device,
        "budget": wanted.budget,
        "allow_code": model.allow_code,
        "allow_pickle": model.allow_pickle,
    }


def _default_folder(prepared: Prepared, plan: Plan, seed: int) -> Path:
    """The same for the same command, so that running it again resumes."""
    from audit.engine.keys import digest_of

    parts = [
        prepared.info.digest,
        [(found.role, found.digest, found.n_used) for found in prepared.data_infos],
        [step.planned().model_dump(mode="json") for step in plan.steps],
        seed,
    ]
    name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in prepared.info.name)
    return RUNS / f"{name[:60]}-{digest_of(parts)[:8]}"


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C (or SIGTERM) sets; the second one stops at once."""
    stop = threading.Event()

    def ask(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        console.say("\nStopping after the unit in progress; once more stops at once.")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
