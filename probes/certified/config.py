"""Settings of the certified probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from audit.api import Estimate, ProbeConfig, Role
from audit.lirpa.certify import METHODS, Method, Norm
from audit.toolkit.norms import parse_eps
from audit.toolkit.radii import items, radius_list

START, BEGIN = 5.0, 10.0
"""Seconds of export and control, and of another process that asks auto_LiRPA, about."""


class CertifiedConfig(ProbeConfig):
    """Which balls, on how many samples, and how hard their bounds are computed."""

    norms: Annotated[tuple[Norm, ...], BeforeValidator(items)] = Field(default=("linf",), min_length=1)
    eps_linf: Annotated[tuple[str, ...], radius_list("linf")] = ("1/255", "2/255", "4/255", "8/255")
    """Radii as `"8/255"`, `"0.0314"` or `0.0314`, in units of the pixel range."""
    eps_l2: Annotated[tuple[str, ...], radius_list("l2")] = ("0.1", "0.25", "0.5")
    method: Method = "crown"
    """The tightest that is tried: `ibp`, `crown-ibp`, `crown` or `alpha-crown`; cheaper ones come first."""
    steps: int = Field(default=10, ge=1)
    """Of gradient ascent on each bound, for `alpha-crown`."""
    most: int = Field(default=3000, ge=0)
    """A sample of which intervals leave more values open at a radius, in all layers together, is not bounded by
    `crown` there, which would take one backward pass for each."""
    halvings: int = Field(default=3, ge=0)
    """Of the gap between the largest radius that is certified and the next one that is not."""
    attack_steps: int = Field(default=40, ge=1)
    """Of the attacks that show how much a certificate could hold at most."""
    second_opinion: int = Field(default=4, ge=0)
    """First certified samples of a norm on which auto_LiRPA, an independent implementation, is asked; 0 for none."""
    samples: int = Field(default=32, ge=1)
    """First samples of the permuted order; fewer when the split is shorter."""
    chunk: int | None = Field(default=None, ge=1)
    """Samples certified together, and lost together when a run is killed; by default 8, and 128 on a GPU."""

    @model_validator(mode="after")
    def _radii_for_every_norm(self) -> Self:
        if len(set(self.norms)) != len(self.norms):
            raise ValueError("Expected every norm once, got one twice. Remove it.")
        for norm in self.norms:
            if not self.above_zero(norm):
                raise ValueError(
                    f"Expected a radius above 0 in eps_{norm}, got no other than 0. Give one, or drop {norm!r}."
                )
        return self

    def at_once(self, device: str) -> int:
        """Samples certified together on a type of device."""
        return self.chunk or (8 if device == "cpu" else 128)

    def listed(self, norm: Norm) -> tuple[str, ...]:
        """Radii of a norm in canonical form, ascending."""
        return {"linf": self.eps_linf, "l2": self.eps_l2}[norm]

    def above_zero(self, norm: Norm) -> list[float]:
        """The radii of a norm that leave something to certify."""
        return [eps for eps in (parse_eps(text, norm) for text in self.listed(norm)) if eps > 0]

    @property
    def methods(self) -> tuple[Method, ...]:
        """Those tried, from the cheapest."""
        return METHODS[: METHODS.index(self.method) + 1]


def cost(config: CertifiedConfig, sizes: Mapping[Role, int]) -> Estimate:
    """Passes where every try bounds as many values again as it may, and what is done once."""
    used = min(sizes.get("eval", 0), config.samples)
    passes = attacks = 0
    for norm in config.norms:
        tries = len(config.above_zero(norm)) + config.halvings
        raised = 3 * config.steps if config.method == "alpha-crown" else 0
        passes += tries * 2 * config.most * (1 + raised) if "crown" in config.methods else 4 * tries
        attacks += (config.attack_steps + 1) * (1 + len(config.above_zero(norm)))
    asking = START + BEGIN * len(config.norms) * (config.second_opinion > 0)
    return Estimate(forwards=used * attacks, backwards=used * (attacks + passes), seconds=asking)
