"""Data sets that bring objects, lead elsewhere, or grow."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.hostile.containers import tar_file, torch_zip, zip_file
from tests.hostile.oddities import link
from tests.hostile.opcodes import program
from tests.hostile.payloads import system
from tests.hostile.site import Corpus, Site

PLAIN = (0, 2, 4)
NO_CODE = (2, 4)


def add_tables(corpus: Corpus, *, bombs: bool = True) -> None:
    """All of them; bombs take a few seconds to make."""
    _arrays(corpus)
    _headers(corpus)
    _tables(corpus)
    _image_folders(corpus)
    _images(corpus)
    _batches(corpus)
    _shards(corpus)
    _digits(corpus)
    if bombs:
        _growing(corpus)


def _growing(corpus: Corpus) -> None:
    """Small files whose rows, labels or pixels are without measure."""

    def table(site: Site, value: bytes | None, n: int) -> bytes:
        column = (
            pa.nulls(n, pa.binary())
            if value is None
            else pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([value]))
        )
        stream = io.BytesIO()
        content = pa.table({"image": column, "label": np.zeros(n, np.int8)})
        pq.write_table(content, stream, compression="zstd", store_schema=False, dictionary_pagesize_limit=1 << 30)
        return stream.getvalue()

    for name, value, n in (
        ("same", bytes(1 << 20), 20_000),
        ("large", bytes(20 << 20), 2_000),
        ("none", None, 20_000_000),
    ):
        corpus.add(
            f"parquet-{name}-rows", ".parquet", lambda site, value=value, n=n: table(site, value, n),
            f"{n:,} rows out of next to nothing", kind="data", commands=("scan", "parquet"), expect="plain",
            codes={"parquet": (2, 4)},
        )  # fmt: skip
    arrays = {
        "one-row": (npy(bytes(17_000 * 17_000), shape="(1, 17000, 17000)"), npy(bytes(8), descr="'<i8'", shape="(1,)")),
        "many-rows": (npy(bytes(20_000_000), shape="(20000000, 1, 1)"), npy(bytes(20_000_000), shape="(20000000,)")),
        "many-labels": (npy(bytes(1), shape="(1, 1, 1)"), npy(bytes(250_000_000), shape="(250000000,)")),
    }
    for name, (images, labels) in arrays.items():
        members = [("x.npy", images), ("y.npy", labels)]
        corpus.add(
            f"npz-{name}", ".npz", lambda site, members=members: zip_file(members, zipfile.ZIP_DEFLATED),
            "an array of a size that takes hours or gigabytes", kind="data", commands=("npz",), expect="plain",
            codes={"npz": (0, 2, 4)},
        )  # fmt: skip
    site = corpus.site("csv-long-name")
    Image.new("L", (8, 8)).save(site.plant(".png", b""))
    lines = [f"planted/csv_long_name.png,{'a' * 131_000}", *["planted/csv_long_name.png,b"] * 30_000]
    corpus.add(
        site.name, ".csv", "\n".join(["path,label", *lines]).encode(), "one long name among many labels", kind="data",
        commands=("csv",), expect="plain",
    )  # fmt: skip


def npy(
    content: bytes, *, descr: str = "'|u1'", shape: str = "(20, 8, 8)", order: str = "False", header: str = ""
) -> bytes:
    """A file of one array, whatever its header says."""
    text = header or f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    padded = text.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + content


IMAGES = npy(bytes(20 * 64))
LABELS = npy(bytes(160), descr="'<i8'", shape="(20,)")


def _objects(site: Site) -> bytes:
    return npy(program(system(site)), descr="'|O'", shape="(20,)")


def _npz(**members: bytes) -> bytes:
    return zip_file([(f"{name}.npy", content) for name, content in members.items()])


def _arrays(corpus: Corpus) -> None:
    """Arrays of Python objects, which numpy would unpickle."""

    def add(name: str, content: object, why: str, **more: object) -> None:
        corpus.add(name, ".npz", content, why, kind="data", commands=("scan", "npz"), **more)  # type: ignore[arg-type]

    add("npz-images", lambda s: _npz(x=_objects(s), y=LABELS), "images that are objects", executes="numpy")
    add("npz-labels", lambda s: _npz(x=IMAGES, y=_objects(s)), "labels that are objects", executes="numpy")
    add(
        "npz-extra", lambda s: _npz(x=IMAGES, y=LABELS, names=_objects(s)), "a further array of objects",
        executes="numpy", codes={"npz": (0, 4)},
    )  # fmt: skip
    add(
        "npz-structured",
        lambda s: _npz(x=npy(program(system(s)), descr="[('a', '|u1'), ('b', '|O')]", shape="(20,)"), y=LABELS),
        "objects as a field of numbers", executes="numpy",
    )  # fmt: skip
    add(
        "npz-subarray",
        lambda s: _npz(x=npy(program(system(s)), descr="('|O', (8, 8))", shape="(20,)"), y=LABELS),
        "objects as the elements of an inner array", codes={"npz": NO_CODE, "scan": (0, 3, 4)},
    )  # fmt: skip
    add(
        "npz-pickle-member", lambda s: zip_file([("x.npy", program(system(s))), ("y.npy", LABELS)]),
        "a member that is a bare pickle", executes="members", codes={"npz": NO_CODE},
    )  # fmt: skip
    add(
        "npz-two-members",
        lambda s: zip_file([("x.npy", IMAGES), ("y.npy", LABELS), ("x.npy", _objects(s))]),
        "two members of one name", executes="numpy", codes={"npz": NO_CODE},
    )  # fmt: skip
    site = corpus.site("npy-objects")
    path = site.path(".npy")
    path.write_bytes(_objects(site))
    labels = site.plant("-labels.npy", LABELS)
    corpus.enter(site.name, path, "one array of objects", kind="data", commands=("scan", "npz", "weights"),
                 executes="numpy", codes={"weights": NO_CODE, "npz": NO_CODE})  # fmt: skip
    pair = corpus.site("npy-pair")
    (pair.path("-folder")).mkdir()
    (pair.path("-folder") / "x.npy").write_bytes(_objects(pair))
    corpus.enter(
        pair.name, Path(f"{pair.path('-folder') / 'x.npy'},{labels}"), "a pair of arrays, the images objects",
        kind="data", commands=("npz",),
    )  # fmt: skip


def _headers(corpus: Corpus) -> None:
    """Headers of arrays that lie, and archives that grow."""
    texts = {
        "expression": lambda s: {"header": f"{{'descr': {s.python}, 'fortran_order': False, 'shape': (20, 8, 8)}}"},
        "huge": lambda _: {"shape": f"(20, {2**40}, {2**40})"},
        "many-rows": lambda _: {"shape": f"({2**50}, 8, 8)"},
        "no-width": lambda _: {"shape": f"({2**50}, 0, 8)"},
        "negative": lambda _: {"shape": "(-20, 8, 8)"},
        "many-dimensions": lambda _: {"shape": "(" + "1, " * 2000 + ")"},
        "float-shape": lambda _: {"shape": "(20.0, 8, 8)"},
        "true-shape": lambda _: {"shape": "(True, 8, 8)"},
        "nested": lambda _: {"shape": "(" * 5000 + ")" * 5000},
        "void": lambda _: {"descr": "'|V0'"},
        "wide": lambda _: {"descr": "'|V2147483647'"},
        "text": lambda _: {"descr": "'<U2147483647'"},
        "time": lambda _: {"descr": "'<M8[as]'"},
        "complex": lambda _: {"descr": "'<c16'"},
        "order": lambda _: {"order": "'yes'"},
        "fortran": lambda _: {"shape": f"(20, {2**20}, {2**20})", "order": "True"},
    }
    for name, given in texts.items():
        corpus.add(
            f"npz-header-{name}", ".npz",
            lambda s, given=given: _npz(x=npy(bytes(20 * 64), **given(s)), y=LABELS),
            f"an array's header: {name}", kind="data", commands=("scan", "npz"), expect="plain",
            codes={"npz": NO_CODE, "scan": (0, 3, 4)},
        )  # fmt: skip
    for name, given in (
        ("rows", {"shape": f"({2**50},)", "descr": "'<i8'"}),
        ("empty-text", {"shape": f"({2**40},)", "descr": "'<U0'"}),
        ("void", {"shape": f"({2**40},)", "descr": "'|V0'"}),
    ):
        corpus.add(
            f"npz-labels-{name}", ".npz", lambda _, given=given: _npz(x=IMAGES, y=npy(bytes(160), **given)),
            "a trillion labels in no bytes", kind="data", commands=("scan", "npz"), expect="plain",
            codes={"npz": NO_CODE, "scan": (0, 3, 4)},
        )  # fmt: skip
    corpus.add(
        "npy-header-evaluated", ".npy",
        lambda s: npy(b"", header=f"{{'descr': {s.python}, 'fortran_order': False, 'shape': (0,)}}"),
        "a header that is a program, for numpy as it was long ago", kind="data", commands=("scan", "weights"),
        expect="plain", executes="numpy header", codes={"scan": (0, 3, 4), "weights": (4,)},
    )  # fmt: skip
    corpus.add(
        "npz-bomb", ".npz", lambda _: _grown_npz(), "images that grow a thousandfold after the header's own count",
        kind="data", commands=("scan", "npz"), expect="plain", codes={"npz": PLAIN, "scan": (0, 3, 4)},
    )  # fmt: skip
    corpus.add(
        "npz-header-long", ".npz",
        lambda _: _npz(x=b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{" * 100, y=LABELS),
        "a header of four gigabytes", kind="data", commands=("scan", "npz"), expect="plain",
        codes={"npz": NO_CODE, "scan": (0, 3, 4)},
    )  # fmt: skip
    corpus.add(
        "npz-traversal", ".npz",
        lambda s: zip_file([("x.npy", IMAGES), ("y.npy", LABELS), (str(s.canary), s.name.encode())]),
        "a member that leads out of the archive", kind="data", commands=("scan", "npz"), executes="extract",
        codes={"npz": (0, 2, 4)},
    )  # fmt: skip


def _grown_npz() -> bytes:
    return zip_file([("x.npy", npy(bytes(60_000_000))), ("y.npy", LABELS)], zipfile.ZIP_DEFLATED)


def png(width: int = 8, height: int = 8, *, extra: bytes = b"") -> bytes:
    """A black grey picture of this size; `extra` are chunks before its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = min(height, 200)
    pixels = chunk(b"IDAT", zlib.compress(bytes((width + 1) * rows if width < 10**6 else 100), 9))
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _tables(corpus: Corpus) -> None:
    """Tables of images that name files elsewhere."""

    def add(name: str, path: object, why: str, codes: tuple[int, ...], prepare: object = None) -> None:
        site = corpus.site(f"csv-{name}")
        folder = site.path("-folder")
        folder.mkdir()
        (folder / "good.png").write_bytes(png())
        if callable(prepare):
            prepare(folder)
        text = path(site) if callable(path) else path
        (folder / "table.csv").write_text(f"path,label\ngood.png,0\n{text},1\n", encoding="utf-8")
        corpus.enter(site.name, folder / "table.csv", why, kind="data", commands=("scan", "csv"), expect="plain",
                     codes={"csv": codes, "scan": (0, 3, 4)})  # fmt: skip

    up = "../" * 30
    add("parent", f"{up}etc/passwd", "a file of the system, from above", NO_CODE)
    add("absolute", "/etc/passwd", "a file of the system", NO_CODE)
    add("image-elsewhere", lambda s: str(s.plant(".png", png())), "an image at an absolute path", PLAIN)
    add("linked", "link.png", "an image that is a link to a file of the system", NO_CODE,
        lambda folder: link(folder / "link.png", Path("/etc/passwd")))  # fmt: skip
    add("zero", "link.png", "an image that is a link to /dev/zero", NO_CODE,
        lambda folder: link(folder / "link.png", Path("/dev/zero")))  # fmt: skip
    add("fifo", "pipe.png", "an image that is a named pipe", NO_CODE, lambda folder: os.mkfifo(folder / "pipe.png"))
    add("address", "https://127.0.0.1:9/evil.png", "an image that is an address", NO_CODE)
    add("file-address", "file:///etc/passwd", "an image that is a file's address", NO_CODE)
    add("escape", '"\x1b[2J\nPASSED.png"', "a name of escape sequences", NO_CODE)
    add("huge-field", "x" * 5_000_000, "a field of five megabytes", NO_CODE)
    add("formula", "=cmd|' /C calc'!A0", "a formula", NO_CODE)
    add("nul", "a\0b.png", "a name with a NUL", NO_CODE)
    _parquet(corpus)


