"""`wds:PATTERN`: WebDataset shards, tar archives in which the files of a sample stand together under one name.

`wds:FILE.tar`, `wds:FOLDER`, or a range, `wds:'shard-{000000..000009}.tar'`. Shards are local files; nothing is
fetched and no command is run, whatever `pipe:` or `https:` a pattern begins with.

Source: Aizman, Maltby and Breuel 2019, arXiv 2001.01858; grouping as in the package webdataset, `group_by_keys`.
Differs from source: only images and integers are decoded; pickles, tensors and arrays never are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from audit.errors import DataError
from audit.loading.formats.encoded import EncodedImages, inspect
from audit.loading.formats.labels import checked_labels
from audit.loading.formats.tar_members import members
from audit.loading.formats.wds_samples import Samples
from audit.loading.formats.wds_shards import opened_shard, shard_files
from audit.loading.sources import Dataset, Problems, assemble, counted, shown

CLASSES_FILE = "classes.txt"
LARGEST_CLASSES_FILE = 1 << 20


def open_wds(location: str) -> Dataset:
    """The samples of all shards in order: an image and an integer label each.

    The label is the text in `.cls`, or else the integer at `label`, `cls` or `class` in `.json`. Other members are
    not read, and named in the notes. Class names are the lines of a `classes.txt` beside the shards, or empty.
    Images are copied to one temporary file; no member is unpacked under its own name.

    Raises:
        UsageError: for a pattern that is no range.
        DataError: when shards are missing, truncated or damaged, or samples lack image or label.
        UnsafeArtefactError: when images or labels are there as pickles alone, or a shard is a decompression bomb.
    """
    shards = shard_files(location)
    samples, problems = Samples(), Problems()
    for path in shards:
        with opened_shard(path) as stream:
            samples.gather(path.name, members(stream, path.name))
    samples.report(problems)
    labels = checked_labels(np.asarray(samples.labels, dtype=np.int64), f"the labels of {location!r}", problems)
    inspection = inspect(samples, problems)
    problems.check()
    if not len(samples):
        raise DataError(
            f"Expected samples of an image and a label (KEY.jpg, KEY.cls), got none in {counted(len(shards), 'shard')} "
            f"of {location!r}. {' '.join(samples.notes()) or 'Name shards that are not empty.'}"
        )
    class_names = _class_names(shards[0].parent / CLASSES_FILE)
    return assemble(
        EncodedImages(samples),
        labels,
        inspection.ids,
        class_names=class_names,
        native_shape=inspection.native_shape,
        notes=(*samples.notes(), *inspection.notes),
    )


def _class_names(path: Path) -> list[str]:
    """A line each, or none where there is no such file."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        text = file.read(LARGEST_CLASSES_FILE).decode("utf-8", "replace")
    return [shown(line.strip()) for line in text.splitlines() if line.strip()]
