"""User code and requests, for tests of loading."""

from pathlib import Path
from typing import Any

import torch

from audit.loading.models import LoadedSubject, ModelRequest, load_subject

HEAD = "import torch\nfrom torch import nn\nfrom collections import namedtuple\n"
NETWORK = "nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))"


def load(spec: str, **options: Any) -> LoadedSubject:
    """Loads on the CPU, with code allowed, for images of 8x8 unless told otherwise."""
    native = options.pop("native_shape", (3, 8, 8))
    names = options.pop("class_names", ())
    request = ModelRequest(spec, **{"allow_code": True, **options})
    return load_subject(request, native_shape=native, device=torch.device("cpu"), class_names=names)


def write_code(folder: Path, text: str) -> str:
    """Writes `model.py` and gives the spec of its `make`."""
    (folder / "model.py").write_text(HEAD + text)
    return f"py:{folder / 'model.py'}:make"


def forward(body: str) -> str:
    """Code of a network with three outputs `z`, whose forward ends with `body`."""
    return (
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        f"        self.net = {NETWORK}\n"
        f"    def forward(self, x):\n        z = self.net(x)\n        {body}\n"
        "def make():\n    return Net()\n"
    )


def codes(loaded: LoadedSubject) -> set[str]:
    """Codes of what loading found."""
    return {check.code for check in loaded.info.checks}
