"""`audit schema`: the JSON Schema of what the tool reads and writes."""

from enum import StrEnum
from typing import Annotated

import typer

from audit.cli import console


class Document(StrEnum):
    """A document with a schema."""

    REPORT = "report"
    RUN = "run"
    POLICY = "policy"


def schema(
    document: Annotated[Document, typer.Argument(help="report (audit.json), run (results.json) or policy.")],
) -> None:
    """Print the JSON Schema (2020-12) of a document."""
    from pydantic import BaseModel

    from audit.schema import SCHEMA_VERSION, Policy, Report, RunRecord, dump_json

    written: dict[Document, type[BaseModel]] = {Document.REPORT: Report, Document.RUN: RunRecord}
    if document is Document.POLICY:
        content = Policy.model_json_schema(mode="validation")
    else:
        content = written[document].model_json_schema(mode="serialization")
    content["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    content["$id"] = f"urn:trust-audit:{document.value}:{SCHEMA_VERSION}"
    console.show(dump_json(content).rstrip())
