"""What a scan says: findings with their severity, and one report a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from audit.scan.kinds import Kind

Severity = Literal["danger", "code", "note"]
"""`danger`: does what no checkpoint needs (calls a function, leaves its folder, is a bomb, is malformed on purpose); no
flag of the tool lifts it. `code`: loading it as it is meant runs code or unpickles classes; refused by default, a flag
can lift it. `note`: worth knowing."""
SEVERITIES: tuple[Severity, ...] = ("danger", "code", "note")
Outcome = Literal["refused", "not examined", "no known indicator"]
LONGEST_TEXT = 400


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was seen.

    Attributes:
        where: the file's name, and the members within it after exclamation marks: `model.pt!archive/data.pkl`.
        code: stable and short, for programs: `pickle-calls-dangerous`.
        severity: how bad.
        text: one sentence for people, free of control characters.
    """

    where: str
    code: str
    severity: Severity
    text: str


@dataclass(frozen=True, slots=True)
class FileReport:
    """All that was seen of one file.

    Attributes:
        path: as it was given, or found in a folder.
        kind: by content.
        size: in bytes.
        looked_at: what was read, each beginning with a count: `3 pickles`.
        findings: the worst first.
        examined: false where the file, or a part of it, could not be examined.
    """

    path: Path
    kind: Kind
    size: int
    looked_at: tuple[str, ...]
    findings: tuple[Finding, ...]
    examined: bool

    @property
    def worst(self) -> Severity | None:
        """The severity of the worst finding; none where there is no finding."""
        return worst_of(self.findings)

    @property
    def outcome(self) -> Outcome:
        """What a release decides by; the absence of findings is no proof of safety."""
        if self.worst in ("danger", "code"):
            return "refused"
        return "no known indicator" if self.examined else "not examined"


def worst_of(findings: Iterable[Finding]) -> Severity | None:
    """The worst severity among findings."""
    return min((finding.severity for finding in findings), key=SEVERITIES.index, default=None)


def in_words(looked: Mapping[str, int]) -> tuple[str, ...]:
    """Counts of things, each as `1 pickle` or `3 pickles`."""
    return tuple(f"{count:,} {what}{'s' if count != 1 else ''}" for what, count in looked.items())


def summed(looked_at: Iterable[str]) -> tuple[str, ...]:
    """The same of several files, added up."""
    total: Counter[str] = Counter()
    for words in looked_at:
        count, _, what = words.partition(" ")
        total[what if count == "1" else what.removesuffix("s")] += int(count.replace(",", ""))
    return in_words(total)


def printable(text: str, most: int = LONGEST_TEXT) -> str:
    """Text of a file for people: control characters are escaped, and what is too long is cut.

    A lone surrogate, a terminal command and a letter that turns the direction of writing are all escaped.
    """
    cut = text[:most] + ("..." if len(text) > most else "")
    if cut.isprintable():
        return cut
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in cut)


def quoted(text: str, most: int = LONGEST_TEXT) -> str:
    """The same in quotation marks."""
    return f"'{printable(text, most)}'"
