"""Settings of trainers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from audit.toolkit.norms import Norm, canonical_eps, parse_eps

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["one-cycle", "cosine", "constant"]
Augmentation = Literal["none", "flip", "crop", "flip-crop"]
Precision = Literal["auto", "float32", "tf32", "bfloat16"]
Switch = Literal["auto", "on", "off"]

_ATTACK = ("sabr", "mtl-ibp")

LEARNING_RATE: dict[Optimizer, float] = {"adamw": 2e-3, "sgd": 0.1}
WEIGHT_DECAY: dict[Optimizer, float] = {"adamw": 1e-2, "sgd": 5e-4}


class TrainingConfig(BaseModel):
    """Of every trainer."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    epochs: int = Field(30, ge=1)
    """Passes over the training images, at most."""
    batch_size: int = Field(128, ge=2)
    """Images a step."""
    optimizer: Optimizer = "adamw"
    """adamw, which suits any architecture, or sgd with Nesterov's momentum 0.9."""
    learning_rate: float | None = Field(None, gt=0)
    """At its highest; 2e-3 with adamw, 0.1 with sgd."""
    weight_decay: float | None = Field(None, ge=0)
    """1e-2 with adamw, 5e-4 with sgd; never on biases and other vectors."""
    schedule: Schedule = "one-cycle"
    """one-cycle (a quarter of the way up, then down to zero by a cosine), cosine, or constant."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes."""
    augmentation: Augmentation = "none"
    """none, flip (left and right), crop (moved by up to an eighth of a side, black around), or flip-crop."""
    clip: float = Field(5.0, gt=0)
    """Longest gradient, in L2 over all weights; longer ones are shortened to it."""
    held_out: float = Field(0.1, gt=0, lt=1)
    """Share of the images that is not trained on, by which the epoch to keep is chosen."""
    patience: int | None = Field(None, ge=1)
    """Epochs without a better one after which training stops; none by default, as one-cycle is best at its end."""
    precision: Precision = "auto"
    """Of the passes: auto (bfloat16 on a GPU that has it), float32, tf32 (products of a GPU's tensor cores, with the
    range of float32; elsewhere float32) or bfloat16. Weights are float32 always."""
    channels_last: Switch = "auto"
    """Memory format of images and weights; auto is on with a GPU."""
    compile: Switch = "auto"
    """torch.compile; auto is on with a GPU for trainings of 10,000 steps and more, as it takes a while itself. Where it
    fails the training goes on without."""

    @property
    def highest_learning_rate(self) -> float:
        """As given, or by the optimizer."""
        return LEARNING_RATE[self.optimizer] if self.learning_rate is None else self.learning_rate

    @property
    def decay(self) -> float:
        """Weight decay as given, or by the optimizer."""
        return WEIGHT_DECAY[self.optimizer] if self.weight_decay is None else self.weight_decay


class AdversarialConfig(TrainingConfig):
    """Of training on worst-case images."""

    recipe: Literal["pgd", "fgsm-rs"] = "pgd"
    """pgd (Madry et al. 2018, arXiv 1706.06083), or fgsm-rs, a single step from a random start (Wong, Rice & Kolter
    2020, arXiv 2001.03994), several times faster."""
    norm: Norm = "linf"
    """Of the ball: linf, l2 or l1."""
    eps: Annotated[str, BeforeValidator(str)] = "8/255"
    """Radius of the ball in units of the pixel range, such as 8/255 or 0.3."""
    steps: int = Field(10, ge=1)
    """Of pgd."""
    step: float | None = Field(None, gt=0)
    """Length of a step over the radius; 0.25 with pgd (2/255 at 8/255), 1.25 with fgsm-rs."""

    @model_validator(mode="after")
    def _radius_fits_the_norm(self) -> AdversarialConfig:
        if parse_eps(self.eps, self.norm) == 0:
            raise ValueError(f"Expected a radius above 0, got {self.eps}. Use `audit train standard` for none.")
        if self.recipe == "fgsm-rs" and self.steps != 1 and "steps" in self.model_fields_set:
            raise ValueError(f"Expected no steps with fgsm-rs, which takes one, got {self.steps}. Leave them out.")
        object.__setattr__(self, "eps", canonical_eps(self.eps, self.norm))
        return self

    @property
    def radius(self) -> float:
        """The radius as a number."""
        return parse_eps(self.eps, self.norm)

    @property
    def relative_step(self) -> float:
        """As given, or by the recipe."""
        return self.step if self.step is not None else {"pgd": 0.25, "fgsm-rs": 1.25}[self.recipe]


