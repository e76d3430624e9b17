"""Modules around an ONNX graph: images in, one row of scores an image out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audit.adapters.onnx_runtime import RunMemoryError, Session
from audit.loading.onnx_layout import NO_BATCH, Layout

BRIGHTEST = 255


class OnnxNetwork(nn.Module):
    """A graph that takes normalised images (n, c, h, w) float32 and gives scores (n, classes) float32.

    Args:
        graph: from the graph's own input to its output, for any number of images.
        layout: of its input.
    """

    def __init__(self, graph: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.graph = graph
        self.layout = layout

    def forward(self, images: Tensor) -> Tensor:
        """Scores; dimensions of size 1 after the classes are dropped."""
        scores: Tensor = self.graph(self.layout.arranged(images))
        return scores.reshape(len(images), -1).float()


class InParts(nn.Module):
    """A graph that takes a fixed number of images at once, or one without a batch dimension, for any number of them.

    The last part is filled up with copies of its last image. Gradients pass.

    Args:
        graph: for exactly `batch` images.
        batch: that number, or `NO_BATCH`.
    """

    def __init__(self, graph: nn.Module, batch: int) -> None:
        super().__init__()
        self.graph = graph
        self.batch = batch

    def forward(self, arranged: Tensor) -> Tensor:
        """Rows of scores (n, ...)."""
        if self.batch == NO_BATCH:
            return torch.stack([self.graph(image).reshape(-1) for image in arranged])
        rows = []
        for part in torch.split(arranged, self.batch):
            missing = self.batch - len(part)
            whole = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
            rows.append(self.graph(whole)[: len(part)])
        return torch.cat(rows)


class BlackBox(nn.Module):
    """A graph run by onnxruntime on the CPU, whatever device its input is on; no gradient passes.

    Args:
        session: with one output; opened again after a copy.
        halving: whether images that are too many for the memory of one run go in by halves.
    """

    def __init__(self, session: Session, *, halving: bool = False) -> None:
        super().__init__()
        self.session = session
        self.halving = halving

    def forward(self, arranged: Tensor) -> Tensor:
        """What the graph returns, float32, on the device of its input."""
        scores: Tensor = _Run.apply(arranged, self.session, self.halving)
        return scores


class _Run(torch.autograd.Function):
    """A step of which autograd knows that it cannot go back."""

    @staticmethod
    def forward(ctx: Any, arranged: Tensor, session: Session, halving: bool) -> Tensor:
        values = arranged.detach()
        if session.input.dtype == "uint8":
            values = (values * BRIGHTEST).round().clamp(0, BRIGHTEST)
        scores = _scores(session, values.cpu().numpy(), halving)
        return torch.from_numpy(scores).to(arranged.device, torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise RuntimeError("onnxruntime gives no gradients: the model is a black box")


def _scores(session: Session, values: Any, halving: bool) -> Any:
    try:
        (scores,) = session.run(values).values()
        return scores
    except RunMemoryError:
        if len(values) == 1 or not halving:
            raise
    middle = len(values) // 2
    return np.concatenate([_scores(session, part, halving) for part in (values[:middle], values[middle:])])