def _parquet(corpus: Corpus) -> None:
    pictures = [{"bytes": png(), "path": "../../../../etc/passwd"}] * 4

    def add(name: str, table: pa.Table | bytes, why: str, **more: object) -> None:
        site = corpus.site(f"parquet-{name}")
        path = site.path(".parquet")
        if isinstance(table, bytes):
            path.write_bytes(table)
        else:
            pq.write_table(table, path)
        corpus.enter(site.name, path, why, kind="data", commands=("scan", "parquet"), **more)  # type: ignore[arg-type]

    add("paths", pa.table({"image": pictures, "label": [0, 1, 2, 3]}), "paths that lead elsewhere, beside the bytes",
        expect="plain", codes={"parquet": PLAIN, "scan": (0, 3, 4)})  # fmt: skip
    away = pa.array(
        [{"bytes": None, "path": "/etc/passwd"}] * 4, pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    add("paths-only", pa.table({"image": away, "label": [0, 1, 2, 3]}), "paths that lead elsewhere, and no bytes",
        expect="plain", codes={"parquet": NO_CODE, "scan": (0, 3, 4)})  # fmt: skip
    site = corpus.site("parquet-extension")
    marks = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": program(system(site))}
    field = pa.field("image", pa.binary(), metadata=marks)
    table = pa.table([[png()] * 4, [0, 1, 2, 3]], pa.schema([field, pa.field("label", pa.int64())]))
    add("extension", table, "a type that is a pickle (CVE-2023-47248)", expect="plain", executes="extension",
        codes={"parquet": PLAIN, "scan": (0, 3, 4)})  # fmt: skip
    add("footer", b"PAR1" + bytes(100) + struct.pack("<I", 2**31 - 1) + b"PAR1", "a footer of two gigabytes",
        expect="plain", codes={"parquet": NO_CODE, "scan": (0, 3, 4)})  # fmt: skip
    add("bytes-of-pickle", pa.table({"image": [program(system(site))] * 4, "label": [0, 1, 2, 3]}),
        "pickles as images", expect="plain", codes={"parquet": NO_CODE, "scan": (0, 3, 4)})  # fmt: skip


def _image_folders(corpus: Corpus) -> None:
    def add(name: str, why: str, prepare: object, codes: tuple[int, ...], label: str = "a") -> None:
        site = corpus.site(f"images-{name}")
        folder = site.path("-folder")
        for kind in (label, "b"):
            (folder / kind).mkdir(parents=True)
            (folder / kind / "0.png").write_bytes(png())
        prepare(folder / label)  # type: ignore[operator]
        corpus.enter(site.name, folder, why, kind="data", commands=("scan", "imagefolder"), expect="plain",
                     codes={"imagefolder": codes, "scan": (0, 3, 4)})  # fmt: skip

    add("link-file", "an image that is a link to a file of the system",
        lambda folder: link(folder / "1.png", Path("/etc/passwd")), PLAIN)  # fmt: skip
    add(
        "link-zero",
        "an image that is a link to /dev/zero",
        lambda folder: link(folder / "1.png", Path("/dev/zero")),
        PLAIN,
    )
    add("link-loop", "a folder that links to its parent", lambda folder: link(folder / "up", folder.parent), PLAIN)
    add(
        "link-root",
        "a class that is a link to the whole disk",
        lambda folder: link(folder.parent / "c", Path("/")),
        PLAIN,
    )
    add("fifo", "an image that is a named pipe", lambda folder: os.mkfifo(folder / "1.png"), PLAIN)
    add("escape", "a class named by escape sequences", lambda _: None, PLAIN, "\x1b[2J\nPASSED\x1b[0m")
    add("bytes", "a class named by bytes that are no text", lambda _: None, PLAIN, os.fsdecode(b"\xff\xfe\x9b"))
    add("deep", "folders 200 deep", lambda folder: (folder / "/".join("d" * 200)).mkdir(parents=True), PLAIN)


def _images(corpus: Corpus) -> None:
    """Pictures that are no pictures, or too many."""
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(%pipe%id) (w) file\nshowpage\n"
    pictures = {
        "bomb": png(50_000, 50_000),
        "bomb-wide": png(2**31 - 1, 1),
        "postscript": postscript,
        "text-bomb": png(extra=chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50_000_000)))),
        "profile-bomb": png(extra=chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(50_000_000)))),
        "chunk-length": png()[:33] + b"\xff\xff\xff\xff" + b"IDAT" + png()[41:],
        "tiff-loop": b"II*\0\x08\0\0\0"
        + struct.pack("<H", 1)
        + struct.pack("<HHII", 256, 4, 1, 8)
        + struct.pack("<I", 8),
        "tiff-count": b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + struct.pack("<HHII", 273, 4, 2**31, 8) + bytes(4),
        "ppm": b"P6 100000 100000 255\n" + bytes(100),
        "pickle": program("x"),
        "html": b"<svg onload=alert(1)>",
    }
    for name, content in pictures.items():
        site = corpus.site(f"image-{name}")
        folder = site.path("-folder")
        for kind in ("a", "b"):
            (folder / kind).mkdir(parents=True)
            (folder / kind / "0.png").write_bytes(png())
        (folder / "a" / "1.png").write_bytes(content)
        corpus.enter(site.name, folder, f"a picture: {name}", kind="data", commands=("scan", "imagefolder"),
                     expect="plain", codes={"imagefolder": PLAIN, "scan": (0, 3, 4)})  # fmt: skip


