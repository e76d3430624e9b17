"""Texts and JSON: what of them makes a library import or run code of the file's own."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

from audit.scan.examination import Examination
from audit.scan.globals_dangerous import danger_of
from audit.scan.json_documents import NotJson, parse, walk
from audit.scan.keras import check_object
from audit.scan.kinds import Kind, is_text
from audit.scan.links import enters_version_control
from audit.scan.parts import Part
from audit.scan.programs import MODEL_SUFFIXES, PROGRAM_SUFFIXES, check_source
from audit.scan.report import printable, quoted
from audit.scan.yaml_tags import YamlTags
from audit.scan.zip_structure import is_outside

_CALL = re.compile(rb"^[A-Za-z_][\w.]*\([^\n]*\)", re.MULTILINE)
_RUNS_CODE = {
    "auto_map": "names Python files of its own that transformers imports",
    "custom_pipelines": "names pipelines of its own that transformers imports",
    "py/object": "holds an object of jsonpickle, which imports its class",
    "py/reduce": "holds a call of jsonpickle",
    "py/function": "holds a function of jsonpickle",
    "py/repr": "holds text that jsonpickle evaluates",
    "py/type": "names a class that jsonpickle imports",
    "parent_library": "names a module that PEFT imports",
    "_target_": "names what Hydra imports and calls",
}
"""Keys of a document to what is done by them."""
_CALLS = ("py/reduce", "py/function", "py/repr")
_YAML_SUFFIXES = frozenset((".yaml", ".yml"))
_MAY_BE_YAML = (Kind.HTML, Kind.IMAGE)
"""Told by first letters with which a key of YAML may begin."""
_TOLD_AS_PROGRAMS = (Kind.PYTHON, Kind.SCRIPT, Kind.BYTECODE, Kind.NATIVE, Kind.EMPTY)
_TARGET = re.compile(rb"^[ \t-]*['\"]?_target_['\"]?[ \t]*:[ \t]*[^\s#]", re.MULTILINE)
_STRETCH_BYTES = 1 << 20
_OVERLAP_BYTES = 1 << 12


def check_json(part: Part, exam: Examination) -> None:
    """A configuration, an index of shards, or any other document."""
    data = part.read(0, min(part.size, exam.limits.json_bytes + 1))
    try:
        content = parse(data, exam.limits).content
    except NotJson as problem:
        _check_json_text(part, data, str(problem), exam)
        return
    exam.saw("JSON document")
    for _, key, value in walk(content):
        if not isinstance(value, (dict, str, list, bool)):
            continue
        if isinstance(value, dict) and {"__class__", "__module__"} <= value.keys():
            _check_class(part, str(value["__module__"]), str(value["__class__"]), exam)
        if isinstance(value, dict) and {"class_name", "config"} <= value.keys():
            check_object(part, value, exam)
        if key in _RUNS_CODE and value:
            said = f"{_RUNS_CODE[key]} ({key}: {shortened(value)})"
            (exam.danger if key in _CALLS else exam.code)(part.where, "json-runs-code", said)
        elif key == "trust_remote_code" and value is True:
            exam.code(
                part.where, "json-trusts-code", "asks to trust code that comes with the model (trust_remote_code)"
            )
        elif key == "weight_map":
            _check_index(part, value, exam)


def check_text(part: Part, exam: Examination) -> None:
    """A text of any kind; YAML that makes Python objects is one."""
    exam.saw("text")
    data = part.read(0, min(part.size, exam.limits.text_bytes))
    suffix = PurePath(part.name).suffix.lower()
    if suffix in MODEL_SUFFIXES and _CALL.search(data):
        exam.danger(part.where, "program-disguised", "is a program under a name that says a model")
    if suffix == ".json":
        check_json(part, exam)
    else:
        _check_yaml(part, exam)


def check_by_name(part: Part, kind: Kind, exam: Examination) -> None:
    """What a file is by its name alone to those who run it or read it: no beginning makes it something else."""
    suffix = PurePath(part.name).suffix.lower()
    if suffix in PROGRAM_SUFFIXES and kind not in _TOLD_AS_PROGRAMS:
        check_source(part, exam)
    if kind is Kind.TEXT:
        return
    if suffix in _YAML_SUFFIXES or (kind in _MAY_BE_YAML and is_text(part.head())):
        _check_yaml(part, exam)


def check_web_page(part: Part, exam: Examination) -> None:
    """A page that came in place of a file, or documentation."""
    exam.saw("text")


def check_pointer(part: Part, exam: Examination) -> None:
    """Three lines in place of a file."""
    exam.unexamined(part.where, "lfs-pointer", "is a Git LFS pointer: the file itself is not here (git lfs pull)")


def shortened(value: Any) -> str:
    """A value of a document for people."""
    if isinstance(value, dict):
        return ", ".join(shortened(inner) for inner in list(value.values())[:4])
    if isinstance(value, list):
        return ", ".join(shortened(inner) for inner in value[:4])
    return printable(str(value), 80) if not isinstance(value, int) else "a number"


def _check_class(part: Part, module: str, name: str, exam: Examination) -> None:
    """As skops writes objects: a module and a name in it, which reading imports."""
    danger = danger_of(module, name)
    said = f"names `{printable(f'{module}.{name}', 120)}`, which {danger or 'reading it imports'}"
    (exam.danger if danger else exam.code)(part.where, "json-names-class", said)


def _check_index(part: Part, shards: Any, exam: Examination) -> None:
    """Where an index says that the tensors lie: beside itself, and nowhere else."""
    names = shards.values() if isinstance(shards, dict) else ()
    outside = {str(name) for name in names if not isinstance(name, str) or name in ("", ".") or is_outside(name)}
    for name in sorted(outside)[:5]:
        exam.danger(
            part.where, "index-outside", f"says that tensors lie where no file of its folder is: {quoted(name, 120)}"
        )
    hidden = {name for name in names if isinstance(name, str) and enters_version_control(name)}
    for name in sorted(hidden)[:5]:
        exam.danger(
            part.where, "index-outside", f"says that tensors lie in version control, hidden there: {quoted(name, 120)}"
        )


def _check_yaml(part: Part, exam: Examination) -> None:
    """Tags of Python objects, wherever they are in a text."""
    tags, most = YamlTags(), exam.limits.searched_bytes
    is_yaml = PurePath(part.name).suffix.lower() in _YAML_SUFFIXES
    for at in range(0, min(part.size, most), _STRETCH_BYTES):
        exam.check_time()
        stretch = part.read(at, _STRETCH_BYTES + _OVERLAP_BYTES)
        target = _TARGET.search(stretch) if is_yaml else None
        if target:
            exam.code(
                part.where,
                "yaml-target",
                f"{_RUNS_CODE['_target_']} ({printable(target[0].decode('utf-8', 'replace'), 60)})",
            )
        found = tags.python_in(stretch)
        if found:
            said = printable(found.decode("utf-8", "replace"), 100)
            exam.danger(part.where, "yaml-python", f"holds YAML that calls Python: {said}")
            return
    if part.size > most:
        said = f"is a text of {part.size:,} bytes, of which the first {most:,} are searched"
        exam.unexamined(part.where, "over-limit", said)


def _check_json_text(part: Part, data: bytes, problem: str, exam: Examination) -> None:
    """What cannot be parsed may still be parsed by others; the telling keys are looked for as text."""
    exam.saw("text")
    for key, said in _RUNS_CODE.items():
        if f'"{key}"'.encode() in data:
            exam.code(part.where, "json-runs-code", f"{said} ({key})")
    _check_yaml(part, exam)
    if "is no JSON" not in problem:
        exam.unexamined(part.where, "json-limit", f"is JSON that {problem}")
