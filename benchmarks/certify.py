"""What a certificate costs, beside auto_LiRPA's at equal tightness, and how that grows.

    python benchmarks/certify.py [--images 8] [--repeats 5]

Networks are those of the real checkpoints where `../shared` is there, with the exact images beside them; else the same
architecture with values drawn from a seed. Both tools bound the same margins by full CROWN, in float64, on one thread
and in one process: auto_LiRPA in both of its modes, traced beforehand, and the bounds alone timed. Seconds are of the
processor and medians; ratios are to the faster mode and medians over rounds in which all are run one after another, as
machines are not equally fast from minute to minute. Growth is measured on dense networks.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import ROOT, save
from torch import Tensor, nn

from audit.adapters import auto_lirpa
from audit.lirpa.crown import crown
from audit.lirpa.graph import Graph
from audit.lirpa.intervals import propagate
from audit.lirpa.lowering import lower
from audit.lirpa.margins import margin_bounds, margin_rows
from audit.lirpa.region import Region
from audit.loading.models import ModelRequest, load_subject

SHARED = ROOT.parent / "shared" / "checkpoints" / "abcrown"
CIFAR = ([0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616])
NETWORKS = {
    "cnn_a": ("cifar_cnn_a_adv.model", "cifar", ([0.485, 0.456, 0.406], [0.225] * 3), 2 / 255),
    "resnet2b": ("resnet2b.pth", "cifar", CIFAR, 1 / 255),
    "mnist_6_100": ("mnist_6_100_nat.pth", "mnist", ([0.0], [1.0]), 0.01),
}
"""Name: file, images, normalisation, radius."""


class Normalised(nn.Module):
    """A network behind its normalisation, as a convolution: so that the other tool takes it in its faster mode."""

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        channels = len(mean)
        self.normalise = nn.Conv2d(channels, channels, 1)
        with torch.no_grad():
            self.normalise.weight.copy_(torch.diag(1 / torch.tensor(std))[:, :, None, None])
            self.normalise.bias.copy_(-torch.tensor(mean) / torch.tensor(std))
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits."""
        return self.network(self.normalise(pixels))


def network_of(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, images that it is right on, and their labels."""
    sys.path.insert(0, str(ROOT))
    from tests.architectures import FACTORIES

    file, kind, (mean, std), _ = NETWORKS[name]
    torch.manual_seed(0)
    factory, shape = FACTORIES[f"abcrown/{file}"], (3, 32, 32) if kind == "cifar" else (1, 28, 28)
    network, images, labels = factory(), torch.rand(64, *shape), None
    if SHARED.is_dir():
        spec = f"py:{ROOT / 'tests/architectures.py'}:{factory.__name__}"
        request = ModelRequest(spec, weights=SHARED / file, preprocess="none", allow_code=True)
        network = load_subject(request, native_shape=shape, device=torch.device("cpu")).subject.model.network
        pixels = np.load(SHARED / f"datasets_sdp_{kind}_X_sdp.npy").astype(np.float32)
        images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        labels = torch.from_numpy(np.load(SHARED / f"datasets_sdp_{kind}_y_sdp.npy").astype(np.int64))
    module = Normalised(network, mean, std).eval().requires_grad_(False)
    answers = module(images).argmax(1)
    right = torch.ones_like(answers, dtype=torch.bool) if labels is None else answers == labels
    return module, images[right], answers[right]


def timed(works: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """The processor's seconds of each work, in rounds of all of them, after a first one that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            taken[name].append(time.process_time() - start)
    return {name: found[1:] for name, found in taken.items()}


def compared(name: str, images: int, repeats: int) -> dict[str, Any]:
    """Seconds an image of both tools, and whether they say the same."""
    module, pixels, labels = network_of(name)
    pixels, labels, eps = pixels[:images].double(), labels[:images], NETWORKS[name][3]
    graph = lower(module, tuple(pixels.shape[1:])).bound(torch.float64)
    found: dict[str, Any] = {"images": len(pixels), "eps": eps}

    def ours(rows: slice) -> Tensor:
        with torch.no_grad():
            return margin_bounds(graph, Region.ball(pixels[rows], "linf", eps), labels[rows], "crown")

    each = [slice(place, place + 1) for place in range(len(pixels))]
    works = {
        "ours, one image at once": lambda: [ours(rows) for rows in each],
        "ours, all at once": lambda: ours(slice(None)),
    }
    region, rows = Region.ball(pixels, "linf", eps), margin_rows(labels, graph.logits.shape[-1], torch.float64)
    theirs = auto_lirpa.box_bounds(module, region.box.lo, region.box.hi, rows, "crown")
    found["largest difference"] = f"{float((ours(slice(None)) - theirs).abs().max()):.1e}"
    modes = {f"auto_LiRPA, {mode}": _theirs(module, region, rows, mode) for mode in ("patches", "matrix")}
    taken = timed(works | {name: work for name, work in modes.items() if work is not None}, repeats)
    found |= {who: statistics.median(rounds) / len(pixels) for who, rounds in taken.items()}
    best = min((who for who in taken if who in modes), key=lambda who: statistics.median(taken[who]))
    for who in works:
        ratios = [mine / other for mine, other in zip(taken[who], taken[best], strict=True)]
        found[f"time over that of {best}: {who}"] = statistics.median(ratios)
        found[f"the same, from round to round: {who}"] = f"{min(ratios):.2f} to {max(ratios):.2f}"
    found["values that intervals leave open, an image"] = _opened(graph, region) / len(pixels)
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in found.items()}