def _batches(corpus: Corpus) -> None:
    """CIFAR's pickles."""
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]

    def add(name: str, content: Mapping[str, bytes], why: str, **more: object) -> None:
        folder = corpus.site(name).path("")
        (folder / "cifar-10-batches-py").mkdir(parents=True)
        for file, batch in content.items():
            (folder / "cifar-10-batches-py" / file).write_bytes(batch)
        corpus.enter(name, folder, why, kind="data", commands=("scan", "cifar10"), **more)  # type: ignore[arg-type]

    clean = {"data": b"", "labels": [0], "batch_label": "x", "filenames": ["a.png"]}
    for name, node in (
        ("whole", system),
        ("label", lambda site: clean | {"labels": [system(site)]}),
        ("data", lambda site: clean | {"data": system(site)}),
    ):
        site = corpus.site(f"cifar-{name}")
        batch = program(node(site))
        add(site.name, dict.fromkeys([*names, "batches.meta"], batch), "CIFAR whose batches run something",
            executes="pickled files")  # fmt: skip
    laughs = b"\x80\x02]q\x00" + b"".join(b"]q%c(" % k + b"h%c" % (k - 1) * 10 + b"e" for k in range(1, 60)) + b"."
    for name, batch in (
        ("laughs", laughs), ("truncated", program(clean)[:-9]), ("empty", b""), ("not-a-dict", program([1, 2])),
        ("huge", b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"."), ("deep", b"\x80\x02" + b"]" * 100_000 + b"."),
    ):  # fmt: skip
        add(f"cifar-{name}", dict.fromkeys([*names, "batches.meta"], batch), f"CIFAR whose batches are {name}",
            expect="plain", codes={"cifar10": NO_CODE, "scan": (0, 3, 4)})  # fmt: skip


