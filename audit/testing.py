"""The conformance suite that every probe passes, for built-in and third parties' probes alike.

    import pytest
    from audit.testing import probe_checks
    from my_package import my_probe
    @pytest.mark.parametrize("check", probe_checks(), ids=lambda check: check.__name__)
    def test_my_probe_conforms(check, tmp_path):
        check(my_probe, tmp_path)

Subjects and data are synthetic: noisy images of seeded prototypes, and a network that compares an image with each.

Size: the checks are read as one list, with what they run on beside them.
"""

from __future__ import annotations

import contextlib
import io
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from audit.api import DataSplit, ImagesInMemory, Probe, ProbeConfig, Role, Subject
from audit.engine.budget import Budget
from audit.engine.plan import Step, missing_need
from audit.engine.run import run_step
from audit.engine.session import Interrupted, Session
from audit.engine.store import RunStore
from audit.schema import ImageGrid, ProbeResult, Status, dump_json

Check = Callable[[Probe, Path], None]


# ------------------------------------------------------------------------------------ synthetic subject and data


class PrototypeNetwork(nn.Module):
    """Logits are scaled inner products with class prototypes, behind a BatchNorm whose state a probe could disturb."""

    def __init__(self, prototypes: Tensor, scale: float = 6.0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(prototypes.shape[1], affine=False)
        self.linear = nn.Linear(prototypes[0].numel(), len(prototypes))
        with torch.no_grad():
            directions = (prototypes - prototypes.mean(dim=0)).flatten(1)
            self.linear.weight.copy_(scale * directions / directions.norm(dim=1, keepdim=True))
            self.linear.bias.copy_(-(self.linear.weight @ prototypes.mean(dim=0).flatten()))
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, classes)."""
        logits: Tensor = self.linear(self.norm(pixels).flatten(1))
        return logits


def synthetic(
    classes: int = 4, channels: int = 1, side: int = 6, n: int = 160, noise: float = 0.25, seed: int = 0
) -> tuple[Subject, dict[Role, DataSplit]]:
    """A subject of about 90 % accuracy and a split of every role that suits it."""
    rng = np.random.default_rng(seed)
    prototypes = rng.uniform(0.2, 0.8, (classes, channels, side, side))
    subject = Subject(
        model=PrototypeNetwork(torch.from_numpy(prototypes).float()),
        name="synthetic",
        num_classes=classes,
        class_names=(),
        input_shape=(channels, side, side),
        device=torch.device("cpu"),
        digest=f"synthetic-{classes}-{channels}-{side}-{seed}",
    )
    data: dict[Role, DataSplit] = {}
    for role in get_args(Role):
        labels = rng.integers(0, classes, n)
        images = np.clip(prototypes[labels] + rng.normal(0, noise, (n, channels, side, side)), 0, 1)
        data[role] = DataSplit(
            source=ImagesInMemory(np.rint(images * 255).astype(np.uint8)),
            labels=labels,
            ids=[f"{role}-{seed}-{place}" for place in range(n)],
            order=rng.permutation(n),
            role=role,
            digest=f"synthetic-{role}-{seed}-{n}",
        )
    return subject, data


def run_probe(
    probe: Probe,
    folder: Path,
    subject: Subject,
    data: dict[Role, DataSplit],
    *,
    config: ProbeConfig | None = None,
    seed: int = 0,
    budget: Budget | None = None,
    stop: threading.Event | None = None,
) -> ProbeResult:
    """The probe's result under its default or other settings, by the engine's own path.

    Raises:
        Interrupted: when `stop` was set.
    """
    session = Session(subject, data, RunStore(folder), seed, budget or Budget(), stop=stop or threading.Event())
    step = Step(probe, config or probe.config(), 0.0, missing_need(probe, subject, data))
    return run_step(step, session, session.budget)[0]


# ------------------------------------------------------------------------------------ the checks


def probe_checks() -> Sequence[Check]:
    """Every check; each takes a probe and an empty folder and raises AssertionError with what is wrong."""
    return (
        card_is_complete,
        states_declared_and_bounded_numbers,
        proves_itself_on_planted_truth,
        pictures_are_described_and_present,
        same_seed_gives_the_same_facts,
        leaves_everything_as_found,
        survives_interruption,
        without_time_it_says_so,
        two_classes_and_many_work,
    )


def card_is_complete(probe: Probe, folder: Path) -> None:
    """Question, reading aid, sources and metrics are there, in the forms that reports and policies rely on."""
    card = probe.card
    assert card.question.endswith("?"), f"{card.id}: Expected a question, got {card.question!r}."
    assert card.how_to_read, f"{card.id}: Expected how_to_read for a reader who is not of the field, got nothing."
    assert card.limits, f"{card.id}: Expected limits (what the numbers do not show), got none."
    assert card.references, f"{card.id}: Expected the sources of its methods, got none."
    assert card.metrics, f"{card.id}: Expected declared metrics, got none."
    wrong = [metric.id for metric in card.metrics if not metric.id.startswith(f"{card.id}.")]
    assert not wrong, f"{card.id}: Expected metric ids that begin with {card.id!r}, got {wrong}."
    assert (probe.config.__doc__ or "").strip(), f"{card.id}: Expected a docstring on {probe.config.__name__}."


def states_declared_and_bounded_numbers(probe: Probe, folder: Path) -> None:
    """On an ordinary subject it measures; every number is declared, in its range and finite."""
    result, _ = _ordinary(probe, folder)
    known = {metric.id: metric for metric in probe.card.metrics}
    for found in result.measurements:
        metric = known[found.metric]
        low = -np.inf if metric.low is None else metric.low
        high = np.inf if metric.high is None else metric.high
        assert low <= found.value <= high, f"{found.metric}: Expected {low} to {high}, got {found.value}."
        missing = set(metric.where) - set(found.where)
        assert not missing, f"{found.metric}: Expected where keys {sorted(metric.where)}, missing {sorted(missing)}."
    settings = [(found.metric, dump_json(found.where)) for found in result.measurements]
    assert len(set(settings)) == len(settings), f"{probe.id}: Expected each metric and setting once, got doubles."


def proves_itself_on_planted_truth(probe: Probe, folder: Path) -> None:
    """It runs a positive control, and the control passes on an ordinary subject."""
    controls = _ordinary(probe, folder)[0].controls
    assert controls, f"{probe.id}: Expected a positive control on planted truth, got none."
    failed = [control for control in controls if not control.passed]
    assert not failed, f"{probe.id}: Expected its controls to pass on an ordinary subject, got {failed}."


def pictures_are_described_and_present(probe: Probe, folder: Path) -> None:
    """Figures say what is in them, their ids differ, and images lie in the run folder with the stated digest."""
    result, folder = _ordinary(probe, folder)
    ids = [figure.id for figure in result.figures]
    assert len(set(ids)) == len(ids), f"{probe.id}: Expected figure ids used once, got {ids}."
    for figure in result.figures:
        assert len(figure.alt) > 20, f"{figure.id}: Expected an alternative text with the content, got {figure.alt!r}."
        assert figure.caption, f"{figure.id}: Expected a caption, got none."
    listed = {found.path for found in result.evidence}
    shown = {
        tile.path for figure in result.figures if isinstance(figure, ImageGrid) for row in figure.rows for tile in row
    }
    assert shown <= listed, (
        f"{probe.id}: Expected shown images among the evidence, got {sorted(shown - listed)} beside."
    )
    absent = [path for path in listed if not (folder / path).is_file()]
    assert not absent, f"{probe.id}: Expected evidence in the run folder, got {absent} missing."


def same_seed_gives_the_same_facts(probe: Probe, folder: Path) -> None:
    """Two runs with one seed agree in every byte."""
    subject, data = synthetic()
    first, _ = _ordinary(probe, folder / "first")
    second = run_probe(probe, folder / "second", subject, data)
    assert first == second, f"{probe.id}: Expected equal facts for equal seeds, got others. Draw from ctx alone."


def leaves_everything_as_found(probe: Probe, folder: Path) -> None:
    """Subject, global random state and standard output are as before."""
    subject, data = synthetic()
    before, printed = _fingerprint(subject), io.StringIO()
    with contextlib.redirect_stdout(printed):
        run_probe(probe, folder, subject, data)
    assert not printed.getvalue(), f"{probe.id}: Expected a silent probe, got output {printed.getvalue()[:80]!r}."
    changed = [name for name, value in _fingerprint(subject).items() if before[name] != value]
    assert not changed, f"{probe.id}: Expected everything as found, got changes in {changed}."


def survives_interruption(probe: Probe, folder: Path) -> None:
    """Stopped after its first pieces and run again, it states what an undisturbed run states."""
    subject, data = synthetic()
    undisturbed, _ = _ordinary(probe, folder / "undisturbed")
    stopped = folder / "stopped"
    try:
        run_probe(probe, stopped, subject, data, stop=_StopsAfter(0))
    except Interrupted:
        pass
    else:
        raise AssertionError(f"{probe.id}: Expected the wish to stop to be heard, got a result. Let it pass through.")
    for pieces in (1, 2):
        with contextlib.suppress(Interrupted):
            run_probe(probe, stopped, subject, data, stop=_StopsAfter(pieces))
    resumed = run_probe(probe, stopped, subject, data)
    assert resumed == undisturbed, f"{probe.id}: Expected the same facts after an interruption, got others."


def without_time_it_says_so(probe: Probe, folder: Path) -> None:
    """With no time at all it is inconclusive for that reason, and states no number."""
    subject, data = synthetic()
    result = run_probe(probe, folder, subject, data, budget=Budget(deadline=0.0, clock=lambda: 1.0))
    if result.status is Status.SKIPPED:
        return
    assert result.status is Status.INCONCLUSIVE, f"{probe.id}: Expected inconclusive without time, got {result.status}."
    assert not result.measurements, f"{probe.id}: Expected no number without time, got {result.measurements[0]}."


def two_classes_and_many_work(probe: Probe, folder: Path) -> None:
    """Two classes, twelve classes and colour images give a result, not an error."""
    for name, (classes, channels) in {"two": (2, 1), "twelve": (12, 3)}.items():
        subject, data = synthetic(classes=classes, channels=channels)
        result = run_probe(probe, folder / name, subject, data)
        assert result.status is not Status.FAILED, f"{probe.id} on {name} classes: {result.reason}"


# ------------------------------------------------------------------------------------ parts


class _StopsAfter(threading.Event):
    """A wish to stop that comes after so many looks."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def is_set(self) -> bool:
        """True from the given look on."""
        self.looks -= 1
        return self.looks < 0


_ORDINARY: dict[int, tuple[Probe, Path, ProbeResult]] = {}  # each probe's run that the checks share


def _ordinary(probe: Probe, folder: Path) -> tuple[ProbeResult, Path]:
    """The probe's result on the ordinary subject with seed 0, and the run folder it lies in."""
    known = _ORDINARY.get(id(probe))
    if known is None or known[0] is not probe or not known[1].is_dir():
        subject, data = synthetic()
        known = _ORDINARY[id(probe)] = probe, folder, run_probe(probe, folder, subject, data)
    result = known[2]
    assert result.status is Status.MEASURED, f"{probe.id}: Expected a measured result, got {result.reason}."
    return result, known[1]


def _fingerprint(subject: Subject) -> dict[str, object]:
    model = subject.model
    return {
        "state": {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [parameter.grad is None for parameter in model.parameters()],
        "hooks": [len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules()],
        "torch random state": torch.get_rng_state().numpy().tobytes(),
        "numpy random state": str(np.random.get_state()),
        "python random state": random.getstate(),
        "threads": torch.get_num_threads(),
        "grad mode": torch.is_grad_enabled(),
    }