def _theirs(module: nn.Module, region: Region, rows: Tensor, mode: str) -> Callable[[], None] | None:
    """Their bounds alone, image by image; None where they fail."""
    package = auto_lirpa._package()

    def work() -> None:
        with auto_lirpa._walls():
            for place in range(len(region)):
                box = {"x_L": region.box.lo[place][None], "x_U": region.box.hi[place][None]}
                image = package.BoundedTensor(
                    region.box.centre[place][None], package.PerturbationLpNorm(norm=np.inf, **box)
                )
                traced.compute_bounds((image,), C=rows[place][None], method="crown", bound_upper=False)

    try:
        with auto_lirpa._walls():
            traced = package.Traced(module.double(), region.box.lo[:1], {"conv_mode": mode, "minimum_sparsity": 1.0})
            traced.meet = True
        work()
    except Exception:
        return None
    return work


def _opened(graph: Graph, region: Region) -> int:
    """How many values before ReLUs intervals leave open, all images together."""
    intervals = propagate(graph, region).intervals
    operands = {op.operands[0] for op in graph.operations if op.kind == "relu"}
    return sum(int(((intervals[op].lo < 0) & (intervals[op].hi > 0)).sum()) for op in operands)


def grown(depth: int, width: int, eps: float, repeats: int) -> dict[str, Any]:
    """Seconds an image of a dense network, with how many values were open."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(64, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    module = nn.Sequential(*layers, nn.Linear(width, 10)).eval().requires_grad_(False)
    for layer in module:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    graph = lower(module, (1, 8, 8)).bound(torch.float64)
    region = Region.ball(torch.rand(8, 1, 8, 8, dtype=torch.float64), "linf", eps)

    def work() -> None:
        with torch.no_grad():
            crown(graph, region)

    return {
        "depth": depth, "width": width, "eps": eps,
        "seconds an image": round(statistics.median(timed({"ours": work}, repeats)["ours"]) / 8, 6),
        "open values an image": _opened(graph, region) / 8,
    }  # fmt: skip


def main() -> None:
    """Prints and stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {name: compared(name, given.images, given.repeats) for name in NETWORKS}
    figures["real checkpoints"] = Path(SHARED).is_dir()
    figures["growth with depth"] = [grown(depth, 100, 0.02, given.repeats) for depth in (2, 4, 6, 8)]
    figures["growth with width"] = [grown(3, width, 0.02, given.repeats) for width in (50, 100, 200, 400)]
    figures["growth with the radius"] = [grown(4, 100, eps, given.repeats) for eps in (0.005, 0.02, 0.05, 0.1)]
    figures["peak memory, MB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    save("certify", figures)


if __name__ == "__main__":
    main()
