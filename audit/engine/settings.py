"""`--set PROBE.KEY=VALUE` to validated probe configurations."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, get_origin

from pydantic import ValidationError

from audit.api import Probe, ProbeConfig
from audit.errors import UsageError


def parse_settings(texts: Sequence[str], probes: Mapping[str, Probe]) -> dict[str, ProbeConfig]:
    """Configurations of the probes named in the settings; the others keep their defaults.

    Args:
        texts: each `PROBE.KEY=VALUE`; a value for a list is written with commas, `evasion.eps_linf=1/255,8/255`.
        probes: all known probes by id.

    Raises:
        UsageError: with every unknown probe, key or bad value at once.
    """
    problems: list[str] = []
    raw: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        probe_id, dot, key = name.strip().partition(".")
        if not equals or not dot:
            problems.append(f"Expected PROBE.KEY=VALUE, got {text!r}.")
        elif probe_id not in probes:
            problems.append(f"Expected a probe among {', '.join(probes)}, got {probe_id!r} in {text!r}.")
        elif key not in probes[probe_id].config.model_fields:
            problems.append(_unknown_key(probes[probe_id], key))
        else:
            raw.setdefault(probe_id, {})[key] = _parsed(value.strip(), probes[probe_id].config, key)
    configs = {}
    for probe_id, values in raw.items():
        try:
            configs[probe_id] = probes[probe_id].config.model_validate(values)
        except ValidationError as error:
            problems += [_explained(probe_id, dict(found)) for found in error.errors()]
    if problems:
        raise UsageError("\n".join(problems) + "\nCorrect --set; `audit probes explain PROBE` lists the keys.")
    return configs


def _parsed(value: str, config: type[ProbeConfig], key: str) -> Any:
    """The value as JSON where it is JSON, else as text; split at commas where the field is a list."""
    origin = get_origin(config.model_fields[key].annotation)
    if origin in (tuple, list) and not value.startswith("["):
        return [_json_or_text(part.strip()) for part in value.split(",") if part.strip()]
    return _json_or_text(value)


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _unknown_key(probe: Probe, key: str) -> str:
    known = sorted(probe.config.model_fields)
    near = difflib.get_close_matches(key, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"Expected a setting of {probe.id} among {', '.join(known) or '(none)'}, got {key!r}.{hint}"


def _explained(probe_id: str, found: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in found["loc"]) or "its settings"
    message = str(found["msg"]).removeprefix("Value error, ")
    return f"{probe_id}.{place}: {message} (got {found['input']!r})."
