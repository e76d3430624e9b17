"""Fashion-MNIST: the files of MNIST with other class names."""

import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from audit.errors import DataError, UsageError
from audit.loading.datasets import open_dataset

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
FASHION_LABELS = [9, 2, 1, 1, 6, 1, 4, 6, 5, 7, 4, 5]
MNIST_LABELS = [7, 2, 1, 0, 4, 1, 4, 9, 5, 9, 0, 6]


def _plant(
    folder: Path, labels: list[int], images: npt.NDArray[np.uint8] = IMAGES, *, split: str = "t10k", zipped: bool = True
) -> str:
    folder.mkdir(exist_ok=True)
    for name, array in (("images-idx3", images), ("labels-idx1", np.array(labels, np.uint8))):
        content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()
        file = folder / f"{split}-{name}-ubyte{'.gz' if zipped else ''}"
        file.write_bytes(gzip.compress(content) if zipped else content)
    return f"fashion-mnist:{folder}"


@pytest.mark.parametrize("zipped", [True, False])
def test_class_names_and_pixels(tmp_path: Path, zipped: bool) -> None:
    spec = _plant(tmp_path, FASHION_LABELS, zipped=zipped)
    _plant(tmp_path, FASHION_LABELS[::-1], 255 - IMAGES, split="train", zipped=zipped)
    dataset, train = open_dataset(spec), open_dataset(f"{spec}?split=train")
    assert (dataset.labels.tolist(), train.labels.tolist()) == (FASHION_LABELS, FASHION_LABELS[::-1])
    assert len(dataset.class_names) == 10
    assert [dataset.class_names[label] for label in (0, 5, 9)] == ["T-shirt/top", "Sandal", "Ankle boot"]
    assert dataset.native_shape == (1, 28, 28)
    assert dataset.notes == ()
    np.testing.assert_array_equal(np.asarray(train.images.image(3)), 255 - IMAGES[3])
    plain = open_dataset(spec.replace("fashion-mnist", "mnist"))
    assert (plain.digest, plain.class_names) == (dataset.digest, ())


def test_labels_of_mnist_are_noted(tmp_path: Path) -> None:
    dataset = open_dataset(_plant(tmp_path, MNIST_LABELS))
    assert dataset.notes == (
        "The labels in t10k-labels-idx1-ubyte.gz begin as those of MNIST's digits do. Is mnist: meant?",
    )


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected t10k-images-idx3-ubyte or the same with \.gz in"):
        open_dataset(f"fashion-mnist:{tmp_path}")
    with pytest.raises(DataError, match=r"Expected labels below 10, the number of class names, got label 10"):
        open_dataset(_plant(tmp_path, [10, *FASHION_LABELS[1:]]))
    with pytest.raises(DataError, match=r"as many labels as images, got 12 images and 11 labels"):
        open_dataset(_plant(tmp_path, FASHION_LABELS[1:]))
    with pytest.raises(DataError, match=r"Expected images of 28x28 pixels for fashion-mnist, got 28x27 in t10k-images"):
        open_dataset(_plant(tmp_path, FASHION_LABELS, np.ascontiguousarray(IMAGES[:, :, :27])))
    with pytest.raises(DataError, match="got a data set with zero samples"):
        open_dataset(_plant(tmp_path, [], IMAGES[:0]))
    with pytest.raises(UsageError, match=r"Expected split=test\|train, got split=val"):
        open_dataset(f"fashion-mnist:{tmp_path}?split=val")


def test_bare_path(tmp_path: Path) -> None:
    for name, scheme in (("fashion-mnist", "fashion-mnist"), ("FashionMNIST", "fashion-mnist"), ("digits", "mnist")):
        _plant(tmp_path / name, FASHION_LABELS)
        for path in (tmp_path / name, tmp_path / name / "t10k-images-idx3-ubyte.gz"):
            with pytest.raises(UsageError, match=rf"Probably {scheme}:.* is meant"):
                open_dataset(str(path))


MNIST = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "mnist"


@pytest.mark.shared
@pytest.mark.skipif(not MNIST.is_dir(), reason="no real data sets beside the project")
def test_the_real_mnist_is_noticed() -> None:
    assert open_dataset(f"fashion-mnist:{MNIST}").notes[-1].endswith("Is mnist: meant?")
