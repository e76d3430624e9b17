"""Is the evasion probe fooled by defences around a checkpoint of yours? Each hides its gradient in one known way.

    python benchmarks/masked_checkpoint.py --model SPEC [--weights FILE] [--preprocess TEXT] [--allow-code] --data SPEC
                                           [--norm linf] [--eps 8/255] [--samples 48] [--only NAME,NAME] [--threads N]

Around the checkpoint are wrapped: logits multiplied, shifted, rounded, squashed or replaced by the decision; a softmax,
hot and cold; pixels in fewer levels, through JPEG, through a median filter or a smooth staircase; noise, dropout and
random resizing on every call; a gradient that is zero or cut off. Those of `SAME_DECISIONS` have exactly the
checkpoint's robust accuracy, which is the truth that they are held against. The table says of each the outcome, which
checks failed, and the robust accuracy. The exit code is 1 where one of those came out RELIABLE above the truth.
"""

import argparse
import dataclasses
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from measuring import save
from PIL import Image
from selfchecks import ABOVE, audit, masked
from torch import Tensor, nn
from torch.nn import functional

from audit.api import Subject
from audit.engine.prepare import Inputs, prepare
from audit.loading.models import ModelRequest
from audit.loading.preprocess import Normalisation
from audit.loading.wrapper import Normalised

QUALITY = 75
SMALLEST = 0.875
"""Of a side, that random resizing leaves."""


