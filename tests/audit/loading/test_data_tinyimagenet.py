"""Tiny ImageNet as its archive unpacks: a generated set, and every refusal."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from audit.errors import DataError, UsageError
from audit.loading.datasets import open_dataset
from audit.loading.formats.tinyimagenet_splits import _is_plain

WNIDS = ("n02124075", "n01443537", "n04067472")
"""In the order of their file, which is not sorted."""
WORDS = {
    "n02124075": "Egyptian cat",
    "n01443537": "goldfish, Carassius auratus",
    "n04067472": "reel",
    "n00001740": "entity",
}


def _plant(path: Path, value: int = 0, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (64, 64), value).save(path, "JPEG")


def _tiny(folder: Path) -> Path:
    root = folder / "tiny-imagenet-200"
    for number, wnid in enumerate(WNIDS):
        for index in range(2):
            _plant(root / "train" / wnid / "images" / f"{wnid}_{index}.JPEG", 10 * number + index)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    (root / "words.txt").write_text("".join(f"{wnid}\t{words}\n" for wnid, words in WORDS.items()))
    lines = []
    for index in range(4):
        _plant(root / "val" / "images" / f"val_{index}.JPEG", 100 + index, "L" if index == 3 else "RGB")
        lines.append(f"val_{index}.JPEG\t{WNIDS[index % 3]}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    _plant(root / "test" / "images" / "test_0.JPEG")
    return root


ORDER = "Labels number the wnids in sorted order, as ImageFolder on train does, not in the order of wnids.txt."


def test_val(tmp_path: Path) -> None:
    root = _tiny(tmp_path)
    for spec in (f"tinyimagenet:{root}", f"tinyimagenet:{tmp_path}", f"tinyimagenet:{root}?split=val"):
        dataset = open_dataset(spec)
        assert dataset.labels.tolist() == [1, 0, 2, 1]
        assert dataset.class_names == ("goldfish", "Egyptian cat", "reel")
        assert dataset.images.name(2) == "val/images/val_2.JPEG"
        assert dataset.notes == (ORDER, "1 of 4 checked images are grey, the others in colour.")


def test_train_has_the_labels_of_imagefolder(tmp_path: Path) -> None:
    root = _tiny(tmp_path)
    dataset = open_dataset(f"tinyimagenet:{root}?split=train")
    folders = open_dataset(f"imagefolder:{root / 'train'}")
    assert dataset.labels.tolist() == folders.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.ids == folders.ids
    assert dataset.digest == folders.digest
    assert folders.class_names == tuple(sorted(WNIDS))
    assert dataset.native_shape == (3, 64, 64)
    assert dataset.notes == (ORDER,)


def test_class_names_are_unique_or_the_wnids(tmp_path: Path) -> None:
    root = _tiny(tmp_path)
    (root / "words.txt").write_text("n01443537\tcrane\nn02124075\tcrane, bird\nnonsense\n")
    assert open_dataset(f"tinyimagenet:{root}").class_names == ("crane (n01443537)", "crane (n02124075)", "n04067472")
    (root / "words.txt").unlink()
    assert open_dataset(f"tinyimagenet:{root}").class_names == tuple(sorted(WNIDS))


def test_sorted_list_needs_no_warning(tmp_path: Path) -> None:
    root = _tiny(tmp_path)
    (root / "wnids.txt").write_text("\r\n".join(sorted(WNIDS)))
    assert open_dataset(f"tinyimagenet:{root}").notes[0] == f"{ORDER.partition(', not')[0]}."


def test_strays_and_links_are_noted(tmp_path: Path) -> None:
    root = _tiny(tmp_path)
    _plant(root / "val" / "images" / "extra.JPEG")
    (root / "val" / "images" / "notes.md").touch()
    (root / "val" / "images" / ".hidden.JPEG").touch()
    note = open_dataset(f"tinyimagenet:{root}").notes[1]
    assert note.startswith(
        "2 files skipped because not an image of the split, or a link out: val/images/extra.JPEG, val"
    )
    _plant(tmp_path / "secret.JPEG")
    images = root / "train" / WNIDS[0] / "images"
    (images / "out.JPEG").symlink_to(tmp_path / "secret.JPEG")
    (images / "in.JPEG").symlink_to(images / f"{WNIDS[0]}_0.JPEG")
    shutil.rmtree(root / "train" / WNIDS[1])
    (root / "train" / WNIDS[2] / "images").rename(tmp_path / "outside")
    (root / "train" / WNIDS[2] / "images").symlink_to(tmp_path / "outside")
    dataset = open_dataset(f"tinyimagenet:{root}?split=train")
    assert dataset.labels.tolist() == [1, 1, 1]
    assert dataset.notes[1:] == (
        "2 class folders without images, kept as class: n01443537, n04067472.",
        "1 file skipped because not an image of the split, or a link out: train/n02124075/images/out.JPEG.",
    )


@pytest.mark.parametrize("name", ["wnids.txt", "words.txt", "val/val_annotations.txt"])
def test_no_list_is_read_through_a_link_out_of_the_folder(tmp_path: Path, name: str) -> None:
    root = _tiny(tmp_path)
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret\n")
    (root / name).unlink(missing_ok=True)
    (root / name).symlink_to(secret)
    with pytest.raises(DataError, match="got a link out of it") as error:
        open_dataset(f"tinyimagenet:{root}")
    assert "a secret" not in str(error.value)


def test_bare_path(tmp_path: Path) -> None:
    root = _tiny(tmp_path)
    for path in (root, tmp_path):
        with pytest.raises(UsageError, match=rf"Probably tinyimagenet:{path} is meant"):
            open_dataset(str(path))


# ---------------------------------------------------------------------------------------------- refusals


def test_splits(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Expected split=val\|train, got split=test"):
        open_dataset(f"tinyimagenet:{_tiny(tmp_path)}?split=test")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected wnids\.txt in .* got an empty folder\. Name the folder"):
        open_dataset(f"tinyimagenet:{tmp_path}")
    (tmp_path / "tiny-imagenet-200.zip").touch()
    for place in (tmp_path, tmp_path / "tiny-imagenet-200.zip"):
        with pytest.raises(DataError, match=r"got tiny-imagenet-200\.zip\. Unpack tiny-imagenet-200\.zip and name its"):
            open_dataset(f"tinyimagenet:{place}")
    root = _tiny(tmp_path)
    (root / "wnids.txt").unlink()
    with pytest.raises(
        DataError, match=r"got test, train, val, words\.txt\. Copy wnids\.txt there, or use imagefolder:"
    ):
        open_dataset(f"tinyimagenet:{root}")


@pytest.mark.parametrize(
    ("content", "found"),
    [("", "none"), ("n01443537\nn01443537\n", "n01443537"), ("n01443537\n../../etc\nn1\n", r"'\.\./\.\./etc', 'n1'")],
)
def test_list_of_wnids(tmp_path: Path, content: str, found: str) -> None:
    root = _tiny(tmp_path)
    (root / "wnids.txt").write_text(content)
    with pytest.raises(
        DataError, match=rf"Expected different wnids .* in wnids\.txt, a line each, got {found}\. Unpack"
    ):
        open_dataset(f"tinyimagenet:{root}")
    (root / "wnids.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"Expected text in wnids\.txt, got "):
        open_dataset(f"tinyimagenet:{root}")


@pytest.mark.parametrize("below", ["val", "val/images"])
def test_val_sorted_into_class_folders(tmp_path: Path, below: str) -> None:
    root = _tiny(tmp_path)
    _plant(root / below / WNIDS[0] / "val_0.JPEG")
    with pytest.raises(DataError, match=rf"got class folders in '.*{below}'\. Use imagefolder:.*{below};"):
        open_dataset(f"tinyimagenet:{root}")


def test_train_with_images_in_the_class_folders(tmp_path: Path) -> None:
    root = _tiny(tmp_path)
    for wnid in WNIDS:
        shutil.rmtree(root / "train" / wnid / "images")
    with pytest.raises(DataError, match=r"Expected images in train/<wnid>/images in .*, got none\. Unpack"):
        open_dataset(f"tinyimagenet:{root}?split=train")
    _plant(root / "train" / WNIDS[0] / "0.JPEG")
    with pytest.raises(DataError, match=r"The class folders hold them directly: use imagefolder:.*train\."):
        open_dataset(f"tinyimagenet:{root}?split=train")


def test_val_is_not_there(tmp_path: Path) -> None:
    root = _tiny(tmp_path)
    (root / "val" / "val_annotations.txt").unlink()
    with pytest.raises(DataError, match=r"Expected val/images and val/val_annotations\.txt in .*, got not both"):
        open_dataset(f"tinyimagenet:{root}")


@pytest.mark.parametrize(
    "name",
    ["../../secret.JPEG", "../secret.JPEG", "/etc/passwd", "images/val_0.JPEG", "..", ".", "", "a\\b.JPEG", "v\0.JPEG"],
)
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    root = _tiny(tmp_path)
    _plant(tmp_path / "secret.JPEG")
    with (root / "val" / "val_annotations.txt").open("a") as table:
        table.write(f"{name}\t{WNIDS[0]}\t0\t0\t1\t1\n")
    with pytest.raises(
        DataError, match=r"Expected plain file names, which lead to no other folder, in val_annotations\.txt"
    ):
        open_dataset(f"tinyimagenet:{root}")


@given(st.text(max_size=30))
def test_plain_names_stay_in_their_folder(name: str) -> None:
    if _is_plain(name):
        folder = Path("/some/folder")
        assert (folder / name).parent == folder
        assert (folder / name).resolve().parent == folder.resolve()


def test_all_that_is_wrong_with_the_annotations_is_said_at_once(tmp_path: Path) -> None:
    root = _tiny(tmp_path)
    (root / "val" / "val_annotations.txt").write_text(
        "val_0.JPEG\tn99999999\nval_1.JPEG\n../x.JPEG\tn02124075\nval_2.JPEG\tn02124075\nval_2.JPEG\tn02124075\n"
    )
    with pytest.raises(DataError) as error:
        open_dataset(f"tinyimagenet:{root}")
    short, leading, unknown, twice = str(error.value).splitlines()
    assert "Expected file, tab and wnid in every line in val_annotations.txt, got 1 shorter line: 2." in short
    assert "got 1 other name: '../x.JPEG'." in leading
    assert "Expected wnids of wnids.txt in val_annotations.txt, got 1 other wnid: 'n9999" in unknown
    assert "got 1 repeated file: val_2.JPEG." in twice


def test_missing_and_damaged_images(tmp_path: Path) -> None:
    root = _tiny(tmp_path)
    (root / "val" / "images" / "val_1.JPEG").write_bytes(b"\xff\xd8broken")
    with pytest.raises(
        DataError, match=r"got 1 damaged one of 4: val/images/val_1\.JPEG \(not an image of a known format"
    ):
        open_dataset(f"tinyimagenet:{root}")
    (root / "val" / "images" / "val_1.JPEG").unlink()
    with pytest.raises(DataError, match=r"got no val_1\.JPEG \(1 missing file\)"):
        open_dataset(f"tinyimagenet:{root}")


def test_empty_annotations(tmp_path: Path) -> None:
    root = _tiny(tmp_path)
    (root / "val" / "val_annotations.txt").write_text("\n")
    with pytest.raises(DataError, match="got a data set with zero samples"):
        open_dataset(f"tinyimagenet:{root}")
