"""WebDataset shards: generated sets, what is left undecoded, and every refusal."""

import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from audit.errors import DataError, UnsafeArtefactError, UsageError
from audit.loading.datasets import fit, open_dataset
from audit.loading.formats import wds_samples
from audit.loading.preprocess import Geometry

Members = Iterable[tuple[str, bytes | tarfile.TarInfo]]


def _png(value: int, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (value, 0, 0)).save(buffer, format)
    return buffer.getvalue()


def _shard(path: Path, members: Members, *, format: int = tarfile.USTAR_FORMAT, zipped: bool = False) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            info.mtime = 1_700_000_000.25 if format == tarfile.PAX_FORMAT else 0
            if isinstance(content, bytes):
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    path.write_bytes(gzip.compress(buffer.getvalue()) if zipped else buffer.getvalue())
    return path


def _samples(*labels: int, start: int = 0) -> list[tuple[str, bytes]]:
    return [
        member
        for index, label in enumerate(labels, start=start)
        for member in ((f"{index:06d}.cls", str(label).encode()), (f"{index:06d}.png", _png(index)))
    ]


def _info(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


# ---------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_one_shard(tmp_path: Path, format: int, zipped: bool) -> None:
    shard = _shard(tmp_path / "a.tar", _samples(3, 0, 7), format=format, zipped=zipped)
    dataset = open_dataset(f"wds:{shard}")
    assert dataset.labels.tolist() == [3, 0, 7]
    assert dataset.class_names == ()
    assert dataset.native_shape == (3, 4, 5)
    assert dataset.notes == ()
    assert dataset.images.name(1) == "a.tar 000001"
    source = fit(dataset, "eval", Geometry(channels=3), seed=0, samples=None).source
    assert [int(source.pixels(index)[0, 0, 0]) for index in range(3)] == [0, 1, 2]


def test_ranges_and_folders_are_read_in_order(tmp_path: Path) -> None:
    for index in range(8, 12):
        _shard(tmp_path / f"set-{index:06d}.tar", _samples(index, start=index))
    _shard(tmp_path / "other.txt", _samples(5))
    for spec, labels in (
        (f"{tmp_path}/set-{{000008..000011}}.tar", [8, 9, 10, 11]),
        (f"{tmp_path}/set-{{000009..000009}}.tar", [9]),
        (f"{tmp_path}/set-0000{{08..11}}.tar", [8, 9, 10, 11]),
        (f"{tmp_path}/set-0000{{10..11}}.tar", [10, 11]),
        (f"{tmp_path}", [8, 9, 10, 11]),
    ):
        assert open_dataset(f"wds:{spec}").labels.tolist() == labels
    _shard(tmp_path / "{0..9}.tar", _samples(4))
    assert open_dataset(f"wds:{tmp_path}/{{0..9}}.tar").labels.tolist() == [4]


def test_samples_are_neighbours_with_one_key(tmp_path: Path) -> None:
    members = [
        ("a/b.c/x.png", _png(1)),
        ("a/b.c/x.CLS", b" 1\n"),
        ("a/d/x.JPG", _png(2, "JPEG")),
        ("a/d/x.seg.png", b"no image, and not read"),
        ("a/d/x.json", b'{"label": 2, "width": 5, "text": "NaN"}'),
        ("./e.webp", _png(3, "WEBP")),
        ("./e.cls", b"3"),
        ("./e.json", b"not read, as .cls is there"),
    ]
    dataset = open_dataset(f"wds:{_shard(tmp_path / 'a.tar', members)}")
    assert dataset.labels.tolist() == [1, 2, 3]
    assert [dataset.images.name(index) for index in range(3)] == ["a.tar a/b.c/x", "a.tar a/d/x", "a.tar ./e"]
    assert dataset.notes == ("Members beside image and label were not read: .seg.png (1).",)


@pytest.mark.parametrize("key", ["label", "cls", "class"])
def test_labels_in_json(tmp_path: Path, key: str) -> None:
    content = json.dumps({key: 4, "name": "cat", "sizes": [1.5, None]}).encode()
    assert open_dataset(f"wds:{_shard(tmp_path / 'a.tar', [('0.png', _png(0)), ('0.json', content)])}").labels == [4]


def test_class_names_beside_the_shards(tmp_path: Path) -> None:
    shard = _shard(tmp_path / "a.tar", _samples(0, 1))
    (tmp_path / "classes.txt").write_text("ape\ncat\n\n")
    assert open_dataset(f"wds:{shard}").class_names == ("ape", "cat")
    (tmp_path / "classes.txt").write_text("ape\n")
    with pytest.raises(DataError, match="Expected labels below 1, the number of class names, got label 1"):
        open_dataset(f"wds:{tmp_path}")


def test_ids_are_of_the_encoded_bytes(tmp_path: Path) -> None:
    one = open_dataset(f"wds:{_shard(tmp_path / 'a.tar', _samples(0, 1))}")
    (tmp_path / "f" / "0").mkdir(parents=True)
    (tmp_path / "f" / "0" / "x.png").write_bytes(_png(0))
    assert open_dataset(f"imagefolder:{tmp_path / 'f'}").ids == one.ids[:1]


def test_bare_path(tmp_path: Path) -> None:
    _shard(tmp_path / "a.tar", _samples(0))
    for path in (tmp_path, tmp_path / "a.tar"):
        with pytest.raises(UsageError, match=rf"Probably wds:{path} is meant"):
            open_dataset(str(path))


# ---------------------------------------------------------------------------------------------- what is not decoded


def test_other_members_are_noted_and_never_decoded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object]]:
            return Path.touch, (tmp_path / "sprung",)

    trap = pickle.dumps(Trap())
    kinds = ("pyd", "pkl", "pickle", "pth", "pt", "npy", "npz", "ten", "mp", "cbor", "txt", "index", "__key__")
    members = [*_samples(5), *((f"000000.{kind}", trap) for kind in kinds)]
    dataset = open_dataset(f"wds:{_shard(tmp_path / 'a.tar', members)}")
    assert dataset.labels.tolist() == [5]
    assert len(dataset.notes) == 1
    assert dataset.notes[0].startswith("Members beside image and label were not read: .pyd (1), .pkl (1), ")
    assert dataset.notes[0].endswith(" Pickles and tensors are never decoded.")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kind", ["pyd", "pkl", "pickle", "pth", "pt"])
