"""What will be measured, on which samples, at what estimated cost, and what will be skipped and why."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from audit.api import Data, Probe, ProbeConfig, Role, Subject
from audit.schema import PlannedProbe, Reason
from audit.toolkit.batching import Batching, memory_for_one

PACKAGE_HINTS = {
    "torchattacks": "pip install --no-deps torchattacks==3.5.1 (its own pins are stale; `audit doctor` tells more)",
    "auto_LiRPA": "pip install --no-deps auto-LiRPA==0.3 (its own pins are stale; `audit doctor` tells more)",
}


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds one sample takes, measured on the subject; the unit of all estimates."""

    forward: float
    backward: float


@dataclass(frozen=True, slots=True)
class Step:
    """One probe with its settings, to be run or skipped."""

    probe: Probe
    config: ProbeConfig
    seconds: float
    skip: Reason | None = None

    def planned(self) -> PlannedProbe:
        """The step as it is stored in `plan.json`; the estimate is left out, since it differs from run to run."""
        return PlannedProbe(probe=self.probe.id, config=self.config.model_dump(mode="json"), skip=self.skip)


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps in the order in which they run, and the shared prediction pass before them."""

    steps: tuple[Step, ...]
    prediction_seconds: float

    @property
    def seconds(self) -> float:
        """Estimated length of the whole run."""
        return self.prediction_seconds + sum(step.seconds for step in self.steps if step.skip is None)


def make_plan(
    probes: Sequence[Probe], configs: Mapping[str, ProbeConfig], subject: Subject, data: Data, speed: Speed
) -> Plan:
    """Decides what runs; nothing is measured here."""
    steps = []
    sizes: dict[Role, int] = {role: len(split) for role, split in data.items()}
    for probe in probes:
        config = configs.get(probe.id, probe.config())
        skip = missing_need(probe, subject, data)
        cost = probe.cost(config, sizes)
        seconds = cost.seconds + cost.forwards * speed.forward + cost.backwards * speed.backward
        steps.append(Step(probe, config, seconds, skip))
    predicts = any(step.skip is None and "logits" in step.probe.card.needs for step in steps)
    n_predicted = len(data["eval"]) if predicts and "eval" in data else 0
    return Plan(tuple(steps), n_predicted * speed.forward)


def missing_need(probe: Probe, subject: Subject, data: Data) -> Reason | None:
    """Why the probe cannot run here, or None."""
    for need in probe.card.needs:
        kind, _, name = need.partition(":")
        if kind == "data" and name not in data:
            return Reason(code="missing_role", text=f"It needs `{name}` data. Give --data {name}=SPEC.")
        if kind == "package" and importlib.util.find_spec(name) is None:
            hint = PACKAGE_HINTS.get(name, f"pip install {name}")
            return Reason(code="missing_package", text=f"It needs the package {name}, which is absent. {hint}.")
        if kind in ("weights", "gradients", "logits", "labels") and kind not in subject.access:
            why = f": {subject.why_limited}." if subject.why_limited else "; see its checks."
            return Reason(code="no_access", text=f"It needs {kind}, and this subject gives none{why}")
    return None


def measure_speed(subject: Subject, data: Data, n: int = 32) -> Speed:
    """Seconds a sample of a forward pass, and of a backward pass on top: the best of three, after a warm-up.

    Of n samples together, or of as many as fit into memory; of noise where there are none to audit on.

    Raises:
        PrerequisiteError: when not even one fits.
    """
    noise = torch.rand((n, *subject.input_shape), generator=torch.Generator().manual_seed(0))
    pixels = data["eval"].batch(0, n).pixels if "eval" in data else noise
    batching = Batching(len(pixels))
    with memory_for_one():
        batching.parts(len(pixels), lambda rows: _both_ways(subject, pixels[rows]))
    pixels = pixels[: batching.most]

    def forward() -> None:
        with torch.inference_mode():
            subject.logits(pixels)

    one_way = _best_time(forward, subject.device)
    if "gradients" not in subject.access:
        return Speed(one_way / len(pixels), 2 * one_way / len(pixels))
    return Speed(
        one_way / len(pixels),
        max(0.0, _best_time(lambda: _both_ways(subject, pixels), subject.device) - one_way) / len(pixels),
    )


def _both_ways(subject: Subject, pixels: Tensor) -> None:
    wanted = pixels.clone().requires_grad_("gradients" in subject.access)
    total = subject.logits(wanted).sum()
    if total.requires_grad:  # without images to audit on, nobody has looked yet whether there are gradients
        torch.autograd.grad(total, wanted)


def _best_time(work: Callable[[], None], device: torch.device, repeats: int = 3) -> float:
    """Seconds of the fastest repeat; others are slowed by whatever else the machine does."""
    times = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
