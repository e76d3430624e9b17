"""`hf:DIR`: files of weights that are named or stored in ways that no library writes."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from audit.errors import AuditError, SubjectError
from tests.tiny_transformers import network, save
from tests.user_models import load


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    save(network("ViT"), tmp_path / "vit")
    return tmp_path / "vit"


@pytest.mark.parametrize("place", ["x" * 300, "\ud800", "a\0b"])
def test_shards_that_no_file_can_be_named(vit: Path, place: str) -> None:
    (vit / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"classifier.bias": place}}))
    (vit / "model.safetensors").unlink()
    with pytest.raises(SubjectError, match=r"Expected 1 files by model.safetensors.index.json in vit, got none of"):
        load(f"hf:{vit}", native_shape=(3, 32, 32), allow_code=False)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.zeros(1).expand(1 << 16, 1 << 16), "got 17,179,869,184: they repeat few numbers many times"),
        (
            torch.eye(3).to_sparse(),
            r"dense tensors in pytorch_model\.bin, got 1 in a sparse layout: classifier\.bias",
        ),
        (torch.empty(3, device="meta"), "dense tensors in pytorch_model.bin, got classifier.bias, sparse or without"),
    ],
)
def test_tensors_without_numbers_of_their_own(vit: Path, tensor: torch.Tensor, said: str) -> None:
    (vit / "model.safetensors").unlink()
    torch.save({"classifier.bias": tensor}, vit / "pytorch_model.bin")
    with pytest.raises(AuditError, match=said):
        load(f"hf:{vit}", native_shape=(3, 32, 32), allow_code=False)
