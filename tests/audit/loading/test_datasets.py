"""Specs, labels, permutations and ids: what holds for every format."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from audit.errors import DataError, UsageError
from audit.loading import sources
from audit.loading.datasets import check_labels, conversion_notes, fit, open_dataset, parse_data_argument
from audit.loading.formats import encoded
from audit.loading.preprocess import Geometry

RGB, GREY = Geometry(channels=3), Geometry(channels=1)


def _npz(folder: Path, labels: list[int], shape: tuple[int, ...] = (4, 5)) -> str:
    images = np.random.default_rng(0).integers(0, 256, (len(labels), *shape), dtype=np.uint8)
    path = folder / "set.npz"
    np.savez(path, x=images, y=np.array(labels))
    return f"npz:{path}"


# ---------------------------------------------------------------------------------------------- arguments and specs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("npz:a.npz", ("eval", "npz:a.npz")),
        ("train=mnist:dir?split=train", ("train", "mnist:dir?split=train")),
        ("mnist:dir?split=train", ("eval", "mnist:dir?split=train")),
        ("members=csv:a=b/list.csv#file,class", ("members", "csv:a=b/list.csv#file,class")),
    ],
)
def test_data_argument(text: str, expected: tuple[str, str]) -> None:
    assert parse_data_argument(text) == expected


def test_data_argument_refuses_unknown_role() -> None:
    with pytest.raises(UsageError, match=r"Expected a role \(eval, train, .*surrogate\).* got 'test' in 'test=npz:a'"):
        parse_data_argument("test=npz:a")


def test_data_argument_without_spec() -> None:
    with pytest.raises(UsageError, match=r"Expected \[ROLE=\]SPEC, got 'train='"):
        parse_data_argument("train=")


@pytest.mark.parametrize("spec", ["cifar:somewhere", "nowhere", "npz:"])
def test_unknown_scheme_lists_the_schemes(spec: str) -> None:
    with pytest.raises(UsageError, match=r"cifar10:DIR, csv:FILE, .*mnist:.*npz:FILE, .*sklearn:digits, .*wds:SHARDS"):
        open_dataset(spec)


def test_bare_path_suggests_its_scheme(tmp_path: Path) -> None:
    (tmp_path / "classes" / "cat").mkdir(parents=True)
    (tmp_path / "tables").mkdir()
    names = ("a.npz", "a.csv", "a.parquet", "t10k-images-idx3-ubyte.gz", "tables/b.parquet")
    for name in names:
        (tmp_path / name).touch()
    wanted = {"a.npz": "npz", "a.csv": "csv", "a.parquet": "parquet", "tables": "parquet", "classes": "imagefolder"}
    wanted["t10k-images-idx3-ubyte.gz"] = "mnist"
    for name, scheme in wanted.items():
        with pytest.raises(UsageError, match=rf"Probably {scheme}:.*{name} is meant"):
            open_dataset(str(tmp_path / name))


@pytest.mark.parametrize("scheme", ["npz", "csv", "parquet", "mnist", "imagefolder"])
def test_missing_file(scheme: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected .* at '.*absent', got nothing there\. Check the path\."):
        open_dataset(f"{scheme}:{tmp_path / 'absent'}")


def test_unknown_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Expected split after '\?', got 'fold'"):
        open_dataset(f"mnist:{tmp_path}?fold=1".replace(str(tmp_path), "somewhere"))
    with pytest.raises(UsageError, match=r"Expected split=all\|train\|test, got split=half"):
        open_dataset("sklearn:digits?split=half")
    with pytest.raises(UsageError, match=r"Expected sklearn:digits, got sklearn:iris"):
        open_dataset("sklearn:iris")


# ---------------------------------------------------------------------------------------------- labels


def test_labels_within_the_model_pass(tmp_path: Path) -> None:
    check_labels(open_dataset(_npz(tmp_path, [0, 1, 2])), num_classes=3)


def test_labels_beyond_the_model(tmp_path: Path) -> None:
    dataset = open_dataset(_npz(tmp_path, [0, 12, 12, 15, 9]))
    with pytest.raises(
        DataError, match=r"labels 0\.\.9 for a model with 10 outputs, got 3 samples of 5 with labels 12"
    ):
        check_labels(dataset, num_classes=10)


def test_labels_that_start_at_one(tmp_path: Path) -> None:
    dataset = open_dataset(_npz(tmp_path, [1, 2, 3]))
    with pytest.raises(DataError, match=r"got labels 1\.\.3 in .*: they start at 1\. Subtract 1 from each"):
        check_labels(dataset, num_classes=3)


# ---------------------------------------------------------------------------------------------- fitting


def test_order_is_one_permutation_for_all_roles_and_sizes() -> None:
    dataset = open_dataset("sklearn:digits")
    few = fit(dataset, "eval", GREY, seed=3, samples=100)
    many = fit(dataset, "train", GREY, seed=3, samples=1000)
    everything = fit(dataset, "eval", GREY, seed=3, samples=None)
    assert few.order.tolist() == many.order[:100].tolist() == everything.order[:100].tolist()
    assert sorted(everything.order.tolist()) == list(range(1797))
    assert fit(dataset, "eval", GREY, seed=4, samples=100).order.tolist() != few.order.tolist()
    again = fit(open_dataset("sklearn:digits"), "eval", GREY, seed=3, samples=100)
    assert again.order.tolist() == few.order.tolist()


def test_order_follows_the_content_of_the_data(tmp_path: Path) -> None:
    first = fit(open_dataset(_npz(tmp_path, [0] * 50)), "eval", GREY, seed=0, samples=None)
    second = fit(open_dataset(_npz(tmp_path, [1] * 50)), "eval", GREY, seed=0, samples=None)
    assert first.digest != second.digest
    assert first.ids == second.ids
    assert first.order.tolist() != second.order.tolist()


def test_fitted_batches_hold_the_stored_pixels(tmp_path: Path) -> None:
    spec = _npz(tmp_path, [0, 1, 2, 1])
    split = fit(open_dataset(spec), "eval", RGB, seed=0, samples=None)
    stored = np.load(tmp_path / "set.npz")["x"]
    batch = split.batch(0, 4)
    assert batch.pixels.shape == (4, 3, 4, 5)
    np.testing.assert_array_equal((batch.pixels[:, 0] * 255).round().numpy(), stored[split.order])
    assert batch.labels.tolist() == [[0, 1, 2, 1][i] for i in split.order]


def test_at_least_one_sample(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Expected at least 1 sample, got 0"):
        fit(open_dataset(_npz(tmp_path, [0])), "eval", GREY, seed=0, samples=0)


def test_images_that_come_to_different_shapes(tmp_path: Path) -> None:
    for index, size in enumerate([(8, 8), (8, 8), (9, 8)]):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("L", size, index).save(tmp_path / "a" / f"{index}.png")
    split = fit(open_dataset(f"imagefolder:{tmp_path}"), "eval", GREY, seed=0, samples=None)
    with pytest.raises(DataError, match=r"Expected all images at \(1, 8, .\).*got .* from a/.\.png.*resizes and crops"):
        split.batch(0, 3)


def test_conversions_are_told(tmp_path: Path) -> None:
    grey = open_dataset(_npz(tmp_path, [0]))
    assert conversion_notes(grey, GREY) == ()
    assert "repeated three times" in conversion_notes(grey, RGB)[0]
    colour = open_dataset(_npz(tmp_path, [0], shape=(4, 5, 3)))
    assert colour.native_shape == (3, 4, 5)
    assert "converted to grey" in conversion_notes(colour, GREY)[0]


def test_of_a_large_set_a_seeded_sample_of_headers_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    for index in range(20):
        (tmp_path / "a" / f"{index}.png").write_bytes(b"no image")
    monkeypatch.setattr(encoded, "MAX_HEADERS", 7)
    with pytest.raises(DataError, match=r"got 7 damaged ones of 20: .* and 2 more\. Replace"):
        open_dataset(f"imagefolder:{tmp_path}")


def test_listed_names_five() -> None:
    assert sources.listed([1, 2, 3, 4, 5]) == "1, 2, 3, 4, 5"
    assert sources.listed(range(1007)) == "0, 1, 2, 3, 4 and 1,002 more"


# ---------------------------------------------------------------------------------------------- digits


def test_digits() -> None:
    everything, train, test = (open_dataset(f"sklearn:digits{query}") for query in ("", "?split=train", "?split=test"))
    assert (len(everything), len(train), len(test)) == (1797, 898, 899)
    assert everything.class_names == tuple("0123456789")
    assert everything.native_shape == (1, 8, 8)
    half = np.bincount(everything.labels) / 2
    assert np.abs(np.bincount(test.labels) - half).max() <= 1
    pixels = np.stack([fit(everything, "eval", GREY, seed=0, samples=None).source.pixels(i) for i in range(50)])
    assert pixels.dtype == np.uint8
    assert set(np.unique(pixels)) == {round(level * 255 / 16) for level in range(17)}
