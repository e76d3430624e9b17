"""Tags of YAML that make Python objects, in whatever spelling: `yaml.unsafe_load` imports and calls what they name.

Read in PyYAML 6.0, `scanner.py` and `parser.py`: a tag is written in full between `!<` and `>`, or by a handle that
stands for a prefix; `!!` stands for `tag:yaml.org,2002:`, `%TAG` lets any handle stand for any prefix, the two halves
may meet anywhere, and both may be percent-encoded.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

LONGEST_TAG = 300
"""Of which the beginning decides."""
_YAML = b"tag:yaml.org,2002:"
_PYTHON = _YAML + b"python/"
_MAKES_OBJECTS = re.compile(re.escape(_PYTHON) + rb"(object|name|module|apply|new)")
_AS_USUAL = re.compile(rb"!!python/(object|name|module|apply|new)[\w/]*[ :][^\n]{0,80}")
_LETTER = rb"[-\w;/?:@&=+$,.!~*'()\[\]%#]"
_HANDLE = rb"(!(?:[\w-]*!)?)"
_TAG = re.compile(rb"!<(%b{1,%d})|%b(%b{0,%d})" % (_LETTER, LONGEST_TAG, _HANDLE, _LETTER, LONGEST_TAG))
_DIRECTIVE = re.compile(rb"%%TAG[ \t]+%b[ \t]+(%b{1,%d})" % (_HANDLE, _LETTER, LONGEST_TAG))
_DRAWN_OUT = re.compile(rb"^%TAG[ \t][^\r\n]{1000}|(?:^|[\s\[{,:])![-\w]{1000}", re.MULTILINE)
"""Longer than anyone writes a directive or a handle: parts of it may lie in different stretches."""


class YamlTags:
    """Reads a text stretch by stretch, and remembers its handles."""

    def __init__(self) -> None:
        self.prefixes: dict[bytes, set[bytes]] = {b"!!": {_YAML}}

    def python_in(self, data: bytes) -> bytes | None:
        """The first tag, or directive, of Python objects in a stretch of the text; none where there is none."""
        found = _AS_USUAL.search(data) or _DRAWN_OUT.search(data)
        if found:
            return found[0]
        for directive in _DIRECTIVE.finditer(data):
            prefix = unquote_to_bytes(directive[2])
            if prefix.startswith(_PYTHON):
                return directive[0]
            if _PYTHON.startswith(prefix):
                self.prefixes.setdefault(directive[1], set()).add(prefix)
        return next((tag[0] for tag in _TAG.finditer(data) if self._makes_objects(tag)), None)

    def _makes_objects(self, tag: re.Match[bytes]) -> bool:
        whole = [tag[1]] if tag[1] else [prefix + tag[3] for prefix in self.prefixes.get(tag[2], ())]
        return any(_MAKES_OBJECTS.match(unquote_to_bytes(text)) for text in whole)
