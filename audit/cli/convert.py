"""`audit convert`: weights out of any file that holds them, into safetensors that hold nothing else."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit.cli import console, options
from audit.errors import UsageError

if TYPE_CHECKING:
    from audit.loading.conversion import Conversion

MOST_LISTED = 12
GIB = 1 << 30
SECONDS = 300


def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A file that holds weights, of any kind.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.safetensors", help="What to write.")],
    weights_key: options.WeightsKey = None,
    strip_prefix: options.StripPrefix = None,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            help="Read pickles, TorchScript and .pt2 with placeholders for all that they name: nothing of them runs.",
        ),
    ] = False,
    allow_code: Annotated[
        bool,
        typer.Option(
            "--allow-code",
            help="Load what placeholders cannot follow, code and all, in a process without network, files or programs.",
        ),
    ] = False,
    memory: Annotated[
        float | None, typer.Option("--memory", metavar="GB", help="Of that process; by default, by the file's size.")
    ] = None,
    timeout: Annotated[int, typer.Option("--timeout", metavar="S", min=1, help="Of that process.")] = SECONDS,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Take the weights out of a file into safetensors, without running anything of it unless allowed."""
    from audit.loading.conversion import ConversionRequest
    from audit.loading.conversion import convert as run_conversion

    if memory is not None and not 0.25 <= memory <= 4096:
        raise UsageError(f"Expected --memory between 0.25 and 4096 GB, got {memory}. Correct it.")
    memory_bytes = None if memory is None else int(memory * GIB)
    request = ConversionRequest(
        source, out, weights_key, strip_prefix, allow_pickle, allow_code, memory_bytes, timeout, force
    )
    converted = run_conversion(request)
    for line in converted.said.strip().splitlines():
        console.say(f"the file's code printed: {line}")
    console.show(console.columns(_rows(converted, out)))


def _rows(converted: Conversion, out: Path) -> list[tuple[str, str]]:
    from audit.loading.sources import shown

    source, result = converted.source, converted.result
    types = ", ".join(f"{count} {name}" for name, count in sorted(converted.dtypes.items()))
    count = sum(converted.dtypes.values())
    return [
        ("read", f"{shown(source.name)}, {converted.kind}, {source.bytes:,} bytes, sha256 {source.sha256}"),
        ("how", converted.how),
        ("weights from", f"`{converted.place}`" if converted.place else "the top of the file"),
        ("tensors", f"{count} ({types}), {converted.tensor_bytes:,} bytes"),
        *([("placeholders", _listed(converted.names))] if converted.names else []),
        ("left out", _listed(converted.left_out) or "nothing"),
        ("written", f"{out}, {result.bytes:,} bytes, sha256 {result.sha256}"),
        ("next", f"audit describe --model SPEC --weights {shlex.quote(str(out))}"),
    ]


def _listed(words: tuple[str, ...]) -> str:
    more = f" and {len(words) - MOST_LISTED} more" if len(words) > MOST_LISTED else ""
    return ", ".join(words[:MOST_LISTED]) + more
