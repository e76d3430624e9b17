"""Trainings that are used by name, to be carried out by `loop.train`.

    trained = train(standard(model, split, TrainingConfig()), ctx)
    classifier = filled(model, trained.weights)

Every model maps pixels in [0, 1] to logits, with its normalisation inside; none is changed.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from audit.api import DataSplit
from audit.toolkit.tensors import tensors_of, tensors_sha256
from audit.training.bounded import Bounded, program_of
from audit.training.config import AdversarialConfig, CertifiedConfig, DistillationConfig, TrainingConfig
from audit.training.loop import Task
from audit.training.objectives import Labels, Teacher, WorstCase
from audit.training.preparing import begin_narrow


def standard(model: nn.Module, split: DataSplit, config: TrainingConfig, name: str = "training") -> Task:
    """Training on labels."""
    return Task("standard", model, split, config, Labels(config.label_smoothing), name)


def adversarial(model: nn.Module, split: DataSplit, config: AdversarialConfig, name: str = "training") -> Task:
    """Training on worst-case images.

    Source: Madry et al. 2018, arXiv 1706.06083; Wong, Rice & Kolter 2020, arXiv 2001.03994; the epoch is chosen on
    held-out images as in Rice, Wong & Kolter 2020, arXiv 2002.11569 (robust overfitting).
    """
    return Task("adversarial", model, split, config, WorstCase(config), name)


def certified(model: nn.Module, split: DataSplit, config: CertifiedConfig, name: str = "training") -> Task:
    """Training on bounds of the loss, see `bounded`.

    Raises:
        TrainingError: when the network cannot be bounded.
    """
    shape = tuple(split.batch(0, 1).pixels.shape[1:])
    program = program_of(model, shape)
    if config.initial == "narrow":
        model = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(int(tensors_sha256(tensors_of(model))[:15], 16))
        begin_narrow(model, program.of(model.state_dict(keep_vars=True), fold=False), generator)
    return Task("certified", model, split, config, Bounded(config, program), name)


def teacher(model: nn.Module, split: DataSplit, config: DistillationConfig, name: str = "teacher") -> Task:
    """Training on labels at the temperature of a distillation."""
    return Task("standard", model, split, config, Labels(config.label_smoothing, config.temperature), name)


def student(
    model: nn.Module, taught_by: nn.Module, split: DataSplit, config: DistillationConfig, name: str = "student"
) -> Task:
    """Training on the answers that a teacher gives to the same pixels, for the same classes.

    Source: Papernot et al. 2016, section IV, arXiv 1511.04508.
    """
    answers = copy.deepcopy(taught_by).eval().requires_grad_(False)
    objective = Teacher(answers, config.temperature)
    return Task("distillation", model, split, config, objective, name, origin=tensors_sha256(tensors_of(answers)))


def filled(model: nn.Module, weights: dict[str, Tensor], device: torch.device | None = None) -> nn.Module:
    """A copy of the model with these weights, on the device (None: the model's own), to ask and not to train on."""
    made = copy.deepcopy(model).to(device)
    device = next(iter(made.parameters()), torch.zeros(())).device
    made.load_state_dict({**made.state_dict(), **{name: tensor.to(device) for name, tensor in weights.items()}})
    return made.eval().requires_grad_(False)