@pytest.mark.parametrize("lacking", ["png", "cls"])
def test_pickles_instead_of_image_or_label(tmp_path: Path, kind: str, lacking: str) -> None:
    left = [member for member in _samples(5) if not member[0].endswith(lacking)]
    shard = _shard(tmp_path / "a.tar", [*left, (f"000000.{kind}", pickle.dumps(1))])
    with pytest.raises(
        UnsafeArtefactError, match=rf"got 1 sample with a pickle .*a\.tar 000000 \(.*\.{kind}\)\. Unpick"
    ):
        open_dataset(f"wds:{shard}")


def test_arrays_instead_of_an_image(tmp_path: Path) -> None:
    shard = _shard(tmp_path / "a.tar", [("0.npy", b""), ("0.cls", b"1")])
    with pytest.raises(
        DataError, match=r"Expected one image a sample \(\.png, .*got 1 sample without: a\.tar 0 \(\.npy, "
    ):
        open_dataset(f"wds:{shard}")


def test_links_and_odd_names_are_noted_and_touch_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(_png(99))
    (tmp_path / "in").mkdir()
    members: Members = [
        ("dir", _info(tarfile.DIRTYPE)),
        ("0.png", _info(tarfile.SYMTYPE, str(tmp_path / "secret.png"))),
        ("1.png", _info(tarfile.LNKTYPE, "../secret.png")),
        ("2.png", _info(tarfile.CHRTYPE)),
        ("3.png", _info(tarfile.FIFOTYPE)),
        ("../../up.png", _png(1)),
        ("../../up.cls", b"1"),
        (str(tmp_path / "absolute.png"), _png(2)),
        (str(tmp_path / "absolute.cls"), b"2"),
        ("README", b"text"),
        ("x/.hidden", b"text"),
        ("__shard__", b"text"),
    ]
    before = sorted(tmp_path.rglob("*"))
    shard = _shard(tmp_path / "in" / "a.tar", members)
    dataset = open_dataset(f"wds:{shard}")
    assert dataset.labels.tolist() == [1, 2]
    assert dataset.notes == (
        "4 members not followed because links, devices or pipes: 0.png, 1.png, 2.png, 3.png.",
        "2 files skipped because not named KEY.EXTENSION: README, x/.hidden.",
    )
    assert sorted(tmp_path.rglob("*")) == sorted([*before, shard])


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"png": _png(0)}, r"Expected a label a sample, in \.cls or \.json, got 1 sample without: a\.tar k \(\.png\)"),
        (
            {"cls": b"1"},
            r"Expected one image a sample \(\.png, \.jpg, \.\.\.\), got 1 sample without: a\.tar k \(\.cls\)",
        ),
        ({"png": _png(0), "jpg": _png(0, "JPEG"), "cls": b"1"}, "Expected one image a sample"),
        ({"png": _png(0), "cls": b"cat"}, r"Expected an integer as text in \.cls, got 1 sample without"),
        ({"png": _png(0), "cls": b"1.0"}, "Expected an integer as text"),
        ({"png": _png(0), "cls": b"1" * 10}, "Expected an integer as text"),
        ({"png": _png(0), "cls": "٣".encode()}, "Expected an integer as text"),
        ({"png": _png(0), "cls": b""}, "Expected an integer as text"),
        ({"png": _png(0), "cls": b"-1"}, r"Expected labels of 0 or more, got 1 negative label \(-1\)"),
        ({"png": b"broken", "cls": b"1"}, r"got 1 damaged one of 1: a\.tar k \(not an image of a known format\)"),
        ({"png": b"", "cls": b"1"}, r"a\.tar k \(empty file\)"),
        ({"png": _png(0), "json": b"[]"}, "Expected an integer as label or cls or class in .json"),
        ({"png": _png(0), "json": b"{}"}, "Expected an integer as label"),
        ({"png": _png(0), "json": b'{"label": true}'}, "Expected an integer as label"),
        ({"png": _png(0), "json": b'{"label": "1"}'}, "Expected an integer as label"),
        ({"png": _png(0), "json": b'{"label": 1, "label": 2}'}, "repeated keys"),
        ({"png": _png(0), "json": b'{"label": 1, "cls": 2}'}, "Expected an integer as label"),
        ({"png": _png(0), "json": b'{"label": 1, "x": NaN}'}, "without NaN"),
        ({"png": _png(0), "json": b'{"label": 99999999999999}'}, "Expected an integer as label"),
        ({"png": _png(0), "json": b'{"label": ' + b"9" * 5000 + b"}"}, "Expected an integer as label"),
        ({"png": _png(0), "json": b"[" * 100_000}, "Expected an integer as label"),
        ({"png": _png(0), "json": b"\xff\xfe\xfd"}, "Expected an integer as label"),
    ],
)
def test_refused_samples(tmp_path: Path, members: dict[str, bytes], text: str) -> None:
    with pytest.raises(DataError, match=text):
        open_dataset(f"wds:{_shard(tmp_path / 'a.tar', [(f'k.{kind}', content) for kind, content in members.items()])}")


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    members = [*_samples(1), ("a.png", _png(0)), ("b.cls", b"1"), ("c.png", b"x"), ("c.cls", b"-1"), ("b.png", _png(0))]
    members += [("d.png", _png(0)), ("d.png", _png(0)), ("d.cls", b"1")]
    with pytest.raises(DataError) as error:
        open_dataset(f"wds:{_shard(tmp_path / 'a.tar', members)}")
    label, image, twice, negative, damaged = str(error.value).splitlines()
    assert (
        "Expected a label a sample, in .cls or .json, got 2 samples without: a.tar a (.png), a.tar b (.png)." in label
    )
    assert "got 1 sample without: a.tar b (.cls)." in image
    assert "Expected every extension once a sample, got 1 sample without: d (.png twice)." in twice
    assert "got 1 negative label (-1)" in negative
    assert "got 1 damaged one of 3: a.tar c (not an image" in damaged


