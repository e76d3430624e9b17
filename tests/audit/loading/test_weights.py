"""Weights files of every kind: read safely, or refused with a reason. Nothing hostile may run."""

import functools
import io
import os
import pickle
import tarfile
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from audit.errors import SubjectError, UnsafeArtefactError
from audit.loading.weights import digest_of, read_weights

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


class Canary:
    """Runs a command that leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.path}'",)


def saved(folder: Path, content: object, *, legacy: bool = False) -> Path:
    path = folder / "weights.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_are_read(tmp_path: Path, legacy: bool) -> None:
    read = read_weights(saved(tmp_path, {"state_dict": STATE}, legacy=legacy))
    assert read.format == ("torch-legacy" if legacy else "torch-zip")
    assert torch.equal(read.content["state_dict"]["weight"], STATE["weight"])  # type: ignore[index]
    assert read.digest == digest_of(read.path)


def test_the_name_of_a_file_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    safetensors.torch.save_file(STATE, path)
    read = read_weights(path)
    assert read.format == "safetensors"
    assert set(read.content) == {"weight", "bias"}  # type: ignore[call-overload]


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_is_named_safetensors_is_read_as_what_it_is(tmp_path: Path, legacy: bool) -> None:
    path, canary = tmp_path / "weights.safetensors", tmp_path / "canary"
    torch.save(STATE, path, _use_new_zipfile_serialization=not legacy)
    assert read_weights(path).content.keys() == STATE.keys()  # type: ignore[attr-defined]
    torch.save({"x": Canary(canary)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UnsafeArtefactError, match="system"):
        read_weights(path)
    assert not canary.exists()


def test_a_name_cannot_look_like_a_line_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "x\nPASSED.pth"
    path.write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    with pytest.raises(UnsafeArtefactError, match=r"got x\?PASSED\.pth: .* No flag lifts this") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_hostile_torch_files_do_not_run(tmp_path: Path, legacy: bool, nested: bool) -> None:
    canary = tmp_path / "canary"
    content = {"state_dict": STATE, "extra": {"deep": [Canary(canary)]}} if nested else Canary(canary)
    path = saved(tmp_path, content, legacy=legacy)
    with pytest.raises(UnsafeArtefactError) as caught:
        read_weights(path)
    assert not canary.exists()
    assert caught.value.exit_code == 4
    assert f"`{os.system.__module__}.system`" in str(caught.value)
    assert "weights.pth" in str(caught.value)
    assert "safetensors.torch.save_file" in str(caught.value)
    assert "No flag lifts this" in str(caught.value)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_plain_pickles_do_not_run(tmp_path: Path, protocol: int) -> None:
    canary, path = tmp_path / "canary", tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(Canary(canary), protocol=protocol))
    with pytest.raises(UnsafeArtefactError, match=r"names `\w+\.system`, which reaches the operating system"):
        read_weights(path)
    assert not canary.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_torch_files_of_other_pickle_protocols_do_not_run(tmp_path: Path, protocol: int) -> None:
    canary, path = tmp_path / "canary", tmp_path / "model.pth"
    torch.save({"weights": STATE, "x": Canary(canary)}, path, pickle_protocol=protocol)
    with pytest.raises(UnsafeArtefactError, match="system"):
        read_weights(path)
    assert not canary.exists()


def test_training_leftovers_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": STATE, "args": Namespace(lr=0.1)})
    with pytest.raises(UnsafeArtefactError, match=r"needs `argparse\.Namespace`: a function or class"):
        read_weights(path)


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeArtefactError, match=r"`torch\.nn\.modules\.linear\.Linear`"):
        read_weights(saved(tmp_path, nn.Linear(2, 2)))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_torchscript_is_code(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3)), path)
    with pytest.raises(UnsafeArtefactError, match="a TorchScript archive: its code/ folder is a program"):
        read_weights(path)


def test_exported_programs_are_code(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.zeros(1, 3),)), path)
    with pytest.raises(UnsafeArtefactError, match=r"a torch\.export \(\.pt2\) archive"):
        read_weights(path)


def test_an_archive_that_grows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1_000_000))
    with pytest.raises(UnsafeArtefactError, match="expands more than 20 times"):
        read_weights(path)


def network() -> nn.Module:
    made = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    made[1].weight = made[0].weight
    return made


@pytest.mark.parametrize("how", ["zip", "legacy", "plain"])
def test_allow_pickle_reads_whole_networks_apart(tmp_path: Path, how: str) -> None:
    whole, path = network(), tmp_path / "net.pth"
    if how == "plain":
        path.write_bytes(pickle.dumps({"net": whole, "epoch": 3}))
    else:
        torch.save({"net": whole, "epoch": 3}, path, _use_new_zipfile_serialization=how == "zip")
    read = read_weights(path, allow_pickle=True)
    assert read.format == {"zip": "torch-zip", "legacy": "torch-legacy", "plain": "pickle"}[how]
    content = read.content
    assert isinstance(content, dict)
    assert content["epoch"] == 3
    assert list(content["net"]) == list(whole.state_dict())
    assert all(torch.equal(content["net"][name], tensor) for name, tensor in whole.state_dict().items())
    assert content["net"]["0.weight"] is content["net"]["1.weight"]
    assert read.trust_exception.startswith(f"--allow-pickle: net.pth (sha256 {read.digest.sha256}), read apart with ")
    assert "placeholders for `torch.nn.modules.container.Sequential`, `torch.nn.modules.linear.Linear`" in (
        read.trust_exception
    )
    assert "in force: " in read.trust_exception


def test_allow_pickle_changes_nothing_for_plain_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.loading.weights.read_with_placeholders", pytest.fail)
    assert read_weights(saved(tmp_path, STATE), allow_pickle=True).trust_exception == ""
    with pytest.raises(UnsafeArtefactError):
        read_weights(saved(tmp_path, {"x": Namespace()}), allow_pickle=False)


@pytest.mark.parametrize("how", ["zip", "legacy", "plain", "nested"])
def test_allow_pickle_lifts_nothing_that_is_dangerous(tmp_path: Path, how: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "net.pth"
    content = {"state_dict": STATE, "extra": Canary(canary)}
    if how == "plain":
        path.write_bytes(pickle.dumps(content))
    elif how == "nested":
        inner = io.BytesIO()
        torch.save(Canary(canary), inner, _use_new_zipfile_serialization=False)
        path.write_bytes(pickle.dumps(ByValue(inner.getvalue())))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(UnsafeArtefactError, match=r"`posix\.system`"):
        read_weights(path, allow_pickle=True)
    assert not canary.exists()


class ByValue:
    """How torch pickles a storage by value; here, with bytes of anybody's choice."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> tuple[object, tuple[bytes]]:
        return torch.storage._load_from_bytes, (self.content,)