def _shards(corpus: Corpus) -> None:
    """WebDataset shards."""
    picture = png()
    good = [member for key in ("a", "b", "c", "d") for member in ((f"{key}.png", picture), (f"{key}.cls", b"0"))]

    def add(name: str, content: object, why: str, **more: object) -> None:
        more.setdefault("codes", {"wds": PLAIN, "scan": (0, 3, 4)})
        corpus.add(f"wds-{name}", ".tar", content, why, kind="data", commands=("scan", "wds"), **more)  # type: ignore[arg-type]

    for extension, node in (("pyd", program), ("pth", torch_zip), ("pickle", program)):
        add(
            f"label-{extension}",
            lambda s, extension=extension, node=node: tar_file([("a.png", picture), (f"a.{extension}", node(system(s)))]),
            f"labels as .{extension}", executes="members", codes={"wds": (4,)},
        )  # fmt: skip
        add(
            f"beside-{extension}",
            lambda s, extension=extension, node=node: tar_file([*good, (f"d.{extension}", node(system(s)))]),
            f"good samples, and a .{extension} beside them", executes="members", codes={"wds": (0, 4)},
        )  # fmt: skip
    add("objects", lambda s: tar_file([*good, ("d.npy", _objects(s))]), "an array of objects", codes={
        "wds": (0, 4), "scan": (0, 3, 4)
    })  # fmt: skip
    add("label-in-name", tar_file([("a.png", picture), ("a.cls", program("x"))]), "a label that is a pickle",
        expect="plain", codes={"wds": NO_CODE, "scan": (0, 3, 4)})  # fmt: skip
    add("traversal", lambda s: tar_file([*good, (str(s.canary), s.name.encode())]), "a member that leads out",
        executes="extract", codes={"wds": PLAIN})  # fmt: skip
    add("link", lambda s: tar_file([*good, (f"out/{s.canary.name}", b"x")], [("out", str(s.canary.parent))]),
        "a link that leads out", executes="extract", codes={"wds": PLAIN})  # fmt: skip
    add("link-image", tar_file([*good, ("e.cls", b"0")], [("e.png", "/etc/passwd")]), "an image that is a link",
        codes={"wds": PLAIN})  # fmt: skip
    add("escape", tar_file([("\x1b[2J\nPASSED.png", picture), ("\x1b[2J\nPASSED.cls", b"0"), *good]),
        "names of escape sequences", expect="plain")  # fmt: skip
    add("bomb", lambda _: _grown_tar(), "a tar that claims eight exabytes", expect="plain")
    add("label-huge", tar_file([("a.png", picture), ("a.cls", b"9" * 5_000_000)]), "a label of five megabytes",
        expect="plain")  # fmt: skip
    add("json-deep", tar_file([("a.png", picture), ("a.json", b"[" * 500_000)]), "a label 500,000 deep", expect="plain")
    add("image-bomb", tar_file([("a.png", png(50_000, 50_000)), ("a.cls", b"0"), *good]), "a picture too large",
        expect="plain")  # fmt: skip
    add("gzip-bomb", gzip.compress(tar_file([("a.png", bytes(60_000_000))]), mtime=0), "a tar that grows a thousandfold",
        expect="plain")  # fmt: skip


