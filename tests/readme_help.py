"""Brings the help blocks of README.md up to date: python tests/readme_help.py."""

import re
from pathlib import Path

from test_project import help_of

README = Path(__file__).parents[1] / "README.md"


def renewed(match: re.Match[str]) -> str:
    """The block with what the command says now."""
    words = match[1].split()[1:]
    return f"```text\n$ {match[1]} --help\n{help_of(*words).strip()}\n```"


if __name__ == "__main__":
    text = README.read_text()
    README.write_text(re.sub(r"```text\n\$ (audit[^\n]*?) --help\n.*?```", renewed, text, flags=re.S))
