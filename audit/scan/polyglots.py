"""Files that are two things at once: what one reader takes for numbers is a program to another."""

from __future__ import annotations

from audit.scan.examination import Examination
from audit.scan.kinds import Kind
from audit.scan.parts import Part
from audit.scan.pickle_guess import calls_something
from audit.scan.pickles import check_pickle
from audit.scan.zip_directory import CENTRAL, BadZip, find_end
from audit.scan.zips import check_zip

_PICKLES = (Kind.PICKLE, Kind.TORCH_LEGACY)
_ZIPS = (Kind.ZIP, Kind.TORCH_ZIP, Kind.TORCHSCRIPT, Kind.EXPORTED_PROGRAM, Kind.NPZ, Kind.KERAS, Kind.DAMAGED_ZIP)


def check_polyglot(part: Part, kind: Kind, exam: Examination) -> None:
    """A pickle is read from the beginning, and a zip archive from the end, whatever else there is."""
    if kind not in _PICKLES and kind not in _ZIPS and calls_something(part):
        exam.danger(part.where, "also-a-pickle", f"is {kind.value}, and a pickle that acts to whatever unpickles it")
        check_pickle(part, exam)
    if kind not in _ZIPS and part.depth == 0 and _ends_as_zip(part):
        exam.danger(part.where, "also-a-zip", f"is {kind.value}, and a zip archive to whatever reads it from its end")
        check_zip(part, exam)


def _ends_as_zip(part: Part) -> bool:
    try:
        end = find_end(part)
    except BadZip:
        return False
    return end.count > 0 and part.read(end.directory_at, 4) == CENTRAL
