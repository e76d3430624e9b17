"""A policy as a person writes it: TOML in, `Policy` and its digest out, every problem named with its line."""

import hashlib
import json
import re
import tomllib
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from audit.errors import UsageError
from audit.gate.policy_lines import Location, line_of, lines_of
from audit.gate.wording import did_you_mean, quoted
from audit.schema import GateSettings, Policy, Rule, StatSettings, Waiver

_MODELS: dict[str, type[BaseModel]] = {"rules": Rule, "waivers": Waiver, "gate": GateSettings, "stats": StatSettings}
_OFTEN_MEANT = {
    "threshold": "min or max",
    "minimum": "min",
    "maximum": "max",
    "severity": "level",
    "settings": "where",
    "scope": "model_sha256",
    "until": "expires",
    "on_skipped": "on_not_run",
}
_WANTED = {
    "string_type": "text in quotes",
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "date_type": "a date such as 2027-01-31",
    "date_parsing": "a date such as 2027-01-31",
    "date_from_datetime_parsing": "a date such as 2027-01-31",
    "date_from_datetime_inexact": "a date without a time, such as 2027-01-31",
    "tuple_type": "a list of tables such as [[rules]]",
    "model_type": "a table",
    "dict_type": 'a table such as { eps = "8/255" }',
    "string_too_short": "some text",
    "too_short": "at least one entry",
}


def load_policy(path: Path) -> tuple[Policy, str]:
    """Read a policy file.

    Returns:
        The policy, and the sha256 of the file's bytes.

    Raises:
        UsageError: the file cannot be read, is not TOML, or says something a policy cannot; all problems at once,
            each with its line where it can be told.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"Expected a policy file, got {str(path)!r}: {reason}. Check the path.") from error
    try:
        text = content.decode("utf-8")
        parsed = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}:{line}: Expected UTF-8 text, got other bytes. Save the file as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(_syntax(path, str(error))) from error
    try:
        # By way of JSON, whose strict mode refuses "0.4" and true where a number belongs, yet takes lists and dates.
        policy = Policy.model_validate_json(json.dumps(parsed, default=str), strict=True)
    except ValidationError as error:
        raise UsageError(_all_problems(path, text, parsed, error)) from error
    return policy, hashlib.sha256(content).hexdigest()


def _syntax(path: Path, message: str) -> str:
    place = re.search(r"\(at line (\d+), column (\d+)\)", message)
    where = f"{path}:{place[1]}:{place[2]}" if place else f"{path}"
    what = re.sub(r" \(at .*\)$", "", message)
    end = " at the end of the file" if "end of document" in message else ""
    return f"{where}: Expected TOML, got a syntax error{end}: {what}. Correct the line."


def _all_problems(path: Path, text: str, parsed: dict[str, object], error: ValidationError) -> str:
    lines = lines_of(text)
    problems: dict[Location, tuple[int, str]] = {}
    for details in error.errors(include_url=False):
        if details["type"] == "too_short" and details["input"]:
            continue  # a consequence: every entry has problems of its own
        location = _shortened(details["loc"])
        line = line_of(location, lines)
        place = f"{path}:{line}" if line else f"{path}"
        problems.setdefault(location, (line or 0, f"{place}: {_name(location, parsed)}{_problem(details, location)}"))
    return "\n".join(text for _, text in sorted(problems.values(), key=lambda problem: problem[0]))


def _shortened(location: tuple[int | str, ...]) -> Location:
    """Without the names of union members that follow a setting: `rules, 0, where, eps`."""
    return location[:4] if len(location) > 4 and location[2] == "where" else location


def _name(location: Location, parsed: dict[str, object]) -> str:
    """`rule ROB-001, where.eps: ` for what a person knows by that name."""
    parts = list(location)
    words = []
    if len(parts) > 1 and parts[0] in {"rules", "waivers"} and isinstance(parts[1], int):
        entries = parsed.get(str(parts[0]))
        entry = entries[parts[1]] if isinstance(entries, list) else None
        key = "id" if parts[0] == "rules" else "rule"
        own = entry.get(key) if isinstance(entry, dict) else None
        words.append(f"{str(parts[0])[:-1]} {own if isinstance(own, str) else parts[1] + 1}")
        parts = parts[2:]
    if parts:
        words.append(".".join(str(part) for part in parts))
    return f"{', '.join(words)}: " if words else ""


def _problem(details: ErrorDetails, location: Location) -> str:
    kind, given = details["type"], details["input"]
    context = details.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(str(location[-1]), location)
    if kind == "missing":
        return "Expected this key, got none. Add it."
    if kind == "value_error":
        return details["msg"].removeprefix("Value error, ")
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        close = did_you_mean(given, choices) if isinstance(given, str) else ""
        return f"Expected one of {quoted(choices)}, got {_shown(given)}.{close or ' Correct it.'}"
    if "where" in location:
        return f"Expected text, a number or true/false, got {_shown(given)}. Correct it."
    wanted = _WANTED.get(kind) or details["msg"].removeprefix("Input should be ")
    wanted = f"a value {wanted}" if wanted.startswith(("greater", "less")) else wanted
    return f"Expected {wanted}, got {_shown(given)}. Correct it."


def _unknown_key(key: str, location: Location) -> str:
    model = _MODELS.get(str(location[0]), Policy) if len(location) > 1 else Policy
    known = [field.alias or name for name, field in model.model_fields.items()]
    close = did_you_mean(key, [*known, *_OFTEN_MEANT])
    for often, meant in _OFTEN_MEANT.items():
        close = close.replace(f"'{often}'", " or ".join(f"'{name}'" for name in meant.split(" or ")))
    return f"Expected one of {quoted(known)}, got {key!r}.{close or ' Remove it.'}"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
