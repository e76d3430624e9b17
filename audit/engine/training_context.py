"""`audit.training.context.TrainingContext` outside of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, TypeVar

import torch

from audit.engine.budget import Budget
from audit.engine.keys import seed_of
from audit.engine.reporter import Reporter, watched
from audit.schema import Diagnostic
from audit.training.log import Epoch

T = TypeVar("T")


class CommandContext:
    """What a trainer is given by `audit train`.

    Attributes:
        notices: what was diagnosed, by code.
    """

    def __init__(self, device: torch.device, seed: int, budget: Budget, reporter: Reporter) -> None:
        self.device, self.seed, self.budget, self.reporter = device, seed, budget, reporter
        self.notices: dict[str, Diagnostic] = {}

    def torch_generator(self, purpose: str) -> torch.Generator:
        """See `TrainingContext`."""
        return torch.Generator().manual_seed(seed_of(self.seed, "train", "", purpose) >> 1)

    def seconds_left(self) -> float:
        """See `TrainingContext`."""
        return self.budget.left()

    def progress(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """See `TrainingContext`."""
        return watched(items, self.reporter, what, total)

    def diagnose(self, code: str, text: str, severity: Literal["info", "warning"] = "warning") -> None:
        """See `TrainingContext`."""
        if code not in self.notices:
            self.notices[code] = Diagnostic(code=code, text=text, severity=severity)
            self.reporter.note(f"{'warning' if severity == 'warning' else 'note'}: {text}")

    def watch(self, epoch: Epoch, of: int) -> None:
        """A line for an epoch that ended."""
        robust = "" if epoch.robust_accuracy is None else f", under attack {epoch.robust_accuracy:.1%}"
        certified = "" if epoch.certified_accuracy is None else f", certified {epoch.certified_accuracy:.1%}"
        said = f"loss {epoch.train_loss:.4g}, held-out accuracy {epoch.held_out_accuracy:.1%}{robust}{certified}"
        self.reporter.note(f"epoch {epoch.epoch} of {of}: {said}")
