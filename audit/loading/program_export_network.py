"""Programs of torch.export as networks.

An exported program takes what it was exported with: one image size, often one size of batch, one device. Other batches
are run in pieces that it takes, the last one filled up; devices in its code are rewritten when it moves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from audit.loading.program_network import ProgramNetwork


@dataclass(frozen=True, slots=True)
class Input:
    """The one input of a program.

    Attributes:
        keyword: its name where it must be given by name, else empty.
        shape: (c, h, w), None where free.
        least: images that a batch must have.
        most: images that it may have; None where any number will do.
    """

    keyword: str
    shape: tuple[int, int | None, int | None]
    least: int
    most: int | None


class ExportNetwork(ProgramNetwork):
    """An exported program; its parameters are this module's, and its mode is that in which it was exported.

    Args:
        program: what `ExportedProgram.module()` gives.
        name: its spec, for messages.
        taken: what it takes.
    """

    def __init__(self, program: nn.Module, name: str, taken: Input) -> None:
        super().__init__(program, name, image_channels=taken.shape[0])
        self.taken = taken

    def train(self, mode: bool = True) -> ExportNetwork:
        """Sets the flags alone: the program knows no modes, and refuses to be asked."""
        for module in self.modules():
            module.training = mode
        return self

    def run(self, pixels: Tensor) -> Any:
        """The program, in pieces where it takes no batch of this size."""
        least, most = self.taken.least, self.taken.most
        if len(pixels) >= least and (most is None or len(pixels) <= most):
            return self._ask(pixels)
        pieces = torch.split(pixels, max(most or len(pixels), 1))
        return _joined([self._filled_up(piece) for piece in pieces])

    def _filled_up(self, piece: Tensor) -> Any:
        """What the program returns for fewer images than it takes: the last is repeated, and its copies cut off."""
        lacking = max(self.taken.least - len(piece), 0)
        whole = torch.cat([piece, piece[-1:].expand(lacking, *piece.shape[1:])]) if lacking else piece
        returned = self._ask(whole)
        rows = len(whole)
        return pytree.tree_map_only(
            Tensor, lambda tensor: tensor[: len(piece)] if tensor.ndim and len(tensor) == rows else tensor, returned
        )

    def _ask(self, pixels: Tensor) -> Any:
        return self.program(**{self.taken.keyword: pixels}) if self.taken.keyword else self.program(pixels)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ExportNetwork:
        """Moves what the program holds outside parameters and buffers too, and rewrites the devices in its code."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = fn(torch.zeros(())).device
        for module in self.program.modules():
            for key, value in list(vars(module).items()):
                if isinstance(value, Tensor) and value.device != device:
                    setattr(module, key, value.to(device))
            if isinstance(module, fx.GraphModule) and _moved(module.graph, device):
                module.recompile()
        return self


def _joined(returned: list[Any]) -> Any:
    """Pieces put together again, tensor by tensor."""
    leaves, spec = zip(*(pytree.tree_flatten(piece) for piece in returned), strict=True)
    together = [
        torch.cat(parts) if isinstance(parts[0], Tensor) and parts[0].ndim else parts[0]
        for parts in zip(*leaves, strict=True)
    ]
    return pytree.tree_unflatten(together, spec[0])


def _moved(graph: fx.Graph, device: torch.device) -> bool:
    """Whether a device in the graph was another, and is this one now."""
    changed = False
    for node in graph.nodes:
        args = tuple(device if isinstance(value, torch.device) else value for value in node.args)
        kwargs = {key: device if isinstance(value, torch.device) else value for key, value in node.kwargs.items()}
        if args != node.args or kwargs != node.kwargs:
            node.args, node.kwargs, changed = args, kwargs, True
    return changed
