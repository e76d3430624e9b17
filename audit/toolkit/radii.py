"""Radii as a setting of a probe: a list in canonical form."""

from __future__ import annotations

from typing import Any

from pydantic import BeforeValidator

from audit.toolkit.norms import Norm, canonical_eps, parse_eps


def items(value: Any) -> Any:
    """A text with commas, or a single number, as a list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int | float) else value


def radius_list(norm: Norm) -> BeforeValidator:
    """Reads radii, all problems at once; ascending, without repetition, in canonical form."""

    def read(value: Any) -> Any:
        listed = items(value)
        if not isinstance(listed, list | tuple):
            return listed
        found, problems = set(), []
        for item in listed:
            try:
                found.add(canonical_eps(item, norm))
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError(" ".join(problems))
        return tuple(sorted(found, key=lambda text: parse_eps(text, norm)))

    return BeforeValidator(read)
