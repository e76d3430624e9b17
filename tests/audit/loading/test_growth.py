"""Files that torch loads by weights alone, and that unfold to far more than they hold."""

import pytest
import torch

from audit.errors import UnsafeArtefactError
from audit.loading.conversion import ConversionRequest, convert
from audit.loading.weights import read_weights

SIDE = 1 << 15


def spread(path, **legacy):
    torch.save({"bias": torch.zeros(10), "weight": torch.zeros(1).expand(SIDE, SIDE)}, path, **legacy)
    return path


@pytest.mark.parametrize("legacy", [{}, {"_use_new_zipfile_serialization": False}])
@pytest.mark.parametrize("allow_pickle", [False, True])
def test_a_number_that_is_a_matrix_of_gigabytes(tmp_path, legacy, allow_pickle):
    path = spread(tmp_path / "spread.pt", **legacy)
    assert path.stat().st_size < 10_000
    text = r"Expected at most [\d,]+ bytes of tensors in spread.pt, got 4,294,967,336: they repeat few numbers"
    with pytest.raises(UnsafeArtefactError, match=text):
        read_weights(path, allow_pickle=allow_pickle)
    with pytest.raises(UnsafeArtefactError, match=text):
        convert(ConversionRequest(path, tmp_path / "out.safetensors", allow_pickle=allow_pickle))
    assert not (tmp_path / "out.safetensors").exists()


def test_many_names_for_the_same_numbers(tmp_path):
    shared = torch.zeros(1 << 20)
    torch.save({f"n{place}": shared for place in range(200)}, tmp_path / "names.pt")
    assert len(read_weights(tmp_path / "names.pt").content) == 200  # four megabytes in memory, whatever the names
    with pytest.raises(UnsafeArtefactError, match=r"bytes of tensors in names\.pt, got 838,860,800"):
        convert(ConversionRequest(tmp_path / "names.pt", tmp_path / "out.safetensors"))  # would store each in full


def test_what_ordinary_files_repeat_is_read(tmp_path):
    """Tied weights, spread buffers, and a checkpoint with averages: none is anywhere near the limit."""
    tied = torch.randn(1000, 50)
    content = {"state_dict": {"in": tied, "out": tied, "ids": torch.arange(77).expand(4, 77)}, "list": [tied, (tied,)]}
    torch.save(content, tmp_path / "tied.pt")
    assert torch.equal(read_weights(tmp_path / "tied.pt").content["state_dict"]["ids"], content["state_dict"]["ids"])
