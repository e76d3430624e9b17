"""Archives of torch.export (.pt2): always code, as loading them evaluates texts and unpickles without limits.

Read in torch 2.15.0, `export/pt2_archive/_package.py`: weights and constants whose configuration says `use_pickle` go
to `torch.load(weights_only=False)`, constants named `opaque_obj_` to `pickle.loads`, those named `custom_obj_` to a C++
unpickler, sample inputs to `torch.load`, at first with weights alone and then without; what lies in
`data/aotinductor/` is native code.
What is evaluated in `models/*.json`: see `audit/scan/expressions.py`.
"""

from __future__ import annotations

import json
import re
from typing import Any

from audit.scan.examination import Examination
from audit.scan.expressions import is_arithmetic, is_guard, is_name, is_operator
from audit.scan.globals_allowed import ALLOWED
from audit.scan.globals_dangerous import danger_of
from audit.scan.json_documents import read_document, walk
from audit.scan.kinds import Kind, kind_of_head
from audit.scan.parts import Part
from audit.scan.pickle_guess import could_act
from audit.scan.report import printable, quoted
from audit.scan.torch_files import check_tensor_bytes
from audit.scan.zip_structure import is_outside
from audit.scan.zips import MemberCheck, check_members

_PROGRAM = re.compile(r"(^|/)(models/[^/]+\.json|serialized_exported_program\.json)$")
_CONFIG = re.compile(r"(^|/)data/(weights|constants)/[^/]*_config\.json$")
_OPAQUE = re.compile(r"(^|/)data/constants/(opaque_obj_|custom_obj_)")
_STRICT = re.compile(r"(^|/)(data/(weights|constants)/[^/]+|serialized_(state_dict|constants)\.(pt|json))$")
_NATIVE = re.compile(
    r"(^|/)data/(aotinductor|executorch|mtia)/.*\.(so|o|cubin|hsaco|spv|cpp|cu|h|dll|dylib|pte|bin|ptx)$"
)
_DEEPEST_CONTEXT = 5


def check_exported(part: Part, exam: Examination) -> None:
    """An archive of `torch.export.save`."""
    said = "is a torch.export archive: loading it evaluates texts of the file, and may unpickle without limits"
    exam.code(part.where, "exported-program", said)
    check_members(part, exam, _choose)


def _choose(name: str) -> MemberCheck | None:
    lower = name.lower()
    if _PROGRAM.search(lower):
        return check_program
    if _CONFIG.search(lower):
        return _check_config
    if _OPAQUE.search(lower):
        return _check_opaque
    if _NATIVE.search(lower):
        return _check_native
    return _check_payload if _STRICT.search(lower) else None


def _check_payload(part: Part, exam: Examination) -> None:
    """A raw tensor, or one that torch unpickles without limits: in that case every unusual global is a danger."""
    kind = kind_of_head(part.head())
    if kind in (Kind.ZIP, Kind.TORCH_LEGACY) or (kind is Kind.PICKLE and could_act(part)):
        with exam.strictly():
            exam.member(part)
    else:
        check_tensor_bytes(part, exam)


def _check_opaque(part: Part, exam: Examination) -> None:
    exam.danger(part.where, "exported-opaque", "is a constant that torch unpickles without limits")
    with exam.strictly():
        exam.member(part)


def _check_native(part: Part, exam: Examination) -> None:
    exam.danger(part.where, "exported-native", "is native code, or the source of it, that loading the archive runs")


def _check_config(part: Part, exam: Examination) -> None:
    """Which members hold the tensors, and how they are read."""
    document = read_document(part, exam)
    for _, key, value in walk(document.content if document else None):
        if key == "path_name" and isinstance(value, str) and is_outside(value):
            said = f"says that a tensor lies elsewhere: {quoted(value, 120)}"
            exam.danger(part.where, "exported-outside", said)


def check_program(part: Part, exam: Examination) -> None:
    """The graph, as JSON: every text in it that torch evaluates, imports or looks up."""
    document = read_document(part, exam)
    if document is None:
        return
    for _, key, value in walk(document.content):
        exam.check_time()
        if isinstance(value, str):
            _check_text(part, key, value, exam)
        elif isinstance(value, dict) and {"target", "inputs", "outputs"} <= value.keys():
            _check_target(part, value["target"], exam)


def _check_text(part: Part, key: str, text: str, exam: Examination) -> None:
    shown = quoted(text, 120)
    if key == "expr_str" and not is_arithmetic(text):
        exam.danger(
            part.where, "exported-expression", f"has an expression that is no arithmetic, and is evaluated: {shown}"
        )
    elif key == "guards_code" and not is_guard(text):
        exam.danger(part.where, "exported-guard", f"has a guard that is no comparison, and is executed: {shown}")
    elif key in ("in_spec", "out_spec"):
        _check_tree(part, text, exam)
    elif key in ("name", "as_name", "forward_arg_names") and not is_name(text):
        exam.danger(part.where, "exported-name", f"has a name that would add to the source of a function: {shown}")


def _check_target(part: Part, target: Any, exam: Examination) -> None:
    """What a node calls: looked up from `torch`, by a name with dots."""
    if isinstance(target, str) and not is_operator(target):
        said = f"calls {quoted(target, 120)}, which is no operator of torch"
        exam.danger(part.where, "exported-target", said)
    elif isinstance(target, str) and target.startswith("torch.ops."):
        space = target.split(".")[2]
        if space not in (
            "aten",
            "prim",
            "prims",
            "higher_order",
            "quantized",
            "quantized_decomposed",
            "_c10d_functional",
        ):
            said = f"uses operators of another library, which must be loaded for it: {printable(target, 120)}"
            exam.code(part.where, "exported-operators", said)


def _check_tree(part: Part, text: str, exam: Examination) -> None:
    """How inputs are nested; contexts are JSON within JSON, and may name modules to import."""
    waiting = [(text, 0)]
    while waiting:
        inner, depth = waiting.pop()
        try:
            tree = json.loads(inner)
        except (ValueError, RecursionError):
            continue
        for _, key, value in walk(tree):
            if isinstance(value, dict):
                _check_import(part, value, exam)
            elif key == "context" and isinstance(value, str) and depth < _DEEPEST_CONTEXT:
                waiting.append((value, depth + 1))


def _check_import(part: Part, context: dict[str, Any], exam: Examination) -> None:
    """A defaultdict names its factory, and an enumeration its class."""
    if "default_factory_module" in context:
        module, name = str(context["default_factory_module"]), str(context.get("default_factory_name"))
    elif "__enum__" in context:
        module, _, name = str(context.get("fqn")).partition(":")
    else:
        return
    if f"{module}.{name}" in ALLOWED:
        return
    said = f"names `{printable(f'{module}.{name}', 120)}`, which loading imports"
    (exam.danger if danger_of(module, name) else exam.code)(part.where, "exported-import", said)
