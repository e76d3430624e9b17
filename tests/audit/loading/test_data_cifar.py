"""CIFAR-10 and CIFAR-100 in both layouts of their page: generated sets, and every refusal."""

import os
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from audit.errors import DataError, UnsafeArtefactError, UsageError
from audit.loading.datasets import fit, open_dataset
from audit.loading.preprocess import Geometry
from tests.python2_pickle import Python2Pickle

NAMES10 = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]
NAMES100 = [b"class_%d" % n for n in range(100)]
NAMES20 = [b"group_%d" % n for n in range(20)]
Dump = Callable[[object], bytes]


def _python2(content: object) -> bytes:
    return Python2Pickle().dump(content)


def _batch(n: int, seed: int = 0) -> tuple[npt.NDArray[np.uint8], list[int]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 3072), dtype=np.uint8), rng.integers(0, 10, n).tolist()


def _cifar10(folder: Path, dump: Dump = _python2, per_batch: int = 4) -> Path:
    """The python version, with batches of a few images."""
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for seed, name in enumerate(["test_batch", *(f"data_batch_{n}" for n in range(1, 6))]):
        data, labels = _batch(per_batch, seed)
        filenames = [b"cat_s_%06d.png" % n for n in range(per_batch)]
        batch = {b"batch_label": name.encode(), b"labels": labels, b"data": data, b"filenames": filenames}
        (folder / name).write_bytes(dump(batch))
    meta = {b"num_cases_per_batch": 10_000, b"label_names": NAMES10, b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(dump(meta))
    (folder / "readme.html").write_text("<html></html>")
    return folder


def _cifar10_binary(folder: Path, per_batch: int = 4) -> Path:
    folder = folder / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for seed, name in enumerate(["test_batch", *(f"data_batch_{n}" for n in range(1, 6))]):
        data, labels = _batch(per_batch, seed)
        records = np.concatenate([np.array(labels, np.uint8)[:, None], data], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_bytes(b"\n".join(NAMES10) + b"\n\n")
    return folder


def _cifar100(folder: Path, n: int = 5) -> tuple[Path, Path]:
    python, binary = folder / "cifar-100-python", folder / "cifar-100-binary"
    for made in (python, binary):
        made.mkdir(parents=True)
    for seed, name in enumerate(["test", "train"]):
        data, _ = _batch(n, seed)
        fine, coarse = [99 - k for k in range(n)], [19 - k for k in range(n)]
        batch = {
            b"filenames": [b"bos_taurus_s_%06d.png" % k for k in range(n)],
            b"batch_label": b"testing batch 1 of 1",
            b"fine_labels": fine,
            b"coarse_labels": coarse,
            b"data": data,
        }
        (python / name).write_bytes(_python2(batch))
        records = np.concatenate([np.array([coarse, fine], np.uint8).T, data], axis=1)
        (binary / f"{name}.bin").write_bytes(records.tobytes())
    (python / "meta").write_bytes(_python2({b"fine_label_names": NAMES100, b"coarse_label_names": NAMES20}))
    (binary / "fine_label_names.txt").write_bytes(b"\n".join(NAMES100) + b"\n")
    (binary / "coarse_label_names.txt").write_bytes(b"\n".join(NAMES20) + b"\n")
    return python, binary


def _pixels(spec: str) -> npt.NDArray[np.generic]:
    source = fit(open_dataset(spec), "eval", Geometry(channels=3), seed=0, samples=None).source
    return np.stack([source.pixels(index) for index in range(len(source))])


# ---------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("dump", [_python2, partial(pickle.dumps, protocol=2), partial(pickle.dumps, protocol=4)])
def test_cifar10_of_every_pickle(tmp_path: Path, dump: Dump) -> None:
    folder = _cifar10(tmp_path, dump)
    data, labels = _batch(4, 0)
    for spec in (f"cifar10:{folder}", f"cifar10:{tmp_path}", f"cifar10:{tmp_path}?split=test"):
        dataset = open_dataset(spec)
        assert dataset.labels.tolist() == labels
        assert dataset.class_names == tuple(name.decode() for name in NAMES10)
        assert dataset.native_shape == (3, 32, 32)
        assert dataset.images.name(2) == "test_batch[2]"
        assert dataset.notes == ("cifar10 has 10,000 images in split test; here are 4.",)
        np.testing.assert_array_equal(_pixels(spec), data.reshape(-1, 3, 32, 32))
    train = open_dataset(f"cifar10:{folder}?split=train")
    assert train.labels.tolist() == [label for seed in range(1, 6) for label in _batch(4, seed)[1]]
    every = np.concatenate([_batch(4, seed)[0] for seed in range(1, 6)]).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(_pixels(f"cifar10:{folder}?split=train"), every)


@pytest.mark.parametrize("split", ["test", "train"])
def test_both_versions_are_the_same_data(tmp_path: Path, split: str) -> None:
    python, binary = (
        open_dataset(f"cifar10:{folder}?split={split}")
        for folder in (_cifar10(tmp_path / "a"), _cifar10_binary(tmp_path / "b"))
    )
    assert python.digest == binary.digest
    assert python.ids == binary.ids
    assert python.class_names == binary.class_names
    assert np.array_equal(np.asarray(python.images.image(1)), np.asarray(binary.images.image(1)))


def test_pixels_are_planes_of_red_green_and_blue(tmp_path: Path) -> None:
    folder = _cifar10_binary(tmp_path)
    record = bytes([3]) + bytes([200] * 1024) + bytes([100] * 1024) + bytes([50] * 1024)
    (folder / "test_batch.bin").write_bytes(record[:1] + bytes([9]) + record[2:])
    image = np.asarray(open_dataset(f"cifar10:{folder}").images.image(0))
    assert image[0, 0].tolist() == [9, 100, 50]
    assert image[0, 1].tolist() == image[31, 31].tolist() == [200, 100, 50]


@pytest.mark.parametrize("split", ["test", "train"])
def test_cifar100_fine_and_coarse(tmp_path: Path, split: str) -> None:
    for folder in _cifar100(tmp_path):
        for labels, expected, names in (("fine", 99, NAMES100), ("coarse", 19, NAMES20)):
            dataset = open_dataset(f"cifar100:{folder}?split={split}&labels={labels}")
            assert dataset.labels.tolist() == [expected - k for k in range(5)]
            assert dataset.class_names == tuple(name.decode() for name in names)
    assert open_dataset(f"cifar100:{tmp_path}").labels.tolist() == [99, 98, 97, 96, 95]
    assert open_dataset(f"cifar100:{folder}").ids == open_dataset(f"cifar100:{tmp_path}").ids


def test_without_names(tmp_path: Path) -> None:
    folder = _cifar10(tmp_path)
    (folder / "batches.meta").unlink()
    dataset = open_dataset(f"cifar10:{folder}")
    assert dataset.class_names == ()
    assert dataset.notes[0] == "Class names are unknown, because batches.meta is not there."


def test_bare_paths(tmp_path: Path) -> None:
    _cifar10(tmp_path / "a")
    _cifar100(tmp_path / "b")
    (tmp_path / "cifar-10-python.tar.gz").touch()
    wanted = {"a": "cifar10", "a/cifar-10-batches-py": "cifar10", "b": "cifar100", "cifar-10-python.tar.gz": "cifar10"}
    for name, scheme in wanted.items():
        with pytest.raises(UsageError, match=rf"Probably {scheme}:.*{name} is meant"):
            open_dataset(str(tmp_path / name))


# ---------------------------------------------------------------------------------------------- refusals


def test_unknown_options(tmp_path: Path) -> None:
    folder = _cifar10(tmp_path)
    with pytest.raises(UsageError, match=r"Expected split=test\|train, got split=val"):
        open_dataset(f"cifar10:{folder}?split=val")
    with pytest.raises(UsageError, match=r"Expected split after '\?', got 'labels'"):
        open_dataset(f"cifar10:{folder}?labels=coarse")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected the folder of cifar10 at '.*absent', got nothing there"):
        open_dataset(f"cifar10:{tmp_path / 'absent'}")
    with pytest.raises(
        DataError, match=r"Expected cifar-10-batches-bin or cifar-10-batches-py at .* got an empty folder"
    ):
        open_dataset(f"cifar10:{tmp_path}")
    (tmp_path / "cifar-10-python.tar.gz").touch()
    for place in (tmp_path, tmp_path / "cifar-10-python.tar.gz"):
        with pytest.raises(
            DataError, match=r"got the archive cifar-10-python\.tar\.gz\. Unpack it \(tar -xzf cifar-10-p"
        ):
            open_dataset(f"cifar10:{place}")
    (tmp_path / "cifar-10-python.tar.gz").unlink()
    _cifar100(tmp_path)
    with pytest.raises(DataError, match=r"got cifar-100-binary, cifar-100-python\. Write cifar100:DIR\."):
        open_dataset(f"cifar10:{tmp_path}")


def test_missing_batches_are_all_named(tmp_path: Path) -> None:
    folder = _cifar10(tmp_path)
    (folder / "data_batch_2").unlink()
    (folder / "data_batch_5").unlink()
    with pytest.raises(
        DataError, match=r"Expected 5 files of split train in .*, got no data_batch_2, data_batch_5\. Un"
    ):
        open_dataset(f"cifar10:{folder}?split=train")


@pytest.mark.parametrize("cut", [1, 3072, 3073 * 3 + 5])
def test_truncated_binary(tmp_path: Path, cut: int) -> None:
    file = _cifar10_binary(tmp_path) / "test_batch.bin"
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(
        DataError, match=r"Expected records of 3,073 bytes in test_batch\.bin, got [\d,]+ bytes, which are"
    ):
        open_dataset(f"cifar10:{tmp_path}")


@pytest.mark.parametrize("keep", [0, 1, 100, 12_000, -1])
def test_truncated_pickle(tmp_path: Path, keep: int) -> None:
    file = _cifar10(tmp_path) / "test_batch"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(
        DataError, match=r"Expected a whole pickle, got test_batch, .*compare its md5 sum \(c58f30108f71"
    ):
        open_dataset(f"cifar10:{tmp_path}")


def test_empty_binary(tmp_path: Path) -> None:
    (_cifar10_binary(tmp_path) / "test_batch.bin").write_bytes(b"")
    with pytest.raises(DataError, match="got a data set with zero samples"):
        open_dataset(f"cifar10:{tmp_path}")


def _planted(folder: Path, meta: Sequence[object] = NAMES10, **fields: Any) -> str:
    folder = _cifar10(folder)
    data, labels = _batch(4)
    batch = {b"labels": labels, b"data": data} | {key.encode(): value for key, value in fields.items()}
    (folder / "test_batch").write_bytes(_python2({key: value for key, value in batch.items() if value is not None}))
    (folder / "batches.meta").write_bytes(_python2({b"label_names": list(meta)}))
    return f"cifar10:{folder}"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"labels": [0, 1, 2]}, "Expected a label an image in test_batch, got 3 for 4"),
        ({"labels": [0, 1, 2, 11]}, "Expected labels below 10, got 11 in test_batch"),
        ({"labels": [0, 1, 2, -1]}, r"Expected labels of 0 or more, got 1 negative label \(-1\) in test_batch"),
        ({"labels": [0, 1, 2, b"cat"]}, "Expected a list of integers as 'labels' in test_batch, got none"),
        ({"labels": [0, 1, 2, True]}, "Expected a list of integers as 'labels'"),
        ({"labels": None}, "Expected a list of integers as 'labels'"),
        ({"data": None}, r"Expected 'data' of shape \(n, 3072\) in test_batch, got no array"),
        ({"data": np.zeros((4, 3071), np.uint8)}, r"Expected 'data' of shape \(n, 3072\) .* got shape \(4, 3071\)"),
        ({"data": np.zeros(3072, np.uint8)}, r"got shape \(3072,\)"),
        ({"meta": NAMES10[:9]}, "Expected 10 class names in batches.meta, got 9"),
        ({"meta": [0] * 10}, "Expected a list of names as 'label_names' in batches.meta, got none"),
    ],
)
def test_refused_batches(tmp_path: Path, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=text):
        open_dataset(_planted(tmp_path, **fields))


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        open_dataset(_planted(tmp_path, meta=NAMES10[:3], labels=[0, 1, 99, 3, 4]))
    number, labels, names = str(error.value).splitlines()
    assert number.startswith("Expected a label an image in test_batch, got 5 for 4.")
    assert labels.startswith("Expected labels below 10, got 99 in test_batch.")
    assert names.startswith("Expected 10 class names in batches.meta, got 3.")


