"""Image folders: planted sets and every refusal."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from audit.errors import DataError
from audit.loading.datasets import fit, open_dataset
from audit.loading.preprocess import Geometry


def _plant(path: Path, value: int = 0, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


def _encoded(image: Image.Image, format: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **settings)
    return buffer.getvalue()


def test_imagefolder_reads_every_suffix(tmp_path: Path) -> None:
    suffixes = ("png", "jpg", "jpeg", "bmp", "webp", "tif", "gif", "ppm")
    for index, suffix in enumerate(suffixes):
        _plant(tmp_path / ("cat" if index % 2 else "ape") / f"{index}.{suffix}", value=index)
    _plant(tmp_path / "cat" / "deeper" / "UPPER.PNG", value=100)
    dataset = open_dataset(f"imagefolder:{tmp_path}")
    assert len(dataset) == len(suffixes) + 1
    assert dataset.class_names == ("ape", "cat")
    assert dataset.labels.tolist() == [0] * 4 + [1] * 5
    assert dataset.native_shape == (3, 4, 6)
    assert dataset.notes == ()
    assert fit(dataset, "eval", Geometry(channels=3), seed=0, samples=None).batch(0, 9).pixels.shape == (9, 3, 4, 6)


def test_imagefolder_notes_strays_and_empty_classes(tmp_path: Path) -> None:
    _plant(tmp_path / "ape" / "0.png")
    _plant(tmp_path / "loose.png")
    (tmp_path / "bee").mkdir()
    (tmp_path / "ape" / "Thumbs.db").write_bytes(b"")
    (tmp_path / "ape" / "notes.txt").write_text("")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "__MACOSX" / "ape").mkdir(parents=True)
    (tmp_path / "ape" / ".DS_Store").write_bytes(b"")
    dataset = open_dataset(f"imagefolder:{tmp_path}")
    assert dataset.class_names == ("ape", "bee")
    assert dataset.notes == (
        "3 files skipped because no image of a class folder: loose.png, ape/Thumbs.db, ape/notes.txt.",
        "1 class folder without images, kept as class: bee.",
    )


def test_imagefolder_follows_no_link_outside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    inside = _plant(root / "ape" / "0.png")
    outside = _plant(tmp_path / "secret" / "1.png", value=9)
    (root / "ape" / "inside.png").symlink_to(inside)
    (root / "ape" / "outside.png").symlink_to(outside)
    (root / "ape" / "broken.png").symlink_to(tmp_path / "gone.png")
    (root / "ape" / "folder").symlink_to(outside.parent)
    (root / "bee").symlink_to(outside.parent)
    dataset = open_dataset(f"imagefolder:{root}")
    assert len(dataset) == 2
    assert dataset.class_names == ("ape",)
    assert "4 symbolic links skipped because leading out of the folder" in dataset.notes[0]
    assert "bee, ape/folder, ape/broken.png, ape/outside.png" in dataset.notes[0]


def test_imagefolder_without_classes_or_images(tmp_path: Path) -> None:
    _plant(tmp_path / "0.png")
    with pytest.raises(DataError, match=r"got no sub-folder, but 1 image at the top in .*csv:FILE"):
        open_dataset(f"imagefolder:{tmp_path}")
    (tmp_path / "ape").mkdir()
    with pytest.raises(DataError, match="got 1 sub-folder without images in "):
        open_dataset(f"imagefolder:{tmp_path}")
    with pytest.raises(DataError, match=r"Expected a folder with one sub-folder a class, got the file '.*0\.png'"):
        open_dataset(f"imagefolder:{tmp_path / '0.png'}")


def test_imagefolder_names_five_damaged_images_and_the_count(tmp_path: Path) -> None:
    _plant(tmp_path / "ape" / "good.png")
    for index in range(7):
        (tmp_path / "ape" / f"{index}.jpg").write_bytes(b"\xff\xd8broken" if index else b"")
    with pytest.raises(DataError) as error:
        open_dataset(f"imagefolder:{tmp_path}")
    text = str(error.value)
    assert text.startswith(
        "Expected images that can be decoded, got 7 damaged ones of 8: ape/0.jpg (empty file), ape/1"
    )
    assert text.endswith("ape/4.jpg (not an image of a known format) and 2 more. Replace or remove them.")


def test_truncated_image_is_named_when_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "ape").mkdir()
    (tmp_path / "ape" / "cut.png").write_bytes(_encoded(Image.fromarray(noise), "PNG")[:6000])
    dataset = open_dataset(f"imagefolder:{tmp_path}")
    with pytest.raises(DataError, match=r"Expected an image that can be decoded, got ape/cut\.png \(.*\)\. Replace"):
        dataset.images.image(0)


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _plant(tmp_path / "ape" / "bomb.png", size=(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"ape/bomb\.png \(more pixels than is safe to decode\)"):
        open_dataset(f"imagefolder:{tmp_path}")


def test_ids_do_not_depend_on_names(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 2), ("c", 3)):
        _plant(tmp_path / "one" / "ape" / f"{name}.png", value)
        _plant(tmp_path / "two" / "bee" / f"{name}_renamed.png", value)
    one, two = (open_dataset(f"imagefolder:{tmp_path / name}") for name in ("one", "two"))
    assert one.ids == two.ids
    assert len(set(one.ids)) == 3
    assert one.digest == two.digest


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    """Whoever opens it waits for ever."""
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "waits.png")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a" / "image.png")
    dataset = open_dataset(f"imagefolder:{tmp_path}")
    assert len(dataset) == 1
    assert any("waits.png" in note for note in dataset.notes)


def test_links_that_lead_round_in_a_circle(tmp_path: Path) -> None:
    for name in ("a/one.png", "a/two.png"):
        _plant(tmp_path / name)
    (tmp_path / "a" / "loop.png").symlink_to(tmp_path / "a" / "loop.png")
    dataset = open_dataset(f"imagefolder:{tmp_path}")
    assert len(dataset) == 2
    assert any("loop.png" in note for note in dataset.notes)


def test_a_picture_that_is_mostly_a_hole(tmp_path: Path) -> None:
    """Twenty gigabytes that take no room on the disk."""
    os.truncate(_plant(tmp_path / "ape" / "hole.png"), 20 << 30)
    (tmp_path / "ape" / "nothing.png").touch()
    with pytest.raises(DataError) as error:
        open_dataset(f"imagefolder:{tmp_path}")
    assert "ape/hole.png (21,474,836,480 bytes, more than 67,108,864), ape/nothing.png (empty file)" in str(error.value)


def test_a_picture_that_grows_after_it_was_checked(tmp_path: Path) -> None:
    path = _plant(tmp_path / "ape" / "0.png")
    dataset = open_dataset(f"imagefolder:{tmp_path}")
    os.truncate(path, 20 << 30)
    with pytest.raises(DataError, match=r"got ape/0\.png \(21,474,836,480 bytes, more than 67,108,864\)"):
        dataset.images.image(0)


def test_imagefolder_refuses_a_folder_of_data_sets(tmp_path: Path) -> None:
    for name in ("ape", "bee"):
        _plant(tmp_path / "val" / name / "0.png")
    with pytest.raises(DataError, match=r"got val with 2 folders of images below.*imagefolder:.*/val\."):
        open_dataset(f"imagefolder:{tmp_path}")
    for name in ("ape", "bee"):
        _plant(tmp_path / "train" / name / "0.png")
    with pytest.raises(DataError, match=r"got train, val with 4 folders of images below"):
        open_dataset(f"imagefolder:{tmp_path}")


def test_imagefolder_takes_folders_within_classes(tmp_path: Path) -> None:
    for name in ("ape", "bee"):
        for place in ("indoors", "outdoors"):
            _plant(tmp_path / name / place / "0.png")
    assert open_dataset(f"imagefolder:{tmp_path}").class_names == ("ape", "bee")
    _plant(tmp_path / "one" / "only" / "images" / "0.png")
    assert open_dataset(f"imagefolder:{tmp_path / 'one'}").class_names == ("only",)


def test_imagefolder_reads_pictures_as_torchvision_does(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:, :16] = 255
    for name in ("ape", "bee"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes(_encoded(Image.fromarray(pixels), "JPEG", exif=exif))
    dataset = open_dataset(f"imagefolder:{tmp_path}")
    theirs = ImageFolder(str(tmp_path))
    for index in range(2):
        assert np.array_equal(np.asarray(dataset.images.image(index)), np.asarray(theirs[index][0]))
    (note,) = dataset.notes
    assert note.startswith(
        "2 of 2 checked images say in EXIF that they are to be turned: they are read as they are stored"
    )
