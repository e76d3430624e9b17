"""The shared prediction pass against bare torch loops over the same images and the same model.

    python benchmarks/prediction_pass.py [--images 4096] [--rounds 5]

The images are generated, encoded as JPEG in a parquet file, and read by every contender but the first:

- `tensors`: a bare loop over a tensor that is in memory already; no reading, no decoding, nothing kept on disk;
- `loader`: a bare loop over a torch DataLoader that decodes the same file, with as many workers as suits it best;
- `audit`: the tool's pass, with its checks, its chunks on disk and its read-ahead.

Rounds alternate; the figure is the median over rounds of the ratio of whole times within a round.
"""

import argparse
import io
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from measuring import save
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from audit.api import DataSplit, Subject
from audit.engine.budget import Budget
from audit.engine.context import EngineContext
from audit.engine.predictions import PREDICTIONS, chunk_size, predict
from audit.engine.prepare import available_threads
from audit.engine.session import Session
from audit.engine.store import RunStore
from audit.loading.datasets import fit, open_dataset
from audit.loading.preprocess import Geometry


def make_images(path: Path, n: int) -> None:
    """Smooth 32x32 colour images, JPEG, in HF-style parquet."""
    rng = np.random.default_rng(0)
    rows = []
    for place in range(n):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        stream = io.BytesIO()
        small.resize((32, 32), Image.Resampling.BICUBIC).save(stream, format="JPEG", quality=90)
        rows.append({"image": {"bytes": stream.getvalue(), "path": None}, "label": place % 10})
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=1000)


def make_subject(device: torch.device, width: int) -> Subject:
    """A CIFAR-size residual network, randomly initialised: width 64 is ResNet-18, width 16 about ResNet-20's cost."""
    import timm

    torch.manual_seed(0)
    channels = (width, 2 * width, 4 * width, 8 * width)
    model: nn.Module = timm.create_model("resnet18", num_classes=10, channels=channels)
    model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    model.maxpool = nn.Identity()
    model = model.eval().to(device)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return Subject(model, f"resnet18, width {width}", 10, (), (3, 32, 32), device, "benchmark")


class Decoded(Dataset):
    """The split as a torch data set."""

    def __init__(self, split: DataSplit) -> None:
        self.split = split

    def __len__(self) -> int:
        """Number of images."""
        return len(self.split)

    def __getitem__(self, place: int) -> torch.Tensor:
        """One image, decoded."""
        return torch.from_numpy(self.split.source.pixels(int(self.split.order[place]))).float() / 255


def tensors(subject: Subject, pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Bare loop over memory."""
    with torch.inference_mode():
        return torch.cat([subject.model(part.to(subject.device)).cpu() for part in pixels.split(size)])


def loader(subject: Subject, split: DataSplit, size: int, workers: int) -> torch.Tensor:
    """Bare loop over a DataLoader."""
    with torch.inference_mode():
        batches = DataLoader(Decoded(split), batch_size=size, num_workers=workers)
        return torch.cat([subject.model(part.to(subject.device)).cpu() for part in batches])


def audit(subject: Subject, split: DataSplit) -> torch.Tensor:
    """The tool's pass into a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        session = Session(subject, {"eval": split}, RunStore(Path(folder)))
        ctx = EngineContext(session, PREDICTIONS, 1, Budget())
        return torch.from_numpy(predict(ctx, session, "eval").logits)


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    torch.set_num_threads(available_threads())
    subject = make_subject(torch.device(given.device), given.width)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.parquet"
        make_images(path, given.images)
        split = fit(open_dataset(f"parquet:{path}"), "eval", Geometry(channels=3), seed=0, samples=None)
        pixels = split.batch(0, given.images).pixels
        size = 64 if given.device == "cpu" else chunk_size(subject)
        contenders = {
            "tensors": lambda: tensors(subject, pixels, size),
            "loader, 0 workers": lambda: loader(subject, split, size, 0),
            "loader, 1 worker": lambda: loader(subject, split, size, 1),
            "audit": lambda: audit(subject, split),
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        expected = contenders["tensors"]()
        for _ in range(given.rounds):
            for name, work in contenders.items():
                start = time.perf_counter()
                found = work()
                times[name].append(time.perf_counter() - start)
                assert torch.allclose(found, expected, atol=1e-4)
    figures: dict[str, object] = {
        "model": subject.name,
        "images": given.images,
        "rounds": given.rounds,
        "batch": size,
        "device": given.device,
    }
    for name, found in times.items():
        figures[f"seconds, median: {name}"] = round(statistics.median(found), 3)
        if name != "audit":
            ratios = [ours / theirs for ours, theirs in zip(times["audit"], found, strict=True)]
            figures[f"audit / {name}, median ratio"] = round(statistics.median(ratios), 3)
            figures[f"audit / {name}, least and most"] = [round(min(ratios), 3), round(max(ratios), 3)]
    save(f"prediction_pass_width{given.width}", figures)


if __name__ == "__main__":
    main()
