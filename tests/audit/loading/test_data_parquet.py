"""Parquet tables of images: planted tables and every refusal."""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from audit.errors import DataError, UsageError
from audit.loading.datasets import fit, open_dataset
from audit.loading.formats import parquet
from audit.loading.preprocess import Geometry


def _png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _write(
    path: Path, encoded: list[bytes | None], labels: Any, *, names: list[str] | None = None, **columns: str
) -> str:
    image, label = columns.get("image", "image"), columns.get("label", "label")
    structs = [{"bytes": content, "path": None} for content in encoded]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"extra": ["x"] * len(encoded), image: pa.array(structs, kind), label: labels})
    if names is not None:
        features = {label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=2)
    return f"parquet:{path}"


@pytest.mark.parametrize("columns", [{}, {"image": "img"}, {"image": "img", "label": "fine_label"}])
def test_columns_and_class_names(columns: dict[str, str], tmp_path: Path) -> None:
    spec = _write(tmp_path / "a.parquet", [_png(v) for v in (5, 6, 7)], [1, 0, 1], names=["ape", "cat"], **columns)
    dataset = open_dataset(spec)
    assert dataset.class_names == ("ape", "cat")
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.native_shape == (3, 3, 4)
    source = fit(dataset, "eval", Geometry(channels=3), seed=0, samples=None).source
    assert [source.pixels(index)[0, 0, 0] for index in range(3)] == [5, 6, 7]


def test_binary_column_without_metadata(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [_png(1), _png(2)], "label": [0, 3]}), tmp_path / "a.parquet")
    dataset = open_dataset(f"parquet:{tmp_path / 'a.parquet'}")
    assert dataset.class_names == ()
    assert np.asarray(dataset.images.image(1))[0, 0].tolist() == [2, 0, 0]


def test_folder_of_one_split(tmp_path: Path) -> None:
    for index in range(3):
        _write(tmp_path / f"test-0000{index}-of-00003.parquet", [_png(index), _png(index + 10)], [index, index])
    dataset = open_dataset(f"parquet:{tmp_path}")
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.images.name(3) == "test-00001-of-00003.parquet row 1"
    _write(tmp_path / "train-00000-of-00001.parquet", [_png(1)], [0])
    with pytest.raises(
        DataError, match=r"Expected tables of one split .* got several\. Append \?split= with one of test"
    ):
        open_dataset(f"parquet:{tmp_path}")
    assert open_dataset(f"parquet:{tmp_path}?split=test").digest == dataset.digest
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "data").symlink_to(tmp_path)
    assert open_dataset(f"parquet:{tmp_path / 'repository'}?split=test").digest == dataset.digest
    with pytest.raises(DataError, match=r"got none of 'val'\. Append \?split= with one of test, train"):
        open_dataset(f"parquet:{tmp_path}?split=val")
    with pytest.raises(UsageError, match=r"Expected split after '\?', got 'part'"):
        open_dataset(f"parquet:{tmp_path}?part=val")


def test_tables_must_agree_on_class_names(tmp_path: Path) -> None:
    _write(tmp_path / "test-0.parquet", [_png(0)], [0], names=["ape", "cat"])
    _write(tmp_path / "test-1.parquet", [_png(0)], [0], names=["cat", "ape"])
    with pytest.raises(DataError, match="Expected the same class names in all tables"):
        open_dataset(f"parquet:{tmp_path}")


def test_ids_are_of_the_encoded_bytes(tmp_path: Path) -> None:
    one = open_dataset(_write(tmp_path / "a.parquet", [_png(1), _png(2)], [0, 1]))
    two = open_dataset(_write(tmp_path / "b.parquet", [_png(2), _png(1)], [0, 1], image="img"))
    assert one.ids == two.ids[::-1]
    assert one.digest != two.digest


@pytest.mark.parametrize(
    ("encoded", "labels", "text"),
    [
        (
            [_png(0), None, None],
            [0, 0, 0],
            r"Expected image bytes in every row, got none in 2 rows of a\.parquet \(1",
        ),
        (
            [_png(0), _png(1)],
            [0, None],
            r"Expected a label in every row, got 1 empty one in column 'label' of",
        ),
        ([_png(0), b"broken"], [0, 1], r"got 1 damaged one of 2: a\.parquet row 1 \(not an image of a known format\)"),
        (
            [_png(0), _png(1)],
            [0, -1],
            r"Expected labels of 0 or more, got 1 negative label \(-1\)",
        ),
        (
            [_png(0)],
            [1e300],
            r"Expected labels of at most 1,000,000,000, got 1 larger label \(1e\+300\) in column 'label'",
        ),
        ([_png(0)], [0.5], r"Expected integer labels, got 1 fractional label \(0\.5\)"),
        ([_png(0)], ["cat"], r"Expected integer labels in column 'label' of a\.parquet, got string"),
        ([_png(0)], [True], r"Expected integer labels in column 'label' of a\.parquet, got bool"),
        ([], pa.array([], pa.int64()), r"got a data set with zero samples"),
    ],
)
def test_refused_rows(encoded: list[bytes | None], labels: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=text):
        open_dataset(_write(tmp_path / "a.parquet", encoded, labels))


