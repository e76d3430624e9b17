"""Tar streams, walked: the same members as tarfile finds, and nothing hostile or cut off gets through."""

import contextlib
import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from audit.errors import DataError, UnsafeArtefactError
from audit.loading.datasets import open_dataset
from audit.loading.formats import wds_shards
from audit.loading.formats.tar_members import members

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def _tar(contents: list[tuple[str, bytes]], format: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, encoding="utf-8") as archive:
        for name, content in contents:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 0.5 if format == tarfile.PAX_FORMAT else 0
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _walk(content: bytes) -> list[tuple[str, bytes]]:
    return [(member.name, member.read()) for member in members(io.BytesIO(content), "a.tar") if member.is_file]


def _header(name: str = "x", size: str = "00000000000", kind: bytes = b"0") -> bytes:
    """One header, with a right checksum whatever its fields say."""
    fields = (
        name.encode().ljust(100, b"\0") + b"0000644\0" * 3 + size.encode("latin-1").ljust(12, b"\0") + b"0" * 11 + b"\0"
    )
    block = bytearray((fields + b" " * 8 + kind).ljust(257, b"\0") + b"ustar\x0000")
    block = block.ljust(512, b"\0")
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


NAMES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@example([("0/", b"")], tarfile.GNU_FORMAT, 0)  # python leaves the slash where the kind says that it is a file
@given(
    st.lists(st.tuples(NAMES.filter(lambda name: name.strip("/")), st.binary(max_size=1200)), max_size=5),
    st.sampled_from(FORMATS[1:]),
    st.integers(0, 300),
)
def test_the_members_that_tarfile_finds(contents: list[tuple[str, bytes]], format: int, longer: int) -> None:
    contents = [(f"{'d/' * (longer // 2)}{name}", content) for name, content in contents]
    written = _tar(contents, format)
    with tarfile.open(fileobj=io.BytesIO(written), encoding="utf-8") as archive:
        expected = [
            (info.name.rstrip("/"), archive.extractfile(info).read())  # type: ignore[union-attr]
            for info in archive
            if info.isreg()
        ]
    assert [(name.rstrip("/"), content) for name, content in _walk(written)] == expected


def test_contents_need_not_be_read() -> None:
    written = _tar([("a", b"x" * 5000), ("b", b"y" * 512), ("c", b"")], tarfile.GNU_FORMAT)
    assert [member.name for member in members(io.BytesIO(written), "a.tar")] == ["a", "b", "c"]
    found = {member.name: member.read() for member in members(io.BytesIO(written), "a.tar") if member.name != "a"}
    assert found == {"b": b"y" * 512, "c": b""}


@pytest.mark.parametrize("format", FORMATS)
def test_truncation_is_found_wherever_it_is(format: int) -> None:
    written = _tar([("long/" * 15 + "a.png", b"x" * 700), ("b.cls", b"1")], format)
    end = len(written.rstrip(b"\0")) // 512 * 512 + 512
    assert len(_walk(written[: end + 512])) == 2
    for cut in (*range(0, end, 97), *range(0, end + 1, 512)):
        with pytest.raises(
            DataError, match=r"Expected a whole tar archive with its end mark, got a\.tar, which ends early"
        ):
            _walk(written[:cut])


END = bytes(1024)