class CertifiedConfig(TrainingConfig):
    """Of training on bounds."""

    recipe: Literal["ibp", "crown-ibp", "mtl-ibp", "sabr"] = "ibp"
    """ibp (interval bounds, Gowal et al. 2018, arXiv 1810.12715), crown-ibp (tighter ones at first, with the fused loss
    of Xu et al. 2020, arXiv 2002.12920), mtl-ibp (a mixture with attacked images, De Palma et al. 2024, arXiv
    2305.13991) or sabr (small boxes around attacked images, Müller et al. 2023, arXiv 2210.04871)."""
    eps: Annotated[str, BeforeValidator(str)] = "8/255"
    """Radius in Linf, in units of the pixel range, such as 8/255 or 0.3."""
    warm_up: float = Field(0.02, ge=0, lt=1)
    """Share of all steps before the radius begins to widen."""
    ramp: float = Field(0.5, gt=0, le=1)
    """Share of all steps after which it is whole."""
    initial: Literal["narrow", "own"] = "narrow"
    """Initial weights: narrow ones in place of the architecture's, under which intervals keep their width (Shi et al.
    2021, arXiv 2103.17268), or its own; with --from always those given."""
    penalty: float = Field(0.5, ge=0)
    """Weight of the penalty on wide intervals and one-sided ReLUs while the radius widens (Shi et al. 2021)."""
    weight: float = Field(0.5, gt=0, le=1)
    """mtl-ibp: of the bound, the rest being of attacked images; about 0.01 for radii like 2/255."""
    box: float = Field(0.4, gt=0, le=1)
    """sabr: size of the boxes over the radius; about 0.1 for radii like 2/255, 0.7 for 8/255."""
    steps: int = Field(8, ge=1)
    """Of the attacks of mtl-ibp and sabr."""
    step: float = Field(0.25, gt=0)
    """Length of a step over the radius."""
    l1: float = Field(0.0, ge=0)
    """Weight of the sum of all weights' sizes."""
    learning_rate: float | None = Field(None, gt=0)
    """At its highest; 2e-3 with adamw, 0.1 with sgd."""
    clip: float = Field(10.0, gt=0)
    """Longest gradient, in L2 over all weights; longer ones are shortened to it."""
    precision: Literal["tf32", "float32"] = "tf32"
    """Of the steps: tf32 (products of a GPU's tensor cores, with the range of float32; elsewhere float32) or float32.
    What is proven of the result does not depend on it: `audit run` bounds in float64."""
    compile: Literal["off"] = "off"
    """Bounds are not compiled."""

    @model_validator(mode="after")
    def _radius_and_its_way(self) -> CertifiedConfig:
        if parse_eps(self.eps, "linf") == 0:
            raise ValueError(f"Expected a radius above 0, got {self.eps}. Use `audit train standard` for none.")
        if self.warm_up >= self.ramp:
            raise ValueError(f"Expected warm_up below ramp, got {self.warm_up:g} and {self.ramp:g}. Lower warm_up.")
        for key, recipes in {"box": ("sabr",), "weight": ("mtl-ibp",), "steps": _ATTACK, "step": _ATTACK}.items():
            if key in self.model_fields_set and self.recipe not in recipes:
                raise ValueError(
                    f"Expected {key} with {' or '.join(recipes)} alone, got it with {self.recipe}. Leave it out."
                )
        object.__setattr__(self, "eps", canonical_eps(self.eps, "linf"))
        return self

    @property
    def radius(self) -> float:
        """The radius as a number."""
        return parse_eps(self.eps, "linf")


class DistillationConfig(TrainingConfig):
    """Of training on a teacher's answers."""

    temperature: float = Field(100.0, ge=1, le=1000)
    """By which logits are divided before the softmax, in the teacher and in the student; both are used without it
    (defensive distillation, Papernot et al. 2016, arXiv 1511.04508)."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Of the teacher that is trained; a student's targets are the teacher's answers as they are."""
    precision: Precision = "float32"
    """As in training otherwise; float32, since logits in the hundreds have no decimals left in bfloat16."""
