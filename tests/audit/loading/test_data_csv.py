"""Tables of image files: planted sets and every refusal."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from audit.errors import DataError, UsageError
from audit.loading.datasets import open_dataset


def _plant(path: Path, value: int = 0, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


def _encoded(image: Image.Image, format: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **settings)
    return buffer.getvalue()


def test_csv_with_integer_labels(tmp_path: Path) -> None:
    _plant(tmp_path / "images" / "0.png")
    _plant(tmp_path / "images" / "1.png", 1)
    (tmp_path / "list.csv").write_text("path,label,more\nimages/1.png,4,x\nimages/0.png,0,y\n")
    dataset = open_dataset(f"csv:{tmp_path / 'list.csv'}")
    assert dataset.labels.tolist() == [4, 0]
    assert dataset.class_names == ()
    assert dataset.images.name(0) == "images/1.png"


def test_csv_with_names_and_other_columns(tmp_path: Path) -> None:
    for index in range(3):
        _plant(tmp_path / f"{index}.png", index)
    (tmp_path / "list.csv").write_text("﻿file,animal\n0.png,cat\n1.png,ape\n2.png,cat\n", encoding="utf-8")
    dataset = open_dataset(f"csv:{tmp_path / 'list.csv'}#file,animal")
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.class_names == ("ape", "cat")
    assert dataset.notes == ("Label names were numbered in sorted order: ape=0, cat=1.",)


def test_csv_missing_columns_lists_those_found(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file,class\n")
    with pytest.raises(DataError, match=r"Expected columns path and label in list\.csv, got file, class\. Name"):
        open_dataset(f"csv:{tmp_path / 'list.csv'}")
    with pytest.raises(UsageError, match=r"Expected csv:FILE#path_column,label_column, got 'file' after '#'"):
        open_dataset(f"csv:{tmp_path / 'list.csv'}#file")


def test_csv_says_all_that_is_wrong_at_once(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"broken")
    rows = ["broken.png,0", *(f"gone{index}.png,-1" for index in range(7))]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(DataError) as error:
        open_dataset(f"csv:{tmp_path / 'list.csv'}")
    missing, labels, damaged = str(error.value).splitlines()
    assert "got 7 missing files: gone0.png, gone1.png, gone2.png, gone3.png, gone4.png and 2 more." in missing
    assert "Expected labels of 0 or more, got 7 negative labels (-1) in column 'label' of list.csv" in labels
    assert "got 1 damaged one of 1: broken.png (not an image of a known format)" in damaged


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (["0.5", "1"], r"Expected integer labels, got 1 fractional label \(0\.5\) in column 'label'"),
        (["1e400", "nan"], r"Expected integer labels, got 1 fractional label \(nan\) in column 'label'"),
        (
            ["1e400", "9" * 400],
            r"Expected labels of at most 1,000,000,000, got 2 larger labels \(inf\) in column 'label'",
        ),
        (["0", "1e300"], r"got 1 larger label \(1e\+300\) in column 'label' of list\.csv\. Number the classes from 0"),
        (["0", "cat"], r"Expected either integers or names as labels, got 1 number and 1 name \(cat\)"),
        (["0", ""], r"Expected a label in every row, got 1 empty label in column 'label' of list\.csv, lines 3"),
        ([], r"got a data set with zero samples"),
    ],
)
def test_csv_refuses_labels(labels: list[str], text: str, tmp_path: Path) -> None:
    _plant(tmp_path / "0.png")
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *(f"0.png,{label}" for label in labels)]))
    with pytest.raises(DataError, match=text):
        open_dataset(f"csv:{tmp_path / 'list.csv'}")


def test_csv_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes("path,label\nä.png,0\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"Expected a UTF-8 table in list\.csv, got .* Save it as UTF-8 CSV"):
        open_dataset(f"csv:{tmp_path / 'list.csv'}")


def test_paths_out_of_the_folder_are_read_and_said(tmp_path: Path) -> None:
    _plant(tmp_path / "else" / "0.png")
    _plant(tmp_path / "table" / "1.png", 1)
    (tmp_path / "table" / "link.png").symlink_to(tmp_path / "else" / "0.png")
    rows = ["../else/0.png", "1.png", str(tmp_path / "else" / "0.png"), "link.png", str(tmp_path / "table" / "1.png")]
    table = tmp_path / "table" / "list.csv"
    table.write_text("\n".join(["path,label", *(f"{path},0" for path in rows)]))
    dataset = open_dataset(f"csv:{table}")
    outside = f"../else/0.png, {tmp_path}/else/0.png, link.png"
    assert dataset.notes == (f"3 paths lead out of the table's folder: {outside}.",)
    assert len(dataset) == 5
    table.write_text("path,label\n../else/0.png,0\n")
    assert open_dataset(f"csv:{table}").notes == ("1 path leads out of the table's folder: ../else/0.png.",)


def test_paths_to_what_is_no_picture_of_the_user(tmp_path: Path) -> None:
    """Opening some of them would wait for ever."""
    os.mkfifo(tmp_path / "waits.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("/proc/self/status")
    rows = ["waits.png", "folder.png", "link.png", "/dev/zero", "/proc/kmsg", "/sys/kernel/notes"]
    rows = [path for path in rows if (tmp_path / path).exists()]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *(f"{path},0" for path in rows)]))
    with pytest.raises(DataError, match=rf"Expected regular files by list\.csv, got {len(rows)} others") as error:
        open_dataset(f"csv:{tmp_path / 'list.csv'}")
    assert "(folders, devices, pipes or in /proc, /sys, /dev): waits.png, folder.png, link.png, /dev/z" in str(
        error.value
    )


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b.png", "nowhere.png/0.png"])
def test_paths_that_no_file_can_have(tmp_path: Path, path: str) -> None:
    (tmp_path / "list.csv").write_text(f"path,label\n{path},0\n")
    with pytest.raises(
        DataError, match=r"Expected the files that list\.csv names, got 1 missing file: .{1,130}\. Correct"
    ):
        open_dataset(f"csv:{tmp_path / 'list.csv'}")


def test_an_empty_file_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "0.png").touch()
    (tmp_path / "list.csv").write_text("path,label\n0.png,0\n")
    with pytest.raises(DataError, match=r"got 1 damaged one of 1: 0\.png \(empty file\)"):
        open_dataset(f"csv:{tmp_path / 'list.csv'}")


def test_a_table_without_lines_is_not_read_to_its_end(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    with table.open("wb") as file:
        file.truncate(1 << 36)  # gigabytes of nothing, which take no room
    with pytest.raises(DataError, match=r"got a line of more than 1,048,576 letters"):
        open_dataset(f"csv:{table}")
