"""What composite operators are made of, where a bound of the whole would not be tighter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

ATEN = torch.ops.aten
WHOLE = (
    ATEN.adaptive_avg_pool2d.default, ATEN.avg_pool2d.default, ATEN.conv1d.default,
    ATEN.conv2d.default, ATEN.conv2d.padding, ATEN.gelu.default, ATEN.group_norm.default, ATEN.hardsigmoid.default,
    ATEN.hardswish.default, ATEN.instance_norm.default, ATEN.layer_norm.default, ATEN.linear.default,
    ATEN.matmul.default, ATEN.max_pool2d.default, ATEN.mish.default, ATEN.silu.default, ATEN.softmax.int,
    ATEN.softplus.default, ATEN.elu.default, ATEN.selu.default, ATEN.celu.default, ATEN.leaky_relu.default,
    ATEN.upsample_bilinear2d.vec, ATEN.upsample_bicubic2d.vec, ATEN.upsample_nearest2d.vec,
    ATEN._upsample_bicubic2d_aa.vec, ATEN.relu6.default, ATEN.hardtanh.default, ATEN.pixel_shuffle.default,
    ATEN.pixel_unshuffle.default, ATEN.pad.default, ATEN.log_softmax.int, ATEN.square.default,
)  # fmt: skip
"""Operators that are not decomposed."""
NEVER = -1e30
"""What masks a score in attention: its exponential is 0."""


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The core of ATen's table, with ours in it."""
    table = dict(torch.export.default_decompositions())
    for operator in WHOLE:
        table.pop(operator, None)
    return table | {
        ATEN.scaled_dot_product_attention.default: _attention,
        ATEN.split.Tensor: _split,
        ATEN.split_with_sizes.default: _split_with_sizes,
        ATEN.chunk.default: _chunk,
        ATEN.unbind.int: _unbind,
        ATEN._native_batch_norm_legit_no_training.default: _batch_norm,
        ATEN._convolution.default: _convolution,
        ATEN.prelu.default: _prelu,
        ATEN.max.dim: _max,
        ATEN.min.dim: _min,
        ATEN.max_pool2d_with_indices.default: _max_pool2d,
        ATEN.adaptive_max_pool2d.default: _adaptive_max_pool2d,
    }


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """Attention as products and a softmax."""
    if is_causal or enable_gqa or dropout_p:
        raise NotImplementedError("causal, grouped or random attention")
    scores = torch.matmul(query * (query.shape[-1] ** -0.5 if scale is None else scale), key.transpose(-2, -1))
    if attn_mask is not None:
        if attn_mask.dtype is torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, NEVER)
        scores = scores + attn_mask.clamp(min=NEVER)  # 0 times infinity would say nothing
    return torch.matmul(scores.softmax(-1), value)


def _batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalisation by stored statistics, as a scale and a shift a channel."""
    scale = (var + eps).rsqrt() * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * scale
    column = (-1, *(1,) * (x.dim() - 2))
    nothing = x.new_empty(0)
    return x * scale.view(column) + shift.view(column), nothing, nothing


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    """As traced programs have it, with flags of cuDNN behind."""
    stride, padding, dilation, transposed, _, groups, *_ = geometry
    if transposed or len(stride) != 2:
        general: Tensor = ATEN.convolution.default(x, weight, bias, *geometry[:6])
        return general
    flat: Tensor = ATEN.conv2d.default(x, weight, bias, stride, padding, dilation, groups)
    return flat


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    """A x + (1 - a) max(x, 0): lines of the ReLU are lines of this one, and no looser."""
    slope = weight.view(-1, *(1,) * (x.dim() - 2)) if x.dim() > 1 else weight
    return slope * x + (1 - slope) * x.relu()


def _max(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return x.amax(dim, keepdim), x.argmax(dim, keepdim)


def _min(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return x.amin(dim, keepdim), x.argmin(dim, keepdim)


def _max_pool2d(x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    """The values alone."""
    return ATEN.max_pool2d.default(x, *args, **kwargs), None


def _adaptive_max_pool2d(x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, None]:
    """The values alone, along one direction after the other."""
    for dim, count in zip((-2, -1), sizes, strict=True):
        length = x.shape[dim]
        cells = [(place * length // count, -(-(place + 1) * length // count)) for place in range(count)]
        x = torch.cat([x.narrow(dim, start, end - start).amax(dim, keepdim=True) for start, end in cells], dim)
    return x, None


def _split_with_sizes(whole: Tensor, sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    return [ATEN.slice.Tensor(whole, dim, start, start + size) for start, size in zip(starts, sizes, strict=True)]


def _split(whole: Tensor, size: int, dim: int = 0) -> list[Tensor]:
    total = whole.shape[dim]
    return _split_with_sizes(whole, [min(size, total - start) for start in range(0, total, size)] or [0], dim)


def _chunk(whole: Tensor, chunks: int, dim: int = 0) -> list[Tensor]:
    return _split(whole, max(-(-whole.shape[dim] // chunks), 1), dim)


def _unbind(whole: Tensor, dim: int = 0) -> list[Tensor]:
    return [ATEN.select.int(whole, dim, place) for place in range(whole.shape[dim])]
