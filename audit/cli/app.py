"""The `audit` command: its sub-commands, and how errors become exit codes."""

import signal
import sys
from typing import Annotated

import typer

from audit import __version__
from audit.cli import console, convert, demo, describe, doctor, gate, init, report, run, scan, schema, train
from audit.cli import probes as probes_command
from audit.errors import AuditError

app = typer.Typer(
    name="audit",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Audit any classifier checkpoint: measure, judge, report.",
    epilog="Exit codes: 0 passed or completed; 1 a rule failed; 2 usage, configuration or internal error; "
    "3 nothing measured, or inconclusive or not run where the policy says so; 4 refused as unsafe; 130 interrupted "
    "and resumable.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"trust-audit {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    console.set_verbose(verbose)


app.command("init")(init.init)
app.command("doctor")(doctor.doctor)
app.command("scan")(scan.scan)
app.command("convert")(convert.convert)
app.command("describe")(describe.describe)
app.add_typer(probes_command.app, name="probes")
app.command("run")(run.run)
app.command("gate")(gate.gate)
app.command("train")(train.train)
app.command("report")(report.report)
app.command("schema")(schema.schema)
app.command("demo")(demo.demo)


def main() -> None:
    """Runs the command; every failure ends in one clear message and its exit code."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `audit gate RUN | head` must not end as "a rule failed"
    try:
        app()
    except AuditError as error:
        console.error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        console.say("Stopped.")
        sys.exit(130)
    except MemoryError:
        console.say("error: Expected enough memory for this, got none left. Use a smaller file, or a larger machine.")
        sys.exit(2)
    except Exception as error:  # an internal error: still one message, and the traceback on request
        console.error(error, internal=True)
        sys.exit(2)
