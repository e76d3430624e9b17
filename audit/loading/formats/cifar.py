"""`cifar10:DIR[?split=test|train]`, `cifar100:DIR[?split=test|train&labels=fine|coarse]`: as their page offers them.

Both the python version (pickles, read without unpickling) and the binary version; the same images have the same ids in
both. Where a folder holds both, the binary one is read.

Source: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images; layout as described on the data sets'
page, cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from audit.errors import DataError
from audit.loading.formats.arrays import ArrayImages, inspect_rows
from audit.loading.formats.cifar_batches import SHAPE, BinaryVersion, Labelling, PythonVersion, Version, read_batches
from audit.loading.sources import Dataset, Problems, assemble, counted, existing, listed, split_query

PAGE = "cs.toronto.edu/~kriz/cifar.html"


@dataclass(frozen=True, slots=True)
class Edition:
    """One of the two data sets.

    Attributes:
        scheme: of its specs.
        versions: how it is stored, by the name of the folder that its archive unpacks to.
        batches: the files of each split.
        sizes: number of images of each split.
        labellings: by what `?labels=` says; the first is taken where it says nothing.
    """

    scheme: str
    versions: Mapping[str, Version]
    batches: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, int]
    labellings: Mapping[str, Labelling]


def _remedy(archive: str, md5: str) -> str:
    return f"download {archive} again from {PAGE} and compare its md5 sum ({md5}), or use the binary version from there"


CIFAR10 = Edition(
    "cifar10",
    {
        "cifar-10-batches-bin": BinaryVersion(1),
        "cifar-10-batches-py": PythonVersion(
            "batches.meta", _remedy("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")
        ),
    },
    {"test": ("test_batch",), "train": tuple(f"data_batch_{n}" for n in range(1, 6))},
    {"test": 10_000, "train": 50_000},
    {"fine": Labelling("labels", "label_names", "batches.meta.txt", 0, 10)},
)
CIFAR100 = Edition(
    "cifar100",
    {
        "cifar-100-binary": BinaryVersion(2),
        "cifar-100-python": PythonVersion(
            "meta", _remedy("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85")
        ),
    },
    {"test": ("test",), "train": ("train",)},
    {"test": 10_000, "train": 50_000},
    {
        "fine": Labelling("fine_labels", "fine_label_names", "fine_label_names.txt", 1, 100),
        "coarse": Labelling("coarse_labels", "coarse_label_names", "coarse_label_names.txt", 0, 20),
    },
)


def recognises_cifar10(path: Path) -> bool:
    """Whether this is a folder with batches of CIFAR-10 or its parent, or one of its archives."""
    return _recognises(path, CIFAR10)


def recognises_cifar100(path: Path) -> bool:
    """Whether this is a folder with files of CIFAR-100 or its parent, or one of its archives."""
    return _recognises(path, CIFAR100)


def open_cifar10(location: str) -> Dataset:
    """A split of CIFAR-10, 10,000 test images unless `?split=train`; class names from the meta file.

    Raises:
        UsageError: for an unknown option.
        DataError: when files are missing, truncated, damaged, or not of this data set.
        UnsafeArtefactError: when a pickle of the python version could run code.
    """
    place, options = split_query(location, {"split": ("test", "train")})
    return _open(place, CIFAR10, options.get("split", "test"), CIFAR10.labellings["fine"])


def open_cifar100(location: str) -> Dataset:
    """A split of CIFAR-100, 10,000 test images unless `?split=train`, with its 100 classes or 20 superclasses.

    Raises:
        UsageError: for an unknown option.
        DataError: when files are missing, truncated, damaged, or not of this data set.
        UnsafeArtefactError: when a pickle of the python version could run code.
    """
    place, options = split_query(location, {"split": ("test", "train"), "labels": ("fine", "coarse")})
    return _open(place, CIFAR100, options.get("split", "test"), CIFAR100.labellings[options.get("labels", "fine")])


def _open(place: str, edition: Edition, split: str, labelling: Labelling) -> Dataset:
    root = existing(place, f"the folder of {edition.scheme}")
    folder, version = _find(root, edition)
    paths = [folder / version.file(batch) for batch in edition.batches[split]]
    problems = Problems()
    _check_there(paths, split, problems)
    problems.check()
    rows, labels = read_batches(version, paths, labelling, problems)
    names_file = folder / version.names_file(labelling)
    names = _class_names(version, names_file, labelling, problems)
    inspection = inspect_rows(rows, problems)
    problems.check()
    notes = [] if names else [f"Class names are unknown, because {names_file.name} is not there."]
    if len(rows) != edition.sizes[split]:
        notes.append(f"{edition.scheme} has {edition.sizes[split]:,} images in split {split}; here are {len(rows):,}.")
    return assemble(
        ArrayImages(rows, "NCHW", scale=inspection.scale),
        labels,
        inspection.ids,
        class_names=names,
        native_shape=SHAPE,
        notes=[*notes, *inspection.notes],
    )


def _check_there(paths: Sequence[Path], split: str, problems: Problems) -> None:
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        problems.add(
            f"Expected {counted(len(paths), 'file')} of split {split} in {str(paths[0].parent)!r}, got no "
            f"{listed(missing)}. Unpack the archive again."
        )


def _class_names(version: Version, path: Path, labelling: Labelling, problems: Problems) -> tuple[str, ...]:
    """The class names, or none where their file is not there."""
    if not path.is_file():
        return ()
    names = version.class_names(path, labelling, problems)
    if names and len(names) != labelling.num_classes:
        problems.add(
            f"Expected {labelling.num_classes} class names in {path.name}, got {len(names)}. Unpack the archive again."
        )
    return names


def _found(root: Path, edition: Edition) -> list[tuple[Path, Version]]:
    """The folders, this one or below, that hold a file of either split, and how it is stored there."""
    return [
        (folder, version)
        for name, version in edition.versions.items()
        for folder in (root, root / name)
        if any((folder / version.file(batch)).is_file() for batches in edition.batches.values() for batch in batches)
    ]


def _find(root: Path, edition: Edition) -> tuple[Path, Version]:
    found = _found(root, edition)
    if found:
        return found[0]
    wanted = " or ".join(edition.versions)
    archives = _archives(root, edition)
    if archives:
        raise DataError(
            f"Expected {wanted}, unpacked, at {str(root)!r}, got the archive {listed(archives)}. "
            f"Unpack it (tar -xzf {archives[0]}) and name its folder."
        )
    other = next((other.scheme for other in (CIFAR10, CIFAR100) if other is not edition and _found(root, other)), None)
    names = [root.name] if root.is_file() else sorted(entry.name for entry in root.iterdir())
    remedy = f"Write {other}:DIR." if other else "Name that folder, or its parent."
    raise DataError(f"Expected {wanted} at {str(root)!r}, got {listed(names) or 'an empty folder'}. {remedy}")


def _archives(root: Path, edition: Edition) -> list[str]:
    """Names of packed archives: this file, or those in this folder."""
    start = edition.scheme.replace("cifar", "cifar-") + "-"
    names = [root.name] if root.is_file() else [entry.name for entry in root.iterdir()]
    return sorted(name for name in names if name.startswith(start) and name.endswith((".tar.gz", ".tgz", ".tar")))


def _recognises(path: Path, edition: Edition) -> bool:
    return bool(_archives(path, edition)) if path.is_file() else bool(_found(path, edition))