def test_label_without_class_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected labels below 2, the number of class names, got label 2"):
        open_dataset(_write(tmp_path / "a.parquet", [_png(0)], [2], names=["ape", "cat"]))


def test_missing_columns_lists_those_found(tmp_path: Path) -> None:
    spec = _write(tmp_path / "a.parquet", [_png(0)], [0], image="picture", label="class")
    with pytest.raises(DataError, match=r"Expected columns image or img and label or fine_label .* got extra, picture"):
        open_dataset(spec)
    pq.write_table(pa.table({"image": ["path.png"], "label": [0]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"Expected encoded images .* in column 'image' of b\.parquet, got string"):
        open_dataset(f"parquet:{tmp_path / 'b.parquet'}")


def test_columns_that_cannot_be_told_apart_or_hold_no_bytes(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array([_png(0)]), pa.array([_png(1)]), pa.array([0])], ["image", "image", "label"])
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"Expected one column image in a\.parquet, got more of that name\. Rename"):
        open_dataset(f"parquet:{tmp_path / 'a.parquet'}")
    numbers = pa.array([{"bytes": 7}], pa.struct([("bytes", pa.int64())]))
    pq.write_table(pa.table({"image": numbers, "label": [0]}), tmp_path / "b.parquet")
    with pytest.raises(
        DataError, match=r"in column 'image' of b\.parquet, got struct<bytes: int64>\. Write them as PNG"
    ):
        open_dataset(f"parquet:{tmp_path / 'b.parquet'}")


@pytest.mark.parametrize("metadata", ["[" * 100_000, "{", "5", '{"info": {"features": {"label": {"names": 5}}}}'])
def test_metadata_that_name_no_classes(tmp_path: Path, metadata: str) -> None:
    table = pa.table({"image": [_png(1)], "label": [0]}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "a.parquet")
    assert open_dataset(f"parquet:{tmp_path / 'a.parquet'}").class_names == ()


def test_an_image_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "LARGEST_IMAGE", 100)
    spec = _write(tmp_path / "a.parquet", [_png(1), bytes(200)], [0, 1])
    with pytest.raises(DataError, match=r"got 1 damaged one of 2: a\.parquet row 1 \(more than 100 bytes\)"):
        open_dataset(spec)


def test_damaged_file(tmp_path: Path) -> None:
    spec = _write(tmp_path / "a.parquet", [_png(value) for value in range(20)], list(range(20)))
    whole = (tmp_path / "a.parquet").read_bytes()
    for damaged in (whole[:-30], b"", whole[:40] + b"\xff" * 400 + whole[440:]):
        (tmp_path / "a.parquet").write_bytes(damaged)
        with pytest.raises(DataError, match=r"Expected a whole parquet file, got a\.parquet, which cannot be read \("):
            open_dataset(spec)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"Expected parquet files in '.*empty', got none"):
        open_dataset(f"parquet:{empty}")


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        open_dataset(_write(tmp_path / "a.parquet", [_png(0), b"broken", None, _png(1)], [0, None, -1, 1]))
    empty_labels, no_bytes, negative, damaged = str(error.value).splitlines()
    assert empty_labels.startswith("Expected a label in every row, got 1 empty one")
    assert no_bytes.startswith("Expected image bytes in every row, got none in 1 row")
    assert negative.startswith("Expected labels of 0 or more, got 1 negative label (-1)")
    assert (
        "got 2 damaged ones of 4: a.parquet row 1 (not an image of a known format), a.parquet row 2 (empty" in damaged
    )


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    _write(tmp_path / "a.parquet", [_png(1), _png(2)], [0, 1])
    odd = tmp_path / os.fsdecode(b"\xff\xfe.parquet")
    (tmp_path / "a.parquet").rename(odd)
    assert len(open_dataset(f"parquet:{odd}")) == 2
    odd.write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match="Expected a whole parquet file"):
        open_dataset(f"parquet:{odd}")
