"""Any attack of torchattacks by its name, as an addition to this project's own.

Version range: 3.5.1 (read and run). What the package returns is a proposal: the caller verifies it. Beside what
`audit.adapters.torchattacks` walls off, an attack by name is the package's own, with what is known of it:

- `AutoAttack` runs 10 iterations and targets every class, where the protocol has 100 and 9 (read in autoattack.py);
  `APGDT` fails on two classes (run). The number of classes is passed.
- `CW` has one balance for all samples, masks logits by 0 so that negative ones blind it, and stops when the summed
  cost of the *batch* rises (read in cw.py). Use this project's `cw`.
- Steps are fixed parts of 8/255 (of 1 in L2). They are scaled with eps here.
- `DeepFool`, `CW`, `EADL1`, `EADEN`, `SparseFool`, `JSMA`, `OnePixel`, `Pixle` and `GN` know no radius: what they find
  is kept at its own distance.
- `OnePixel`, `Pixle` and others draw from the global states of `random` and NumPy, which are put back.
- `LGV` trains, `MultiAttack` is a list, `VANILA` does nothing: they are no names here.
"""

from __future__ import annotations

import contextlib
import inspect
import random
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from audit.adapters.torchattacks import _package
from audit.api import Inconclusive, Subject

Norm = Literal["linf", "l2", "l1"]

IN_LINF = frozenset({
    "BIM", "DIFGSM", "EOTPGD", "FFGSM", "FGSM", "Jitter", "MIFGSM", "NIFGSM", "PGD", "PGDRS", "PIFGSM", "PIFGSMPP",
    "RFGSM", "SINIFGSM", "SPSA", "TIFGSM", "TPGD", "UPGD", "VMIFGSM", "VNIFGSM",
})  # fmt: skip
IN_L2 = frozenset({"PGDL2", "PGDRSL2"})
IN_EITHER = frozenset({"APGD", "APGDT", "AutoAttack", "FAB", "Square"})
UNBOUNDED = frozenset({"CW", "DeepFool", "EADEN", "EADL1", "GN", "JSMA", "OnePixel", "Pixle", "SparseFool"})
NAMES = IN_LINF | IN_L2 | IN_EITHER | UNBOUNDED
"""All 36."""


def fits(name: str, norm: Norm) -> bool:
    """Whether an attack searches the balls of a norm, or none."""
    balls = {"linf": IN_LINF | IN_EITHER, "l2": IN_L2 | IN_EITHER, "l1": frozenset({"FAB"})}
    return name in UNBOUNDED or name in balls[norm]


def attack_by_name(
    subject: Subject, pixels: Tensor, labels: Tensor, *, name: str, norm: Norm, eps: float, generator: torch.Generator
) -> Tensor:
    """Candidates of the named attack with the package's own settings but for radius, step, norm, classes and seed.

    Args:
        subject: the classifier; left as it was found.
        pixels: (n, c, h, w) float32 in [0, 1].
        labels: (n,) int64, the true classes.
        name: one of `NAMES`.
        norm: of the ball; see `fits`.
        eps: its radius, above 0; of no meaning for what is in `UNBOUNDED`.
        generator: on the CPU; decides all random numbers of the attack.

    Returns:
        (n, c, h, w) float32 on the subject's device, unverified, the last image of every search.

    Raises:
        PrerequisiteError: when the package is not installed.
        Inconclusive: `attack_failed` when the attack does; its words are told.
    """
    kind = getattr(_package(), name)
    seed = int(torch.randint(2**31, (), generator=generator))
    settings = _settings(kind, norm, eps, subject.num_classes, seed)
    clean = pixels.detach().to(subject.device, torch.float32).contiguous()
    with subject.frozen(seed), _numpy_and_random(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found: Tensor = kind(_Plain(subject), **settings)(clean, labels.to(subject.device))
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError, ZeroDivisionError) as error:
            text = f"torchattacks:{name} failed on this model ({type(error).__name__}: {error}). Leave it out."
            raise Inconclusive("attack_failed", text) from error
    return found.detach()


class _Plain(nn.Module):
    """The model as the engine sees it: no child is within its reach, and gradients come contiguous."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.empty(0, device=subject.device), requires_grad=False)
        self.ask = subject.logits
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        if pixels.requires_grad:
            pixels.register_hook(torch.Tensor.contiguous)  # type: ignore[no-untyped-call]
        return self.ask(pixels)


def _settings(kind: Any, norm: Norm, eps: float, num_classes: int, seed: int) -> dict[str, Any]:
    """Of the constructor's arguments those that must not be the package's own."""
    known = inspect.signature(kind.__init__).parameters
    usual = known["eps"].default if "eps" in known else 1.0
    wanted = {
        "eps": eps,
        "max_epsilon": eps,
        "norm": {"linf": "Linf", "l2": "L2", "l1": "L1"}[norm],
        "n_classes": num_classes,
        "seed": seed,
        "alpha": known["alpha"].default * eps / usual if "alpha" in known else None,
        "eps_for_division": 1e-30,
    }
    return {name: value for name, value in wanted.items() if name in known}


@contextlib.contextmanager
def _numpy_and_random(seed: int) -> Iterator[None]:
    """Global random states of their own, put back afterwards."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - the engine draws from the global state
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
