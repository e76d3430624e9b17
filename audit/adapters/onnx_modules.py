"""Torch modules for ONNX operators that take numbers as tensors, once the numbers are known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Number = tuple[int, int]
"""(a, b): a + b * the number of images."""


class ToShape(nn.Module):
    """Reshape, Expand or ConstantOfShape with known numbers.

    Args:
        form: `reshape`, `expand` or `full`.
        sizes: of the result; in a reshape 0 keeps the size that is there and -1 takes what is left.
        value: of one element, that `full` repeats.
    """

    value: Tensor

    def __init__(self, form: str, sizes: Sequence[Number], value: Tensor) -> None:
        super().__init__()
        self.form = form
        self.sizes = tuple(sizes)
        self.register_buffer("value", value)

    def forward(self, images: Tensor, values: Tensor | None = None) -> Tensor:
        """Values in their new shape."""
        n = images.shape[0]
        shape = [a + b * n if b else a for a, b in self.sizes]
        if values is None:
            return self.value.reshape(()).expand(shape)
        if self.form == "expand":
            return torch.broadcast_to(values, torch.broadcast_shapes(values.shape, shape))  # type: ignore[no-untyped-call]
        kept = [values.shape[place] if size == (0, 0) else shape[place] for place, size in enumerate(self.sizes)]
        return values.reshape(kept)


class Slice(nn.Module):
    """Slice with known numbers.

    Args:
        slices: axis, start, end and step of each.
    """

    def __init__(self, slices: Sequence[tuple[int, int, int, int]]) -> None:
        super().__init__()
        self.slices = tuple(slices)

    def forward(self, values: Tensor) -> Tensor:
        """The part of the values."""
        for axis, start, end, step in self.slices:
            first, last, stride = slice(start, end, step).indices(values.shape[axis])
            if stride > 0:
                index = (slice(None),) * (axis % values.ndim) + (slice(first, max(first, last), stride),)
                values = values[index]
            else:
                picked = torch.arange(first, last, stride, device=values.device)
                values = values.index_select(axis, picked)
        return values


class Squeeze(nn.Module):
    """Squeeze along known axes; none for all of size 1.

    Args:
        axes: counted from the first, or from the last where negative.
    """

    def __init__(self, axes: Sequence[int]) -> None:
        super().__init__()
        self.axes = tuple(axes)

    def forward(self, values: Tensor) -> Tensor:
        """The values without these axes."""
        return values.squeeze(self.axes) if self.axes else values.squeeze()


class Split(nn.Module):
    """Split into parts of known sizes.

    Args:
        sizes: of the parts.
        axis: that is split.
    """

    def __init__(self, sizes: Sequence[int], axis: int) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.axis = axis

    def forward(self, values: Tensor) -> tuple[Tensor, ...]:
        """The parts."""
        return torch.split(values, self.sizes, dim=self.axis)


class Pad(nn.Module):
    """Pad with zeros by known numbers.

    Args:
        before: along each axis.
        after: along each axis.
    """

    def __init__(self, before: Sequence[int], after: Sequence[int]) -> None:
        super().__init__()
        pairs = list(zip(before, after, strict=True))
        self.widths = [width for pair in reversed(pairs) for width in pair]

    def forward(self, values: Tensor) -> Tensor:
        """The padded values."""
        return nn.functional.pad(values, self.widths)
