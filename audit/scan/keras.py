"""Keras archives: layers that carry Python, or name classes outside of Keras."""

from __future__ import annotations

from typing import Any

from audit.scan.examination import Examination
from audit.scan.globals_dangerous import danger_of
from audit.scan.json_documents import read_document, walk
from audit.scan.parts import Part
from audit.scan.report import printable
from audit.scan.zips import MemberCheck, check_members

_OWN_MODULES = ("keras", "tensorflow.keras", "tf_keras", "keras_hub", "keras_cv", "keras_nlp")


def check_keras(part: Part, exam: Examination) -> None:
    """The model's description; its numbers are HDF5, and not examined."""

    def choose(name: str) -> MemberCheck | None:
        return _check_config if name.rpartition("/")[2] == "config.json" else None

    check_members(part, exam, choose)


def _check_config(part: Part, exam: Examination) -> None:
    document = read_document(part, exam)
    for _, _, value in walk(document.content if document else None):
        if isinstance(value, dict):
            check_object(part, value, exam)


def check_object(part: Part, value: dict[str, Any], exam: Examination) -> None:
    """A layer, a model or anything else that Keras makes out of a class and its settings."""
    name, module, registered = value.get("class_name"), value.get("module"), value.get("registered_name")
    if not isinstance(name, str):
        return
    if name == "__lambda__":
        exam.danger(part.where, "keras-bytecode", "carries Python bytecode in a Lambda layer")
    elif name == "Lambda":
        exam.code(part.where, "keras-lambda", "has a Lambda layer, which runs Python of the file's own")
    elif isinstance(module, str) and module.split(".")[0] not in _OWN_MODULES and not module.startswith(_OWN_MODULES):
        shown = printable(f"{module}.{name}", 120)
        danger = danger_of(module, name)
        if danger:
            exam.danger(part.where, "keras-dangerous-class", f"names `{shown}`, which {danger}")
        else:
            exam.code(part.where, "keras-own-class", f"names the class `{shown}`, which is not of Keras")
    elif not module and isinstance(registered, str) and registered not in (name, ""):
        exam.code(part.where, "keras-own-class", f"names a class of its own: `{printable(registered, 120)}`")