def _pax(records: bytes) -> bytes:
    return _header(kind=b"x", size=f"{len(records):011o}") + records.ljust(512, b"\0")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\1" * 512 + END, "got a.tar with invalid header"),
        (b"not a tar".ljust(512) + END, "got a.tar with bad checksum"),
        (b"y" + _header()[1:] + END, "got a.tar with bad checksum"),
        (_header(size="\xff" + "\xff" * 11) + END, "got a.tar with an impossible size"),
        (_header(size="\x80" + "\xff" * 11) + END, "got a.tar with an impossible size"),
        (_header(size="\x80\0\0\0\x7f" + "\xff" * 7) + END, "(an impossible size|ends early)"),
        (_header(size="-0000000512") + END, "impossible size"),
        (_header(kind=b"x", size="77777777777") + END, r"got a\.tar with an extended header of 8,589,934,591 bytes"),
        (_header(kind=b"L", size="77777777777") + END, "got a.tar with an extended header of"),
        (_header(kind=b"K", size="77777777777") + END, "ends early"),
        (_header(kind=b"g", size="77777777777") + END, "ends early"),
        (_header(size="77777777777") + END, "ends early"),
        (_header(kind=b"S") + END, "got a.tar with a sparse member"),
        (_pax(b"25 GNU.sparse.realsize=1\n") + _header() + END, "got a.tar with a sparse member"),
        (_pax(b"20 size=-9999999999\n") + _header() + END, "impossible size"),
        (_pax(b"19 size=9e99999999\n") + _header() + END, "impossible size"),
        (_pax(b"17 size=99999999\n") + _header() + END, "ends early"),
        (_pax(b"99 path=x") + END, "damaged extended header"),
        (_pax(b"0 path=x") + END, "damaged extended header"),
        (_pax(b"path=x") + END, "damaged extended header"),
        (
            _header(kind=b"L", size="00000020000") + b"n" * 8192 + _header() + END,
            "got a.tar with a name of 8,192 letters",
        ),
    ],
)
def test_hostile_headers(content: bytes, text: str) -> None:
    tracemalloc.start()
    with pytest.raises(DataError, match=text):
        _walk(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_many_extensions_do_not_pile_up() -> None:
    record = b"12 path=abc\n"
    content = _pax(record) * 2000 + _header() + END
    assert _walk(content) == [("abc", b"")]


@settings(max_examples=300, deadline=None)
@given(data=st.data(), format=st.sampled_from(FORMATS))
def test_any_damage_ends_as_a_data_error(data: st.DataObject, format: int) -> None:
    written = bytearray(_tar([("d/" * 60 + "ä.png", b"x" * 600), ("b.cls", b"1")], format))
    for _ in range(data.draw(st.integers(1, 5))):
        written[data.draw(st.integers(0, 3000))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataError):
        _walk(bytes(written))


# ---------------------------------------------------------------------------------------------- compressed shards


def test_damaged_gzip(tmp_path: Path) -> None:
    written = gzip.compress(_tar([("a.png", bytes(range(256)) * 20), ("a.cls", b"1")], tarfile.GNU_FORMAT))
    shard = tmp_path / "a.tar"
    for damaged in (written[:-40], written[:30], written[:-8] + b"12345678", written[:60] + b"???" + written[63:]):
        shard.write_bytes(damaged)
        with pytest.raises(
            DataError, match=r"Expected a whole (gzip file|tar archive with its end mark), got a\.tar, which"
        ):
            open_dataset(f"wds:{shard}")


def test_decompression_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = tmp_path / "a.tar.gz"
    shard.write_bytes(gzip.compress(_header(name="a.bin", size="00200000000") + bytes(32 << 20) + END))
    with pytest.raises(
        UnsafeArtefactError, match=r"got a\.tar\.gz, which expands more than 100 times: a decompression bomb"
    ):
        open_dataset(f"wds:{shard}")
    shard.write_bytes(gzip.compress(_tar([("a", b"")], tarfile.GNU_FORMAT) + bytes(32 << 20)))
    with pytest.raises(UnsafeArtefactError, match="a decompression bomb"):
        open_dataset(f"wds:{shard}")
    monkeypatch.setattr(wds_shards, "ALWAYS_EXPANDED", 64 << 20)
    with pytest.raises(DataError, match="Expected samples"):
        open_dataset(f"wds:{shard}")


def test_other_compressions_are_no_tar(tmp_path: Path) -> None:
    shard = tmp_path / "a.tar"
    shard.write_bytes(b"BZh91AY&SY" + bytes(600))
    with pytest.raises(DataError, match=r"Expected a plain tar archive, got a\.tar with"):
        open_dataset(f"wds:{shard}")


def test_names_are_shown_printable(tmp_path: Path) -> None:
    shard = tmp_path / "a.tar"
    shard.write_bytes(_tar([("\x1b[2Jx.png", b"broken"), ("\x1b[2Jx.cls", b"1")], tarfile.GNU_FORMAT))
    with pytest.raises(DataError, match=r"a\.tar \?\[2Jx \(not an image"):
        open_dataset(f"wds:{shard}")
