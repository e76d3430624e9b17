"""Networks to compile, and their compiled files."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

BATCH = torch.export.Dim("batch")
FREE = {"dynamic_shapes": ({0: BATCH},)}


class Small(nn.Module):
    """Three classes; smooth, with batch statistics and dropout."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.tanh(self.norm(self.conv(x))).mean((2, 3))))


class Bigger(nn.Module):
    """Returns a dict, as many research models do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(x), "brightness": x.mean((1, 2, 3))}


class TwoInputs(nn.Module):
    """Takes a second tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small()

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.net(x) + bias


class ByName(nn.Module):
    """Takes images by name alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small()

    def forward(self, *, pixel_values: Tensor) -> Tensor:
        return self.net(pixel_values)


class HalfInside(nn.Module):
    """Casts to float16 in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small().half()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.half()).float()


class Closed(nn.Module):
    """Lets no gradient through."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.net(x)


class Constants(nn.Module):
    """Makes tensors on the device of the images, and holds one that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small()
        self.scale = torch.full((3,), 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.scale + torch.arange(3, device=x.device) + torch.tensor([1.0, 2.0, 3.0])


class OnGpu(nn.Module):
    """Names a GPU in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + torch.zeros(3, device=torch.device("cuda:0"))


class Bins(nn.Module):
    """Rounds, and so has no useful gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return F.one_hot((x.mean((1, 2, 3)) * 2.99).long(), 3).float()


def small(channels: int = 3) -> Small:
    """In eval mode, the same each time, with batch statistics that are not the initial ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Small(channels).eval()
        made.norm.running_mean.uniform_(-0.5, 0.5)
        made.norm.running_var.uniform_(0.5, 2)
    return made


def images(n: int, channels: int = 3, side: int = 8) -> Tensor:
    """(n, c, side, side) in [0, 1], the same each time."""
    return torch.rand((n, channels, side, side), generator=torch.Generator().manual_seed(1))


def coloured(n: int = 300) -> tuple[Tensor, Tensor]:
    """Noise images (n, 3, 8, 8) whose class is their strongest colour, by little; and labels."""
    random = torch.Generator().manual_seed(2)
    labels = torch.arange(n) % 3
    pixels = 0.5 + 0.25 * (torch.rand((n, 3, 8, 8), generator=random) - 0.5)
    pixels += 0.12 * (torch.rand((n, 3, 1, 1), generator=random) - 0.5)
    pixels[torch.arange(n), labels] += 0.06
    return pixels, labels


def trained() -> Small:
    """A network that has learnt `coloured`, in eval mode; small steps of its pixels fool it."""
    made, (pixels, labels) = small().train(), coloured()
    optimiser = torch.optim.Adam(made.parameters(), 0.05)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(30):
            optimiser.zero_grad()
            F.cross_entropy(made(pixels), labels).backward()
            optimiser.step()
    return made.eval()


def script(folder: Path, make: Callable[[], Any]) -> str:
    """Writes what `make` compiles by `torch.jit`, and gives its spec."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(make(), folder / "model.pt")
    return f"script:{folder / 'model.pt'}"


def export(folder: Path, network: nn.Module, *inputs: Tensor, decomposed: bool = False, **options: Any) -> str:
    """Exports a network by its inputs, and gives the spec of the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(network, inputs, **options)
        torch.export.save(exported.run_decompositions() if decomposed else exported, folder / "model.pt2")
    return f"export:{folder / 'model.pt2'}"
