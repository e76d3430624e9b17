"""The statistics of a batch that normalisation takes in training mode, to bound a network as it is then."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def recorded(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Of every batch normalisation that runs meanwhile, the mean and variance of what it was given.

    They depend on the weights as the images' own normalisation does, and stand under the names of the statistics that
    take their place in evaluation mode, `...running_mean` and `...running_var`. Of a module that runs twice, the last.
    """
    found: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats:

            def note(_: nn.Module, given: tuple[Any, ...], prefix: str = f"{name}." if name else "") -> None:
                dims = [dim for dim in range(given[0].dim()) if dim != 1]
                var, mean = torch.var_mean(given[0].float(), dims, correction=0)
                found[f"{prefix}running_mean"], found[f"{prefix}running_var"] = mean, var

            hooks.append(module.register_forward_pre_hook(note))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
