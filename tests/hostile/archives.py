"""Zip and tar archives that say one thing to one reader and another to the next, that grow, or that lead elsewhere."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile

from tests.hostile.containers import (
    state_dict,
    tar_file,
    torch_members,
    torch_zip,
    zip_file,
)
from tests.hostile.opcodes import program
from tests.hostile.payloads import system
from tests.hostile.pickles import NOT_READ
from tests.hostile.site import Corpus, Site

BOMB = dict.fromkeys(("scan",), (3, 4)) | dict.fromkeys(("weights", "bare", "convert"), (2, 4))
DISAGREEING = dict.fromkeys(("weights", "bare", "convert"), (2, 4))
"""Readers disagree about what such an archive holds: damaged is as good an answer as unsafe, loaded is not."""
LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"
CLEAN = program(state_dict())


def add_archives(corpus: Corpus, *, bombs: bool = True) -> None:
    """All of them; bombs take a few seconds to make."""
    _disagreeing(corpus)
    _flags(corpus)
    _nested(corpus)
    if bombs:
        _bombs(corpus)
    _traversal(corpus)
    _links(corpus)


def _disagreeing(corpus: Corpus) -> None:
    """Archives in which Python's zipfile and torch's own reader may find different members."""

    def hostile(site: Site) -> bytes:
        return program(system(site))

    folder = [("archive/" + name, content) for name, content in torch_members(b"")[1:]]
    for name, first in (("clean-first", True), ("hostile-first", False)):
        corpus.add(
            f"zip-two-pickles-{name}", ".pt",
            lambda site, first=first: zip_file([
                ("archive/data.pkl", CLEAN if first else hostile(site)),
                ("archive/data.pkl", hostile(site) if first else CLEAN),
                *folder,
            ]),
            "two members named data.pkl", executes="members", codes=DISAGREEING,
        )  # fmt: skip
    corpus.add(
        "zip-local-name", ".pt",
        lambda site: renamed(zip_file([("archive/data.pkl", hostile(site)), *folder]), LOCAL, b"archive/note.txt"),
        "data.pkl has another name before its bytes than in the directory", executes="torch", codes=DISAGREEING,
    )  # fmt: skip
    corpus.add(
        "zip-central-name", ".pt",
        lambda site: renamed(zip_file([("archive/data.pkl", hostile(site)), *folder]), CENTRAL, b"archive/note.txt"),
        "the directory calls data.pkl otherwise", codes=NOT_READ | {"scan": (3, 4)},
    )  # fmt: skip
    corpus.add(
        "zip-upper-case", ".pt", lambda site: zip_file([("archive/DATA.PKL", hostile(site)), *folder]),
        "DATA.PKL in capitals", executes="members", codes=NOT_READ,
    )  # fmt: skip
    corpus.add(
        "zip-case-variants", ".pt",
        lambda site: zip_file([("archive/Data.pkl", hostile(site)), ("archive/data.pkl", CLEAN), *folder]),
        "data.pkl twice, by capitals", executes="members", codes=DISAGREEING,
    )  # fmt: skip
    corpus.add(
        "zip-two-folders", ".pt",
        lambda site: zip_file([
            ("evil/version", b"3\n"), ("archive/data.pkl", CLEAN), ("evil/data.pkl", hostile(site)),
            ("evil/byteorder", b"little"), *folder,
        ]),
        "two folders with a data.pkl each", executes="members", codes=DISAGREEING,
    )  # fmt: skip
    corpus.add(
        "zip-polyglot", ".pt", lambda site: b"#!/bin/sh\n" + site.shell.encode() + b"\nexit 0\n" + torch_zip(system(site)),
        "a shell script, and a zip for those who look for a directory", executes="members", codes=NOT_READ,
    )  # fmt: skip
    corpus.add(
        "zip-in-comment", ".pt", lambda site: commented(torch_zip(system(site)), torch_zip(state_dict())),
        "a hostile archive whose comment is a clean archive", codes=DISAGREEING | {"scan": (3, 4)},
    )  # fmt: skip
    corpus.add(
        "zip-clean-with-hostile-comment", ".pt",
        lambda site: commented(torch_zip(state_dict()), torch_zip(system(site))),
        "a clean archive whose comment is a hostile archive", executes="members", codes=DISAGREEING,
    )  # fmt: skip
    corpus.add(
        "zip-root", ".pt", lambda site: torch_zip(system(site), folder=""), "data.pkl outside of any folder",
        executes="members", codes=DISAGREEING,
    )  # fmt: skip
    corpus.add(
        "zip-deep-folder", ".pt", lambda site: torch_zip(system(site), folder="a/b/c/"), "data.pkl in deep folders",
        executes="members", codes=DISAGREEING,
    )  # fmt: skip
    corpus.add(
        "zip-unused-pickle", ".pt",
        lambda site: torch_zip(state_dict(), extra=[("extra.pkl", program(system(site)))]),
        "clean weights, and a hostile pickle that torch does not read", executes="members",
        codes=dict.fromkeys(("weights", "bare", "convert"), (0, 2, 4)),
    )  # fmt: skip


def _flags(corpus: Corpus) -> None:
    """Archives whose headers keep some readers from looking inside."""
    for name, offset, value, why in (
        ("encrypted", 8, b"\x01\x00", "marked as encrypted, and is not"),
        ("method", 10, b"\x63\x00", "an unknown compression"),
        ("version", 6, b"\xff\x00", "needs version 25.5 of zip"),
        ("crc", 16, b"\0\0\0\0", "a wrong checksum: zipfile stops, torch reads on"),
    ):
        corpus.add(
            f"zip-{name}", ".pt",
            lambda site, offset=offset, value=value: in_directory(torch_zip({"x": system(site)}), offset, value),
            why, executes="torch" if name == "crc" else "", codes=DISAGREEING | {"scan": (3, 4)},
        )  # fmt: skip
    for name, method in (("bzip2", zipfile.ZIP_BZIP2), ("lzma", zipfile.ZIP_LZMA), ("deflated", zipfile.ZIP_DEFLATED)):
        corpus.add(
            f"zip-{name}", ".pt", lambda site, method=method: torch_zip({"x": system(site)}, compression=method),
            f"members compressed by {name}", executes="members", codes=DISAGREEING,
        )  # fmt: skip
    corpus.add(
        "zip-name-not-utf8", ".pt",
        lambda site: in_directory(
            renamed(torch_zip({"x": system(site)}), CENTRAL, b"archive/\xff\xfe\x9b31m"), 8, b"\x00\x08"
        ),
        "a name that claims to be UTF-8 and is not", codes=DISAGREEING | {"scan": (3, 4)},
    )  # fmt: skip
    corpus.add(
        "zip-truncated", ".pt", lambda site: torch_zip({"x": system(site)})[:-60], "the directory is cut off",
        codes=NOT_READ | {"scan": (3, 4)},
    )  # fmt: skip


def _nested(corpus: Corpus) -> None:
    corpus.add(
        "zip-in-zip", ".zip", lambda site: zip_file([("model.pt", torch_zip(system(site)))]), "a file of torch in a zip",
        executes="members", codes=NOT_READ,
    )  # fmt: skip
    corpus.add(
        "zip-as-storage", ".pt",
        lambda site: torch_zip(state_dict(), [("data/0", torch_zip(system(site))), ("data/1", bytes(40))]),
        "a hostile archive as the bytes of a tensor", executes="members",
        codes=dict.fromkeys(("weights", "bare", "convert"), (0, 2, 4)),
    )  # fmt: skip
    corpus.add(
        "zip-depth-20", ".zip", _russian_doll, "a hostile pickle twenty zips deep", executes="members",
        codes=NOT_READ | {"scan": (3, 4)},
    )  # fmt: skip
    corpus.add(
        "zip-in-tar", ".tar", lambda site: tar_file([("models/a.pt", torch_zip(system(site)))]),
        "a file of torch in a tar", executes="members", codes=NOT_READ,
    )  # fmt: skip
    corpus.add(
        "torch-package", ".pt",
        lambda site: zip_file([
            ("package/.data/extern_modules", b"posix\n"), ("package/.data/version", b"6\n"),
            ("package/model/model.pkl", program(system(site), 2)), ("package/.data/python_version", b"3.11"),
        ]),
        "an archive of torch.package", executes="members", codes=NOT_READ,
    )  # fmt: skip


def _russian_doll(site: Site) -> bytes:
    content = program(system(site))
    for level in range(20):
        content = zip_file([(f"{level}.zip" if level else "model.pkl", content)], zipfile.ZIP_DEFLATED)
    return content


def _bombs(corpus: Corpus) -> None:
    corpus.add("bomb-ratio", ".pt", lambda _: _growing(), "grows a thousandfold", codes=BOMB)
    corpus.add("bomb-nested", ".zip", lambda _: _forty_two(), "ten zips in each of ten zips, and so on", codes=BOMB)
    corpus.add("bomb-overlap", ".pt", lambda _: _overlapping(), "a thousand names for the same bytes", codes=BOMB)
    corpus.add(
        "bomb-many", ".pt", lambda _: zip_file([(f"archive/data/{place}", b"") for place in range(70_000)]),
        "seventy thousand members", codes=BOMB | {"scan": (0, 3, 4)},
    )  # fmt: skip
    corpus.add(
        "bomb-claims-exabytes", ".pt", lambda _: in_directory(torch_zip(state_dict()), 24, b"\xfe\xff\xff\xff"),
        "a member that claims four gigabytes", codes=BOMB,
    )  # fmt: skip
    corpus.add(
        "bomb-pickle", ".pt",
        lambda site: zip_file([("archive/data.pkl", bytes(30_000_000) + program(system(site)))], zipfile.ZIP_DEFLATED),
        "a pickle of thirty megabytes of zeros before what it runs", codes=BOMB,
    )  # fmt: skip
    corpus.add(
        "bomb-tar-gz", ".tar.gz", lambda _: gzip.compress(tar_file([("zeros", bytes(50_000_000))]), mtime=0),
        "a tar under gzip that grows a thousandfold", codes=BOMB | {"scan": (0, 3, 4)},
    )  # fmt: skip
    corpus.add(
        "bomb-tar-sparse", ".tar", lambda _: _huge_tar_member(), "a tar member that claims eight exabytes", codes=BOMB,
    )  # fmt: skip
    corpus.add(
        "bomb-tar-many", ".tar", lambda _: tar_file([(f"{place}", b"") for place in range(20_000)]),
        "twenty thousand empty members", codes=BOMB | {"scan": (0, 3, 4)},
    )  # fmt: skip


def _growing() -> bytes:
    zeros = [("archive/data/0", bytes(40_000_000)), ("archive/data/1", bytes(40))]
    return zip_file([("archive/data.pkl", CLEAN), *zeros, ("archive/version", b"3\n")], zipfile.ZIP_DEFLATED)


def _forty_two() -> bytes:
    content = bytes(1_000_000)
    for level in range(6):
        content = zip_file([(f"{level}-{place}.zip", content) for place in range(10)], zipfile.ZIP_DEFLATED)
    return content


def _overlapping() -> bytes:
    """One compressed megabyte, listed a thousand times (the layout of Fifield, 2019)."""
    whole = zip_file([("a", bytes(1_000_000))], zipfile.ZIP_DEFLATED)
    start = whole.index(CENTRAL)
    end = whole.index(b"PK\x05\x06")
    entries = b"".join(whole[start : start + 46] + b"%c" % (97 + place % 26) for place in range(1000))
    assert end - start == 47
    closing = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1000, 1000, len(entries), start, 0)
    return whole[:start] + entries + closing


def _huge_tar_member() -> bytes:
    entry = tarfile.TarInfo("storages")
    entry.size = 2**63 - 1
    return entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def _traversal(corpus: Corpus) -> None:
    """Members that lead out of the folder into which someone unpacks them."""
    up = "../" * 40
    names = {
        "relative": lambda site: up + str(site.canary).lstrip("/"),
        "absolute": lambda site: str(site.canary),
        "hidden": lambda site: f"archive/data/../{up}" + str(site.canary).lstrip("/"),
    }
    for kind, name in names.items():
        corpus.add(
            f"traversal-zip-{kind}", ".pt",
            lambda site, name=name: zip_file([*_clean_members(), (name(site), site.name.encode())]),
            "a member that leads out of the archive", executes="extract",
            codes=dict.fromkeys(("weights", "bare", "convert"), (0, 2, 4)),
        )  # fmt: skip
        if kind == "hidden":
            continue
        corpus.add(
            f"traversal-tar-{kind}", ".tar", lambda site, name=name: tar_file([(name(site), site.name.encode())]),
            "a member that leads out of the archive", executes="extract", codes=NOT_READ,
        )  # fmt: skip
    for kind, name in (
        ("backslashes", "..\\..\\..\\evil"),
        ("drive", "C:\\Windows\\evil"),
        ("nul", "archive/data/0\0../../evil"),
        ("escape", "archive/\x1b[31mred\x1b[0m\r\n<script>"),
        ("long", "archive/" + "x" * 60_000),
    ):
        corpus.add(
            f"traversal-zip-{kind}", ".pt", lambda _, name=name: zip_file([*_clean_members(), (name, b"x")]),
            "a member with a dangerous name", codes=dict.fromkeys(("weights", "bare", "convert"), (0, 2, 4))
            | {"scan": (0, 3, 4)},
        )  # fmt: skip


def _clean_members() -> list[tuple[str, bytes]]:
    return [("archive/" + name, content) for name, content in torch_members(CLEAN)]


def _links(corpus: Corpus) -> None:
    corpus.add(
        "link-tar", ".tar",
        lambda site: tar_file([(f"out/{site.canary.name}", site.name.encode())], [("out", str(site.canary.parent))]),
        "a link out of the archive, and a member behind it", executes="extract", codes=NOT_READ,
    )  # fmt: skip
    corpus.add(
        "link-tar-hard", ".tar", lambda site: _hard_link(site), "a hard link to a file of the system",
        codes=NOT_READ,
    )  # fmt: skip
    corpus.add(
        "link-tar-device", ".tar", lambda _: _device(), "a device in a tar", codes=NOT_READ,
    )  # fmt: skip
    corpus.add(
        "link-zip", ".pt", lambda _: _zip_link("/etc/passwd"), "a symbolic link to /etc/passwd as data.pkl",
        codes=NOT_READ,
    )  # fmt: skip


def _hard_link(site: Site) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("pickle")
        entry.type, entry.linkname = tarfile.LNKTYPE, "../../../../etc/passwd"
        archive.addfile(entry)
    return stream.getvalue()


def _device() -> bytes:
    entry = tarfile.TarInfo("storages")
    entry.type, entry.devmajor, entry.devminor = tarfile.CHRTYPE, 1, 5
    return entry.tobuf() + bytes(1024)


def _zip_link(target: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        entry = zipfile.ZipInfo("archive/data.pkl")
        entry.create_system, entry.external_attr = 3, 0o120777 << 16
        archive.writestr(entry, target)
        archive.writestr(zipfile.ZipInfo("archive/version"), "3\n")
    return stream.getvalue()


def renamed(content: bytes, where: bytes, name: bytes) -> bytes:
    """The archive whose first header of this kind says another name of the same length."""
    header = {LOCAL: 30, CENTRAL: 46}[where]
    start = content.index(where) + header
    return content[:start] + name + content[start + len(name) :]


def in_directory(content: bytes, offset: int, value: bytes) -> bytes:
    """The archive with some bytes of the first entry of its directory replaced."""
    start = content.index(CENTRAL) + offset
    return content[:start] + value + content[start + len(value) :]


def commented(outer: bytes, inner: bytes) -> bytes:
    """An archive with another one as its comment."""
    return outer[:-2] + struct.pack("<H", len(inner)) + inner
