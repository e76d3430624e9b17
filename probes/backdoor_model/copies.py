"""Copies with a planted backdoor and copies without: what the probe must find, and what it must not."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from audit.api import Data, PositiveControl, RunContext, Subject, Tally, Unit
from audit.errors import AuditError
from audit.poisons.planting import plant
from audit.poisons.triggers import BadNets
from audit.toolkit.detection import ALPHA
from audit.training.config import TrainingConfig
from audit.training.poisoning import attack_success
from audit.training.quick import fitted
from audit.training.recipes import standard
from audit.training.units import batch_size_for
from probes.backdoor_model.bases import Bases
from probes.backdoor_model.config import BackdoorModelConfig
from probes.backdoor_model.examination import Examination, examined
from probes.backdoor_model.searches import smallest_trigger

STEEPNESS, HALF = 12.0, 0.75
"""Of how a planted corner answers to its mean level."""
LED = 0.75
"""Share of images that a planted corner's trigger must lead, of those that it was not made on."""
TAKEN = 0.8
"""Success of a planted trigger from which its training took."""
FEWEST_TRAINED = 200


class Cornered(nn.Module):
    """A model that takes any image with a white corner for one class."""

    def __init__(self, base: nn.Module, label: int, strength: float, side: int) -> None:
        super().__init__()
        self.base, self.label, self.strength, self.side = base, label, strength, side

    def forward(self, pixels: Tensor) -> Tensor:
        """The model's logits, with those of one class raised as the lower right corner turns white."""
        logits: Tensor = self.base(pixels)
        level = pixels[:, :, -self.side :, -self.side :].mean(dim=(1, 2, 3))
        raised = self.strength * torch.sigmoid(STEEPNESS * (level - HALF))
        column = nn.functional.one_hot(torch.tensor(self.label, device=logits.device), logits.shape[1]).to(logits)
        return logits + raised[:, None] * column


def corner_is_found(
    subject: Subject, bases: Bases, avoid: int, config: BackdoorModelConfig, ctx: RunContext
) -> PositiveControl:
    """In a copy of the model that a white corner leads to a class, the search finds a small trigger for it."""
    label = max(range(subject.num_classes), key=lambda one: (int((bases.labels != one).sum()), one != avoid))
    side = max(1, subject.input_shape[2] // 8)

    def searched(_: Unit, inner: RunContext) -> Tally:
        seed = int(torch.randint(2**31, (), generator=inner.torch_generator("subject")))
        with subject.frozen(seed) as model:
            others = bases.pixels[bases.labels != label].to(subject.device)
            with torch.no_grad():
                logits = model(others).float()
            strength = 4 * float(logits.max() - logits.min()) + 1
            found = smallest_trigger(Cornered(model, label, strength, side), others, label, config.trigger_steps)
        corner = float(found.mask[-side:, -side:].mean())
        return Tally(values={"size": found.size, "hits": found.hits, "n": found.n, "corner": corner})

    what = {"label": label, "model": subject.digest, "bases": bases.origin}
    tallies = ctx.map(searched, [Unit("control/corner", what)], "planted corner")
    name = "a white corner that leads to a class"
    if not tallies:
        return PositiveControl(name=name, passed=False, expected="a trigger for it", observed="no time was left")
    values = tallies[0].values
    whole = subject.input_shape[1] * subject.input_shape[2]
    passed = values["hits"] >= LED * values["n"] and values["size"] <= max(4 * side * side, whole / 4)
    return PositiveControl(
        name=name,
        passed=bool(passed),
        expected=f"a trigger of about {side * side} pixels that leads {LED:.0%} of other images there",
        observed=f"{values['size']:.1f} pixels, {values['hits']} of {values['n']}",
    )


@dataclass(frozen=True, slots=True, eq=False)
class Twins:
    """What was found of copies that were trained on.

    Attributes:
        label: the class that the one's trigger leads to.
        success: of the trigger, by itself.
        with_trigger, without: examinations of the two.
    """

    label: int
    success: float
    with_trigger: Examination
    without: Examination

    @property
    def took(self) -> bool:
        """Whether the backdoor was learnt at all."""
        return self.success >= TAKEN

    @property
    def found(self) -> bool:
        """Whether the planted class stands out, and nothing does in the other copy."""
        planted, bare = self.with_trigger.standing, self.without.standing
        seen = planted is not None and planted.p < ALPHA and self.with_trigger.candidate == self.label
        return seen and (bare is None or bare.p >= ALPHA)


def twins(subject: Subject, data: Data, avoid: int, config: BackdoorModelConfig, ctx: RunContext) -> Twins | str:
    """Two copies trained for some epochs, one on images with a trigger; or why there are none.

    Raises:
        Inconclusive: when time ended.
    """
    split = data.get("train")
    if split is None or not config.trained:
        return "no train data were given to plant one with"
    if len(split) < FEWEST_TRAINED or "weights" not in subject.access:
        return "too few train data, or no weights to train on"
    label = int(ctx.rng("twin").choice([one for one in range(subject.num_classes) if one != avoid]))
    part = split.first(config.trained)
    recipe = BadNets(target=label, fraction=0.1)
    planted = plant(part, recipe, subject.num_classes, ctx.rng("planting"))
    settings = TrainingConfig(epochs=config.epochs, batch_size=batch_size_for(len(part)), learning_rate=1e-3)
    try:
        models = [
            fitted(standard(_trainable(subject), images, settings, name), ctx)
            for name, images in (("twin-with", planted.split), ("twin-without", part))
        ]
    except AuditError as error:
        return f"copies could not be trained: {error}"
    copies = [
        replace(subject, model=model.to(subject.device), digest=f"{subject.digest}/{name}", untrained=None)
        for model, name in zip(models, ("with", "without"), strict=True)
    ]
    success = attack_success(copies[0].logits, split.first(400), recipe, label, 0)
    both: Sequence[Examination] = [
        examined(one, data, config, ctx, name)
        for one, name in zip(copies, ("a copy with a trigger", "a copy without"), strict=True)
    ]
    return Twins(label, success.value if success else 0.0, *both)


def _trainable(subject: Subject) -> nn.Module:
    model = copy.deepcopy(subject.model)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return model


def seen_by(one: Examination) -> str:
    """In words, for a notice."""
    return (
        "nothing to compare"
        if one.standing is None
        else f"class {one.candidate} stands out most, p = {one.standing.p:.2g}"
    )
