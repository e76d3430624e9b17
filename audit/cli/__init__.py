"""The command line: the only place that prints, exits or reads the environment.

Every command imports what it needs inside itself, so that `--help` costs no more than typer does.
"""

from audit.cli.app import main

__all__ = ["main"]
