"""Settings of the evasion probe."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from audit.adapters.torchattacks_by_name import NAMES, UNBOUNDED
from audit.api import Estimate, ProbeConfig, Role
from audit.toolkit.norms import Norm, parse_eps
from audit.toolkit.radii import items, radius_list

AttackName = str
"""One of `OWN`, or `torchattacks:NAME` for an attack of that package."""
OWN = ("fgsm", "fmn", "cw", "pgd", "apgd-ce", "apgd-t", "square")
LIBRARY = "torchattacks:"
SHORT_SHARE = 10
"""FMN spends a tenth of its steps on every sample, and all of them where that finds nothing in the smallest radius."""
OF_LIBRARY = 100
"""Gradients of a search of torchattacks, for the estimate; some take more, some none."""
CW_ROUNDS = 9
"""Balances that Carlini & Wagner's attack tries for each sample."""
SCREENED_SHARE = 10
"""APGD-T tries every target for a tenth of its steps first."""
KEPT_TARGETS = 3
"""Targets, those that came nearest, that APGD-T then tries for all steps."""
CONTROLLED = 64
"""Samples of the positive control, at most."""
PRESSED, SQUARE_PRESSED = 64, 32
"""First samples of a run on which, where they stand, a longer search and all of Square's queries check the plan's."""
VALUES_ON_GPU = 1 << 24
"""Pixel values of the samples that are attacked together on a GPU, about: a judgement, beside which none was tried."""
DRAWS = 20
"""Passes that a search takes the mean of where the model answers at random (Athalye et al. 2018, arXiv 1802.00420)."""
VOTES = 5
"""Calls of such a model of which most decide whether an image is right or wrong."""
SHORT_SQUARE, LEAST_LONGER = 25, 100
"""Square spends that part of its queries on every sample that stands, and all if it breaks one so or of those pressed.
The longer search has twice the steps, and at least that many."""


def _known(name: str) -> str:
    """The name, if it is one of an attack."""
    library = name.removeprefix(LIBRARY)
    if name in OWN or (name != library and library in NAMES):
        return name
    near = difflib.get_close_matches(library, NAMES if name != library else OWN, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"Expected {', '.join(OWN)} or torchattacks:NAME such as torchattacks:PGD, got {name!r}.{hint}")


