"""`tinyimagenet:DIR[?split=val|train]`: Tiny ImageNet as its archive unpacks.

    wnids.txt  words.txt  train/<wnid>/images/*.JPEG  val/images/*.JPEG  val/val_annotations.txt

Labels number the wnids in sorted order, as torchvision's `ImageFolder` on `train` does, on which nearly every
checkpoint was trained; `wnids.txt` lists them in another order. The images of `test` have no public labels.

Source: Le and Yang 2015, Tiny ImageNet Visual Recognition Challenge, Stanford CS 231N.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from audit.errors import DataError
from audit.loading.formats.encoded import EncodedImages, Files, inspect
from audit.loading.formats.tinyimagenet_splits import WNID, list_train, list_val, read_lines
from audit.loading.sources import Dataset, Problems, assemble, existing, listed, shown, split_query

FOLDER = "tiny-imagenet-200"


def recognises(path: Path) -> bool:
    """Whether this is the folder with the list of wnids, or its parent."""
    return any((folder / "wnids.txt").is_file() for folder in (path, path / FOLDER))


def open_tinyimagenet(location: str) -> Dataset:
    """A split of Tiny ImageNet, `val` unless `?split=train`; a class is named by the first synonym in words.txt.

    Files are read in place. No link is followed out of the folder, and no name in a list leads there.

    Raises:
        UsageError: for another split.
        DataError: when lists or images are missing or damaged, or the split was sorted into class folders.
    """
    place, options = split_query(location, {"split": ("val", "train")})
    root = _root(existing(place, "the folder of Tiny ImageNet"))
    in_file = _wnids(root)
    wnids = sorted(in_file)
    list_split = list_train if options.get("split") == "train" else list_val
    listing = list_split(root, wnids)
    blobs, problems = Files(root, listing.paths), Problems()
    inspection = inspect(blobs, problems)
    problems.check()
    unlike = "" if wnids == in_file else ", not in the order of wnids.txt"
    return assemble(
        EncodedImages(blobs),
        np.asarray(listing.labels, dtype=np.int64),
        inspection.ids,
        class_names=_class_names(root, wnids),
        native_shape=inspection.native_shape,
        notes=(
            f"Labels number the wnids in sorted order, as ImageFolder on train does{unlike}.",
            *listing.notes,
            *inspection.notes,
        ),
    )


def _root(place: Path) -> Path:
    for folder in (place, place / FOLDER):
        if (folder / "wnids.txt").is_file():
            return folder
    names = sorted(entry.name for entry in place.iterdir()) if place.is_dir() else [place.name]
    packed = [name for name in names if name.endswith(".zip")]
    remedy = f"Unpack {packed[0]} and name its folder." if packed else "Name the folder that the archive unpacks to."
    if {"train", "val"} & set(names):
        remedy = f"Copy wnids.txt there, or use imagefolder:{place / 'train'} where the images lie in class folders."
    raise DataError(f"Expected wnids.txt in {str(place)!r}, got {listed(names) or 'an empty folder'}. {remedy}")


def _wnids(root: Path) -> list[str]:
    """The wnids in the order of their file."""
    wnids = [line.strip() for line in read_lines(root / "wnids.txt", root) if line.strip()]
    odd = [shown(repr(wnid)) for wnid in wnids if not WNID.fullmatch(wnid)]
    twice = [wnid for wnid, count in Counter(wnids).items() if count > 1]
    if odd or twice or not wnids:
        raise DataError(
            "Expected different wnids such as n01443537 in wnids.txt, a line each, "
            f"got {listed(odd or twice) or 'none'}. Unpack the archive again."
        )
    return wnids


def _class_names(root: Path, wnids: Sequence[str]) -> list[str]:
    """First synonyms, with the wnid behind those that several classes share; of a class without words its wnid."""
    words = root / "words.txt"
    rows = [line.split("\t", 1) for line in read_lines(words, root)] if words.is_file() else []
    first = {row[0]: shown(row[1].split(",")[0].strip()) for row in rows if len(row) == 2}
    names = [first.get(wnid) or wnid for wnid in wnids]
    shared = Counter(names)
    return [name if shared[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True)]
