"""Pickles: every payload alone and within a checkpoint, and pickles that are hidden, packed, or only damaging."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zlib

from tests.hostile.containers import (
    STORAGES,
    TORCH_MAGIC,
    state_dict,
    tar_file,
    tensor,
    torch_legacy,
    torch_tar,
    torch_zip,
    zip_file,
)
from tests.hostile.opcodes import Build, Call, Name, Node, Raw, Then, call, code, glob, program
from tests.hostile.payloads import PAYLOADS, system
from tests.hostile.site import WEIGHTS, Corpus, Site

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU"
COMPRESSED = ("scan", "weights", "bare", "convert")
NOT_TORCHS = ("hex-integer",)
"""Payloads behind an opcode that torch's weights-only unpickler does not know: it stops there, as at damage."""
READ_ALL_THE_SAME = ("numel", "other-dtype", "many-dimensions")
"""Lies about a storage that torch believes as far as the file reaches: plain numbers, if not the right ones."""
NOT_READ = dict.fromkeys(("weights", "bare", "convert"), (2, 4))
"""A container that weights are never read from: a message that says so is as good as a refusal."""


def add_pickles(corpus: Corpus, without: tuple[str, ...] = ()) -> None:
    """All of them, but for some payloads."""
    _payloads(corpus, without)
    _protocols(corpus)
    _within_checkpoints(corpus)
    _legacy(corpus)
    _packed(corpus)
    _hidden(corpus)
    _damaging(corpus)


def _payloads(corpus: Corpus, without: tuple[str, ...]) -> None:
    """Each payload alone, and in a file of torch among real tensors."""
    for place, (kind, payload) in enumerate(PAYLOADS.items()):
        if kind in without:
            continue
        protocol = payload.protocols[place % len(payload.protocols)]
        site = corpus.site(f"pickle-{kind}")
        corpus.add(
            site.name, ".pkl", program(payload.node(site), protocol), payload.why,
            commands=("scan", "weights"), executes=payload.executes,
        )  # fmt: skip
        site = corpus.site(f"torch-{kind}")
        wanted = [protocol for protocol in payload.protocols if protocol >= 2]
        if wanted and payload.executes != "items":
            node = {"state_dict": state_dict(), "args": payload.node(site)}
            corpus.add(
                site.name, ".pt", torch_zip(node, protocol=wanted[0]), f"{payload.why}, beside real weights",
                commands=("scan", "weights"), executes="torch" if payload.executes else "",
                codes={"weights": (2, 4)} if kind in NOT_TORCHS else None,
            )  # fmt: skip


def _protocols(corpus: Corpus) -> None:
    for protocol in range(6):
        corpus.add(
            f"protocol-{protocol}", ".pth", lambda site, protocol=protocol: program(system(site), protocol),
            f"a plain pickle of protocol {protocol}", executes="pickle",
        )  # fmt: skip


def _within_checkpoints(corpus: Corpus) -> None:
    """A valid state dict, and one object too many in an ordinary place."""
    for where in ("optimizer", "epoch", "hyper_parameters", "callbacks"):
        corpus.add(
            f"checkpoint-{where}", ".pt",
            lambda site, where=where: torch_zip({"state_dict": state_dict(), where: system(site)}),
            f"real tensors, and a command as `{where}`", executes="torch",
        )  # fmt: skip
    corpus.add(
        "checkpoint-metadata", ".pt",
        lambda site: torch_zip(Build(call("collections.OrderedDict"), {"_metadata": system(site)})),
        "a command as the `_metadata` of an OrderedDict", executes="torch",
    )  # fmt: skip
    corpus.add(
        "checkpoint-key", ".pt", lambda site: torch_zip({"fc.bias": tensor("1", (10,)), 3: {system(site): 1}}),
        "a command as the key of a dict", executes="torch",
    )  # fmt: skip
    corpus.add(
        "checkpoint-hooks", ".pt",
        lambda site: torch_zip({
            "fc.weight": call("torch._utils._rebuild_parameter", tensor("0", (10, 3)), True, system(site))
        }),
        "a command as the backward hooks of a parameter", executes="torch",
    )  # fmt: skip
    corpus.add(
        "checkpoint-discarded", ".pt", lambda site: torch_zip(Then((system(site), state_dict()))),
        "runs and is thrown away: what is returned is an ordinary state dict", executes="torch",
    )  # fmt: skip
    corpus.add(
        "checkpoint-extension", ".safetensors", lambda site: torch_zip({"x": system(site), "state_dict": state_dict()}),
        "a pickle that is named safetensors", executes="members",
    )  # fmt: skip


