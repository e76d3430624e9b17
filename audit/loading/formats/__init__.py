"""The data formats, one module each, and the mapping from a spec's scheme to its opener."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from audit.loading.formats import (
    cifar,
    csv_table,
    digits,
    idx,
    imagefolder,
    npz,
    parquet,
    tinyimagenet,
    wds,
    wds_shards,
)
from audit.loading.sources import Dataset


@dataclass(frozen=True, slots=True)
class Format:
    """A way to store a data set.

    Attributes:
        form: how its spec is written, for messages.
        open: what follows the scheme, to a data set without its spec.
        recognises: whether a path that was given without a scheme looks like it.
    """

    form: str
    open: Callable[[str], Dataset]
    recognises: Callable[[Path], bool]


FORMATS: dict[str, Format] = {
    "parquet": Format("parquet:FILE_OR_DIR", parquet.open_parquet, parquet.recognises),
    "npz": Format("npz:FILE", npz.open_npz, npz.recognises),
    "cifar10": Format("cifar10:DIR", cifar.open_cifar10, cifar.recognises_cifar10),
    "cifar100": Format("cifar100:DIR", cifar.open_cifar100, cifar.recognises_cifar100),
    "tinyimagenet": Format("tinyimagenet:DIR", tinyimagenet.open_tinyimagenet, tinyimagenet.recognises),
    "wds": Format("wds:SHARDS", wds.open_wds, wds_shards.recognises),
    "fashion-mnist": Format("fashion-mnist:DIR_OR_FILE", idx.open_fashion_mnist, idx.recognises_fashion),
    "mnist": Format("mnist:DIR_OR_FILE", idx.open_mnist, idx.recognises),
    "csv": Format("csv:FILE", csv_table.open_csv, csv_table.recognises),
    "imagefolder": Format("imagefolder:DIR", imagefolder.open_imagefolder, imagefolder.recognises),
    "sklearn": Format("sklearn:digits", digits.open_sklearn, digits.recognises),
}
"""In the order in which a bare path is compared with them."""
