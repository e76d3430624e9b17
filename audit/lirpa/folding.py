"""Factors and terms of single channels, as of batch normalisation, taken into the layer before.

A layer w x + b, times s and plus t channel by channel, is the layer (s w) x + (s b + t). Its bounds are those of the
three operations one after another, with one computed in place of three. The new weights are rounded once, as is all
else that does not depend on the pixels, such as the factors of batch normalisation themselves.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from audit.lirpa.graph import Operation

_CHANNELS = {"conv2d": -3, "linear": -1}
"""Layers, and which dimension of their values is that of the channels."""


def folded(layer: Operation, op: Operation) -> Operation | None:
    """One layer in place of a layer and what scales or moves its channels; None where this is something else.

    Args:
        layer: which nothing but `op` asks for.
        op: takes it as its only operand.
    """
    constants = [side for side in op.args if isinstance(side, Tensor)]
    if layer.kind not in _CHANNELS or op.kind not in ("mul", "add") or op.kwargs or layer.kwargs or len(constants) != 1:
        return None
    weight, bias = layer.args[1], layer.args[2] if len(layer.args) > 2 else None
    if not isinstance(weight, Tensor) or weight.dim() < 2 or isinstance(bias, Operation):
        return None  # they depend on the pixels, too
    values = _a_channel(constants[0].to(weight.dtype), len(weight), _CHANNELS[layer.kind])
    if values is None or op.shape != layer.shape:
        return None
    if op.kind == "mul":
        weight = weight * values.view(-1, *(1,) * (weight.dim() - 1))
        bias = None if bias is None else bias * values
    else:
        bias = values if bias is None else bias + values
    return dataclasses.replace(op, kind=layer.kind, target=layer.target, operands=layer.operands, module=layer.module,
                               args=(layer.args[0], weight, bias, *layer.args[3:]))  # fmt: skip


def _a_channel(constant: Tensor, channels: int, dim: int) -> Tensor | None:
    """The constant's value (channels,) in each channel; None where it differs within one."""
    if constant.numel() == 1:
        return constant.reshape(1).expand(channels)
    if constant.dim() < -dim or constant.shape[dim] != channels or constant.numel() != channels:
        return None
    return constant.reshape(-1)