class After(nn.Module):
    """The model's logits, changed."""

    def __init__(self, base: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.base, self.change = base, change

    def forward(self, pixels: Tensor) -> Tensor:
        """Changed logits."""
        return self.change(self.base(pixels))


class Before(After):
    """The model on changed pixels."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of changed pixels."""
        logits: Tensor = self.base(self.change(pixels))
        return logits


def one_hot(logits: Tensor) -> Tensor:
    """The decision alone."""
    return functional.one_hot(logits.argmax(dim=1), logits.shape[1]) + 0 * logits


def jpeg(pixels: Tensor, *, gradient: bool) -> Tensor:
    """Through a file; the gradient is that of the identity, or zero."""
    decoded = torch.stack([_decoded(image) for image in pixels.detach().clamp(0, 1)])
    return pixels + (decoded - pixels).detach() if gradient else decoded + 0 * pixels


def _decoded(image: Tensor) -> Tensor:
    levels = (image * 255).round().byte()
    picture = Image.fromarray((levels[0] if len(image) == 1 else levels.permute(1, 2, 0)).numpy())
    with io.BytesIO() as stream:
        picture.save(stream, "JPEG", quality=QUALITY)
        found = torch.frombuffer(bytearray(Image.open(stream).tobytes()), dtype=torch.uint8)
    return found.view(image.shape[1], image.shape[2], -1).permute(2, 0, 1) / 255


def resized(pixels: Tensor) -> Tensor:
    """To a random size, at a random place of black (Xie et al. 2018, arXiv 1711.01991)."""
    side = pixels.shape[-1]
    small = int(torch.randint(round(SMALLEST * side), side + 1, ()))
    left, top = (int(torch.randint(0, side - small + 1, ())) for _ in range(2))
    inner = functional.interpolate(pixels, (small, small))
    return functional.pad(inner, (left, side - small - left, top, side - small - top))


def median(pixels: Tensor) -> Tensor:
    """Of every three by three."""
    patches = functional.unfold(functional.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3)
    return patches.view(len(pixels), pixels.shape[1], 9, -1).median(dim=2).values.view_as(pixels)


def staircase(pixels: Tensor) -> Tensor:
    """Ten steep but smooth steps."""
    return torch.stack([torch.sigmoid((pixels - at) * 400) for at in torch.linspace(0.05, 0.95, 10)]).mean(dim=0)


AFTER: dict[str, Callable[[Tensor], Tensor]] = {
    "logits-times-1000": lambda z: z * 1000,
    "logits-times-30": lambda z: z * 30,
    "logits-minus-50": lambda z: z - 50,
    "softmax": lambda z: z.softmax(dim=1),
    "softmax-hot": lambda z: (20 * z).softmax(dim=1),
    "log-softmax": lambda z: z.log_softmax(dim=1),
    "tanh-logits": lambda z: 10 * torch.tanh(z / 5),
    "rounded-logits": lambda z: (z * 10).round() / 10 + 0 * z,
    "one-hot": one_hot,
    "half-precision-logits": lambda z: z.half().float(),
}
BEFORE: dict[str, Callable[[Tensor], Tensor]] = {
    "jpeg": lambda x: jpeg(x, gradient=False),
    "jpeg-straight-through": lambda x: jpeg(x, gradient=True),
    "random-resizing": resized,
    "median-filter": median,
    "staircase": staircase,
    "dropout": lambda x: functional.dropout(x, 0.1, training=True) * 0.9,
}
SAME_DECISIONS = (
    "logits-times-1000", "logits-times-30", "logits-minus-50", "softmax", "log-softmax", "tanh-logits", "one-hot",
    "flat-gradient",
)  # fmt: skip
"""`softmax-hot` and rounded logits make ties, which are no correct decisions, of what was one."""


def versions(base: nn.Module) -> dict[str, nn.Module]:
    """The model and everything around it."""
    found: dict[str, nn.Module] = {"plain": base}
    found |= {name: After(base, change) for name, change in AFTER.items()}
    found |= {f"levels-{n}": masked.Quantised(base, n) for n in (4, 16, 256)}
    found |= {"levels-16-straight-through": masked.Quantised(base, 16, gradient=True)}
    found |= {f"noise-{size:g}": masked.Noise(base, size) for size in (0.001, 0.02, 0.1)}
    found |= {name: Before(base, change) for name, change in BEFORE.items()}
    return found | {"flat-gradient": masked.FlatGradient(base), "detached": masked.Detached(base)}


def as_loaded(subject: Subject, model: nn.Module, name: str) -> Subject:
    """As the tool would have loaded it: probabilities are brought to logits."""
    kinds: dict[str, Literal["probabilities", "log-probabilities"]] = {
        "softmax": "probabilities", "softmax-hot": "probabilities", "log-softmax": "log-probabilities",
    }  # fmt: skip
    output = kinds.get(name, "logits")
    wrapped = Normalised(model, Normalisation((0.0,), (1.0,)), output).eval().requires_grad_(False)
    return dataclasses.replace(subject, model=wrapped, name=name, digest=name, output=output)


def main() -> int:
    """Prints and stores the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--preprocess", default="auto")
    parser.add_argument("--allow-code", action="store_true")
    parser.add_argument("--data", required=True)
    parser.add_argument("--norm", default="linf")
    parser.add_argument("--eps", default="8/255")
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--only", default="")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    request = ModelRequest(given.model, given.weights, preprocess=given.preprocess, allow_code=given.allow_code)
    prepared = prepare(Inputs(request, (given.data,), given.samples, device="cpu", threads=given.threads), print)
    split, start = prepared.data["eval"], time.perf_counter()
    figures: dict[str, Any] = {"samples": len(split), "norm": given.norm}
    truth: dict[Any, float] = {}
    wrong = []
    for name, model in versions(prepared.subject.model).items():
        if name != "plain" and given.only and name not in given.only.split(","):
            continue
        found = audit(as_loaded(prepared.subject, model, name), split, 0, given.samples, norm=given.norm, eps=given.eps)
        truth = truth or found["robust"]
        above = max((found["robust"][eps] - truth[eps] for eps in found["robust"]), default=0.0)
        if found["verdict"] == "RELIABLE" and name in SAME_DECISIONS and above > ABOVE:
            wrong.append(name)
        shares = ", ".join(f"{share:.1%} at {eps}" for eps, share in found["robust"].items())
        figures[name] = "; ".join(filter(None, (found["verdict"], ", ".join(found["failed"]), shares)))
        print(f"{name:<28} {figures[name]}", flush=True)
    figures["RELIABLE above the truth"] = ", ".join(wrong) or "none"
    figures["seconds"] = round(time.perf_counter() - start)
    save("masked_checkpoint", figures)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
