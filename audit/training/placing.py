"""A model on its device as it is trained: mixed precision, memory format, compilation."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from audit.api.subject import needs_contiguous, out_of_memory, own_errors_named
from audit.toolkit.modes import evaluating
from audit.toolkit.tensor_cores import has_tensor_cores, tensor_cores
from audit.training.config import Switch, TrainingConfig
from audit.training.context import TrainingContext

COMPILED_FROM = 10_000
"""Steps from which compiling is taken to pay: a judgement. It took 8 to 19 s for the smallest network on one GPU, and
what it saves a step has not been measured (`benchmarks/gpu.py --suite numerics`)."""


class Placed:
    """A model that is being trained, for so many steps, on images (n, c, h, w) like those given.

    Attributes:
        model: the module itself, on the device; its weights are float32.
        settings: how it is computed, for the log.
    """

    def __init__(
        self, model: nn.Module, config: TrainingConfig, ctx: TrainingContext, steps: int, images: Tensor
    ) -> None:
        self.device = ctx.device
        gpu = self.device.type == "cuda"
        self._half = config.precision == "bfloat16" or (
            config.precision == "auto" and gpu and torch.cuda.is_bf16_supported()
        )
        self._coarse = config.precision == "tf32" and has_tensor_cores(self.device)
        self.model = model.to(self.device)
        self._format = torch.channels_last if _wanted(config.channels_last, gpu) else torch.contiguous_format
        chosen = config.channels_last == "auto" and self._format is torch.channels_last
        if chosen and not self._taken(images.to(self.device)):
            self._format = torch.contiguous_format
        self.model = self.model.to(memory_format=self._format)
        self._compiled = torch.compile(self.model) if _wanted(config.compile, gpu and steps >= COMPILED_FROM) else None
        self._proven = False
        self._ctx = ctx

    @property
    def settings(self) -> dict[str, str]:
        """Precision, memory format and compilation as they are used."""
        passes = "bfloat16" if self._half else "TF32" if self._coarse else ""
        return {
            "precision": f"{passes} passes, float32 weights" if passes else "float32",
            "memory_format": "channels_last" if self._format is torch.channels_last else "contiguous",
            "compile": "on" if self._compiled is not None else "off",
        }

    def arithmetic(self) -> contextlib.AbstractContextManager[None]:
        """In which a step computes its loss and its gradients."""
        return tensor_cores() if self._coarse else contextlib.nullcontext()

    def __call__(self, pixels: Tensor) -> Tensor:
        """Logits (n, classes) float32, with the graph, as fast as the settings allow."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._half):
            return self._called(pixels.contiguous(memory_format=self._format)).float()

    def exact(self, pixels: Tensor) -> Tensor:
        """Logits (n, classes) in float32 throughout, as the model is deployed."""
        logits: Tensor = self.model(pixels.contiguous(memory_format=self._format))
        return logits.float()

    def _taken(self, images: Tensor) -> bool:
        """Whether the model takes images in the memory format; tried before the first step, which must happen once."""
        with evaluating(self.model), torch.no_grad():
            try:
                self.model.to(memory_format=self._format)
                self.model(images.contiguous(memory_format=self._format))
            except Exception as error:  # what is wrong otherwise shows in training
                return not needs_contiguous(error)
        return True

    def _called(self, pixels: Tensor) -> Tensor:
        if self._compiled is not None:
            try:
                logits: Tensor = self._compiled(pixels)
            except Exception as error:
                if self._proven or out_of_memory(error):
                    raise
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                self._ctx.diagnose("not_compiled", f"torch.compile failed ({reason}); trained without it.", "info")
                self._compiled = None
            else:
                self._proven = True
                return logits
        with own_errors_named(len(pixels)):
            return self.model(pixels)  # type: ignore[no-any-return]


def _wanted(switch: Switch, pays: bool) -> bool:
    return switch == "on" or (switch == "auto" and pays)