def test_cifar100_labels_in_a_file_of_cifar10(tmp_path: Path) -> None:
    _, binary = _cifar100(tmp_path)
    (binary / "test.bin").rename(binary / "test_batch.bin")
    with pytest.raises(DataError, match=r"(?s)Expected records of 3,073 bytes.*or of another data set"):
        open_dataset(f"cifar10:{binary}")


@pytest.mark.parametrize("file", ["test_batch", "batches.meta"])
def test_hostile_pickles_do_not_run(tmp_path: Path, file: str) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch '{tmp_path / 'sprung'}'",)

    (_cifar10(tmp_path) / file).write_bytes(pickle.dumps({b"data": Trap(), b"label_names": Trap()}, 2))
    with pytest.raises(
        UnsafeArtefactError, match=r"needs `\w+\.system`.*or use the binary version from there\."
    ) as error:
        open_dataset(f"cifar10:{tmp_path}")
    assert error.value.exit_code == 4
    assert not (tmp_path / "sprung").exists()


def test_no_pickle_is_touched_beside_the_binary_version(tmp_path: Path) -> None:
    (_cifar10(tmp_path) / "test_batch").write_bytes(b"broken")
    _cifar10_binary(tmp_path)
    assert len(open_dataset(f"cifar10:{tmp_path}")) == 4
