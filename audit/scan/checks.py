"""Which check belongs to which kind of file, and how one part is examined."""

from __future__ import annotations

from collections.abc import Callable

from audit.scan.arrays import check_array
from audit.scan.compressed import check_compressed
from audit.scan.examination import Examination, OverLimit
from audit.scan.exported import check_exported
from audit.scan.images import check_image
from audit.scan.keras import check_keras
from audit.scan.kinds import Kind
from audit.scan.onnx_models import check_onnx
from audit.scan.parts import Part
from audit.scan.pickle_guess import could_act
from audit.scan.pickles import check_pickle
from audit.scan.polyglots import check_polyglot
from audit.scan.programs import check_bytecode, check_native, check_source
from audit.scan.safetensors_header import check_safetensors
from audit.scan.sniffing import kind_of_part
from audit.scan.tars import check_tar, check_torch_tar
from audit.scan.texts import check_by_name, check_json, check_pointer, check_text, check_web_page
from audit.scan.torch_files import check_torch_legacy, check_torch_zip
from audit.scan.torchscript import check_torchscript
from audit.scan.zips import check_zip

Check = Callable[[Part, Examination], None]


def examine(exam: Examination, part: Part, kind: Kind | None = None) -> None:
    """Examines a part by its kind; whatever is in it, this returns.

    Args:
        exam: what the findings go to.
        part: the bytes.
        kind: where it is known already.
    """
    try:
        exam.check_time()
        kind = kind or kind_of_part(part)
        CHECKS.get(kind, _not_examined)(part, exam)
        check_polyglot(part, kind, exam)
        check_by_name(part, kind, exam)
    except OverLimit as problem:
        exam.unexamined(part.where, "over-limit", str(problem))
    except OSError as problem:
        exam.unexamined(part.where, "unreadable", f"cannot be read: {problem.strerror or problem}")
    except Exception as problem:  # a defect here must not end as silence about the file
        exam.unexamined(part.where, "scan-failed", f"could not be examined ({type(problem).__name__}: {problem})")


def _not_examined(part: Part, exam: Examination) -> None:
    kind = kind_of_part(part)
    if kind is Kind.UNKNOWN and part.referred:
        exam.saw("file of raw numbers")
        return
    exam.unexamined(part.where, "kind-not-examined", f"is {kind.value}, which is not examined")


def _check_pickle(part: Part, exam: Examination) -> None:
    """Numbers of a model beside them begin as a pickle now and then."""
    if part.referred and not could_act(part):
        exam.saw("file of raw numbers")
    else:
        check_pickle(part, exam)


def _nothing_to_run(part: Part, exam: Examination) -> None:
    exam.saw("file without code")


CHECKS: dict[Kind, Check] = {
    Kind.SAFETENSORS: check_safetensors,
    Kind.TORCH_ZIP: check_torch_zip,
    Kind.TORCH_LEGACY: check_torch_legacy,
    Kind.TORCH_TAR: check_torch_tar,
    Kind.TORCHSCRIPT: check_torchscript,
    Kind.EXPORTED_PROGRAM: check_exported,
    Kind.PICKLE: _check_pickle,
    Kind.ONNX: check_onnx,
    Kind.NPY: check_array,
    Kind.NPZ: check_zip,
    Kind.KERAS: check_keras,
    Kind.ZIP: check_zip,
    Kind.DAMAGED_ZIP: check_zip,
    Kind.TAR: check_tar,
    Kind.COMPRESSED: check_compressed,
    Kind.NATIVE: check_native,
    Kind.BYTECODE: check_bytecode,
    Kind.PYTHON: check_source,
    Kind.SCRIPT: check_source,
    Kind.LFS_POINTER: check_pointer,
    Kind.HTML: check_web_page,
    Kind.JSON: check_json,
    Kind.TEXT: check_text,
    Kind.IMAGE: check_image,
    Kind.EMPTY: _nothing_to_run,
}
"""Kinds that are not named are told, and not examined."""
