"""`audit gate`: judge stored facts; no torch, no GPU."""

from pathlib import Path
from typing import Annotated

import typer

from audit.cli import options


def gate(
    run: options.RunFolder,
    policy: Annotated[Path, typer.Option("--policy", metavar="FILE", help="Policy (TOML); see `audit init`.")],
) -> None:
    """Judge a run folder under a policy: 0 passed, 1 failed, 3 could not tell.

    Facts are read, never measured again; the report is written anew with the verdicts in it.
    """
    from audit.cli.files import read_report
    from audit.cli.verdict import conclude
    from audit.gate import check_policy, load_policy

    loaded, digest = load_policy(policy)
    check_policy(loaded, read_report(run).record.cards)
    raise typer.Exit(conclude(run, (loaded, digest)))
