"""Finds probes: the modules of `probes`, and what other distributions register under `trust_audit.probes`."""

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import audit
import probes
from audit.api import Probe
from audit.errors import PrerequisiteError, UsageError

ENTRY_POINT_GROUP = "trust_audit.probes"


def all_probes() -> dict[str, Probe]:
    """Every probe by id, in alphabetical order.

    Raises:
        PrerequisiteError: when another package named `probes` hides ours, or two probes claim one id.
    """
    _check_not_shadowed()
    found: dict[str, Probe] = {}
    for probe in [*_built_in(), *_registered()]:
        if found.setdefault(probe.id, probe) is not probe:
            raise PrerequisiteError(f"Expected probe ids used once, got two probes {probe.id!r}. Uninstall one.")
    return dict(sorted(found.items()))


def choose(ids: Sequence[str]) -> list[Probe]:
    """The probes asked for, or all that run by default.

    Raises:
        UsageError: when an id is unknown, listing those known.
    """
    known = all_probes()
    unknown = sorted(set(ids) - set(known))
    if unknown:
        raise UsageError(
            f"Expected probes among {', '.join(known)}, got {', '.join(unknown)}. See `audit probes list`."
        )
    return [probe for probe_id, probe in known.items() if (probe_id in ids if ids else probe.by_default)]


def _built_in() -> Iterator[Probe]:
    for info in pkgutil.iter_modules(probes.__path__, "probes."):
        yield from _of_module(importlib.import_module(info.name))


def _registered() -> Iterator[Probe]:
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        loaded = entry.load()
        yield from [loaded] if isinstance(loaded, Probe) else _of_module(loaded)


def _of_module(module: ModuleType) -> Iterator[Probe]:
    yield from (value for value in vars(module).values() if isinstance(value, Probe))


def _check_not_shadowed() -> None:
    ours, theirs = Path(audit.__path__[0]).parent, Path(probes.__path__[0]).parent
    if ours != theirs:
        raise PrerequisiteError(
            f"Expected the package `probes` beside `audit` in {ours}, got one in {theirs}. "
            "Run the `audit` console script from an environment of its own."
        )
