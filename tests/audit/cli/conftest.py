import numpy as np
import pytest
from PIL import Image

from tests.audit.cli import command


@pytest.fixture
def audit(monkeypatch, capsys):
    """`audit(*words)` runs the command line and says how it ended."""
    return lambda *words: command.audit(monkeypatch, capsys, *words)


@pytest.fixture
def image_folder(tmp_path):
    """Ten classes of twelve grey 8x8 images."""
    rng = np.random.default_rng(0)
    for label in range(10):
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True)
        for place in range(12):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{place:02d}.png")
    return tmp_path / "images"
