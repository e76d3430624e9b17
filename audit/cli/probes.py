"""`audit probes`: what can be measured."""

import textwrap
from typing import Annotated

import typer

from audit.cli import console

app = typer.Typer(no_args_is_help=True, help="List and explain the probes.", rich_markup_mode=None)


@app.command("list")
def list_probes() -> None:
    """List every probe: whether it runs where none is named, the question it answers, and what it needs."""
    from audit.catalog import all_probes

    rows = []
    for probe in all_probes().values():
        card, runs = probe.card, "by default" if probe.by_default else "when named"
        rows.append((card.id, str(card.version), runs, card.question, ", ".join(card.needs)))
    console.show(console.columns(rows, ("probe", "version", "runs", "question", "needs")))


@app.command("explain")
def explain(probe: Annotated[str, typer.Argument(metavar="ID", help="A probe's id.")]) -> None:
    """Explain a probe: its metrics, settings, threat model, limits and sources."""
    from audit.catalog import choose

    found = choose([probe])[0]
    card = found.card
    console.show(f"{card.id} (version {card.version}): {card.question}")
    _section("How to read it", card.how_to_read)
    _section("Threat model", card.threat_model)
    _section("Needs", ", ".join(card.needs))
    console.show("\nMetrics (for policies: metric = ..., where = { ... })")
    for metric in card.metrics:
        where = (
            f" where {{{', '.join(f'{key}: {text}' for key, text in metric.where.items())}}}" if metric.where else ""
        )
        _entry(metric.id, f"{metric.meaning} Better: {metric.better}.{where}")
    console.show(f"\nSettings (--set {card.id}.KEY=VALUE)")
    for key, field in found.config.model_fields.items():
        _entry(f"{key} = {field.default!r}", field.description or "")
    for title, lines in (("Limits", card.limits), ("References", card.references)):
        console.show(f"\n{title}")
        for line in lines:
            _entry("-", line)


def _section(title: str, text: str) -> None:
    if text:
        console.show(f"\n{title}")
        console.show(textwrap.fill(text, console.width(), initial_indent="  ", subsequent_indent="  "))


def _entry(head: str, text: str) -> None:
    console.show(
        textwrap.fill(f"{head}  {text}".strip(), console.width(), initial_indent="  ", subsequent_indent="      ")
    )