def test_sizes_of_members_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wds_samples, "LARGEST_IMAGE", 10)
    monkeypatch.setattr(wds_samples, "LARGEST_LABEL", 3)
    shard = _shard(tmp_path / "a.tar", [("a.png", _png(0)), ("a.cls", b"   1")])
    with pytest.raises(
        DataError, match=r"at most 10 bytes in \.png, got 1 sample without: a \(\d+\)[^$]*at most 3 bytes in"
    ):
        open_dataset(f"wds:{shard}")


def test_patterns(tmp_path: Path) -> None:
    for index in (0, 1, 2, 5):
        _shard(tmp_path / f"s{index}.tar", _samples(index))
    with pytest.raises(
        DataError, match=r"Expected 7 shards of .*, got no s3\.tar, s4\.tar, s6\.tar \(3 missing shards\)"
    ):
        open_dataset(f"wds:{tmp_path}/s{{0..6}}.tar")
    with pytest.raises(
        UsageError, match=r"Expected a range of 1 to 100,000 shards, got \{5\.\.0\}\. Write the smaller"
    ):
        open_dataset(f"wds:{tmp_path}/s{{5..0}}.tar")
    with pytest.raises(UsageError, match=r"Expected a range of 1 to 100,000 shards, got \{0\.\.999999999999\}"):
        open_dataset(f"wds:{tmp_path}/s{{0..999999999999}}.tar")
    for pattern in ("s{0..1}{0..1}.tar", "s{0,1}.tar", "s{a..b}.tar", "s{0..", "s{{0..1}}.tar"):
        with pytest.raises(UsageError, match=r"Expected one range such as \{000000\.\.000009\}, got"):
            open_dataset(f"wds:{tmp_path}/{pattern}")


