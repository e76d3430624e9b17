"""Numpy files that are damaged, or that only unpickling could read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.errors import DataError, UnsafeArtefactError
from audit.loading.datasets import open_dataset

GREY = np.random.default_rng(0).integers(0, 256, (6, 5, 7), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def _save(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "set.npz", **arrays)
    return f"npz:{folder / 'set.npz'}"


@pytest.mark.parametrize("which", ["x", "y"])
def test_object_arrays_are_refused_as_unsafe(which: str, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    planted = {"x": GREY, "y": LABELS, which: np.array([Trap()] * 6, dtype=object)}
    with pytest.raises(UnsafeArtefactError, match=rf"got Python objects in set\.npz\['{which}'\], which"):
        open_dataset(_save(tmp_path, **planted))
    assert UnsafeArtefactError.exit_code == 4
    assert not (tmp_path / "sprung").exists()


def test_damaged_npz(tmp_path: Path) -> None:
    _save(tmp_path, x=GREY, y=LABELS)
    whole = (tmp_path / "set.npz").read_bytes()
    for damaged in (whole[:300], b"", whole[:100] + b"!" + whole[101:300] + b"?" * 20 + whole[320:]):
        (tmp_path / "bad.npz").write_bytes(damaged)
        with pytest.raises(
            DataError, match=r"Expected (a whole \.npz archive|an array in numpy\'s format), got bad\.npz"
        ):
            open_dataset(f"npz:{tmp_path / 'bad.npz'}")


def test_damaged_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", GREY)
    np.save(tmp_path / "y.npy", LABELS)
    spec = f"npz:{tmp_path / 'X.npy'},{tmp_path / 'y.npy'}"
    (tmp_path / "X.npy").write_bytes((tmp_path / "X.npy").read_bytes()[:-9])
    with pytest.raises(DataError, match=r"Expected 210 bytes for the shape \(6, 5, 7\) of X\.npy, got 201: "):
        open_dataset(spec)
    np.save(tmp_path / "X.npy", GREY)
    whole = (tmp_path / "X.npy").read_bytes()
    for damaged in (b"something else", b"", whole.replace(b"'|u1'", b"'|u1,"), whole.replace(b"(6, ", b"(6\0 ")):
        (tmp_path / "X.npy").write_bytes(damaged)
        with pytest.raises(DataError, match=r"Expected an array in numpy's format, got X\.npy: "):
            open_dataset(spec)
    with pytest.raises(DataError, match=r"Expected images and labels, got one array file X\.npy\. Write"):
        open_dataset(f"npz:{tmp_path / 'X.npy'}")


def test_a_name_that_the_directory_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive may list one name and hold another."""
    _save(tmp_path, x=GREY, y=LABELS)
    path = tmp_path / "set.npz"
    path.write_bytes(path.read_bytes().replace(b"x.npy", b"q.npy"))
    path.write_bytes(path.read_bytes()[::-1].replace(b"ypn.q", b"ypn.x", 1)[::-1])  # the directory's entry alone
    with pytest.raises(DataError, match=r"Expected a whole \.npz archive, got set\.npz"):
        open_dataset(f"npz:{path}")
