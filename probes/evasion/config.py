"""Settings of the evasion probe."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from audit.api import Estimate, ProbeConfig
from audit.toolkit.norms import Norm, canonical_eps, parse_eps

AttackName = Literal["fgsm", "pgd"]


def _items(value: Any) -> Any:
    """A text with commas, or a single number, as a list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int | float) else value


def _radii(norm: Norm) -> BeforeValidator:
    """Reads radii, all problems at once; ascending, without repetition, in canonical form."""

    def read(value: Any) -> Any:
        listed = _items(value)
        if not isinstance(listed, list | tuple):
            return listed
        found, problems = set(), []
        for item in listed:
            try:
                found.add(canonical_eps(item, norm))
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError(" ".join(problems))
        return tuple(sorted(found, key=lambda text: parse_eps(text, norm)))

    return BeforeValidator(read)


class EvasionConfig(ProbeConfig):
    """The documented protocol: which balls, which attacks, how hard, on how many samples."""

    norms: Annotated[tuple[Norm, ...], BeforeValidator(_items)] = Field(default=("linf", "l2"), min_length=1)
    eps_linf: Annotated[tuple[str, ...], _radii("linf")] = ("1/255", "2/255", "4/255", "8/255")
    """Radii as `"8/255"`, `"0.0314"` or `0.0314`, in units of the pixel range; 0 means no perturbation."""
    eps_l2: Annotated[tuple[str, ...], _radii("l2")] = ("0.25", "0.5", "1")
    attacks: Annotated[tuple[AttackName, ...], BeforeValidator(_items)] = Field(default=("fgsm", "pgd"), min_length=1)
    """Run in this order, each on what the ones before left."""
    steps: int = Field(default=40, ge=1)
    """Gradient steps of PGD."""
    step_factor: float = Field(default=2.5, gt=0)
    """PGD's step is step_factor * eps / steps, so that it can cross the ball and come back."""
    restarts: int = Field(default=1, ge=1)
    """Random starts of PGD, each on what the ones before left."""
    samples: int = Field(default=512, ge=1)
    """First samples of the permuted order; fewer when the split is shorter."""
    chunk: int = Field(default=128, ge=1)
    """Samples attacked together, and lost together when a run is killed."""

    @model_validator(mode="after")
    def _radii_for_every_norm(self) -> Self:
        if len(set(self.norms)) != len(self.norms) or len(set(self.attacks)) != len(self.attacks):
            raise ValueError("Expected every norm and every attack once, got one twice. Remove it.")
        for norm in self.norms:
            if not self.radii(norm):
                raise ValueError(
                    f"Expected at least one radius in eps_{norm}, got none. Give one or drop {norm!r} from norms."
                )
        return self

    def radii(self, norm: Norm) -> tuple[str, ...]:
        """Radii of a norm in canonical form, ascending."""
        return self.eps_linf if norm == "linf" else self.eps_l2

    def attack_text(self) -> str:
        """The attacks with all that decides their strength, in one line."""
        words = {
            "fgsm": "FGSM",
            "pgd": f"PGD with {self.steps} steps of {self.step_factor:g}*eps/{self.steps}, "
            f"{self.restarts} random start{'s' if self.restarts > 1 else ''}, best iterate kept",
        }
        return "; ".join(words[name] for name in self.attacks)


def cost(config: EvasionConfig, n: int) -> Estimate:
    """Passes when nothing breaks: an upper limit, as a broken sample is attacked no further."""
    used = min(n, config.samples)
    gradients = ("fgsm" in config.attacks) + ("pgd" in config.attacks) * config.steps * config.restarts
    calls = ("fgsm" in config.attacks) + ("pgd" in config.attacks) * config.restarts
    radii = sum(len(config.radii(norm)) for norm in config.norms)
    controlled = min(used, 64) * len(config.norms)
    attacked = used * radii + controlled
    counted = used * len(config.norms) + controlled  # the clean pass, and the gradients that are looked at
    # Beside the gradient passes a call costs the look at the last iterate, its verification and the noise.
    return Estimate(
        forwards=attacked * (gradients + 3 * calls + 1) + 2 * counted, backwards=attacked * gradients + counted
    )
