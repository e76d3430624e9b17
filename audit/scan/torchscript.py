"""TorchScript: always a program; what of it reaches files, processes or other libraries is said besides."""

from __future__ import annotations

import re

from audit.scan.examination import Examination
from audit.scan.globals_allowed import OF_TORCHSCRIPT
from audit.scan.parts import Part
from audit.scan.pickle_judge import Dialect
from audit.scan.pickles import check_alone
from audit.scan.report import printable
from audit.scan.torch_files import check_tensor_bytes
from audit.scan.zips import MemberCheck, check_members

_SOURCE = re.compile(r"(^|/)code/.*\.py$")
_TENSOR = re.compile(r"(^|/)(data|constants|traced_inputs)/\d+$")
_REACHING = re.compile(
    r"\b(?:torch\.(?:from_file|save|load|_save|rpc\w*)|ops\.(?:image\.(?:read_file|write_file)|aten\.(?:from_file|save|load)"
    r"|torchaudio\.\w*(?:load|save|sox)\w*|torchvision\.\w*video\w*|video_reader\.\w+|c10d\.\w+|rpc\.\w+)"
    r"|(?:ops\.)?(?:aten|prim|rpc)\.rpc_\w+|rpc_(?:async|sync|remote))\b(?=\s*\()"
)
"""Operators that read or write files, or call other machines."""
_NAMESPACE = re.compile(r"\bops\.(\w+)\.(\w+)")
_OWN_NAMESPACES = frozenset(
    ("aten", "prim", "prims", "quantized", "quantized_decomposed", "prepacked", "mkldnn_prepacked", "mkldnn", "sparse",
     "inductor", "onednn", "xnnpack", "static_runtime", "cuda", "profiler", "metal", "vulkan_prepack", "_quantized",
     "symm_mem", "higher_order", "cudnn", "torch")
)  # fmt: skip
_CUSTOM_CLASS = re.compile(r"__torch__\.torch\.classes\.([\w.]+)")
_OPERATOR_TEXT = re.compile(r"(aten::(?:from_file|save|load)|image::(?:read|write)_file|prim::rpc_\w+|rpc::\w+)\Z")


def check_torchscript(part: Part, exam: Examination) -> None:
    """An archive of `torch.jit.save`."""
    said = "is a TorchScript archive: a program that runs when it is loaded and used"
    exam.code(part.where, "torchscript", said)
    check_members(part, exam, _choose)


def _choose(name: str) -> MemberCheck | None:
    lower = name.lower()
    if lower.endswith((".pkl", ".debug_pkl")):
        return _check_pickle
    if _SOURCE.search(lower):
        return check_script_source
    return check_tensor_bytes if _TENSOR.search(lower) else None


def _check_pickle(part: Part, exam: Examination) -> None:
    """Objects of the program's own classes, tuples of places in its source, or operators of its bytecode."""
    reached: dict[str, None] = {}
    custom: dict[str, None] = {}

    def watch(text: str) -> None:
        found = _OPERATOR_TEXT.fullmatch(text)
        if found:
            reached[text] = None

    def named(name: str) -> None:
        found = _CUSTOM_CLASS.match(name)
        if found:
            custom[found[1]] = None

    check_alone(part, exam, Dialect(OF_TORCHSCRIPT, ("__torch__.",), lambda key: None, watch, named))
    for operator in reached:
        exam.danger(part.where, "torchscript-reaches", f"uses `{operator}`, which reaches files or other machines")
    _say_classes(part, custom, exam)


def check_script_source(part: Part, exam: Examination) -> None:
    """One file of the program; torch wrote it, so one form stands for each operator."""
    exam.saw("TorchScript source")
    if part.size > exam.limits.text_bytes:
        said = f"is a source of {part.size:,} bytes; only the first {exam.limits.text_bytes:,} are examined"
        exam.unexamined(part.where, "over-limit", said)
    text = part.read(0, exam.limits.text_bytes).decode("utf-8", "replace")
    for operator in dict.fromkeys(_REACHING.findall(text)):
        exam.danger(part.where, "torchscript-reaches", f"uses `{operator}`, which reaches files or other machines")
    spaces: dict[str, dict[str, None]] = {}
    for space, name in _NAMESPACE.findall(text):
        if space not in _OWN_NAMESPACES:
            spaces.setdefault(space, {})[name] = None
    for space, names in spaces.items():
        listed = ", ".join(f"{space}.{name}" for name in list(names)[:8])
        said = f"uses operators of another library, which must be loaded for it: {printable(listed, 200)}"
        exam.code(part.where, "torchscript-operators", said)
    _say_classes(part, dict.fromkeys(_CUSTOM_CLASS.findall(text)), exam)


def _say_classes(part: Part, names: dict[str, None], exam: Examination) -> None:
    if names:
        listed = printable(", ".join(list(names)[:8]), 200)
        exam.code(part.where, "torchscript-classes", f"uses classes of native code: {listed}")
