"""What the commands say, and where: results on stdout, everything else on stderr."""

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import typer


@dataclass
class _State:
    verbose: bool = False


_STATE = _State()


def set_verbose(verbose: bool) -> None:
    """Whether tracebacks are shown from now on; the environment may ask for them too."""
    _STATE.verbose = verbose or os.environ.get("AUDIT_VERBOSE", "") not in ("", "0")


def say(text: str = "") -> None:
    """A line on stderr."""
    typer.echo(plain(text), err=True)


def show(text: str = "") -> None:
    """A line of the result, on stdout."""
    typer.echo(plain(text))


def plain(text: str) -> str:
    """The text without control characters: names out of a model or a data set may hold terminal commands."""
    return "".join(sign if sign in "\n\t" or sign.isprintable() or sign == "\u00a0" else "\ufffd" for sign in text)


def indented(text: str) -> str:
    """The text with all lines but the first moved in: no name of a file begins a line of ours."""
    return text.replace("\n", "\n  ")


def error(problem: BaseException, *, internal: bool = False) -> None:
    """The message of an error on stderr; its traceback only on request."""
    if _STATE.verbose:
        say("".join(traceback.format_exception(problem)).rstrip())
    text = str(problem)
    if internal:
        text = next(iter(text.strip().splitlines()), "")[:400]
        text = f"internal error, {type(problem).__name__}: {text}. This is a defect of audit; -v shows where."
    say(indented(f"error: {text}"))


def width() -> int:
    """Columns of the terminal, at most 110."""
    try:
        return min(110, os.get_terminal_size(sys.stdout.fileno()).columns)
    except (OSError, ValueError):
        return 100


def columns(rows: Sequence[tuple[str, ...]], heads: tuple[str, ...] = ()) -> str:
    """Rows as aligned plain text, a line each."""
    table = [tuple(cell.replace("\n", "\\n") for cell in row) for row in ([heads, *rows] if heads else rows)]
    if not table:
        return ""
    widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in table]
    if heads:
        lines.insert(1, "  ".join("-" * size for size in widths))
    return "\n".join(lines)
