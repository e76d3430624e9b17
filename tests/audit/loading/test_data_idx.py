"""Files of MNIST's kind: planted pairs, gzipped or not, and every refusal."""

import gzip
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from audit.errors import DataError, UnsafeArtefactError, UsageError
from audit.loading.datasets import fit, open_dataset
from audit.loading.preprocess import Geometry

GREY = np.random.default_rng(0).integers(0, 256, (6, 5, 7), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def _pixels(spec: str, channels: int) -> npt.NDArray[np.generic]:
    source = fit(open_dataset(spec), "eval", Geometry(channels=channels), seed=0, samples=None).source
    return np.stack([source.pixels(index) for index in range(len(source))])


def _idx(path: Path, array: npt.NDArray[np.uint8], *, zipped: bool = True) -> Path:
    content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_mnist_folder_and_file(zipped: bool, tmp_path: Path) -> None:
    end = ".gz" if zipped else ""
    for prefix, images in (("t10k", GREY), ("train", 255 - GREY)):
        file = _idx(tmp_path / f"{prefix}-images-idx3-ubyte{end}", images, zipped=zipped)
        _idx(tmp_path / f"{prefix}-labels-idx1-ubyte{end}", LABELS.astype(np.uint8), zipped=zipped)
        for spec in {"t10k": ("", "?split=test"), "train": ("?split=train",)}[prefix]:
            np.testing.assert_array_equal(_pixels(f"mnist:{tmp_path}{spec}", channels=1), images[:, None])
        np.testing.assert_array_equal(_pixels(f"mnist:{file}", channels=1), images[:, None])
    assert open_dataset(f"mnist:{tmp_path}").labels.tolist() == LABELS.tolist()
    with pytest.raises(UsageError, match=r"Expected \?split= after a folder"):
        open_dataset(f"mnist:{file}?split=train")


def test_the_root_that_torchvision_is_given(tmp_path: Path) -> None:
    for name, images in (("MNIST", GREY), ("FashionMNIST", np.repeat(GREY, 6, 0)[:28, :1].repeat(28, 1).repeat(4, 2))):
        raw = tmp_path / name / "raw"
        raw.mkdir(parents=True)
        _idx(raw / "t10k-images-idx3-ubyte", images, zipped=False)
        _idx(raw / "t10k-labels-idx1-ubyte", np.resize(LABELS, len(images)).astype(np.uint8), zipped=False)
    for place in (tmp_path, tmp_path / "MNIST"):
        np.testing.assert_array_equal(_pixels(f"mnist:{place}", channels=1), GREY[:, None])
    assert open_dataset(f"fashion-mnist:{tmp_path}").native_shape == (1, 28, 28)


def test_mnist_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected t10k-images-idx3-ubyte or the same with \.gz .*got an empty folder"):
        open_dataset(f"mnist:{tmp_path}")
    images = _idx(tmp_path / "t10k-images-idx3-ubyte.gz", GREY)
    with pytest.raises(DataError, match=r"Expected the labels of t10k-images-idx3-ubyte\.gz in"):
        open_dataset(f"mnist:{tmp_path}")
    labels = _idx(tmp_path / "t10k-labels-idx1-ubyte.gz", LABELS.astype(np.uint8))
    with pytest.raises(DataError, match=r"Expected an idx file of uint8 with 3 axes, got t10k-labels"):
        open_dataset(f"mnist:{labels}")
    images.write_bytes(images.read_bytes()[:-20])
    with pytest.raises(
        DataError, match=r"Expected a whole idx file, got t10k-images-idx3-ubyte\.gz, which cannot be read"
    ):
        open_dataset(f"mnist:{tmp_path}")
    _idx(images, LABELS.astype(np.uint8))
    with pytest.raises(DataError, match=r"Expected an idx file of uint8 with 3 axes, got .* begins with '00000801'"):
        open_dataset(f"mnist:{tmp_path}")
    cut = _idx(tmp_path / "cut-images-idx3-ubyte", GREY, zipped=False)
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"Expected 210 bytes .* got 209: the file is truncated"):
        open_dataset(f"mnist:{cut}")


def test_what_is_not_read(tmp_path: Path) -> None:
    """A pipe waits for ever, rows without values never end, and a header may promise terabytes."""
    os.mkfifo(tmp_path / "t10k-images-idx3-ubyte")
    with pytest.raises(DataError, match="Expected t10k-images-idx3-ubyte"):
        open_dataset(f"mnist:{tmp_path}")
    with pytest.raises(DataError, match="got a device, pipe or socket"):
        open_dataset(f"mnist:{tmp_path / 't10k-images-idx3-ubyte'}")

    folder = tmp_path / "zeros"
    folder.mkdir()
    labels = _idx(folder / "t10k-labels-idx1-ubyte.gz", LABELS.astype(np.uint8))
    images = folder / "t10k-images-idx3-ubyte.gz"
    images.write_bytes(gzip.compress(bytes([0, 0, 8, 3]) + np.array([2**32 - 1, 0, 28], dtype=">u4").tobytes()))
    with pytest.raises(DataError, match="Expected at least one byte in each row of t10k-images"):
        open_dataset(f"mnist:{folder}")
    images.write_bytes(
        gzip.compress(bytes([0, 0, 8, 3]) + np.array([2**16, 2**12, 28], dtype=">u4").tobytes() + bytes(9))
    )
    with pytest.raises(
        UnsafeArtefactError, match=r"grows from \d+ to 7,516,192,768 bytes\. Nothing of it was unpacked"
    ):
        open_dataset(f"mnist:{folder}")
    _idx(images, GREY)
    images.write_bytes(gzip.compress(gzip.decompress(images.read_bytes()) + bytes(5_000_000)))  # what follows is left
    assert len(open_dataset(f"mnist:{folder}").labels) == len(LABELS)
    assert labels.is_file()
