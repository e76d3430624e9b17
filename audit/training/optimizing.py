"""The optimizer of a training, and its learning rate step by step."""

from __future__ import annotations

import math

import torch
from torch import nn

from audit.errors import TrainingError
from audit.training.config import TrainingConfig

WARM_UP = 0.25
"""Share of a one-cycle schedule in which the learning rate rises."""
FIRST = 0.01
"""Of the highest learning rate, at the beginning of that."""
MOMENTUM = 0.9


def learning_rate(config: TrainingConfig, done: float) -> float:
    """The learning rate after this share of all steps, in [0, 1)."""
    highest = config.highest_learning_rate
    if config.schedule == "constant":
        return highest
    if config.schedule == "one-cycle" and done < WARM_UP:
        return highest * max(done / WARM_UP, FIRST)
    fallen = (done - WARM_UP) / (1 - WARM_UP) if config.schedule == "one-cycle" else done
    return highest * (1 + math.cos(math.pi * fallen)) / 2


def optimizer_of(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Over the parameters that require gradients; decay is on matrices and kernels alone.

    Raises:
        TrainingError: when there are none.
    """
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not wanted:
        raise TrainingError("Expected parameters that can be trained, got none that require gradients. Unfreeze some.")
    groups = [
        {"params": [parameter for parameter in wanted if parameter.dim() > 1], "weight_decay": config.decay},
        {"params": [parameter for parameter in wanted if parameter.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    rate = config.highest_learning_rate
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM, nesterov=True)
    return torch.optim.AdamW(groups, lr=rate)
