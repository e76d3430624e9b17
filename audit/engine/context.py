"""`RunContext` as the engine provides it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
import torch

from audit import __version__
from audit.api import Diagnostic, Evidence, Predictions, Role, RunContext, Tally, Unit
from audit.engine.budget import Budget
from audit.engine.keys import digest_of, digest_of_ids, seed_of
from audit.engine.predictions import PREDICTIONS, predict
from audit.engine.reporter import watched
from audit.engine.session import Session
from audit.errors import StoreError

T = TypeVar("T")
SHARED = "shared"
"""The name under which units lie in the run folder that are no single probe's."""


class EngineContext(RunContext):
    """One probe's view of the session; `unit` is set within `map`."""

    def __init__(
        self,
        session: Session,
        probe: str,
        version: int,
        budget: Budget,
        *,
        config: Mapping[str, object] | None = None,
        unit: str = "",
    ) -> None:
        self.session = session
        self.probe = probe
        self.version = version
        self.budget = budget
        self.config = dict(config or {})
        self.unit = unit
        self.device = session.subject.device
        self.workdir = session.store.root / "probes" / probe
        self.diagnostics: dict[str, Diagnostic] = {}

    def rng(self, purpose: str) -> np.random.Generator:
        """See `RunContext`."""
        return np.random.default_rng(self._stream(purpose))

    def torch_generator(self, purpose: str) -> torch.Generator:
        """See `RunContext`."""
        return torch.Generator().manual_seed(self._stream(purpose) >> 1)

    def seconds_left(self) -> float:
        """See `RunContext`."""
        return self.budget.left()

    def predictions(self, role: Role = "eval") -> Predictions:
        """See `RunContext`."""
        return predict(EngineContext(self.session, PREDICTIONS, 1, self.budget), self.session, role)

    def shared(self) -> RunContext:
        """See `RunContext`."""
        found = EngineContext(self.session, SHARED, 1, self.budget)
        found.diagnostics = self.diagnostics
        return found

    def map(self, function: Callable[[Unit, RunContext], Tally], units: Sequence[Unit], what: str = "") -> list[Tally]:
        """See `RunContext`."""
        tallies: list[Tally] = []
        name = "" if self.probe == SHARED and what else self.probe
        self.session.reporter.begin(": ".join(filter(None, (name, what))), len(units))
        try:
            for unit in units:
                self.session.check_interrupt()
                tally, restored = self._stored_or_done(function, unit)
                if tally is None:
                    break
                tallies.append(tally)
                self.session.reporter.advance(restored=restored)
        finally:
            self.session.reporter.end()
        return tallies

    def progress(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """See `RunContext`. Between items the user may interrupt, also within a unit, which is then not done."""
        for item in watched(items, self.session.reporter, what, total):
            yield item
            self.session.check_interrupt()

    def diagnose(
        self,
        code: str,
        text: str,
        severity: Literal["info", "warning"] = "warning",
        *,
        conclusion: bool = False,
        undecided: bool = False,
    ) -> None:
        """See `RunContext`."""
        said = Diagnostic(code=code, text=text, severity=severity, conclusion=conclusion, undecided=undecided)
        self.diagnostics.setdefault(code, said)

    def evidence(self, name: str, content: bytes, kind: str, text: str = "") -> Evidence:
        """See `RunContext`."""
        path = f"probes/{self.probe}/{name}"
        self.session.store.write_bytes(path, content)
        return Evidence(path=path, sha256=hashlib.sha256(content).hexdigest(), kind=kind, text=text)

    def unit_key(self, unit: Unit) -> str:
        """What decides the unit's result, hashed; anything changed makes another key."""
        session = self.session
        split = session.data.get(unit.role)
        ids = split.sample_ids(unit.positions) if split is not None else []
        return digest_of(
            {
                "subject": session.subject.digest,
                "data": split.digest if split is not None else None,
                "samples": digest_of_ids(ids),
                "probe": self.probe,
                "version": self.version,
                "config": self.config,
                "tool": __version__,
                "unit": unit.name,
                "params": dict(unit.params),
                "seed": session.seed,
                "numerics": dict(session.numerics),
                "packages": dict(session.versions),
            }
        )[:32]

    def _stored_or_done(self, function: Callable[[Unit, RunContext], Tally], unit: Unit) -> tuple[Tally | None, bool]:
        """The unit's tally and whether an earlier run did it; None when there is no time left to do it."""
        store, key = self.session.store, self.unit_key(unit)
        stored = store.load_unit(self.probe, key)
        restored = stored is not None
        if stored is None:
            if self.budget.left() <= 0:
                return None, False
            inner = EngineContext(
                self.session, self.probe, self.version, self.budget, config=self.config, unit=unit.name
            )
            tally = function(unit, inner)
            store.save_unit(self.probe, key, unit.name, tally, list(inner.diagnostics.values()))
            stored = store.load_unit(self.probe, key)  # read back: what a resumed run sees is what this one sees
        if stored is None:
            raise StoreError(f"Expected unit {unit.name!r} to be readable after writing, got damage. Check the disk.")
        for diagnostic in stored.diagnostics:
            self.diagnostics.setdefault(diagnostic.code, diagnostic)
        return stored.tally, restored

    def _stream(self, purpose: str) -> int:
        return seed_of(self.session.seed, self.probe, self.unit, purpose)