def _grown_tar() -> bytes:
    header = bytearray(tar_file([("a.png", b"x")])[:512])
    header[124:136] = b"\x80" + (2**63 - 1).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(2048)


def _digits(corpus: Corpus) -> None:
    """MNIST's files."""

    def add(name: str, images: bytes, labels: bytes, why: str) -> None:
        folder = corpus.site(f"mnist-{name}").path("")
        folder.mkdir()
        packed = {"images-idx3": gzip.compress(images, mtime=0), "labels-idx1": gzip.compress(labels, mtime=0)}
        for file, content in packed.items():
            for part in ("train", "t10k"):
                (folder / f"{part}-{file}-ubyte.gz").write_bytes(content)
        corpus.enter(f"mnist-{name}", folder, why, kind="data", commands=("scan", "mnist"), expect="plain",
                     codes={"mnist": PLAIN if name == "grown" else NO_CODE, "scan": (0, 3, 4)})  # fmt: skip

    labels = struct.pack(">II", 0x801, 4) + bytes(4)
    add("huge", struct.pack(">IIII", 0x803, 2**31, 2**31, 2**31), labels, "images of 2^93 pixels")
    add("no-width", struct.pack(">IIII", 0x803, 2**32 - 1, 0, 28), labels, "four billion images without pixels")
    add("grown", struct.pack(">IIII", 0x803, 4, 8, 8) + bytes(60_000_000), labels, "images that grow a thousandfold")
    add("pickle", program("x"), program("y"), "pickles instead of images")