def _legacy(corpus: Corpus) -> None:
    commands = WEIGHTS
    corpus.add("legacy", ".pth", lambda site: torch_legacy({"x": system(site)}), "torch before 1.6", executes="torch")
    corpus.add(
        "legacy-system-info", ".pth", lambda site: torch_legacy({}, system=system(site)),
        "the third pickle of a file of torch before 1.6: system information", executes="torch", commands=commands,
    )  # fmt: skip
    corpus.add(
        "legacy-keys", ".pth", lambda site: torch_legacy({}, keys=system(site)),
        "the fifth pickle of a file of torch before 1.6: the list of storages", executes="torch", commands=commands,
    )  # fmt: skip
    corpus.add(
        "legacy-tar", ".pth", lambda site: torch_tar(system(site)), "a tar, as torch before 0.1.10 wrote it",
        executes="torch", codes=NOT_READ,
    )  # fmt: skip
    corpus.add(
        "legacy-tar-storages", ".pth", lambda site: torch_tar(0, storages=system(site)),
        "the count of storages of such a tar is a command", executes="torch", codes=NOT_READ,
    )  # fmt: skip
    corpus.add(
        "legacy-magic-only", ".pth",
        lambda site: b"\x80\x02\x8a\x0a" + TORCH_MAGIC.to_bytes(10, "little") + b"." + program(system(site)),
        "torch's magic number, then a pickle that no version of torch wrote", executes="pickles",
    )  # fmt: skip


def _packed(corpus: Corpus) -> None:
    """Compressed pickles, as joblib reads them without being asked."""
    pack = {
        "gz": lambda content: gzip.compress(content, mtime=0),
        "bz2": bz2.compress,
        "xz": lzma.compress,
        "lzma": lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
        "zlib": zlib.compress,
    }
    for kind, compress in pack.items():
        corpus.add(
            f"packed-{kind}", f".pkl.{kind}", lambda site, compress=compress: compress(program(system(site))),
            f"a pickle under {kind}", executes="joblib", commands=COMPRESSED, codes=NOT_READ,
        )  # fmt: skip
    corpus.add(
        "packed-twice", ".pkl.gz",
        lambda site: gzip.compress(gzip.compress(program(system(site)), mtime=0), mtime=0),
        "a pickle under two gzips", executes="members", codes=NOT_READ,
    )  # fmt: skip
    corpus.add(
        "packed-torch", ".pt.gz", lambda site: gzip.compress(torch_zip({"x": system(site)}), mtime=0),
        "a file of torch under gzip", executes="members", codes=NOT_READ,
    )  # fmt: skip
    corpus.add(
        "packed-tar-gz", ".tar.gz", lambda site: gzip.compress(tar_file([("model.pkl", program(system(site)))]), mtime=0),
        "a pickle in a tar under gzip", executes="members", codes=NOT_READ,
    )  # fmt: skip
    corpus.add(
        "joblib", ".joblib", lambda site: program({"estimator": system(site), "steps": []}, 5),
        "a pickle as joblib writes it", executes="joblib",
    )  # fmt: skip


