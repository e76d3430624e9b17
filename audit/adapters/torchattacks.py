"""FGSM and PGD of torchattacks (Kim 2020, arXiv 2010.01950), behind functions that speak this project's types only.

Version range: 3.5.1 (read and run). The package pins requests 2.25 and is therefore no plain dependency; where it is
absent, `PrerequisiteError` says so.

What is walled off here, how it was seen, and the test in tests/audit/adapters/test_torchattacks.py that pins it:

- The *last* iterate is returned, even when an earlier one fooled the model (read in pgd.py; Pintor 2022 calls it silent
  failure). `_Recorder` keeps, for every sample, the worst iterate that the model was shown, and the last competes with
  it. `test_best_iterate_is_kept`.
- A NaN logit gives a NaN gradient. `sign(NaN)` is 0, so Linf stands still without a word; L2 returns NaN pixels (run).
  A NaN iterate counts as the worst there is and is handed over as long as its own pixels are finite.
  `test_iterate_that_breaks_the_model_is_handed_over`.
- Flags: `model.eval()` recurses, and `model.train()` on the way out un-freezes normalisation that was in eval mode
  (run). The engine sees `_Recorder`, of which the model is no child; `Subject.untouched` restores the rest.
  `test_subject_is_left_as_found`.
- The global random state is drawn from; seeds cannot be passed (read). Each call runs inside `fork_rng` with a seed
  from the caller's generator. `test_same_seed_same_result`, `test_global_random_state_is_left_as_found`.
- Cross-entropy is averaged over the batch, so gradients are scaled by 1/n (read). Harmless for a sign or a direction
  until they underflow, which `probes.evasion` counts by itself on the unscaled loss.
- PGDL2 divides by |gradient| + 1e-10: below about 1e-10 its steps shrink to nothing (run). 1e-30 is passed instead.
  `test_l2_steps_do_not_shrink_with_the_gradient`.
- PGDL2 with eps = 0 computes 0/0 and returns NaN (run). eps = 0 gives the clean images back. `test_radius_zero`.
- PGDL2 takes `view` of the gradient and fails where a model gives it channels-last (run, on a ResNet). The gradient
  is made contiguous. `test_channels_last_gradient`.
- Inputs outside [0, 1] are clipped silently, which moves the centre of the ball (read). They are refused.
  `test_refuses_pixels_outside_the_box`.
- A model without parameters prints to stdout and gets no device; one whose class is called `RobModel` is normalised
  twice (read in attack.py). `_Recorder` has an empty parameter and its own name. `test_model_without_parameters`.
- Importing takes seconds (scipy's optimisers); random state and environment stay (run). It is imported on first use.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from audit.api import Subject
from audit.errors import PrerequisiteError

Norm = Literal["linf", "l2"]
TINY = 1e-30


def fgsm(subject: Subject, pixels: Tensor, labels: Tensor, *, norm: Norm, eps: float) -> Tensor:
    """Candidates after one step of length eps along the gradient (its sign in Linf), without a random start.

    In L2 this is PGDL2 with one step of eps, the fast gradient *method*. Arguments and result as in `pgd`.

    Source: Goodfellow, Shlens & Szegedy 2015, section 4, arXiv 1412.6572.
    """
    package = _package()

    def make(model: nn.Module) -> Any:
        if norm == "linf":
            return package.FGSM(model, eps=eps)
        return package.PGDL2(model, eps=eps, alpha=eps, steps=1, random_start=False, eps_for_division=TINY)

    return _attack(subject, pixels, labels, eps, make, torch.Generator())


def pgd(
    subject: Subject,
    pixels: Tensor,
    labels: Tensor,
    *,
    norm: Norm,
    eps: float,
    steps: int,
    step_size: float,
    generator: torch.Generator,
) -> Tensor:
    """Candidates of projected gradient ascent on the cross-entropy from one random start; the best iterate is kept.

    Args:
        subject: the classifier; left as it was found.
        pixels: (n, c, h, w) float32 in [0, 1].
        labels: (n,) int64, the true classes.
        norm: of the ball.
        eps: its radius in units of the pixel range.
        steps: number of gradient steps.
        step_size: length of one, in units of the pixel range.
        generator: on the CPU; decides the random start. The start also depends on a sample's place in the batch.

    Returns:
        (n, c, h, w) float32 on the subject's device, unverified.

    Source: Madry et al. 2018, section 2.1, arXiv 1706.06083.
    Differs from source: of all iterates the one with the smallest margin is returned, not the last; in L2 the radius
        of the random start is uniform, so that starts crowd around the centre.
    """
    package = _package()
    kind = package.PGD if norm == "linf" else package.PGDL2
    extra = {} if norm == "linf" else {"eps_for_division": TINY}

    def make(model: nn.Module) -> Any:
        return kind(model, eps=eps, alpha=step_size, steps=steps, random_start=True, **extra)

    return _attack(subject, pixels, labels, eps, make, generator)


class _Recorder(nn.Module):
    """The model as the engine sees it; remembers for every sample the worst images that it was shown.

    Worst is the smallest margin, label logit minus largest other; logits that are not finite are worse than any.
    """

    def __init__(self, subject: Subject, labels: Tensor, clean: Tensor) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.empty(0, device=subject.device), requires_grad=False)
        self.ask = subject.logits  # a bound method, so that the model is no child and its flags stay out of reach
        self.labels = labels
        self.worst = clean.clone()
        self.margin = torch.full((len(clean),), torch.inf, device=clean.device)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        if pixels.requires_grad:
            pixels.register_hook(torch.Tensor.contiguous)  # type: ignore[no-untyped-call]
        logits = self.ask(pixels)
        self.note(pixels.detach(), logits.detach())
        return logits

    def note(self, pixels: Tensor, logits: Tensor) -> None:
        own = logits.gather(1, self.labels[:, None]).squeeze(1)
        margin = own - logits.scatter(1, self.labels[:, None], -torch.inf).amax(dim=1)
        margin = torch.where(logits.isfinite().all(dim=1), margin, -torch.inf)
        better = (margin < self.margin) & pixels.flatten(1).isfinite().all(dim=1)
        self.margin = torch.where(better, margin, self.margin)
        self.worst = torch.where(better[:, None, None, None], pixels, self.worst)


def _attack(
    subject: Subject,
    pixels: Tensor,
    labels: Tensor,
    eps: float,
    make: Callable[[nn.Module], Any],
    generator: torch.Generator,
) -> Tensor:
    """Runs an engine's attack within the walls."""
    clean = pixels.detach().to(subject.device, torch.float32).contiguous()
    if not bool(((clean >= 0) & (clean <= 1)).all()):
        raise ValueError(
            "Expected pixels in [0, 1], got some outside. Undo the normalisation; it belongs to the model."
        )
    if eps == 0 or not len(clean):
        return clean.clone()
    seed = int(torch.randint(2**62, (), generator=generator))
    labels = labels.to(subject.device)
    with subject.frozen(seed):
        recorder = _Recorder(subject, labels, clean)
        last = make(recorder)(clean, labels).detach()
        with torch.no_grad():
            recorder(last)
    return recorder.worst.detach()


def _package() -> Any:
    """The package, imported on first use.

    Raises:
        PrerequisiteError: when it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torchattacks
    except ImportError as error:
        raise PrerequisiteError(
            f"Expected the package torchattacks 3.5.1, got {error}. Install it with --no-deps from requirements.lock."
        ) from error
    return torchattacks
