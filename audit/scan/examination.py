"""The running account of one file's examination: findings, what was looked at, and how much is left to spend."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from audit.scan.kinds import Kind
from audit.scan.limits import Limits
from audit.scan.parts import Part
from audit.scan.report import SEVERITIES, Finding, Severity, in_words, printable


class OverLimit(Exception):  # noqa: N818 - an outcome, not an error
    """More would have to be read than a limit allows; its text says which."""


@dataclass
class Examination:
    """What the checks write to.

    Attributes:
        limits: how far to go.
        examine: examines a part of whatever kind it is; checks of archives call it for their members.
        complete: false as soon as something could not be examined.
        strict: whether code counts as a danger here.
        referred: files in which, as this one says, its numbers lie.
        looked: how many of each thing were looked at.
    """

    limits: Limits
    examine: Callable[[Examination, Part, Kind | None], None]
    complete: bool = True
    strict: bool = False
    referred: set[Path] = field(default_factory=set)
    looked: Counter[str] = field(default_factory=Counter)
    _found: dict[Finding, None] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)
    _spent: Counter[str] = field(default_factory=Counter)
    _until: float = 0.0
    _dropped: int = 0

    def __post_init__(self) -> None:
        self._until = time.monotonic() + self.limits.seconds

    def member(self, part: Part, kind: Kind | None = None) -> None:
        """Examines a part of what is being examined; nothing beyond the limit of nesting."""
        if part.depth > self.limits.depth:
            self.danger(part.where, "nested-too-deep", f"is nested more than {self.limits.depth} deep")
            self.complete = False
            return
        self.examine(self, part, kind)

    def danger(self, where: str, code: str, text: str) -> None:
        """Records what no checkpoint needs."""
        self._record(where, code, "danger", text)

    def code(self, where: str, code: str, text: str) -> None:
        """Records what runs code, or unpickles classes, when it is loaded as it is meant."""
        self._record(where, code, "danger" if self.strict else "code", text)

    @contextmanager
    def strictly(self) -> Iterator[None]:
        """While it lasts, code is a danger: where a format leaves no way of loading it otherwise."""
        before, self.strict = self.strict, True
        try:
            yield
        finally:
            self.strict = before

    def note(self, where: str, code: str, text: str) -> None:
        """Records what is worth knowing."""
        self._record(where, code, "note", text)

    def unexamined(self, where: str, code: str, text: str) -> None:
        """Records that something could not be examined."""
        self.complete = False
        self._record(where, code, "note", text)

    def saw(self, what: str, count: int = 1) -> None:
        """Counts what was looked at, by a word that takes an s: `saw("pickle")`."""
        self.looked[what] += count

    def add(self, findings: Iterable[Finding]) -> None:
        """Takes over findings of another examination."""
        for finding in findings:
            self._record(finding.where, finding.code, finding.severity, finding.text)

    def spend(self, what: str, amount: int, most: int) -> None:
        """Counts against a limit.

        Raises:
            OverLimit: when it is reached, or the time is over.
        """
        self._spent[what] += amount
        if self._spent[what] > most:
            raise OverLimit(f"has more than {most:,} {what}, the most that is examined")
        self.check_time()

    def total(self, what: str, amount: int) -> int:
        """Counts, without a limit; how much there is of it by now."""
        self._spent[what] += amount
        return self._spent[what]

    def check_time(self) -> None:
        """Goes on while there is time.

        Raises:
            OverLimit: when it is over.
        """
        if time.monotonic() > self._until:
            raise OverLimit(f"takes longer than {self.limits.seconds:g} seconds to examine")

    def findings(self) -> tuple[Finding, ...]:
        """All that was found, the worst first."""
        found = sorted(self._found, key=lambda finding: SEVERITIES.index(finding.severity))
        if self._dropped and found:
            text = f"{self._dropped:,} more findings were left out"
            found.append(Finding(found[0].where.partition("!")[0], "more-findings", "note", text))
        return tuple(found)

    def looked_at(self) -> tuple[str, ...]:
        """What was looked at, in words."""
        return in_words(self.looked)

    def _record(self, where: str, code: str, severity: Severity, text: str) -> None:
        """Keeps a finding; where there is no room, in place of a milder one, so that a flood of notes hides nothing."""
        full = len(self._found) >= self.limits.findings
        milder = [worse for worse in SEVERITIES[SEVERITIES.index(severity) + 1 :] if self._counts[worse]]
        if full and not milder:
            self._dropped += 1
            return
        finding = Finding(where, code, severity, printable(text))
        if finding in self._found:
            return
        if full:
            given_up = next(kept for kept in self._found if kept.severity == milder[-1])
            del self._found[given_up]
            self._counts[given_up.severity] -= 1
            self._dropped += 1
        self._found[finding] = None
        self._counts[severity] += 1
