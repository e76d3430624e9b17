"""The real data sets: sizes, names, memory, and pixels against the files."""

import gc
from pathlib import Path

import numpy as np
import pytest

from audit.errors import DataError
from audit.loading.datasets import fit, open_dataset
from audit.loading.preprocess import Geometry

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="no real data sets beside the project"),
]


def test_real_cifar10_streams() -> None:
    dataset = open_dataset(f"parquet:{SHARED / 'data' / 'cifar10' / 'test.parquet'}")
    assert (len(dataset), len(dataset.class_names), dataset.class_names[3]) == (10_000, 10, "cat")
    assert dataset.native_shape == (3, 32, 32)
    assert np.bincount(dataset.labels).tolist() == [1000] * 10
    split = fit(dataset, "eval", Geometry(channels=3), seed=0, samples=None)
    split.batch(0, 1000)
    before = _resident_mb()
    for start in range(1000, 10_000, 1000):
        split.batch(start, start + 1000)
    gc.collect()
    assert _resident_mb() - before < 50


def test_real_folder_of_two_splits() -> None:
    folder = SHARED / "data" / "tiny-imagenet"
    with pytest.raises(DataError, match=r"Expected tables of one split .* got several\. Append \?split=.* train, val"):
        open_dataset(f"parquet:{folder}")
    dataset = open_dataset(f"parquet:{folder}?split=val")
    assert (len(dataset), len(dataset.class_names)) == (5000, 200)
    assert dataset.native_shape is None
    assert "are grey, the others in colour" in dataset.notes[0]


def test_real_mnist() -> None:
    dataset = open_dataset(f"mnist:{SHARED / 'data' / 'mnist'}")
    assert (len(dataset), dataset.native_shape) == (10_000, (1, 28, 28))
    assert dataset.labels[:5].tolist() == [7, 2, 1, 0, 4]


@pytest.mark.parametrize(("name", "shape"), [("cifar", (3, 32, 32)), ("mnist", (1, 28, 28))])
def test_real_sdp_arrays_are_8_bit(name: str, shape: tuple[int, int, int]) -> None:
    files = [SHARED / "checkpoints" / "abcrown" / f"datasets_sdp_{name}_{part}_sdp.npy" for part in "Xy"]
    dataset = open_dataset(f"npz:{files[0]},{files[1]}")
    assert (len(dataset), dataset.native_shape) == (200, shape)
    split = fit(dataset, "eval", Geometry(channels=shape[0]), seed=0, samples=None)
    assert split.source.pixels(0).dtype == np.uint8
    stored = np.load(files[0]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(split.batch(0, 200).pixels.numpy(), stored[split.order], rtol=0, atol=1e-6)


def _resident_mb() -> float:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("memory is read from /proc, which this system lacks")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
