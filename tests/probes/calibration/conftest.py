from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audit.api import Evidence, Fact, Predictions, Role, RunContext, Subject, Tally, Unit
from probes.calibration import calibration
from probes.calibration.config import CalibrationConfig


def lcg(count: int, seed: int) -> np.ndarray:
    """Uniforms of the integer generator x <- (1103515245 x + 12345) mod 2^31, as x / 2^31."""
    found, x = np.empty(count), seed
    for place in range(count):
        x = (1103515245 * x + 12345) % 2**31
        found[place] = x / 2**31
    return found


@dataclass
class Golden:
    logits: np.ndarray
    labels: np.ndarray


@pytest.fixture(scope="session")
def golden() -> Golden:
    """600 samples of 5 classes: uniform logits in [-4, 4]; the top class is right with probability c + sin(6 pi c)/4,
    else the second one is."""
    logits = (lcg(3000, 42).reshape(600, 5) - 0.5) * 8
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    ranked = np.argsort(-p, 1, kind="stable")
    right = lcg(600, 7) < np.clip(p.max(1) + 0.25 * np.sin(6 * np.pi * p.max(1)), 0, 1)
    return Golden(logits, np.where(right, ranked[:, 0], ranked[:, 1]).astype(np.int64))


@dataclass
class StubContext(RunContext):
    """A context over given logits: no engine, no store."""

    logits: np.ndarray
    labels: np.ndarray
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    workdir: Path = Path()
    diagnostics: dict[str, str] = field(default_factory=dict)

    def rng(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(purpose.encode())])

    def torch_generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def seconds_left(self) -> float:
        return float("inf")

    def predictions(self, role: Role = "eval") -> Predictions:
        return Predictions(self.logits.astype(np.float32), self.labels.astype(np.int64))

    def map(self, function: Callable[[Unit, RunContext], Tally], units: Sequence[Unit], what: str = "") -> list[Tally]:
        return [function(unit, self) for unit in units]

    def shared(self) -> RunContext:
        return self

    def progress(self, items: Iterable[Any], what: str, total: int | None = None) -> Iterable[Any]:
        return items

    def diagnose(self, code, text, severity="warning", *, conclusion=False):
        self.diagnostics.setdefault(code, text)

    def evidence(self, name: str, content: bytes, kind: str, text: str = "") -> Evidence:
        raise AssertionError("calibration leaves no artefacts")


def subject(classes: int) -> Subject:
    return Subject(torch.nn.Identity(), "stub", classes, (), (1, 1, classes), torch.device("cpu"), "0" * 64)


@dataclass
class Outcome:
    facts: list[Fact]
    diagnostics: dict[str, str]


@pytest.fixture(scope="session")
def run_probe() -> Callable[..., Outcome]:
    def run(logits: np.ndarray, labels: np.ndarray, seed: int = 0, **settings: Any) -> Outcome:
        ctx = StubContext(np.asarray(logits), np.asarray(labels), seed)
        facts = calibration.run(subject(logits.shape[1]), {}, CalibrationConfig(**settings), ctx)
        return Outcome(list(facts), ctx.diagnostics)

    return run
