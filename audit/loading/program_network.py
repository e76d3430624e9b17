"""A compiled program as a network: what TorchScript and torch.export have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from audit.api import Access
from audit.errors import SubjectError
from audit.loading.model_spec import FULL_ACCESS
from audit.loading.sources import shown

HALVES = frozenset({torch.float16, torch.bfloat16})


class ProgramNetwork(nn.Module):
    """Runs a program on images, and explains what commonly goes wrong inside one.

    Args:
        program: the module that was loaded.
        name: its spec, for messages.
        devices: that the program names in its own code.
        image_channels: that it takes, or None where it does not say.
    """

    def __init__(
        self, program: nn.Module, name: str, devices: frozenset[str] = frozenset(), image_channels: int | None = None
    ) -> None:
        super().__init__()
        self.program = program
        self.name = name
        self.devices = devices
        self.image_channels = image_channels
        tensors = (*program.parameters(), *program.buffers())
        self.stored_as = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors if _is_half(tensor)})

    def forward(self, pixels: Tensor) -> Any:
        """Whatever the program returns for images (n, c, h, w) float32.

        Raises:
            SubjectError: when it cannot run on this device, or in float32.
        """
        try:
            return self.run(pixels)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError) as error:
            explained = self._explained(error, pixels.device)
            if explained is None:
                raise
            raise explained from error

    def run(self, pixels: Tensor) -> Any:
        """The program itself."""
        return self.program(pixels)

    def _explained(self, error: Exception, device: torch.device) -> SubjectError | None:
        """An error that says why, where the cause is known."""
        others = sorted(name for name in self.devices if torch.device(name).type != device.type)
        reason = shown((str(error).strip().splitlines() or [""])[-1])
        if others:
            return SubjectError(
                f"Expected {self.name} to run on {device.type}, got {', '.join(others)} named in its own code "
                f"({reason}). Take that device with --device, or trace or export it again on {device.type}."
            )
        if self.stored_as:
            return SubjectError(
                f"Expected {self.name} to compute in float32, got {', '.join(self.stored_as)} inside ({reason}). "
                "Trace or export it again after model.float()."
            )
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A program that was loaded, with what its code says.

    Attributes:
        network: on the CPU.
        notes: on what a reader of its numbers should know.
        input_shape: (c, h, w) where it takes one size only.
        access: what may be used of it.
        why_limited: one sentence on why that is less than all; empty when it is all.
    """

    network: ProgramNetwork
    notes: tuple[str, ...] = ()
    input_shape: tuple[int, int, int] | None = None
    access: frozenset[Access] = FULL_ACCESS
    why_limited: str = ""


def training_note(name: str, found: dict[str, int]) -> tuple[str, ...]:
    """A note on layers that training mode is baked into; none when there are none.

    Args:
        name: of the program.
        found: number of layers by kind.
    """
    if not found:
        return ()
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
    text = (
        f"{name} was compiled in training mode and cannot be switched: {kinds} behave as in training (statistics of "
        "the batch, random dropout). Call model.eval() before tracing or exporting it"
    )
    return (text,)


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in HALVES