def _hidden(corpus: Corpus) -> None:
    """Pickles where one does not look for them."""
    corpus.add(
        "trailing-data", ".pt", lambda site: program(system(site)) + bytes(range(256)) * 8,
        "a pickle with other bytes after it", executes="pickle",
    )  # fmt: skip
    corpus.add(
        "second-pickle", ".pt", lambda site: program({"weights": [1.0]}) + program(system(site)),
        "a harmless pickle, then another one", executes="pickles",
    )  # fmt: skip
    corpus.add(
        "no-stop", ".pt", lambda site: program(system(site))[:-1], "a pickle without its end: it has run by then",
        executes="pickle",
    )  # fmt: skip
    corpus.add(
        "broken-after", ".pt", lambda site: program(Then((system(site), Raw(b"\xff\xff\xff"))), 4),
        "a pickle that breaks after it has run", executes="pickle",
    )  # fmt: skip
    corpus.add(
        "behind-png", ".png.pt", lambda site: PNG + program(system(site), 4), "a pickle behind a picture's header",
        executes="hidden pickle", codes=NOT_READ | {"scan": (3, 4)},
    )  # fmt: skip
    corpus.add(
        "in-safetensors", ".safetensors", _within_safetensors, "a pickle as the values of a tensor: plain numbers",
        executes="hidden pickle", expect="plain", codes={"convert": (0, 2), "bare": (0, 2)},
    )  # fmt: skip
    corpus.add(
        "safetensors-polyglot", ".safetensors", _safetensors_polyglot,
        "begins like safetensors, and is a pickle", executes="pickle", codes=NOT_READ | {"scan": (3, 4)},
    )  # fmt: skip
    corpus.add(
        "after-safetensors", ".safetensors", lambda site: _within_safetensors(site, tensor=b"\x00" * 8) + program(
            system(site), 4
        ),
        "a pickle after the end of a valid safetensors file", executes="hidden pickle",
        expect="plain", codes={"scan": (3, 4), "weights": (2, 4), "bare": (2, 4), "convert": (2, 4)},
    )  # fmt: skip
    corpus.add(
        "pickle-then-zip", ".pt", lambda site: program(system(site)) + torch_zip(state_dict()),
        "a pickle for those who read from the front, clean weights for those who look for a zip's directory",
        executes="pickle",
    )  # fmt: skip
    corpus.add(
        "text-before", ".pt", lambda site: b"(I1\n0" + program(system(site), 0), "begins like a tuple",
        executes="pickle",
    )  # fmt: skip
    for name, before, after, why in (
        ("none-first", b"N0", b"", "begins with None, as no program writes it"),
        ("string-first", b"X\x05\0\0\0hello0", b"", "begins with a string, as no program writes it"),
        ("large-text", b"V" + b"x" * 1_500_000 + b"\n0", b"", "1.5 megabytes of text, then what runs"),
        ("trailing-text", b"(I1\n0", b"\nand so on\n" * 9, "text after a pickle of protocol 0"),
    ):
        corpus.add(
            name, ".pt", lambda site, before=before, after=after: before + program(system(site), 0) + after,
            why, executes="pickle", codes=NOT_READ,
        )  # fmt: skip
    corpus.add(
        "windows-name", ".pt", lambda site: torch_zip({"x": call("nt.system", site.shell)}),
        "os.system as Windows names it: runs there alone",
    )  # fmt: skip
    corpus.add(
        "control-characters", ".pt",
        lambda site: program(Then((system(site), Call(Name("os", "sys\x1b[2J\x1b[31mtem\r\u202e<script>"), ())))),
        "a global whose name would write to the terminal", executes="pickle",
    )  # fmt: skip


def _within_safetensors(site: Site, tensor: bytes | None = None) -> bytes:
    values = program(system(site), 4) if tensor is None else tensor
    header = f'{{"fc.weight":{{"dtype":"U8","shape":[{len(values)}],"data_offsets":[0,{len(values)}]}}}}'.encode()
    return struct.pack("<Q", len(header)) + header + values


def _safetensors_polyglot(site: Site) -> bytes:
    """A string of a pickle whose length and first characters look like the length of a header and its brace."""
    text = b"\0\0\0" + b'{"__metadata__":{"format":"pt"}}'
    return b"X" + struct.pack("<I", len(text)) + text + b"0" + code(system(site), 0) + b"." + b" " * 40_000


