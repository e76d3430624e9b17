"""The placeholder reader: the same tensors as unpickling gives, from files of every kind, with nothing run."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from audit.errors import SubjectError, UnsafeArtefactError
from audit.loading.placeholders.reading import read

MOST = 1 << 28
ROOT = Path(__file__).parents[3]


class Layers(nn.Module):
    """Tied weights, buffers of both kinds, an odd memory format, and an attribute of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Dropout())
        self.head[2].weight = self.head[0].weight
        self.none: Tensor | None
        self.register_buffer("none", None)
        self.register_buffer("scale", torch.arange(3.0))
        self.register_buffer("scratch", torch.ones(2), persistent=False)
        self.settings = Namespace(width=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


class Tagged(Tensor):
    """A subclass that stores its numbers as tensors do."""


class Holder:
    """Any object that keeps a network."""

    def __init__(self, network: nn.Module) -> None:
        self.ema, self.decay = network, 0.9


def saved(content: object, **options: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def formed(node, tensors):
    kind, value = node
    if kind == "tensor":
        return tensors[str(value)]
    if kind == "dict":
        return {key: formed(child, tensors) for key, child in value}
    return (
        [formed(child, tensors) for child in value] if kind == "list" else value if kind == "value" else (kind, value)
    )


def found(content: bytes, most_bytes: int = MOST):
    """What the reader finds, and all that it says; in this very process, where anything that ran would show."""
    stream = io.BytesIO()
    message = read({"name": "it.pth", "most_bytes": most_bytes}, io.BytesIO(content), stream)
    message = json.loads(json.dumps(message))
    return formed(message["tree"], safetensors.torch.load(stream.getvalue())), message


def same(left, right) -> bool:
    """Equal keys in the same order, and tensors that are equal in every bit that counts."""
    if isinstance(left, Tensor):
        equal = left.dtype == right.dtype and left.shape == right.shape
        return equal and torch.equal(left.detach().contiguous().view(-1), right.view(-1))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


WAYS = {
    "zip": {},
    "zip, protocol 4": {"pickle_protocol": 4},
    "legacy": {"_use_new_zipfile_serialization": False},
    "legacy, protocol 5": {"_use_new_zipfile_serialization": False, "pickle_protocol": 5},
}


def written(content: object, way: str) -> bytes:
    return saved(content, **WAYS[way]) if way in WAYS else pickle.dumps(content, protocol=int(way.rpartition(" ")[2]))


EVERY_WAY = [*WAYS, *(f"plain, protocol {protocol}" for protocol in range(6))]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("way", EVERY_WAY)
def test_modules_become_their_state_dicts(way):
    network = Layers()
    content, message = found(written(network, way))
    assert same(dict(network.state_dict()), content)
    assert content["head.0.weight"] is content["head.2.weight"]
    assert "scratch" not in content
    assert message["names"][0].endswith(".Layers")
    assert "torch.nn.modules.conv.Conv2d" in message["names"]


@pytest.mark.parametrize("way", EVERY_WAY)
def test_everything_in_a_training_checkpoint(way):
    network = Layers()
    moments = {place: {"step": torch.tensor(1.0), "exp_avg": torch.randn(3)} for place in range(2)}
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = {
        "state_dict": OrderedDict(network.state_dict()),
        "optimizer": {"state": moments, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
        "epoch": 3,
        "best": np.float64(0.5),
        "args": Namespace(lr=0.1),
        "lists": [[torch.ones(2)], (torch.zeros(1),)],
        "numpy": {"c": numbers, "f": np.asfortranarray(numbers), "big": numbers.astype(">i2"), "text": np.array(["a"])},
        "counts": defaultdict(list, {"a": torch.tensor([True, False])}),
    }
    read_back, _ = found(written(content, way))
    assert same(dict(content["state_dict"]), read_back["state_dict"])
    assert same(moments, read_back["optimizer"]["state"])
    assert read_back["epoch"] == 3
    assert read_back["best"] == 0.5
    assert read_back["args"] == ("left", "argparse.Namespace")
    assert same([[torch.ones(2)], [torch.zeros(1)]], read_back["lists"])
    assert same(torch.from_numpy(numbers), read_back["numpy"]["c"])
    assert same(torch.from_numpy(numbers), read_back["numpy"]["f"])
    assert read_back["numpy"]["big"].tolist() == numbers.tolist()
    assert read_back["numpy"]["text"] == "an array of numpy"
    assert same(dict(content["counts"]), read_back["counts"])


DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.int32),
    *(torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]


@pytest.mark.parametrize("way", ["zip", "legacy", "plain, protocol 2"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_types_and_views(dtype, way):
    numbers = torch.arange(24).to(torch.float32).to(dtype).reshape(2, 3, 4)
    content = {
        "whole": numbers,
        "turned": numbers.transpose(0, 2),
        "part": numbers[1:, ::2, 1:3],
        "repeated": numbers[0, 0].expand(5, 4),
        "single": numbers[1, 2, 3],
        "none": numbers[:0],
        "parameter": nn.Parameter(numbers, requires_grad=False),
    }
    read_back, _ = found(written(content, way))
    assert list(read_back) == list(content)
    for name, tensor in content.items():
        assert read_back[name].dtype == dtype
        assert read_back[name].shape == tensor.shape
        plain = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        assert torch.equal(plain, read_back[name].reshape(-1).view(torch.uint8)), name


def test_objects_that_hold_networks_and_subclasses_of_tensors():
    network = Layers()
    tagged = torch.arange(3.0).as_subclass(Tagged)
    tagged.note = "kept elsewhere"
    content, message = found(
        saved({"holder": Holder(network), "tagged": tagged, "data_parallel": nn.DataParallel(network)})
    )
    assert same(dict(network.state_dict()), content["holder"]["ema"])
    assert content["tagged"].tolist() == [0, 1, 2]
    assert [name.rpartition(".")[2] for name in message["subclasses"]] == ["Tagged"]
    assert next(iter(content["data_parallel"])) == "module.scale"


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_what_cannot_be_followed_is_named():
    content, _ = found(
        saved({
            "plain": torch.ones(1),
            "quantised": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
            "sparse": torch.eye(2).to_sparse(),
            "wide": torch.ones(2, dtype=torch.complex128),
            "turned": torch.ones(2, dtype=torch.complex64).conj(),
        })
    )  # fmt: skip
    assert content["quantised"] == ("lost", "a quantised tensor")
    assert content["sparse"][0] == "lost"
    assert content["wide"] == ("lost", "a tensor of complex128")
    assert content["turned"][0] == "lost"
    assert content["plain"].tolist() == [1]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["scripted", "traced"])
def test_torchscript(tmp_path, how):
    network = Layers().eval()
    image = torch.ones(1, 2, 5, 5)
    del network.settings
    program = torch.jit.script(network) if how == "scripted" else torch.jit.trace(network, image)
    torch.jit.save(program, tmp_path / "it.pt")
    content, message = found((tmp_path / "it.pt").read_bytes())
    expected = dict(network.state_dict())
    assert {key: value for key, value in content.items() if key != "scratch"}.keys() == expected.keys()
    assert all(same(value, content[key]) for key, value in expected.items())
    assert all(name.startswith("__torch__.") for name in message["names"])


@pytest.mark.filterwarnings("ignore:No complete tensor:UserWarning")
def test_exported_programs(tmp_path):
    network = Layers().eval()
    del network.settings
    torch.export.save(torch.export.export(network, (torch.ones(1, 2, 5, 5),)), tmp_path / "it.pt2")
    content, message = found((tmp_path / "it.pt2").read_bytes())
    expected = dict(network.state_dict())
    assert content.keys() == expected.keys()
    assert all(same(value, content[key]) for key, value in expected.items())
    assert message["names"] == []


def tar_file(tensors: dict[str, Tensor]) -> bytes:
    """As torch before 0.4 wrote it."""
    storages, views, names = io.BytesIO(), io.BytesIO(), list(tensors)
    pickle.dump(len(names), storages, protocol=2)
    for key, tensor in enumerate(tensors.values()):
        pickle.dump((key, "cpu", torch.FloatStorage), storages, protocol=2)
        storages.write(struct.pack("<q", tensor.numel()) + tensor.numpy().tobytes())
    pickle.dump([], storages, protocol=2)
    pickle.dump(len(names), views, protocol=2)
    for key, tensor in enumerate(tensors.values()):
        pickle.dump((100 + key, key, torch.FloatTensor), views, protocol=2)
        size = struct.pack(f"<{tensor.dim()}q", *tensor.shape) + struct.pack(f"<{tensor.dim()}q", *tensor.stride())
        views.write(struct.pack("<ii", tensor.dim(), 0) + size + struct.pack("<q", 0))

    class Keys(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return str(100 + names.index(value.name)) if isinstance(value, Named) else None

    content = io.BytesIO()
    Keys(content, protocol=2).dump({"state_dict": {name: Named(name) for name in names}, "epoch": 1})
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, part in (("storages", storages), ("tensors", views), ("pickle", content)):
            member = tarfile.TarInfo(name)
            member.size = len(part.getvalue())
            archive.addfile(member, io.BytesIO(part.getvalue()))
    return stream.getvalue()


class Named:
    """Stands for a tensor while a tar file is written."""

    def __init__(self, name: str) -> None:
        self.name = name


def test_torch_tar_files(tmp_path):
    tensors = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}
    content = tar_file(tensors)
    (tmp_path / "it.pth").write_bytes(content)
    assert same(
        tensors, torch.load(tmp_path / "it.pth", weights_only=False)["state_dict"]
    )  # the file is what it should
    read_back, message = found(content)
    assert same(tensors, read_back["state_dict"])
    assert read_back["epoch"] == 1
    assert set(message["names"]) <= {"torch.FloatTensor"}


class Runs:
    """Runs something when it is unpickled."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.made = function, arguments

    def __reduce__(self) -> object:
        return self.made


@pytest.mark.parametrize("way", EVERY_WAY)
def test_nothing_runs_and_nothing_is_imported(tmp_path, way):
    canary = tmp_path / "canary"
    import this_is_imported_by_the_test as module  # type: ignore[import-not-found]

    content = {
        "weights": {"w": torch.ones(2)},
        "shell": Runs(os.system, f"touch {canary}"),
        "open": Runs(open, str(canary), "w"),
        "eval": Runs(eval, f"open({str(canary)!r}, 'w')"),
        "attribute": Runs(getattr, os, "name") if way == "never" else 0,
        "module": module.Thing(),
    }
    content_bytes = written(content, way)
    del sys.modules[module.__name__]
    read_back, message = found(content_bytes)
    assert not canary.exists()
    assert module.__name__ not in sys.modules
    assert same(content["weights"], read_back["weights"])
    assert {"posix.system", "this_is_imported_by_the_test.Thing"} <= set(message["names"])
    assert read_back["shell"] == ("left", "posix.system")


@pytest.fixture(autouse=True)
def _module(tmp_path, monkeypatch):
    (tmp_path / "this_is_imported_by_the_test.py").write_text("class Thing:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("this_is_imported_by_the_test", None)


def built(*parts: bytes) -> bytes:
    """A pickle of protocol 2 by its operations."""
    return b"\x80\x02" + b"".join(parts) + b"."


def named(name: str) -> bytes:
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    content = value.to_bytes(10, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def zipped(data: bytes, storage: bytes = bytes(16), **members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in {"data.pkl": data, "data/0": storage, **members}.items():
            archive.writestr(f"archive/{name}", content)
    return stream.getvalue()


def view(offset: int, sizes: list[int], strides: list[int], claimed: int = 4) -> bytes:
    """A file with one tensor over a storage of 16 bytes."""
    persistent = (
        b"(" + text("storage") + named("torch.FloatStorage") + text("0") + text("cpu") + number(claimed) + b"tQ"
    )
    shape, steps = (b"(" + b"".join(map(number, values)) + b"t" for values in (sizes, strides))
    arguments = b"(" + persistent + number(offset) + shape + steps + b"\x89" + named("collections.OrderedDict") + b")Rt"
    data = built(b"}", text("w"), named("torch._utils._rebuild_tensor_v2"), arguments, b"Rs")
    return zipped(data)


def test_the_whole_storage_may_be_used():
    assert found(view(0, [4], [1]))[0]["w"].tolist() == [0, 0, 0, 0]
    assert found(view(3, [5, 1], [0, 7]))[0]["w"].shape == (5, 1)


@pytest.mark.parametrize(
    ("offset", "sizes", "strides", "claimed"),
    [
        (0, [5], [1], 4),
        (1, [4], [1], 4),
        (0, [2, 2], [3, 1], 4),
        (0, [4], [1 << 62], 4),
        (0, [1 << 61, 1 << 61], [1, 1], 4),
        (-1, [1], [1], 4),
        (0, [-1], [1], 4),
        (0, [2], [-1], 4),
        (0, [1] * 65, [1] * 65, 4),
        (0, [1, 1], [1], 4),
        (0, [8], [1], 8),
        (0, [1], [1], -1),
        (0, [1], [1], 1 << 62),
    ],
)
def test_tensors_beyond_their_storage_are_refused(offset, sizes, strides, claimed):
    with pytest.raises(SubjectError, match="which cannot be read with placeholders: UnpicklingError"):
        found(view(offset, sizes, strides, claimed))


def test_few_numbers_repeated_without_end_are_refused():
    with pytest.raises(UnsafeArtefactError, match="they repeat few numbers many times"):
        found(view(0, [1 << 30, 1 << 30], [0, 0]))


@pytest.mark.parametrize(
    "data",
    [
        built(named("torch.float32"), b"}", text("size"), number(0), b"s", b"b"),  # state of a type of numbers
        built(named("torch.FloatStorage"), b"N}", text("element"), b"Ns", b"\x86b"),  # and of a storage class
        built(named("torch._utils._rebuild_tensor_v2"), b"N}", text("_function"), named("os.system"), b"s\x86b"),
        built(named("torch.nn.parameter.Parameter"), b"N}", text("__new__"), named("os.system"), b"s\x86b"),
        built(named("collections.OrderedDict"), b"N}", text("__init__"), named("os.system"), b"s\x86b"),
        built(named("os.system"), b"N}", text("__new__"), named("os.system"), b"s\x86b"),
        built(named("torch.FloatStorage"), b")R"),
        built(named("torch._utils._rebuild_tensor_v2"), b")R"),
        built(named("torch._utils._rebuild_tensor_v2"), b")\x81"),
        built(named("copyreg._reconstructor"), named("torch.FloatStorage"), number(1), b"\x86R"),
        built(b"\x82\x01"),  # by a number from the registry
        built(b"\x8c\x02os\x8c\x06system\x93", b"0"),
        b"\x80\x02",
        b"",
    ],
)
def test_pickles_that_reach_for_the_reader_itself_end_it(data):
    with pytest.raises(SubjectError, match="cannot be read with placeholders"):
        found(zipped(data))
    assert found(view(0, [4], [1]))[0]["w"].tolist() == [0, 0, 0, 0]  # nothing of the reader has changed


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (zipped(b"}.", **{"deeper/data.pkl": b"}."}), None),
        (zipped(built(b"}"), byteorder=b"big"), "big-endian"),
        (zipped(view(0, [1], [1])), "UnpicklingError"),
        (zipped(built(b"}", text("w"), b"(", text("other"), b"tQs")), "a persistent id that names no storage"),
    ],
)
def test_odd_archives(content, said):
    if said is None:
        assert found(content)[0] == ("left", "dict")
    else:
        with pytest.raises(SubjectError, match=said):
            found(content)


def nested_files(depth: int) -> bytes:
    content = saved(torch.FloatStorage([1.0]), _use_new_zipfile_serialization=False)
    for _ in range(depth):
        content = pickle.dumps(Runs(torch.storage._load_from_bytes, content))
    return content


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")
def test_files_within_files_have_an_end():
    found(nested_files(3))
    with pytest.raises(SubjectError, match="files within files, more than 4 deep"):
        found(nested_files(6))


def test_lists_that_hold_themselves_or_unfold_without_end():
    knot: list[object] = [torch.ones(1)]
    knot.append(knot)
    content, _ = found(pickle.dumps({"knot": knot}))
    assert content["knot"][1] == ("left", "nested without end")
    laughter: list[object] = [torch.ones(1)]
    for _ in range(30):
        laughter = [laughter, laughter]
    with pytest.raises(SubjectError, match="more than 2,000,000 entries"):
        found(pickle.dumps(laughter))
    silence: list[object] = []
    for _ in range(60):
        silence = [silence, silence]
    assert found(pickle.dumps({"w": torch.ones(1), "silence": silence}))[0]["silence"] == ("left", "list")


def test_a_module_that_holds_itself():
    network = nn.Sequential(nn.Linear(1, 1))
    network._modules["again"] = network
    with pytest.raises(SubjectError, match="modules nested without end"):
        found(pickle.dumps(network))


def test_long_logs_are_left_out():
    content, _ = found(pickle.dumps({"w": torch.ones(1), "losses": [0.5] * 3_000_000}, protocol=4))
    assert content["losses"] == ("left", "list")


FUZZ = """
import io, random, resource, sys
from pathlib import Path
from audit.errors import SubjectError, UnsafeArtefactError
from audit.loading.placeholders.reading import read
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
whole, seed = Path(sys.argv[1]).read_bytes(), int(sys.argv[2])
chance, ends = random.Random(seed), {"read": 0, "refused": 0}
for _ in range(400):
    changed = bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(min(len(changed), 1500)) if chance.random() < 0.7 else chance.randrange(len(changed))
        changed[at] = chance.randrange(256)
    try:
        read({"name": "it", "most_bytes": 1 << 26}, io.BytesIO(bytes(changed)), io.BytesIO())
        ends["read"] += 1
    except (SubjectError, MemoryError):
        ends["refused"] += 1
print(ends, [name for name in ("torch", "research") if name in sys.modules])
"""


@pytest.mark.parametrize("way", ["zip", "legacy", "plain, protocol 4"])
def test_damage_anywhere_ends_in_an_error_or_a_reading(tmp_path, way):
    path = tmp_path / "it"
    path.write_bytes(written({"network": Layers(), "numpy": np.ones(3)}, way))
    command = [sys.executable, "-c", FUZZ, path, "0"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip().endswith("[]")
    assert "'refused': 0" not in ran.stdout
