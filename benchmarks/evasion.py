"""Is the evasion suite as strong as AutoAttack, sample by sample, and what does it cost?

    python benchmarks/evasion.py [--samples N] [--eps 0.1,0.2] [--threads N]
                                 [--peers standard,torchattacks,foolbox,art]
                                 [--checkpoint FILE --images FILE.npy --labels FILE.npy]

On the same model, images and radii, one after the other in one process:

- this project's suite with its default settings, one run for all radii;
- the standard protocol of Croce & Hein 2020 (arXiv 2003.01690), once a radius: APGD-CE, APGD-T and FAB-T on 9 targets,
  100 steps each, and Square with 5,000 queries, each on what the ones before left, built of torchattacks' parts;
- torchattacks' own AutoAttack, once a radius;
- where they are installed, foolbox (PGD of 100 steps from 5 starts, then Fast Minimum-Norm of 200) and ART (its
  AutoAttack), once a radius.

The subject is a small network trained here on scikit-learn's digits against PGD, so that many samples withstand; with
`--checkpoint`, it is CNN-A of Dathathri et al. 2020 as alpha-beta-CROWN stores it, with images (n, h, w, 3) in [0, 1].

A sample counts as broken by a peer when this project's verification finds it so. Per radius: robust accuracy of each,
the samples that only the suite or only the peer breaks, and the peers' time over the suite's for the whole curve: time
of computing (of the process, over all threads), which other work on the machine does not lengthen.
"""

import argparse
import importlib.util
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torchattacks
from measuring import save
from torch import Tensor, nn

from audit.api import DataSplit, Subject, Unit
from audit.toolkit.norms import parse_eps
from audit.toolkit.verification import decide, verify
from probes.evasion.config import EvasionConfig
from probes.evasion.searches import Plan
from probes.evasion.units import attack_chunk

SEED = 0
TRAINED_AT, EPOCHS, STEPS = 0.15, 25, 10


class Normalise(nn.Module):
    """ImageNet's means and one standard deviation, as CNN-A takes its pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (n, 3, h, w) in [0, 1]."""
        return (pixels - self.mean) / 0.225


def cnn_a(given: argparse.Namespace) -> tuple[nn.Module, Tensor, Tensor]:
    """The checkpoint, its images and their labels."""
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    layers.load_state_dict(torch.load(given.checkpoint, "cpu", weights_only=True))
    pixels = torch.from_numpy(np.load(given.images).transpose(0, 3, 1, 2).copy()).float().clamp(0, 1)
    labels = torch.from_numpy(np.load(given.labels)).long()
    return nn.Sequential(Normalise(), layers), pixels[: given.samples], labels[: given.samples]


