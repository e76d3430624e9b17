"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.cli import console
from reports.numbers import duration_text as duration

if TYPE_CHECKING:
    from rich.progress import TaskID

    from audit.engine.reporter import Reporter

SECONDS_BETWEEN_LINES = 30.0


def make_reporter() -> Reporter:
    """A bar where stderr is a terminal, else plain lines."""
    return BarReporter() if sys.stderr.isatty() else LineReporter()


class BarReporter:
    """A rich progress bar; the time remaining rests on steps done now, not on those restored."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
        )
        self._stages: list[tuple[TaskID, int | None]] = []

    def begin(self, what: str, total: int | None) -> None:
        """See `Reporter`."""
        self._stages.append((self._progress.add_task(what, total=total), total))
        self._progress.start()

    def advance(self, steps: int = 1, *, restored: bool = False) -> None:
        """See `Reporter`."""
        task, total = self._stages[-1]
        if restored and total is not None:
            self._stages[-1] = (task, total - steps)
            self._progress.update(task, total=total - steps)
        else:
            self._progress.advance(task, steps)

    def end(self) -> None:
        """See `Reporter`."""
        task, _ = self._stages.pop()
        if not self._stages:
            self._progress.stop()
        self._progress.update(task, visible=False)

    def note(self, text: str) -> None:
        """See `Reporter`."""
        console.say(text)


@dataclass(slots=True)
class _Stage:
    what: str
    total: int
    began: float
    said: float
    done: int = 0
    restored: int = 0


class LineReporter:
    """One line a stage, and one every half minute within it; a stage may lie within another."""

    def __init__(self) -> None:
        self._stages: list[_Stage] = []

    def begin(self, what: str, total: int | None) -> None:
        """See `Reporter`."""
        now = time.monotonic()
        self._stages.append(_Stage(what, total or 0, now, now))
        console.say(f"{what} ...")

    def advance(self, steps: int = 1, *, restored: bool = False) -> None:
        """See `Reporter`."""
        stage = self._stages[-1]
        stage.done += 0 if restored else steps
        stage.restored += steps if restored else 0
        now = time.monotonic()
        if now - stage.said >= SECONDS_BETWEEN_LINES and stage.done:
            seconds = (now - stage.began) / stage.done * (stage.total - stage.done - stage.restored)
            parts = f"{stage.done + stage.restored}/{stage.total}"
            console.say(f"{stage.what}: {parts}, about {duration(seconds)} left")
            stage.said = now

    def end(self) -> None:
        """See `Reporter`."""
        stage = self._stages.pop()
        parts = stage.done + stage.restored
        restored = f", {stage.restored} of {parts} parts restored" if stage.restored else ""
        ended = "done" if parts >= stage.total else f"{parts} of {stage.total}"
        console.say(f"{stage.what}: {ended} in {duration(time.monotonic() - stage.began)}{restored}")

    def note(self, text: str) -> None:
        """See `Reporter`."""
        console.say(text)
