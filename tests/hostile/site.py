"""Where a hostile file lies, and what it does when something in it runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["weights", "model", "data", "folder"]
Expect = Literal["refused", "plain"]


@dataclass(frozen=True)
class HostileFile:
    """A file that must not be believed.

    Attributes:
        name: short, unique; also the line that it leaves in the canary file.
        path: of the file or folder.
        kind: what it claims to be.
        commands: those which must be tried on it; keys of `tests.hostile.commands.COMMANDS`.
        expect: `refused` (exit code 4), or `plain` (0, or 2 with one message) where nothing of it can run.
        why: what is wrong with it.
        executes: the naive reader (`tests.hostile.naive.READERS`) that would make it act; empty where it acts by its
            size, shape or place alone.
        codes: exit codes by command, where they differ from what `expect` says.
    """

    name: str
    path: Path
    kind: Kind
    commands: tuple[str, ...]
    expect: Expect
    why: str
    executes: str = ""
    codes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Site:
    """The place of one hostile file.

    Attributes:
        name: of the file in the corpus.
        folder: of the corpus.
        canary: the file to which everything that runs appends its name.
    """

    name: str
    folder: Path
    canary: Path

    @property
    def shell(self) -> str:
        """A shell command that leaves the name."""
        return f"echo {self.name} >> {shlex.quote(str(self.canary))}"

    @property
    def python(self) -> str:
        """An expression that leaves the name."""
        return f"open({str(self.canary)!r}, 'a').write({self.name + chr(10)!r})"

    def plant(self, suffix: str, content: str | bytes) -> Path:
        """A file beside the corpus that the hostile file refers to."""
        path = self.folder / "planted" / f"{self.name.replace('-', '_')}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def path(self, suffix: str) -> Path:
        """Where the file itself goes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{self.name}{suffix}"


WEIGHTS = ("scan", "weights", "bare", "convert")
"""What is tried on a file that claims to hold weights."""


class Corpus:
    """The hostile files as they are made, one after another."""

    def __init__(self, folder: Path, canary: Path) -> None:
        self.files: list[HostileFile] = []
        self._folder, self._canary = folder, canary

    def site(self, name: str) -> Site:
        """The place of a file of this name."""
        return Site(name, self._folder, self._canary)

    def add(
        self,
        name: str,
        suffix: str,
        content: bytes | Callable[[Site], bytes],
        why: str,
        *,
        kind: Kind = "weights",
        commands: tuple[str, ...] = WEIGHTS,
        expect: Expect = "refused",
        executes: str = "",
        codes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> Path:
        """Writes a file and enters it."""
        site = self.site(name)
        path = site.path(suffix)
        path.write_bytes(content(site) if callable(content) else content)
        self.enter(name, path, why, kind=kind, commands=commands, expect=expect, executes=executes, codes=codes)
        return path

    def enter(
        self,
        name: str,
        path: Path,
        why: str,
        *,
        kind: Kind = "weights",
        commands: tuple[str, ...] = WEIGHTS,
        expect: Expect = "refused",
        executes: str = "",
        codes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        """Enters what lies at a path already."""
        assert all(file.name != name for file in self.files), f"Expected one file named {name}, got two."
        self.files.append(HostileFile(name, path, kind, commands, expect, why, executes, codes or {}))
