"""Line numbers of tables and keys in a TOML text, for error messages; the standard parser keeps none."""

import re
from collections.abc import Mapping
from typing import Final

Location = tuple[int | str, ...]
_HEADER: Final = re.compile(r"^\s*(\[\[?)\s*([A-Za-z0-9_.\-]+)\s*\]\]?\s*(?:#.*)?$")
_KEY: Final = re.compile(r'^\s*"?([A-Za-z0-9_\-]+)"?\s*[.=]')


def lines_of(text: str) -> dict[Location, int]:
    """Where tables (`("rules", 0)`) and their keys (`("rules", 0, "min")`) stand, counted from 1.

    A hint, not a parser: inline tables have the line on which they begin, and text that looks like a key inside a
    multi-line string is taken for one.
    """
    lines: dict[Location, int] = {}
    seen: dict[str, int] = {}
    table: Location = ()
    for number, line in enumerate(text.splitlines(), start=1):
        header, key = _HEADER.match(line), _KEY.match(line)
        if header:
            first, *rest = header[2].split(".")
            if header[1] == "[[":
                seen[first] = seen.get(first, -1) + 1
            table = (first, seen[first], *rest) if first in seen else (first, *rest)
            lines.setdefault(table, number)
        elif key:
            lines.setdefault((*table, key[1]), number)
    return lines


def line_of(location: Location, lines: Mapping[Location, int]) -> int | None:
    """The line of a location, or of the nearest table around it; None for what stands nowhere."""
    for length in range(len(location), 0, -1):
        if location[:length] in lines:
            return lines[location[:length]]
    return None
