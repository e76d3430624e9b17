"""A network that is asked for classes and for what it computes before its last layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from audit.api import Subject
from audit.toolkit.batching import Batching
from audit.training.quick import QuickNet
from probes.backdoor_data.samples import Samples

AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """What examines images.

    Attributes:
        name: `suspect`, or `own` for one that the probe trained.
        ask: pixels (n, c, h, w) to logits (n, classes) and features (n, d), float32 on the CPU.
    """

    name: str
    ask: Callable[[Tensor], tuple[Tensor, Tensor]]

    def answers(self, samples: Samples) -> tuple[Tensor, Tensor]:
        """Logits and features of all of them."""
        places = list(range(len(samples)))
        parts = Batching(AT_ONCE).parts(len(samples), lambda rows: self.ask(samples.pixels(places[rows])))
        return torch.cat([logits for logits, _ in parts]), torch.cat([features for _, features in parts])

    def classes_of(self, pixels: Tensor) -> Tensor:
        """The class of each image (n,) int64; -1 where a logit is not finite."""
        return classes_of(self.logits(pixels))

    def logits(self, pixels: Tensor) -> Tensor:
        """Of each image, (n, classes)."""
        parts = Batching(AT_ONCE).parts(len(pixels), lambda rows: self.ask(pixels[rows])[0])
        return torch.cat(parts) if parts else torch.empty(0, 1)


def classes_of(logits: Tensor) -> Tensor:
    """The class (n,) of each row; -1 where a logit is not finite."""
    return torch.where(logits.isfinite().all(dim=1), logits.argmax(dim=1), -1)


def own(net: nn.Module, device: torch.device) -> Network:
    """A network that the probe trained."""
    assert isinstance(net, QuickNet)
    net = net.to(device).eval()

    def ask(pixels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            features = net.trunk(pixels.to(device))
            return net.head(features).float().cpu(), features.float().cpu()

    return Network("own", ask)


@contextmanager
def suspect(subject: Subject, seed: int) -> Iterator[Network]:
    """The subject, left as it was found. Its features are what its last linear layer is given, else its logits."""
    given: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        classes = subject.num_classes
        if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor) and classes in output.shape[1:2]:
            given.append(inputs[0])

    def ask(pixels: Tensor) -> tuple[Tensor, Tensor]:
        given.clear()
        with torch.no_grad():
            logits = subject.logits(pixels).float().cpu()
        found = given[-1].float().cpu() if given else logits
        given.clear()
        found = found.flatten(2).mean(dim=2) if found.ndim > 2 else found
        return logits, found if len(found) == len(logits) else logits

    with subject.frozen(seed) as model:
        layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        hooks = [
            module.register_forward_hook(note) for module in layers if not isinstance(module, torch.jit.ScriptModule)
        ]
        try:
            yield Network("suspect", ask)
        finally:
            for hook in hooks:
                hook.remove()
