"""What surrounds a training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol, TypeVar

import torch

T = TypeVar("T")


class TrainingContext(Protocol):
    """The part of `audit.api.RunContext` that a trainer uses, so that a probe's own context serves."""

    device: torch.device

    def torch_generator(self, purpose: str) -> torch.Generator:
        """A generator on the CPU, keyed by seed and purpose: independent of order and resuming."""

    def seconds_left(self) -> float:
        """Seconds of the budget; `inf` without one. Looked at after every epoch."""

    def progress(self, items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
        """Passes items through, showing how far it is."""

    def diagnose(self, code: str, text: str, severity: Literal["info", "warning"] = "warning") -> None:
        """Records something that a reader should know; the same code once."""
