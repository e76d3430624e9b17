"""The images of Tiny ImageNet's two labelled splits: `train` by its folders, `val` by its table of annotations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from audit.errors import DataError
from audit.loading.formats.imagefolder import IMAGE_SUFFIXES, leads_inside
from audit.loading.sources import Problems, counted, listed, shown

WNID = re.compile(r"n\d{8}")
LARGEST_TEXT = 16 << 20
"""Bytes; words.txt, the largest, has 2.6 million."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a split, a label each, and remarks."""

    paths: Sequence[Path]
    labels: Sequence[int]
    notes: Sequence[str]


def read_lines(path: Path, root: Path) -> list[str]:
    """The lines of a list in the folder of the set.

    Raises:
        DataError: when it is a link out of the folder, too large to be a list, or no text.
    """
    if path.is_symlink() and not leads_inside(path, root.resolve()):
        raise DataError(
            f"Expected {path.name} in the folder of the set, got a link out of it. Put the file itself there."
        )
    if path.stat().st_size > LARGEST_TEXT:
        raise DataError(f"Expected at most {LARGEST_TEXT:,} bytes in {path.name}, got more. Unpack the archive again.")
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"Expected text in {path.name}, got {error}. Unpack the archive again.") from error


def list_train(root: Path, wnids: Sequence[str]) -> Listing:
    """The images of `train/<wnid>/images`, classes and files in sorted order.

    Raises:
        DataError: when no class has such a folder with images.
    """
    inside = root.resolve()
    paths: list[Path] = []
    labels: list[int] = []
    skipped: list[str] = []
    for label, wnid in enumerate(wnids):
        found, others = _images(root / "train" / wnid / "images", inside)
        paths += found
        labels += [label] * len(found)
        skipped += [path.relative_to(root).as_posix() for path in others]
    if not paths:
        raise DataError(_no_train(root, wnids))
    filled = set(labels)
    empty = [wnid for label, wnid in enumerate(wnids) if label not in filled]
    notes = [f"{counted(len(empty), 'class folder')} without images, kept as class: {listed(empty)}."] if empty else []
    return Listing(paths, labels, [*notes, *_skipped_note(skipped)])


def list_val(root: Path, wnids: Sequence[str]) -> Listing:
    """The images that `val/val_annotations.txt` names, in its order.

    Raises:
        DataError: when it is not there, or names what is not in `val/images` or `wnids.txt`; or when the images were
            sorted into class folders.
    """
    folder, table = root / "val" / "images", root / "val" / "val_annotations.txt"
    _refuse_sorted(root / "val")
    _refuse_sorted(folder)
    if not folder.is_dir() or not table.is_file():
        raise DataError(
            f"Expected val/images and val/val_annotations.txt in {str(root)!r}, got not both. Unpack the archive again."
        )
    rows = [line.split("\t") for line in read_lines(table, root) if line.strip()]
    _check_rows(rows, set(wnids))
    there, others = _images(folder, root.resolve())
    named = {row[0] for row in rows}
    missing = sorted(named - {path.name for path in there})
    if missing:
        raise DataError(
            f"Expected the files that val_annotations.txt names in val/images, got no {listed(missing)} "
            f"({counted(len(missing), 'missing file')}). Unpack the archive again."
        )
    number = {wnid: label for label, wnid in enumerate(wnids)}
    stray = [path for path in there if path.name not in named]
    skipped = [path.relative_to(root).as_posix() for path in (*stray, *others)]
    return Listing([folder / row[0] for row in rows], [number[row[1]] for row in rows], _skipped_note(skipped))


def _check_rows(rows: Sequence[Sequence[str]], wnids: set[str]) -> None:
    """Names must be those of files in one folder, and nothing that leads elsewhere."""
    short = [line for line, row in enumerate(rows, start=1) if len(row) < 2]
    whole = [row for row in rows if len(row) >= 2]
    leading = [shown(repr(row[0])) for row in whole if not _is_plain(row[0])]
    unknown = sorted({shown(repr(row[1])) for row in whole if row[1] not in wnids})
    twice = [shown(name) for name, count in Counter(row[0] for row in whole).items() if count > 1]
    complaints = (
        (short, "file, tab and wnid in every line", "shorter line"),
        (leading, "plain file names, which lead to no other folder,", "other name"),
        (unknown, "wnids of wnids.txt", "other wnid"),
        (twice, "one line a file", "repeated file"),
    )
    problems = Problems()
    for found, wanted, what in complaints:
        if found:
            problems.add(
                f"Expected {wanted} in val_annotations.txt, got {counted(len(found), what)}: {listed(found)}. "
                "Unpack the archive again."
            )
    problems.check()


def _is_plain(name: str) -> bool:
    return name.isprintable() and name not in {"", ".", ".."} and not set(name) & set("/\\")


def _images(folder: Path, inside: Path) -> tuple[list[Path], list[Path]]:
    """The images of a folder in sorted order; and what else lies there, links that lead out of the set among it."""
    if not folder.is_dir() or not folder.resolve().is_relative_to(inside):
        return [], []
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    images = [entry for entry in entries if _is_image(entry, inside)]
    kept = set(images)
    return images, [entry for entry in entries if entry not in kept]


def _is_image(path: Path, inside: Path) -> bool:
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return False
    return leads_inside(path, inside) if path.is_symlink() else path.is_file()


def _refuse_sorted(folder: Path) -> None:
    if folder.is_dir() and any(WNID.fullmatch(entry.name) and entry.is_dir() for entry in folder.iterdir()):
        raise DataError(
            f"Expected val as it was published, got class folders in {str(folder)!r}. Use imagefolder:{folder}; its "
            "labels number the wnids in sorted order too."
        )


def _no_train(root: Path, wnids: Sequence[str]) -> str:
    text = f"Expected images in train/<wnid>/images in {str(root)!r}, got none."
    inside = root.resolve()
    if any(_images(root / "train" / wnid, inside)[0] for wnid in wnids):
        return f"{text} The class folders hold them directly: use imagefolder:{root / 'train'}."
    return f"{text} Unpack the archive again."


def _skipped_note(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [f"{counted(len(names), 'file')} skipped because not an image of the split, or a link out: {listed(names)}."]
