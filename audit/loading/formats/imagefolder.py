"""`imagefolder:DIR`: one sub-folder a class, as torchvision's `ImageFolder` reads it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from audit.errors import DataError
from audit.loading.formats.encoded import EncodedImages, Files, inspect
from audit.loading.sources import Dataset, Problems, assemble, counted, existing, listed

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
NO_CLASSES = frozenset({"__MACOSX", "__pycache__"})
"""Folders that other programs leave behind."""
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval"})
"""How folders of whole data sets are called."""


@dataclass(slots=True)
class _Listing:
    """What lies in a folder of images; paths are relative to it."""

    classes: list[str] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)

    @property
    def empty_classes(self) -> list[str]:
        filled = set(self.labels)
        return [name for label, name in enumerate(self.classes) if label not in filled]

    def notes(self) -> list[str]:
        remarks: Sequence[tuple[list[str], str, str]] = (
            (self.stray, "file", "skipped because no image of a class folder"),
            (self.links, "symbolic link", "skipped because leading out of the folder, to a folder, or nowhere"),
            (self.empty_classes, "class folder", "without images, kept as class"),
        )
        return [f"{counted(len(found), noun)} {what}: {listed(found)}." for found, noun, what in remarks if found]


def recognises(path: Path) -> bool:
    """Whether this is a folder with sub-folders."""
    return path.is_dir() and any(entry.is_dir() for entry in path.iterdir())


def open_imagefolder(location: str) -> Dataset:
    """The images of all class folders; classes and files in sorted order, sub-folders of classes included.

    Hidden files and folders are ignored. Other stray files, empty classes and links are named in the notes; no
    link is followed out of the folder.

    Raises:
        DataError: when there is no class folder or no image, or images are damaged.
    """
    root = existing(location, "a folder of images")
    if not root.is_dir():
        raise DataError(f"Expected a folder with one sub-folder a class, got the file {location!r}. Name its folder.")
    listing = _list(root)
    if not listing.images:
        raise DataError(_nothing_found(location, listing))
    _refuse_parent(location, listing)
    blobs = Files(root, [root / path for path in listing.images])
    problems = Problems()
    inspection = inspect(blobs, problems)
    problems.check()
    return assemble(
        EncodedImages(blobs),
        np.asarray(listing.labels, dtype=np.int64),
        inspection.ids,
        class_names=listing.classes,
        native_shape=inspection.native_shape,
        notes=(*listing.notes(), *inspection.notes),
    )


def _list(root: Path) -> _Listing:
    listing = _Listing()
    top = sorted(entry for entry in root.iterdir() if not entry.name.startswith(".") and entry.name not in NO_CLASSES)
    listing.links += [entry.name for entry in top if entry.is_symlink()]
    listing.stray += [entry.name for entry in top if not entry.is_symlink() and not entry.is_dir()]
    folders = [entry for entry in top if not entry.is_symlink() and entry.is_dir()]
    listing.classes = [folder.name for folder in folders]
    inside = root.resolve()
    for label, folder in enumerate(folders):
        _list_class(folder, label, root, inside, listing)
    return listing


def _list_class(folder: Path, label: int, root: Path, inside: Path, listing: _Listing) -> None:
    for parent, folders, files in os.walk(folder):
        listing.links += [_below(root, parent, name) for name in sorted(folders) if Path(parent, name).is_symlink()]
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            path = Path(parent, name)
            if path.is_symlink() and not leads_inside(path, inside):
                listing.links.append(_below(root, parent, name))
            elif path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                listing.images.append(path.relative_to(root))
                listing.labels.append(label)
            else:
                listing.stray.append(_below(root, parent, name))


def leads_inside(link: Path, inside: Path) -> bool:
    """Whether a link ends at a file in this folder, which is given without links."""
    target = Path(os.path.realpath(link))
    return target.is_file() and target.is_relative_to(inside)


def _refuse_parent(location: str, listing: _Listing) -> None:
    """A folder of whole data sets (`train`, `val`) has class folders below those that would be taken for classes.

    Raises:
        DataError: naming a folder to take in its place.
    """
    top = {path.parts[0] for path in listing.images}
    below = {path.parts[:2] for path in listing.images if len(path.parts) > 2}
    flat = any(len(path.parts) == 2 for path in listing.images)
    if flat or len(below) < 2 or not (len(top) == 1 or top <= SPLITS):
        return
    first = sorted(top)[0]
    raise DataError(
        f"Expected one sub-folder a class in {location!r}, got {', '.join(sorted(top))} with {len(below)} folders of "
        f"images below: every image would have the label {first!r} or the like. Name the folder whose sub-folders are "
        f"the classes, such as imagefolder:{location.rstrip('/')}/{first}."
    )


def _below(root: Path, parent: str, name: str) -> str:
    return Path(parent, name).relative_to(root).as_posix()


def _nothing_found(location: str, listing: _Listing) -> str:
    found = f"{counted(len(listing.classes), 'sub-folder')} without images"
    loose = [name for name in listing.stray if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    if loose and not listing.classes:
        found = f"no sub-folder, but {counted(len(loose), 'image')} at the top"
    text = (
        f"Expected one sub-folder a class with images ({', '.join(sorted(IMAGE_SUFFIXES))}), got {found} "
        f"in {location!r}. Sort the images into class folders, or list them in a table and use csv:FILE."
    )
    return " ".join([text, *listing.notes()])
