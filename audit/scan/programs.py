"""Programs in the place of data, or beside it: native code, Python, compiled Python, scripts."""

from __future__ import annotations

import re
from pathlib import PurePath

from audit.scan.examination import Examination
from audit.scan.parts import Part

_MODEL_SUFFIXES_TEXT = (
    ".pt .pth .pkl .pickle .bin .ckpt .model .th .safetensors .onnx .npy .npz .h5 .hdf5 .keras .tflite .gguf .pt2 .ptl "
    ".joblib .msgpack .weights .pb"
)
MODEL_SUFFIXES = frozenset(_MODEL_SUFFIXES_TEXT.split())
_DATA_SUFFIXES = MODEL_SUFFIXES | frozenset(
    (".json", ".txt", ".md", ".csv", ".parquet", ".png", ".jpg", ".jpeg", ".gif")
)
_NATIVE_SUFFIXES_TEXT = ".so .dll .dylib .pyd .exe .o .a .wasm .lib .node .cubin .class"
_VERSIONED = re.compile(r"\.so(\.\d+)+$")
_NATIVE_SUFFIXES = frozenset(_NATIVE_SUFFIXES_TEXT.split())
_PROGRAM_SUFFIXES_TEXT = ".py .pyw .sh .bash .zsh .bat .cmd .ps1 .vbs .js .mjs .pl .rb .lua"
PROGRAM_SUFFIXES = frozenset(_PROGRAM_SUFFIXES_TEXT.split())
_BYTECODE_SUFFIXES = frozenset((".pyc", ".pyo"))


def check_native(part: Part, exam: Examination) -> None:
    """Native code is a danger, unless its name says so: then it is code that something else would have to load."""
    exam.saw("program")
    suffixes = PurePath(part.name).suffixes
    if _NATIVE_SUFFIXES & set(suffixes[-2:]) or _VERSIONED.search(part.name):
        exam.code(part.where, "native-code", "is native code")
    else:
        exam.danger(part.where, "native-code-disguised", "is native code under a name that does not say so")


def check_bytecode(part: Part, exam: Examination) -> None:
    """Compiled Python, of which nobody reads what it does."""
    exam.saw("program")
    if PurePath(part.name).suffix in _BYTECODE_SUFFIXES:
        exam.code(part.where, "python-bytecode", "is compiled Python, which runs when it is imported")
    else:
        exam.danger(part.where, "python-bytecode-disguised", "is compiled Python under a name that does not say so")


def check_source(part: Part, exam: Examination) -> None:
    """Python and scripts: code, and a danger where their name says data."""
    exam.saw("program")
    if PurePath(part.name).suffix.lower() in _DATA_SUFFIXES:
        exam.danger(part.where, "program-disguised", "is a program under a name that says data")
    else:
        exam.code(part.where, "program", "is a program, which runs when it is imported or called")
