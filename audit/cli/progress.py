"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from audit.cli import console
from reports.numbers import duration_text as duration

if TYPE_CHECKING:
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
        self._total: int | None = None

    def begin(self, what: str, total: int | None) -> None:
        """See `Reporter`."""
        self._total = total
        self._task = self._progress.add_task(what, total=total)
        self._progress.start()

    def advance(self, steps: int = 1, *, restored: bool = False) -> None:
        """See `Reporter`."""
        if restored and self._total is not None:
            self._total -= steps
            self._progress.update(self._task, total=self._total)
        else:
            self._progress.advance(self._task, steps)

    def end(self) -> None:
        """See `Reporter`."""
        self._progress.stop()
        self._progress.update(self._task, visible=False)

    def note(self, text: str) -> None:
        """See `Reporter`."""
        console.say(text)


class LineReporter:
    """One line a stage, and one every half minute within it."""

    def __init__(self) -> None:
        self._what, self._total, self._done, self._restored = "", 0, 0, 0
        self._began = self._said = 0.0

    def begin(self, what: str, total: int | None) -> None:
        """See `Reporter`."""
        self._what, self._total, self._done, self._restored = what, total or 0, 0, 0
        self._began = self._said = time.monotonic()
        console.say(f"{what} ...")

    def advance(self, steps: int = 1, *, restored: bool = False) -> None:
        """See `Reporter`."""
        self._done += 0 if restored else steps
        self._restored += steps if restored else 0
        now = time.monotonic()
        if now - self._said >= SECONDS_BETWEEN_LINES and self._done:
            left = self._total - self._done - self._restored
            seconds = (now - self._began) / self._done * left
            console.say(f"{self._what}: {self._done + self._restored}/{self._total}, about {duration(seconds)} left")
            self._said = now

    def end(self) -> None:
        """See `Reporter`."""
        parts = self._done + self._restored
        restored = f", {self._restored} of {parts} parts restored" if self._restored else ""
        console.say(f"{self._what}: done in {duration(time.monotonic() - self._began)}{restored}")

    def note(self, text: str) -> None:
        """See `Reporter`."""
        console.say(text)