class EvasionConfig(ProbeConfig):
    """The documented protocol: which balls, which attacks, how hard, on how many samples."""

    norms: Annotated[tuple[Norm, ...], BeforeValidator(items)] = Field(default=("linf", "l2"), min_length=1)
    eps_linf: Annotated[tuple[str, ...], radius_list("linf")] = ("1/255", "2/255", "4/255", "8/255")
    """Radii as `"8/255"`, `"0.0314"` or `0.0314`, in units of the pixel range; 0 means no perturbation."""
    eps_l2: Annotated[tuple[str, ...], radius_list("l2")] = ("0.25", "0.5", "1")
    eps_l1: Annotated[tuple[str, ...], radius_list("l1")] = ("4", "8", "12")
    attacks: Annotated[tuple[Annotated[str, AfterValidator(_known)], ...], BeforeValidator(items)] = Field(
        default=("fgsm", "fmn", "pgd", "apgd-ce", "apgd-t", "square"), min_length=1
    )
    """`fgsm` at every radius; `fmn` for the nearest image of all, and `cw`, in L2 alone; then the others in this order,
    each on what the ones before left, at the largest radius that a sample withstands. `torchattacks:NAME` adds an
    attack of that package with its own settings; one that knows no radius runs once."""
    steps: int = Field(default=100, ge=1)
    """Gradient steps of FMN and of each APGD."""
    pgd_steps: int = Field(default=20, ge=1)
    """Gradient steps of PGD, each of 2.5 * eps / pgd_steps."""
    cw_steps: int = Field(default=200, ge=1)
    """Gradient steps of each of nine rounds of Carlini & Wagner's attack."""
    restarts: int = Field(default=1, ge=1)
    """Random starts of PGD and APGD-CE, each on what the ones before left."""
    targets: int = Field(default=9, ge=1)
    """Wrong classes, those nearest on the clean image, that APGD-T tries; fewer where there are fewer."""
    queries: int = Field(default=5000, ge=1)
    """Looks of Square at each image."""
    twin: Literal["auto", "off"] = "auto"
    """auto trains an undefended twin where `train` data is given, to show that the attacks break it, and to try its
    adversarial images on the model."""
    twin_epochs: int = Field(default=30, ge=1)
    twin_samples: int = Field(default=2000, ge=20)
    """First samples of the `train` data that the twin is trained on."""
    samples: int = Field(default=512, ge=1)
    """First samples of the permuted order; fewer when the split is shorter."""
    chunk: int | None = Field(default=None, ge=1)
    """Samples attacked together, and lost together when a run is killed; by default 128, and on a GPU 1024 to 4096,
    the more the smaller the images are."""
    precision: Literal["auto", "float32"] = "auto"
    """auto searches on a GPU's tensor cores (TF32), and computes again exactly what seems to fool the model. Whatever
    is reported is verified in float32."""

    def attacked(self, norm: Norm) -> bool:
        """Whether there is a radius above 0."""
        return any(parse_eps(text, norm) > 0 for text in self.radii(norm))

    def at_once(self, device: str, values: int) -> int:
        """Samples of so many pixel values attacked together on a type of device.

        Searches end with ever fewer rows, once a chunk; a GPU should meet that rarely.
        """
        return self.chunk or (128 if device == "cpu" else min(max(VALUES_ON_GPU // values, 1024), 4096))

    @model_validator(mode="after")
    def _radii_for_every_norm(self) -> Self:
        if len(set(self.norms)) != len(self.norms) or len(set(self.attacks)) != len(self.attacks):
            raise ValueError("Expected every norm and every attack once, got one twice. Remove it.")
        for norm in self.norms:
            if set(self.attacks) == {"cw"} and norm != "l2":
                raise ValueError(
                    f"Expected an attack for {norm!r}, got cw alone, which works in l2. Add another, or give norms=l2."
                )
            if not self.radii(norm):
                raise ValueError(
                    f"Expected at least one radius in eps_{norm}, got none. Give one or drop {norm!r} from norms."
                )
        return self

    def radii(self, norm: Norm) -> tuple[str, ...]:
        """Radii of a norm in canonical form, ascending."""
        return {"linf": self.eps_linf, "l2": self.eps_l2, "l1": self.eps_l1}[norm]

    def attack_text(self, num_classes: int) -> str:
        """The attacks with all that decides their strength on so many classes, in one line."""
        starts = f"{self.restarts} random start{'s' if self.restarts > 1 else ''}"
        warm = " and one from the nearest image found before"
        targets, screening = min(self.targets, num_classes - 1), screening_steps(self.steps)
        screened = f"{screening} step{'s' if screening > 1 else ''}"
        kept = f", then {self.steps} on the nearest {min(KEPT_TARGETS, targets)}"
        words = {
            "fgsm": "FGSM",
            "fmn": f"FMN, {self.steps} steps ({self.steps // SHORT_SHARE or 1} if that breaks the smallest radius)",
            "cw": f"Carlini & Wagner, {CW_ROUNDS} rounds of {self.cw_steps} steps, in L2",
            "pgd": f"PGD on the margin, {self.pgd_steps} steps, {starts}{warm if self.attacks[0] != 'pgd' else ''}",
            "apgd-ce": f"APGD-CE, {self.steps} steps, {starts}",
            "apgd-t": f"APGD-T on {targets} target{'s' if targets > 1 else ''}, {screened}{kept}",
            "square": f"Square, {self.queries // SHORT_SQUARE or 1} queries on what stands and, if it breaks any, all "
            f"{self.queries}",
        }
        longer = longer_steps(self.steps)
        pressed = (
            f"one draw of noise; on the first {PRESSED} samples APGD on the margin, {longer} steps, 2 random "
            f"starts; on {SQUARE_PRESSED} of them Square, {self.queries} queries"
        )
        return "; ".join([*(words.get(name, name) for name in self.attacks), pressed])


def longer_steps(steps: int) -> int:
    """Steps of the longer search of the self-checks."""
    return max(2 * steps, LEAST_LONGER)


def screening_steps(steps: int) -> int:
    """Steps that APGD-T spends on every target before it keeps some."""
    return max(1, steps // SCREENED_SHARE)


def in_ball(attacks: Sequence[AttackName]) -> tuple[AttackName, ...]:
    """Those of the attacks that are run at the largest radius that a sample withstands."""
    elsewhere = ("fgsm", "fmn", "cw", "square", *unbounded(attacks))
    return tuple(name for name in attacks if name not in elsewhere)


def unbounded(attacks: Sequence[AttackName]) -> tuple[AttackName, ...]:
    """Those of torchattacks that know no radius."""
    return tuple(name for name in attacks if name.removeprefix(LIBRARY) in UNBOUNDED and name.startswith(LIBRARY))


def finders(attacks: Sequence[AttackName]) -> tuple[str, ...]:
    """All that can break a sample: the attacks, one draw of noise, and the searches of the self-checks."""
    return (*attacks, "noise", "longer", *(() if "square" in attacks else ("square",)), "transfer")


def cost(config: EvasionConfig, sizes: Mapping[Role, int]) -> Estimate:
    """Passes when nothing breaks: an upper limit, as a broken sample is attacked no further.

    Of a model that does not answer at random; if it does, a search takes 20 passes a step and a verification 5.
    """
    used = min(sizes.get("eval", 0), config.samples)
    controlled = min(used, CONTROLLED)
    twin = config.twin_epochs * min(sizes.get("train", 0), config.twin_samples) * (config.twin == "auto")
    forwards = backwards = twin
    for norm in config.norms:
        # A sample that no radius breaks meets every search once; one that the largest breaks may meet some again.
        searched, seen = used + controlled, used * len(config.radii(norm)) + controlled
        gradients = 2 * ("fgsm" in config.attacks) * seen + 2 * searched  # FGSM, and the census
        gradients += searched * sum(_gradients(config, name, norm) for name in config.attacks)
        pressed = min(used, PRESSED)
        gradients += pressed * 2 * (longer_steps(config.steps) + 1) + 2 * (
            searched + pressed
        )  # census away from the data
        queries = min(used, SQUARE_PRESSED) * config.queries
        if "square" in config.attacks:
            queries += searched * (config.queries + (config.queries // SHORT_SQUARE or 1))
        # Verification, rounding to 8 bits, noise, and what the census and the searches look at beside.
        forwards += gradients + queries + 10 * searched + seen * (len(config.attacks) + 6)
        backwards += gradients
    return Estimate(forwards=forwards, backwards=backwards)


def _gradients(config: EvasionConfig, name: AttackName, norm: Norm) -> int:
    """Gradients that a search takes of a sample that withstands it; FGSM's are counted by radius."""
    return {
        "fgsm": 0,
        "fmn": config.steps + 1 + (config.steps // SHORT_SHARE or 1) + 1,
        "cw": CW_ROUNDS * config.cw_steps * (norm == "l2"),
        "pgd": (config.restarts + 1) * (config.pgd_steps + 1),
        "apgd-ce": config.restarts * (config.steps + 1),
        "apgd-t": config.targets * (screening_steps(config.steps) + 1) + KEPT_TARGETS * (config.steps + 1),
        "square": 0,
    }.get(name, OF_LIBRARY)