@pytest.mark.parametrize("place", ["pipe:touch {canary}", "https://host/{canary}.tar", "s3://bucket/a.tar", "-"])
def test_no_command_is_run_and_nothing_fetched(tmp_path: Path, place: str) -> None:
    canary = tmp_path / "canary"
    with pytest.raises(DataError, match=r"Expected a tar archive, a folder of them, or a range .* got nothing there"):
        open_dataset(f"wds:{place.format(canary=canary)}")
    assert not canary.exists()


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected tar archives in .*, got none\. Name the folder"):
        open_dataset(f"wds:{tmp_path}")
    with pytest.raises(DataError, match=r"Expected samples .* got none in 1 shard of .*a\.tar'\. Name shards"):
        open_dataset(f"wds:{_shard(tmp_path / 'a.tar', [])}")
    with pytest.raises(
        DataError, match=r"Expected samples .* 2 files skipped because not named KEY\.EXTENSION: README, LICENSE"
    ):
        open_dataset(f"wds:{_shard(tmp_path / 'a.tar', [('README', b''), ('LICENSE', b'')])}")


def test_every_image_stays_as_it_was_stored(tmp_path: Path) -> None:
    members = [("a.bmp", _png(7, "BMP")), ("a.cls", b"0"), ("b.ppm", _png(8, "PPM")), ("b.cls", b"0")]
    members += [("c.tif", _png(9, "TIFF")), ("c.cls", b"0"), ("d.jpeg", _png(9, "JPEG")), ("d.cls", b"0")]
    dataset = open_dataset(f"wds:{_shard(tmp_path / 'a.tar', members)}")
    assert [np.asarray(dataset.images.image(index))[0, 0, 0] for index in range(3)] == [7, 8, 9]
