"""Data specs to data sets, and data sets to `DataSplit`s that fit a model."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import cast, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from audit.api import DataSplit, Role
from audit.errors import DataError, UsageError
from audit.loading.formats import FORMATS
from audit.loading.preprocess import Geometry
from audit.loading.sources import Dataset, RawImages, Shape, counted, listed

__all__ = ["Dataset", "check_labels", "conversion_notes", "fit", "open_dataset", "parse_data_argument"]

ROLES: tuple[str, ...] = get_args(Role)
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


def parse_data_argument(text: str) -> tuple[Role, str]:
    """`[ROLE=]SPEC` to role and spec; without a role it is `eval`.

    Raises:
        UsageError: for an unknown role, or no spec.
    """
    match = re.match(r"([A-Za-z_-]*)=", text)
    role, spec = (match[1], text[match.end() :]) if match else ("eval", text)
    if role not in ROLES:
        raise UsageError(f"Expected a role ({', '.join(ROLES)}) before '=', got {role!r} in {text!r}. Choose one.")
    if not spec:
        raise UsageError(f"Expected [ROLE=]SPEC, got {text!r}. Name the data, such as {role}=imagefolder:DIR.")
    return cast("Role", role), spec


def open_dataset(spec: str) -> Dataset:
    """The data set that a spec names, read through once: every sample hashed, labels and headers checked.

    Raises:
        UsageError: when the spec has no known scheme, or options that its format does not know.
        DataError: when the data cannot be audited; says all that is wrong at once.
        UnsafeArtefactError: when reading it would mean unpickling.
    """
    scheme, colon, location = spec.partition(":")
    if colon and scheme in FORMATS and location:
        try:
            return dataclasses.replace(FORMATS[scheme].open(location), spec=spec)
        except OSError as error:
            raise DataError(f"Expected data that can be read, got '{error}'. Check its permissions.") from error
    forms = ", ".join(sorted(data_format.form for data_format in FORMATS.values()))
    path = Path(spec).expanduser()
    if path.exists():
        likely = next((name for name, data_format in FORMATS.items() if data_format.recognises(path)), None)
        advice = f"Probably {likely}:{spec} is meant." if likely else f"Write one of {forms}."
        raise UsageError(f"Expected SCHEME:LOCATION, got the bare path {spec!r}. {advice}")
    raise UsageError(f"Expected a data spec ({forms}), got {spec!r}. Begin with one of these schemes.")


def check_labels(dataset: Dataset, num_classes: int) -> None:
    """Goes on when every label is an output of the model.

    Raises:
        DataError: naming the labels that are not, how many samples have them, and what to do.
    """
    beyond = dataset.labels[dataset.labels >= num_classes]
    if not len(beyond):
        return
    low, high = int(dataset.labels.min()), int(dataset.labels.max())
    text = f"Expected labels 0..{num_classes - 1} for a model with {num_classes} outputs, got "
    if (low, high) == (1, num_classes):
        raise DataError(f"{text}labels 1..{num_classes} in {dataset.spec!r}: they start at 1. Subtract 1 from each.")
    offending = np.unique(beyond).tolist()
    raise DataError(
        f"{text}{counted(len(beyond), 'sample')} of {len(dataset):,} with labels {listed(offending)} in "
        f"{dataset.spec!r} (labels found: {low}..{high}). Use the data that the model was trained for, or check the "
        "number of classes in the model spec."
    )


def conversion_notes(dataset: Dataset, geometry: Geometry) -> tuple[str, ...]:
    """What fitting changes in the images beyond their size, for the user to know; empty when nothing."""
    if dataset.native_shape is None or dataset.native_shape[0] == geometry.channels:
        return ()
    if geometry.channels == 3:
        return (f"Images of {dataset.spec!r} are grey; their channel is repeated three times for the model.",)
    return (f"Images of {dataset.spec!r} are in colour; they are converted to grey for the model.",)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class FittedImages:
    """Images brought to a model's input; the `ImageSource` of a split."""

    images: RawImages
    geometry: Geometry
    shape: Shape
    """(c, h, w) that every image must come to."""

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.images)

    def pixels(self, index: int) -> Pixels:
        """Sample `index` as (c, h, w): uint8, or float32 in [0, 1] where 8 bits would lose something.

        Raises:
            DataError: when the image is damaged, or comes to another shape than the others.
        """
        pixels = _fitted(self.images, index, self.geometry)
        if pixels.shape != self.shape:
            raise DataError(
                f"Expected all images at {self.shape} (channels, height, width), got {pixels.shape} from "
                f"{self.images.name(index)}. Choose a preprocessing that resizes and crops to one size."
            )
        return pixels

    def stored(self, index: int) -> Pixels:
        """Sample `index` as (c, h, w) of its own size."""
        raw = self.images.image(index)
        if not isinstance(raw, Image.Image):
            return raw
        plane = np.asarray(raw)
        return plane[None] if plane.ndim == 2 else np.ascontiguousarray(plane.transpose(2, 0, 1))


def fit(dataset: Dataset, role: Role, geometry: Geometry, *, seed: int, samples: int | None) -> DataSplit:
    """The data set as a split: images brought to the model's input, in a seeded order.

    The order depends on seed and digest alone, not on the role; `samples` only cuts it, so a smaller split is a prefix
    of a larger one.

    Raises:
        UsageError: when `samples` is below 1.
        DataError: when the first image of the order cannot be fitted.
    """
    if samples is not None and samples < 1:
        raise UsageError(f"Expected at least 1 sample, got {samples}. Leave the number out to use all.")
    key = hashlib.sha256(f"{seed}:{dataset.digest}".encode()).digest()
    order = np.random.default_rng(int.from_bytes(key, "big")).permutation(len(dataset)).astype(np.int64)[:samples]
    channels, height, width = _fitted(dataset.images, int(order[0]), geometry).shape
    return DataSplit(
        source=FittedImages(dataset.images, geometry, (channels, height, width)),
        labels=dataset.labels,
        ids=dataset.ids,
        order=order,
        role=role,
        digest=dataset.digest,
        spec=dataset.spec,
        class_names=dataset.class_names,
    )


def _fitted(images: RawImages, index: int, geometry: Geometry) -> Pixels:
    raw = images.image(index)
    return geometry.apply(raw) if isinstance(raw, Image.Image) else geometry.apply_float(raw)
