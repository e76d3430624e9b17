"""Images that triggers are put on: trusted ones, else those to audit on, else pictures of no data at all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from audit.api import Data, Inconclusive, RunContext, Subject, Tally, Unit
from probes.backdoor_model.config import BackdoorModelConfig
from probes.backdoor_model.pictures import pictures
from probes.backdoor_model.searches import led_to

FEWEST_BASES = 20
ASKED_AT_ONCE = 128
MOST_ASKED = 3000
"""Pictures that a model is shown to find some that it takes for each of its classes."""


@dataclass(frozen=True, slots=True, eq=False)
class Bases:
    """Images that triggers are put on.

    Attributes:
        pixels: (n, c, h, w).
        labels: (n,), what the model takes them for.
        origin: in words.
    """

    pixels: Tensor
    labels: Tensor
    origin: str


def bases_for(subject: Subject, data: Data, config: BackdoorModelConfig, ctx: RunContext, name: str) -> Bases:
    """Some of what is given, or pictures.

    Raises:
        Inconclusive: when time ended, or the model answers with NaN.
    """
    for role, origin in (("clean", "trusted images"), ("eval", "images to audit on")):
        split = data.get(role)  # type: ignore[call-overload]
        if split is None:
            continue
        pixels = split.batch(0, config.bases).pixels
        with torch.inference_mode():
            labels = subject.logits(pixels).argmax(dim=1).cpu()
        if len(pixels) >= FEWEST_BASES and len(labels.unique()) > 1:  # type: ignore[no-untyped-call]
            return Bases(pixels, labels, origin)

    def made(_: Unit, inner: RunContext) -> Tally:
        seed = int(torch.randint(2**31, (), generator=inner.torch_generator("subject")))
        with subject.frozen(seed) as model:
            pixels, labels = of_all_classes(model, subject, config.bases, inner.torch_generator("pictures"))
        return Tally(arrays={"pixels": pixels.numpy(), "labels": labels.numpy()})

    unit = Unit(f"{name}/pictures", {"n": config.bases, "model": subject.digest})
    tallies = ctx.map(made, [unit], "pictures of no data")
    if not tallies:
        raise Inconclusive("budget", "The budget ended before any class was searched. Give --budget more time.")
    arrays = tallies[0].arrays
    pixels, labels = (torch.tensor(arrays[key]) for key in ("pixels", "labels"))
    return Bases(pixels, labels, "synthetic pictures")


def of_all_classes(model: nn.Module, subject: Subject, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures that the model takes for as many classes as it will, none for much more than its share.

    Of a class that it takes none for, some are bent towards it.

    Returns:
        Pixels (count, c, h, w), and labels (count,), what the model takes them for.

    Raises:
        Inconclusive: when the model answers with NaN.
    """
    share = -(-count // subject.num_classes)
    room = dict.fromkeys(range(subject.num_classes), share)
    kept: list[Tensor] = []
    asked = 0
    while asked < MOST_ASKED and sum(len(part) for part in kept) < count:
        batch = pictures(ASKED_AT_ONCE, subject.input_shape, generator)
        labels = _taken_for(model, batch, subject.device)
        asked += len(batch)
        chosen = torch.zeros(len(batch), dtype=torch.bool)
        for place, label in enumerate(labels.tolist()):
            chosen[place] = room[label] > 0
            room[label] -= int(chosen[place])
        kept.append(batch[chosen])
    pixels = torch.cat(kept)[:count]
    if len(pixels) < count:
        wanted = [label for label, left in room.items() for _ in range(left)][: count - len(pixels)]
        begun = pictures(len(wanted), subject.input_shape, generator)
        bent = led_to(model, begun.to(subject.device), torch.tensor(wanted, device=subject.device)).cpu()
        pixels = torch.cat([pixels, bent])
    pixels = pixels[torch.randperm(len(pixels), generator=generator)]
    return pixels, _taken_for(model, pixels, subject.device)


def _taken_for(model: nn.Module, pixels: Tensor, device: torch.device) -> Tensor:
    with torch.no_grad():
        logits = torch.cat([model(part.to(device)).float().cpu() for part in torch.split(pixels, ASKED_AT_ONCE)])
    if not bool(logits.isfinite().all()):
        raise Inconclusive("not_finite", "The model answers some images with NaN or infinity.")
    return logits.argmax(dim=1)
