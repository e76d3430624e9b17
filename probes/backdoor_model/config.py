"""Settings of the backdoor-model probe."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from audit.api import Estimate, ProbeConfig, Role

CLASSES_ASSUMED = 10
"""Of a cost, which knows no subject."""


class BackdoorModelConfig(ProbeConfig):
    """How hard margins and triggers are searched for."""

    starts: int = Field(default=8, ge=1)
    """Random images of a class from which its margin is raised."""
    margin_steps: int = Field(default=150, ge=1)
    """Of each."""
    trigger_steps: int = Field(default=200, ge=10)
    """Of the search for a class's smallest trigger."""
    bases: int = Field(default=120, ge=20)
    """Images that a trigger is put on, half of them to make it and half to try it: of the `clean` data, else of the
    `eval` data, else synthetic pictures of no data."""
    most_inverted: int = Field(default=24, ge=3)
    """Classes that a trigger is searched for; of more, those with the largest margins."""
    trained: int = Field(default=2000, ge=0)
    """Images of the `train` data that copies of the model are trained on, one with a backdoor and one without, to show
    whether the probe tells them apart; 0 for none."""
    epochs: int = Field(default=3, ge=1)
    """Of that."""


def cost(config: BackdoorModelConfig, sizes: Mapping[Role, int]) -> Estimate:
    """Of about ten classes; three times as much with copies."""
    margin = CLASSES_ASSUMED * config.starts * config.margin_steps
    trigger = CLASSES_ASSUMED * config.bases / 2 * config.trigger_steps
    copies = 2 if sizes.get("train", 0) and config.trained else 0
    training = copies * min(sizes.get("train", 0), config.trained) * config.epochs
    passes = (1 + copies) * (margin + trigger) + trigger / CLASSES_ASSUMED * 4 + training
    return Estimate(forwards=passes, backwards=passes)
