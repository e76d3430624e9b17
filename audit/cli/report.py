"""`audit report`: write the report of a run folder anew."""

from typing import Annotated

import typer

from audit.cli import console, options
from audit.errors import UsageError

FORMATS = ("html", "json")


def report(
    run: options.RunFolder,
    formats: Annotated[str, typer.Option("--format", metavar="LIST", help="html, json, or both.")] = "html,json",
) -> None:
    """Write the report of a run again, with its last judgement, from what is stored."""
    from audit.cli.files import read_report, write_report

    wanted = tuple(name.strip() for name in formats.split(",") if name.strip())
    unknown = sorted(set(wanted) - set(FORMATS))
    if unknown or not wanted:
        raise UsageError(f"Expected --format among {', '.join(FORMATS)}, got {', '.join(unknown) or 'nothing'}.")
    for path in write_report(read_report(run), run, wanted):
        console.show(str(path))
