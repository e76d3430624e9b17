"""`audit init`: a policy to start from."""

from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from audit.cli import console
from audit.errors import UsageError


class Preset(StrEnum):
    """A starting point."""

    RELEASE = "release"
    RESEARCH = "research"
    QUICK = "quick"


def init(
    preset: Annotated[Preset, typer.Option("--preset", help="Starting point.")] = Preset.RELEASE,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write it.")] = Path("policy.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented policy file."""
    if out.exists() and not force:
        raise UsageError(f"Expected {out} not to exist yet, got a file. Give --out another name, or --force.")
    text = (resources.files("audit") / "presets" / f"{preset.value}.toml").read_text(encoding="utf-8")
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"Expected to be able to write {out}, got: {error.strerror}. Give --out another name."
        ) from error
    console.show(f"Wrote {out}. Edit the thresholds, then: audit gate RUN --policy {out}")