DAMAGING: dict[str, tuple[bytes, str]] = {
    "billion-laughs": (
        b"\x80\x02]q\x00" + b"".join(
            b"]q%c(" % level + b"h%c" % (level - 1) * 10 + b"e" for level in range(1, 60)
        ) + b".",
        "lists of lists, ten to the sixtieth in all",
    ),
    "huge-memo": (b"\x80\x02Nr\xff\xff\xff\x7f.", "a memo slot far away: its table takes gigabytes"),
    "huge-string": (b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.", "a string that claims 4 exabytes"),
    "huge-frame": (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.", "a frame that claims 4 exabytes"),
    "huge-integer": (b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.", "an integer of two gigabytes"),
    "deep": (b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".", "lists in lists, 200,000 deep"),
    "negative-length": (b"\x80\x02T" + struct.pack("<i", -1) + b".", "a string of length -1"),
    "stack-underflow": (b"\x80\x020000R.", "takes from an empty stack"),
    "bad-protocol": (b"\x80\xff" + program("x")[2:], "protocol 255"),
    "empty-stop": (b"\x80\x02.", "nothing but an end"),
}  # fmt: skip


def _damaging(corpus: Corpus) -> None:
    """Pickles that name nothing, and take memory or time; and rebuilding functions of torch with impossible sizes."""
    either = {"scan": (0, 3, 4), "weights": (2, 4), "bare": (2, 4), "convert": (2, 4)}
    for name, (content, why) in DAMAGING.items():
        corpus.add(f"damage-{name}", ".pkl", content, why, expect="plain", codes=either)
        inside = zip_file(
            [("archive/data.pkl", content), ("archive/version", b"3\n"), ("archive/byteorder", b"little")]
        )
        corpus.add(f"damage-torch-{name}", ".pt", inside, why, expect="plain", codes=either)
    for name, node in _impossible().items():
        corpus.add(
            f"rebuild-{name}", ".pt", torch_zip({"fc.bias": tensor("1", (10,)), "fc.weight": node}, STORAGES),
            "a rebuilding function of torch with impossible arguments", expect="plain",
            codes=either | ({"convert": (0, 2, 4)} if name in READ_ALL_THE_SAME else {}),
        )  # fmt: skip


def _impossible() -> dict[str, Node]:
    """Tensors that cannot be; every name in them is one of an ordinary state dict."""
    far = 2**40
    hooks = call("collections.OrderedDict")
    weight = tensor("0", (10, 3))
    return {
        "size": tensor("0", (far, 3), numel=30),
        "stride": tensor("0", (10, 3), numel=30, stride=(far, 1)),
        "offset": tensor("0", (10, 3), offset=far),
        "negative-offset": tensor("0", (10, 3), offset=-1000),
        "negative-stride": tensor("0", (10, 3), numel=30, stride=(-100, 1)),
        "negative-size": tensor("0", (-10, 3), numel=30),
        "overflow": tensor("0", (2**62, 2**62), numel=30, stride=(1, 1)),
        "expanded": tensor("0", (2**20, 2**20), numel=30, stride=(0, 0)),
        "numel": tensor("0", (10, 3), numel=far),
        "negative-numel": tensor("0", (10, 3), numel=-30),
        "storage-type": tensor("0", (10, 3), type=glob("collections.OrderedDict")),
        "other-dtype": tensor("0", (10, 3), type=glob("torch.DoubleStorage")),
        "text-size": tensor("0", ("ten", None), numel=30, stride=(1, 1)),
        "absent-storage": tensor("../../0", (10, 3)),
        "many-dimensions": tensor("0", (1,) * 5000, numel=1, stride=(1,) * 5000),
        "sparse": call(
            "torch._utils._rebuild_sparse_tensor", glob("torch.sparse_coo"),
            (tensor("0", (2, 3)), tensor("1", (3,)), (far, far), True),
        ),
        "parameter-state": call(
            "torch._utils._rebuild_parameter_with_state", weight, True, hooks, {"data": None, "__class__": None}
        ),
        "quantised": call(
            "torch._utils._rebuild_qtensor", tensor("0", (10, 3)), 0, (far,), (1,), (None, 1.0, 0), False, hooks
        ),
        "from-type": call(
            "torch._tensor._rebuild_from_type_v2", glob("torch._utils._rebuild_parameter"),
            glob("torch.nn.parameter.Parameter"), (weight, True, hooks), {"shape": (far,)},
        ),
        "meta": call(
            "torch._utils._rebuild_meta_tensor_no_storage", glob("torch.float32"), (far, far), (1, 1), False
        ),
    }  # fmt: skip