def robust_digits(n: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network trained against PGD on 1,200 digits, and the next n with their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels, labels = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, torch.tensor(found.target)
    torch.manual_seed(SEED)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(1200).split(100):
            change = (torch.rand_like(pixels[rows]) * 2 - 1) * TRAINED_AT
            for _ in range(STEPS):
                change.requires_grad_(True)
                loss = nn.functional.cross_entropy(model((pixels[rows] + change).clamp(0, 1)), labels[rows])
                step = torch.autograd.grad(loss, change)[0].sign() * 2.5 * TRAINED_AT / STEPS
                change = (change.detach() + step).clamp(-TRAINED_AT, TRAINED_AT)
            optimiser.zero_grad()
            nn.functional.cross_entropy(model((pixels[rows] + change).clamp(0, 1)), labels[rows]).backward()
            optimiser.step()
    return model, pixels[1200 : 1200 + n], labels[1200 : 1200 + n]


def as_split(pixels: Tensor, labels: Tensor) -> DataSplit:
    """The images as the probe is handed them."""
    source = SimpleNamespace(pixels=lambda index: pixels[index].numpy(), __len__=lambda: len(pixels))
    ids = [f"{place:064x}" for place in range(len(labels))]
    return DataSplit(source, labels.numpy(), ids, np.arange(len(labels)), "eval", "0" * 64)  # type: ignore[arg-type]


def suite(subject: Subject, pixels: Tensor, labels: Tensor, eps: list[str]) -> list[Tensor]:
    """Robust samples at each radius, from one run."""
    plan = Plan.of(EvasionConfig(norms="linf", eps_linf=eps), "linf")  # type: ignore[arg-type]
    unit = Unit("linf", plan.params(), range(len(labels)))
    context: Any = SimpleNamespace(
        torch_generator=lambda purpose: torch.Generator().manual_seed(zlib.crc32(f"{SEED}/{purpose}".encode()))
    )
    arrays = attack_chunk(subject, as_split(pixels, labels), None, unit, context).arrays
    right = torch.from_numpy(arrays["clean_correct"].astype(bool))
    return [right & torch.from_numpy(arrays["broken"] > index) for index in range(len(eps))]


def peer(
    subject: Subject, pixels: Tensor, labels: Tensor, eps: float, attacks: Iterator[Callable[[Tensor, Tensor], Tensor]]
) -> Tensor:
    """Samples that stand after attacks, each on what the ones before left."""
    stands = decide(subject, pixels, labels).correct.clone()
    for attack in attacks:
        rows = stands.nonzero().flatten()
        if len(rows):
            candidates = attack(pixels[rows].clone(), labels[rows]).detach()
            stands[rows[verify(subject, pixels[rows], labels[rows], candidates, "linf", eps).success]] = False
    return stands


def standard(model: nn.Module, eps: float) -> Iterator[Callable[[Tensor, Tensor], Tensor]]:
    """The standard protocol's four attacks with its published budget."""
    yield torchattacks.APGD(model, norm="Linf", eps=eps, steps=100, loss="ce", seed=SEED)
    yield torchattacks.APGDT(model, norm="Linf", eps=eps, steps=100, n_classes=10, seed=SEED)
    yield torchattacks.FAB(model, norm="Linf", eps=eps, steps=100, multi_targeted=True, n_classes=10, seed=SEED)
    yield torchattacks.Square(model, norm="Linf", eps=eps, n_queries=5000, resc_schedule=False, seed=SEED)


def by_foolbox(model: nn.Module, eps: float) -> Iterator[Callable[[Tensor, Tensor], Tensor]]:
    """Foolbox has no AutoAttack; these are its strongest in Linf."""
    import foolbox  # type: ignore[import-not-found]

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    for attack in [*[foolbox.attacks.LinfPGD(steps=100)] * 5, foolbox.attacks.LInfFMNAttack(steps=200)]:
        yield lambda pixels, labels, attack=attack: attack(wrapped, pixels, labels, epsilons=eps)[1]  # type: ignore[misc]


def by_art(model: nn.Module, eps: float) -> Iterator[Callable[[Tensor, Tensor], Tensor]]:
    """ART's own AutoAttack: PGD, Auto-PGD on two losses, DeepFool and Square, as its documentation says."""
    from art.attacks.evasion import AutoAttack  # type: ignore[import-not-found]
    from art.estimators.classification import PyTorchClassifier  # type: ignore[import-not-found]

    def attack(pixels: Tensor, labels: Tensor) -> Tensor:
        shape = tuple(pixels.shape[1:])
        wrapped = PyTorchClassifier(model, nn.CrossEntropyLoss(), shape, 10, clip_values=(0, 1), device_type="cpu")
        searching = AutoAttack(wrapped, norm=np.inf, eps=eps, eps_step=eps / 4, batch_size=len(labels))
        return torch.from_numpy(searching.generate(x=pixels.numpy(), y=np.eye(10)[labels.numpy()]))

    yield attack


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What the work gives, and the seconds that this process computed for it."""
    start = time.process_time()
    return work(), time.process_time() - start


def main() -> None:
    """Runs all and saves the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--eps", default="0.1,0.2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", default="standard,torchattacks,foolbox,art", help="some of these")
    for name in ("--checkpoint", "--images", "--labels"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, pixels, labels = cnn_a(given) if given.checkpoint else robust_digits(given.samples)
    model = model.eval().requires_grad_(False)
    subject = Subject(model, "benchmark", 10, (), tuple(pixels.shape[1:]), torch.device("cpu"), "0" * 64)  # type: ignore[arg-type]
    eps = list(EvasionConfig(eps_linf=given.eps).eps_linf)
    ours, seconds = timed(lambda: suite(subject, pixels, labels, eps))
    figures: dict[str, Any] = {"samples": len(labels), "seconds of computing, suite, all radii": round(seconds, 1)}
    figures["clean accuracy"] = round(float(decide(subject, pixels, labels).correct.float().mean()), 4)
    spent: dict[str, float] = defaultdict(float)
    versions = {"foolbox": by_foolbox, "art": by_art}
    optional = {name: attacks for name, attacks in versions.items() if importlib.util.find_spec(name)}
    figures["peers not installed"] = ", ".join(sorted(set(versions) - set(optional))) or "none"
    for text, robust in zip(eps, ours, strict=True):
        radius = parse_eps(text, "linf")
        figures[f"{text}: robust accuracy, suite"] = round(float(robust.float().mean()), 4)
        peers: dict[str, Callable[[float], Iterator[Any]]] = {
            "standard protocol": lambda radius: standard(model, radius),
            "torchattacks AutoAttack": lambda radius: iter([torchattacks.AutoAttack(model, eps=radius, seed=SEED)]),
        }
        for name, attacks in optional.items():
            peers[name] = lambda radius, attacks=attacks: attacks(model, radius)  # type: ignore[misc]
        wanted = {name: attacks for name, attacks in peers.items() if name.split()[0] in given.peers.split(",")}
        for name, attacks in wanted.items():
            stands, took = timed(lambda a=attacks, r=radius: peer(subject, pixels, labels, r, a(r)))  # type: ignore[misc]
            spent[name] += took
            figures[f"{text}: robust accuracy, {name}"] = round(float(stands.float().mean()), 4)
            figures[f"{text}: broken only by the suite, not by {name}"] = int((stands & ~robust).sum())
            figures[f"{text}: broken only by {name}"] = int((robust & ~stands).sum())
    for name, took in spent.items():
        figures[f"time of {name} over the suite's"] = round(took / seconds, 2)
    save(f"evasion_{'cnn_a' if given.checkpoint else 'digits'}", figures)


if __name__ == "__main__":
    main()
