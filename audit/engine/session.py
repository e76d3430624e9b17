"""What all probes of a run share: the subject, the data, the store, the clock."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from audit.api import DataSplit, Predictions, Role, Subject
from audit.engine.budget import Budget
from audit.engine.keys import numerics, package_versions
from audit.engine.reporter import Reporter, Silent
from audit.engine.store import RunStore
from audit.schema import Scalar


class Interrupted(Exception):  # noqa: N818 - a wish of the user, not an error
    """The user asked to stop; what was finished is stored."""


@dataclass(eq=False)
class Session:
    """One run in progress.

    Attributes:
        stop: set when the user asks to stop; looked at between units.
        predictions: the prediction cache in memory, by role; the store holds its chunks.
    """

    subject: Subject
    data: Mapping[Role, DataSplit]
    store: RunStore
    seed: int = 0
    budget: Budget = field(default_factory=Budget)
    reporter: Reporter = field(default_factory=Silent)
    stop: threading.Event = field(default_factory=threading.Event)
    predictions: dict[Role, Predictions] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=package_versions)
    numerics: Mapping[str, Scalar] = field(init=False)

    def __post_init__(self) -> None:
        self.numerics = numerics(self.subject.device)

    def check_interrupt(self) -> None:
        """Raises `Interrupted` once the user has asked to stop."""
        if self.stop.is_set():
            raise Interrupted
