"""The subject's architecture with initial values, for whoever trains another network of the same form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from audit.loading.model_spec import ModelRequest, ModelSpec
from audit.loading.network import initialised
from audit.loading.preprocess import Normalisation
from audit.loading.preprocess_choice import Shape
from audit.loading.wrapper import Behaviour, Normalised

TRAINABLE = ("timm", "torchvision", "py")
"""Schemes that give an architecture; the others give a file's own network or graph."""


@dataclass(frozen=True, slots=True, eq=False)
class Untrained:
    """Builds the architecture again, behind the subject's normalisation.

    What a `py:` factory returns is taken as it is: where it loads weights, these are the initial values.
    """

    request: ModelRequest
    spec: ModelSpec
    native_shape: Shape | None
    normalisation: Normalisation
    behaviour: Behaviour
    device: torch.device

    def __call__(self, seed: int) -> nn.Module:
        """The network in training mode on the subject's device, with the initial values of this seed.

        Its parameters require gradients where its builder left them so.

        Raises:
            AuditError: when it cannot be built again.
        """
        _, network, _ = initialised(self.request, self.spec, self.native_shape, seed)
        wrapped = Normalised(network, self.normalisation, self.behaviour.output, self.behaviour.field)
        return wrapped.to(self.device).train()
