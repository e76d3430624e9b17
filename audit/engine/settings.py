"""`--set PROBE.KEY=VALUE` to validated probe configurations."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ValidationError

from audit.api import Probe, ProbeConfig
from audit.errors import UsageError

C = TypeVar("C", bound=BaseModel)


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
            problems.append(_unknown_key(probe_id, probes[probe_id].config, key))
        else:
            raw.setdefault(probe_id, {})[key] = _parsed(value.strip(), probes[probe_id].config, key)
    configs = {}
    for probe_id, values in raw.items():
        try:
            configs[probe_id] = probes[probe_id].config.model_validate(values)
        except ValidationError as error:
            problems += _explained(probe_id, error)
    if problems:
        raise UsageError("\n".join(problems) + "\nCorrect --set; `audit probes explain PROBE` lists the keys.")
    return configs


def configured(kind: str, configs: Mapping[str, type[C]], given: Mapping[str, Any], texts: Sequence[str]) -> C:
    """The configuration of a kind of training.

    Args:
        kind: which.
        configs: the class of every kind's.
        given: values by key, which win over the texts.
        texts: each `KEY=VALUE`.

    Raises:
        UsageError: with every unknown key or bad value at once.
    """
    config, problems = configs[kind], []
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            problems.append(f"Expected KEY=VALUE, got {text!r}.")
        elif key not in config.model_fields:
            problems.append(_of_no_such_kind(kind, configs, key))
        else:
            values[key] = _parsed(value, config, key)
    for key, value in given.items():
        if key in config.model_fields:
            values[key] = value
        else:
            problems.append(_of_no_such_kind(kind, configs, key))
    try:
        found = config.model_validate(values)
    except ValidationError as error:
        problems += _explained("", error)
    if problems:
        raise UsageError("\n".join(problems) + "\nCorrect the options or --set.")
    return found


def _parsed(value: str, config: type[BaseModel], key: str) -> Any:
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


def _unknown_key(owner: str, config: type[BaseModel], key: str) -> str:
    known = sorted(config.model_fields)
    near = difflib.get_close_matches(key, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"Expected a setting of {owner} among {', '.join(known) or '(none)'}, got {key!r}.{hint}"


def _of_no_such_kind(kind: str, configs: Mapping[str, type[BaseModel]], key: str) -> str:
    others = [other for other, config in configs.items() if key in config.model_fields]
    if others:
        return f"Expected a setting of `audit train {kind}`, got {key!r}, one of `audit train {'` or `'.join(others)}`."
    return _unknown_key(f"`audit train {kind}`", configs[kind], key)


def _explained(owner: str, error: ValidationError) -> list[str]:
    """A problem each, in our words; a list that is too short only as its faulty entries were left out is none."""
    found = error.errors()
    places = [problem["loc"] for problem in found]
    return [
        ": ".join(filter(None, (".".join(filter(None, (owner, *map(str, problem["loc"])))), _in_words(dict(problem)))))
        for problem in found
        if not any(place[: len(problem["loc"])] == problem["loc"] != place for place in places)
    ]


def _in_words(problem: Mapping[str, Any]) -> str:
    message, got = str(problem["msg"]).removeprefix("Value error, "), f"got {problem['input']!r}"
    wanted = message.removeprefix("Input should be ").partition(", unable to ")[0]
    if message.startswith("Input should be "):
        return f"Expected {'a number ' * wanted.startswith(('greater', 'less'))}{wanted}, {got}."
    return message if ", got " in message or not problem["loc"] else f"{message} ({got})."