def test_a_damaged_file_is_damaged_with_allow_pickle_too(tmp_path: Path) -> None:
    path = saved(tmp_path, nn.Linear(64, 64))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(SubjectError, match="truncated or damaged"):
        read_weights(path, allow_pickle=True)


def test_tar_files_are_refused_as_pickles(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(UnsafeArtefactError, match=r"\(tar, before torch 0\.4\): torch reads it by unpickling"):
        read_weights(path)


def npz_bytes() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(3))
    return stream.getvalue()


def zip_bytes(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "got an empty file (0 bytes)"),
        (b"<!DOCTYPE html><html>login</html>", "looks like an HTML or XML page. Download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "looks like a Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "looks like an HDF5 file, as Keras writes it"),
        (b"\x08\x07\x12\x07pytorch" + bytes(64), "looks like an ONNX model"),
        (b"\x93NUMPY\x01\x00", "looks like a NumPy array"),
        (b"\x1f\x8b\x08\x00abcdefgh", "looks like a compressed file. Decompress it"),
        (b"lr: 0.1\nepochs: 10\n", "looks like text ('lr: 0.1')"),
        (b"config\nlr 0.1\n", "looks like text ('config')"),
        (b"\x01\x02\x03\x04\x05\x06\x07\x08\xff\xfe", "looks like bytes 01 02 03 04"),
        (npz_bytes(), "a zip archive (as NumPy's savez writes it)"),
        (zip_bytes("metadata.json", "config.json", "model.weights.h5"), "a zip archive (as Keras writes it)"),
        (zip_bytes("readme.txt"), "a zip archive (holding readme.txt)"),
    ],
)
def test_other_formats_are_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(SubjectError) as caught:
        read_weights(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith("Expected ")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="got nothing there"):
        read_weights(tmp_path / "absent.pth")
    with pytest.raises(SubjectError, match="got the folder"):
        read_weights(tmp_path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_truncated_files(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / "weights.bin"
    state = {"weight": torch.randn(64, 64), "bias": torch.randn(64)}
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(SubjectError, match=r"truncated or damaged: .* Copy or download it again"):
        read_weights(path)


def test_every_cut_of_a_small_file_is_an_error_of_ours(tmp_path: Path) -> None:
    for kind in ("zip", "legacy", "safetensors"):
        path = tmp_path / kind
        if kind == "safetensors":
            safetensors.torch.save_file(STATE, path)
        else:
            torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
        whole = path.read_bytes()
        for length in range(1, len(whole), max(1, len(whole) // 40)):
            path.write_bytes(whole[:length])
            with pytest.raises((SubjectError, UnsafeArtefactError)):
                read_weights(path)


def test_sparse_tensors_are_named(tmp_path: Path) -> None:
    sparse = {"net": {name: tensor.to_sparse() for name, tensor in STATE.items()}, "epoch": torch.ones(1)}
    with pytest.raises(SubjectError, match=r"got 2 in a sparse layout: .*weight.* Save them with \.to_dense\(\)"):
        read_weights(saved(tmp_path, sparse))


def test_a_partial_of_a_plain_class_is_code_and_one_of_a_command_is_not(tmp_path: Path) -> None:
    """As Lightning saves hyperparameters that Hydra instantiates in part."""
    plain = saved(tmp_path, {"state_dict": STATE, "optimizer": functools.partial(torch.optim.SGD, lr=0.1)})
    with pytest.raises(UnsafeArtefactError, match="--allow-pickle"):
        read_weights(plain)
    read = read_weights(plain, allow_pickle=True)
    assert torch.equal(read.content["state_dict"]["weight"], STATE["weight"])  # type: ignore[index]
    hostile = saved(tmp_path, {"state_dict": STATE, "optimizer": functools.partial(os.system, "true")})
    with pytest.raises(UnsafeArtefactError, match="No flag lifts this"):
        read_weights(hostile, allow_pickle=True)


def test_parts_of_sharded_checkpoints_are_told(tmp_path: Path) -> None:
    (tmp_path / "__0_0.distcp").write_bytes(saved(tmp_path, STATE).read_bytes() * 2)
    with pytest.raises(SubjectError, match=r"torch\.distributed\..*dcp_to_torch"):
        read_weights(tmp_path / "__0_0.distcp")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"weight": "model-00001-of-00002.safetensors"}}')
    with pytest.raises(SubjectError, match="index of weights in several files"):
        read_weights(index)
