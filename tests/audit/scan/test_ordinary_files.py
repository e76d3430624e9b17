"""Files as libraries write them: nothing is found in them, whatever their contents."""

import argparse
import bz2
import collections
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from audit.scan import scan_file, scan_paths


def quiet(path):
    """Asserts that a file is examined in full and without any finding."""
    report = scan_file(path)
    assert report.findings == ()
    assert report.examined
    assert report.looked_at
    return report


def net():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8, 10)
    )


def optimiser(name, model):
    made = getattr(torch.optim, name)(model.parameters(), lr=0.01)
    model(torch.rand(2, 3, 3, 3)).sum().backward()
    made.step()
    return made


CONTENTS = {
    "state_dict": lambda: net().state_dict(),
    "plain dict of tensors": lambda: dict(net().state_dict()),
    "half precision": lambda: {name: tensor.half() for name, tensor in net().state_dict().items()},
    "bfloat16": lambda: {"w": torch.zeros(4, dtype=torch.bfloat16)},
    "float8": lambda: {"w": torch.zeros(4).to(torch.float8_e4m3fn)},
    "every plain dtype": lambda: {
        str(dtype): torch.zeros(2, 3, dtype=dtype)
        for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool, torch.float64,
                      torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64)
    },
    "a training checkpoint": lambda: {
        "epoch": 12, "best_prec1": 91.7, "arch": "resnet20", "state_dict": net().state_dict(),
        "optimizer": optimiser("SGD", net()).state_dict(), "classes": ["cat", "dog"], "lr": [0.1, 0.01], "done": True,
        "note": None, "seen": {1, 2, 3}, "size": torch.Size([3, 32, 32]), "device": torch.device("cpu"),
        "dtype": torch.float16, "counter": collections.Counter("abracadabra"),
        "nested": {"a": {"b": {"c": (1, 2, (3, [4]))}}}, "bytes": b"\x00\x01", "complex": 1 + 2j,
    },
    "Adam": lambda: optimiser("AdamW", net()).state_dict(),
    "Parameter": lambda: {"p": torch.nn.Parameter(torch.rand(3))},
    "a view": lambda: {"v": torch.rand(10)[2:5], "same": torch.rand(3).t()},
    "sparse": lambda: {"s": torch.eye(3).to_sparse()},
    "quantised": lambda: {"q": torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.qint8)},
    "a meta tensor": lambda: {"m": torch.empty(3, device="meta")},
    "random state": lambda: {"torch": torch.get_rng_state(), "numpy": np.random.RandomState(0).get_state()[1]},
    "an array": lambda: {"mean": np.zeros(3, np.float32), "ids": np.arange(3)},
    "a tensor with attributes": lambda: {"t": torch.nn.Buffer(torch.rand(2))},
    "empty": dict,
    "text with backslashes, tags and a tilde": lambda: {"note": "~\\..\\<b>\x1b[31m", "../outside": torch.zeros(1)},
    "text that looks like code": lambda: {"note": "cat\ndog\nimport os; os.system('ls')", "more": "c\n\n(lp0\n."},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_torch_saves(tmp_path, content, zipped):
    torch.save(content(), tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    quiet(tmp_path / "model.pt")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_torch_saves_in_every_protocol(tmp_path, protocol, zipped):
    content = {"state_dict": net().state_dict(), "epoch": 3, "name": "plain"}
    file = tmp_path / "model.pt"
    torch.save(content, file, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    quiet(file)


PLAIN = {
    "numbers": [1, 2.5, True, None, 2**80, -1, 1 + 2j],
    "text": {"a": "ü", "b": b"raw", "c": bytearray(b"raw"), "d": ""},
    "containers": [(), [], {}, set(), frozenset({1}), (1, 2), {"a": {"b": {}}}, collections.OrderedDict(a=1)],
    "defaultdict": collections.defaultdict(list, a=[1]),
    "deque": collections.deque([1, 2], 5),
    "Counter": collections.Counter("aabb"),
    "arrays": {"a": np.zeros((2, 3), np.float32), "b": np.array(["x", "y"]), "c": np.zeros(3, "<M8[s]")},
    "a structured array": np.zeros(2, [("x", "f4"), ("y", "i4", (2,))]),
    "a Fortran array": np.asfortranarray(np.ones((3, 2))),
    "slice, None's type": [slice(1, 2), type(None)],
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("content", PLAIN.values(), ids=PLAIN.keys())
def test_plain_pickles(tmp_path, content, protocol):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
    quiet(tmp_path / "x.pkl")


def test_large_and_deep_pickles(tmp_path):
    nested = []
    for _ in range(150):
        nested = [nested]
    content = {"text": "x" * 3_000_000, "bytes": bytes(5_000_000), "numbers": list(range(20_000)), "nested": nested}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    quiet(tmp_path / "x.pkl")


def test_pickles_one_after_another(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"".join(pickle.dumps({"part": part}) for part in range(5)))
    assert "5 pickles" in quiet(tmp_path / "x.pkl").looked_at


def test_data_that_hold_the_first_bytes_of_other_files(tmp_path):
    content = {"a": b"\x80\x04 not a pickle", "b": b"PK", "c": "\x80\x02", "d": b"\x1f\x8b", "e": "cab\ncde\nxyz"}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    quiet(tmp_path / "x.pkl")


SAFETENSORS_TYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bfloat16, torch.float64,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64, torch.complex64,
)  # fmt: skip


def test_safetensors(tmp_path):
    tensors = {"w": torch.rand(3, 4), "b": torch.zeros(0), "scalar": torch.tensor(1), "half": torch.ones(2).half()}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt", "note": "\u202etxt"})
    safetensors.torch.save_file({}, tmp_path / "b.safetensors")
    every = {str(dtype): torch.zeros(3, dtype=dtype) for dtype in SAFETENSORS_TYPES}
    safetensors.torch.save_file(every, tmp_path / "c.safetensors")
    for name in "abc":
        quiet(tmp_path / f"{name}.safetensors")


def test_safetensors_whose_length_begins_like_a_pickle(tmp_path):
    """The first byte is the lower part of a length, and so of every value."""
    for letters in range(1, 258):
        file = tmp_path / "x.safetensors"
        safetensors.torch.save_file({"w": torch.zeros(2)}, file, metadata={"n": "x" * letters})
        quiet(file)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_numpy_files(tmp_path, save):
    arrays = {"x": np.random.default_rng(0).random((20, 8, 8)), "y": np.arange(20), "names": np.array(["a", "bb"])}
    save(tmp_path / "x.npz", **arrays, nested=np.zeros(3, [("a", "f4"), ("b", [("c", "i8")])]), scalar=np.float64(3))
    quiet(tmp_path / "x.npz")
    np.save(tmp_path / "x.npy", arrays["x"])
    quiet(tmp_path / "x.npy")


def test_archives(tmp_path):
    torch.save(net().state_dict(), tmp_path / "model.pt")
    (tmp_path / "README.md").write_text("# A model\n\nIt was trained on pictures.\n")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "model.pt", "models/model.pt")
        archive.write(tmp_path / "README.md", "README.md")
        archive.writestr("empty/", "")
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "model.pt", "models/" + "long" * 40 + "/model.pt")
        archive.add(tmp_path / "README.md", "README.md")
    with tarfile.open(tmp_path / "c.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(tmp_path / "README.md", "ünicode/README.md")
    content = (tmp_path / "model.pt").read_bytes()
    for name, pack in (("d.gz", gzip.compress), ("e.bz2", bz2.compress), ("f.xz", lzma.compress)):
        (tmp_path / name).write_bytes(pack(content))
    for name in ("a.zip", "b.tar.gz", "c.tar", "d.gz", "e.bz2", "f.xz"):
        quiet(tmp_path / name)


def test_a_zip_that_was_streamed(tmp_path):
    """Sizes follow the data there, and the headers hold zeros."""

    class Pipe(io.RawIOBase):
        def __init__(self, stream):
            self.stream = stream

        def writable(self):
            return True

        def write(self, data):
            return self.stream.write(data)

    with (tmp_path / "x.zip").open("wb") as stream, zipfile.ZipFile(Pipe(stream), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "words " * 100)
        archive.writestr("b.txt", "more words " * 100)
    quiet(tmp_path / "x.zip")


def test_texts(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\nkit fox\n(crane\nimport\n")
    (tmp_path / "none.txt").write_text("(None of these)\n(Ian\nNoon\n")
    (tmp_path / "deutsch.md").write_text("Größe, Öl und Übermut: " * 40, encoding="utf-8")
    (tmp_path / "zh.md").write_text("模型說明" * 200, encoding="utf-8")
    (tmp_path / "a.csv").write_text("path,label\na.png,1\nb.png,2\n")
    (tmp_path / "a.yaml").write_text("model:\n  name: resnet\n  layers: [1, 2]\n")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ResNet"], "id2label": {"0": "cat"}}))
    (tmp_path / "lines.json").write_text('{"a": 1}\n{"a": 2}\n')
    index = {"metadata": {"total_size": 1}, "weight_map": {"a": "model-1.safetensors", "b": "sub/model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "empty").write_text("")
    reports = list(scan_paths([tmp_path]))
    assert len(reports) == 10
    for report in reports:
        assert (report.findings, report.examined) == ((), True), report.path


def test_classes_of_the_user_are_code_and_nothing_worse(tmp_path):
    content = {"args": argparse.Namespace(lr=0.1), "state": {"w": torch.zeros(2)}, "loss": np.float64(0.5)}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        torch.save(content, tmp_path / "model.pt", pickle_protocol=protocol)
        report = scan_file(tmp_path / "model.pt")
        assert report.worst == "code"
        named = {finding.text.split("`")[1] for finding in report.findings}
        assert {"argparse.Namespace", "numpy._core.multiarray.scalar"} <= named


def test_a_whole_module_is_code_and_nothing_worse(tmp_path):
    torch.save(net(), tmp_path / "model.pt")
    report = scan_file(tmp_path / "model.pt")
    assert report.worst == "code"
    assert any("torch.nn.modules.conv.Conv2d" in finding.text for finding in report.findings)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", "x^2 + y^2 = z^2, as everybody knows.\n" * 3),
        ("short.txt", "x^2"),
        ("roman.txt", "I am a text,\nand so am I.\n"),
        ("number.txt", "I5\nI6\nI7\n"),
        ("labels.txt", "cat\ndog\ncow\nemu\nbee\n"),
        ("README.md", "# Model\n\n```python\nfrom transformers import pipeline\nimport torch\n```\n"),
        ("mail", "Dear all,\n\nimport of the data has ended.\nclass A: good\n@article{one}\n"),
        ("table.csv", "id\r\n1,some,text,csv,line\r\n"),
        ("rule.txt", "x!" + "-" * 1200),
        ("page.html", "<!DOCTYPE html><html><body>!important: yes</body></html>"),
        ("config.yaml", "%YAML 1.2\n---\ntarget: cat\nname: !!str 5\n"),
        ("README.md", "```yaml\n_target_: mypackage.Model\n```\nHydra calls what this names.\n"),
        ("layers.json", '{"layers": [{"class_name": "Dense", "config": {}, "module": "keras.layers"}]}'),
    ],
)
def test_texts_that_look_like_something_else(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    quiet(tmp_path / name)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_pictures(tmp_path, format):
    Image.new("RGB", (8, 8), (10, 200, 30)).save(tmp_path / f"picture.{format.lower()}", format)
    quiet(tmp_path / f"picture.{format.lower()}")


@pytest.mark.parametrize("value", [0x4E, 0x28, 0x88])
def test_images_of_one_grey_that_is_an_opcode(tmp_path, value):
    """Such opcodes name nothing; behind them the pixels of an ordinary image follow."""
    pixels = torch.full((3_000_000,), value, dtype=torch.uint8)
    torch.save({"image": pixels}, tmp_path / "one.pt")
    quiet(tmp_path / "one.pt")
    pixels[20_000:] = torch.randint(0, 256, (2_980_000,), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    torch.save({"image": pixels}, tmp_path / "then_noise.pt")
    assert scan_file(tmp_path / "then_noise.pt").worst in (None, "note")


@pytest.mark.parametrize(
    "descr", ["<f4", "|u1", "|b1", "<M8[ns]", "<c16", "<U5", "|V2", "float32", [("a", "<f4"), ("b", "<i8", (2,))]]
)
def test_array_types_as_numpy_writes_them(tmp_path, descr):
    array = np.zeros(3, dtype=np.dtype(descr))
    np.save(tmp_path / "array.npy", array)
    quiet(tmp_path / "array.npy")
