"""What the engine tells whoever watches. The engine never prints; the command line draws."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Reporter(Protocol):
    """Receives progress; every method may do nothing."""

    def begin(self, what: str, total: int | None) -> None:
        """A stage of `total` steps begins, within the one that has not ended yet, where there is one."""

    def advance(self, steps: int = 1, *, restored: bool = False) -> None:
        """Steps were done now, or were found done by an earlier run (which says nothing about speed)."""

    def end(self) -> None:
        """The stage ended."""

    def note(self, text: str) -> None:
        """A line for the reader."""


class Silent:
    """Shows nothing."""

    def begin(self, what: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, steps: int = 1, *, restored: bool = False) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


def watched(items: Iterable[T], reporter: Reporter, what: str, total: int | None) -> Iterator[T]:
    """Passes items through, advancing the reporter after each."""
    reporter.begin(what, total)
    try:
        for item in items:
            yield item
            reporter.advance()
    finally:
        reporter.end()
