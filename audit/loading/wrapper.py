"""The module that a subject is: normalisation, the network, and its output brought to logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from audit.api.subject import out_of_memory
from audit.errors import PrerequisiteError, SubjectError
from audit.loading.preprocess import Normalisation
from audit.schema import Diagnostic

OutputKind = Literal["logits", "log-probabilities", "probabilities"]
Field = Literal["itself", "attribute", "key"]

SUM_TOLERANCE = 1e-3
"""How far sums of probabilities may be from 1: half precision inside the network costs this much."""
NOISE_IMAGES = 5
FEWEST_FOR_SIGMOID = 4
"""With fewer classes, small logits lie in [0, 1] by chance too often."""


class Normalised(nn.Module):
    """A network behind its normalisation.

    Args:
        network: takes normalised images (n, c, h, w).
        normalisation: applied to pixels in [0, 1].
        output: what the network returns; probabilities p become log(max(p, tiny)), so that softmax gives p back.
        field: where in the network's return value the tensor is: the value itself, its attribute `logits`, or its
            entry `logits`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, normalisation: Normalisation, output: OutputKind = "logits", field: Field = "itself"
    ) -> None:
        super().__init__()
        self.network = network
        self.output = output
        self.field = field
        self.identity = normalisation.is_identity
        self.reverse = normalisation.channel_order == "bgr"
        self.register_buffer("mean", torch.tensor(normalisation.mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(normalisation.std, dtype=torch.float32)[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, classes) of pixels (n, c, h, w) float32 in [0, 1], red first."""
        images = pixels.flip(1) if self.reverse else pixels
        returned = self.network(images if self.identity else (images - self.mean) / self.std)
        scores = pick(returned, self.field)
        if self.output == "probabilities":
            return scores.clamp_min(torch.finfo(torch.float32).tiny).log()
        return scores


def pick(returned: Any, field: Field) -> Tensor:
    """The tensor of scores inside what a network returned.

    A network with auxiliary heads, such as GoogLeNet, returns a tensor in evaluation mode and more in training.

    Raises:
        SubjectError: when it returns anything else in training than it did in evaluation mode.
    """
    if field == "itself" and not isinstance(returned, Tensor):
        if isinstance(getattr(returned, "logits", None), Tensor):
            return returned.logits  # type: ignore[no-any-return]
        raise SubjectError(
            f"Expected the network to return logits in training mode as it does in evaluation mode, got "
            f"{_shapes(returned)}. Return the logits alone, or a named tuple with `logits`."
        )
    scores: Tensor = (
        returned.logits if field == "attribute" else returned["logits"] if field == "key" else returned
    )  # fmt: skip
    return scores


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a network was seen to return.

    Attributes:
        num_classes: columns of its scores.
        output: logits, log-probabilities or probabilities.
        field: where the scores are.
        diagnostics: oddities.
    """

    num_classes: int
    output: OutputKind
    field: Field
    diagnostics: tuple[Diagnostic, ...]


def observe(network: nn.Module, normalisation: Normalisation, shape: tuple[int, int, int], name: str) -> Behaviour:
    """Runs the network on a grey, a black, a white and five noisy images, and says what it returns.

    Args:
        network: in eval mode.
        normalisation: in front of it.
        shape: (c, h, w) of an image.
        name: of the network, for messages.

    Raises:
        SubjectError: when it fails, or returns anything but one row of two or more finite scores an image.
    """
    parameter = next(network.parameters(), torch.zeros(()))
    noise = torch.rand((NOISE_IMAGES, *shape), generator=torch.Generator().manual_seed(0))
    plain = torch.tensor([0.5, 0.0, 1.0])[:, None, None, None].expand(3, *shape)
    pixels = torch.cat([plain, noise]).to(parameter.device)
    raw = _Raw(network, normalisation).to(parameter.device).eval()
    try:
        with torch.no_grad():
            returned = raw(pixels)
    except SubjectError:
        raise
    except Exception as error:
        given = "x".join(map(str, pixels.shape))
        if out_of_memory(error):
            raise PrerequisiteError(
                f"Expected memory for {name} to answer images of {given}, got too little. "
                "Use a device with more, or smaller images where the network takes them (--preprocess .../size=HxW)."
            ) from error
        reason = (str(error).strip().splitlines() or [""])[0]
        raise SubjectError(
            f"Expected {name} to take images of {given}, got {type(error).__name__}: {reason}. "
            "Give the size it was made for with --preprocess .../size=HxW, and its channels with in_chans."
        ) from error
    field, diagnostics = _find_field(returned, name)
    scores = _checked_scores(pick(returned, field), len(pixels), name)
    output, remarks = _kind(scores)
    return Behaviour(scores.shape[1], output, field, (*diagnostics, *remarks))


class _Raw(Normalised):
    """Returns what the network returns."""

    def forward(self, pixels: Tensor) -> Any:
        """Whatever comes out."""
        images = pixels.flip(1) if self.reverse else pixels
        return self.network((images - self.mean) / self.std)


def _find_field(returned: Any, name: str) -> tuple[Field, tuple[Diagnostic, ...]]:
    if isinstance(returned, Tensor):
        return "itself", ()
    remark = f"the network returns a {type(returned).__name__}; its `logits` are taken"
    note = (Diagnostic(code="output_field", text=remark, severity="info"),)
    if isinstance(getattr(returned, "logits", None), Tensor):
        return "attribute", note
    if isinstance(returned, Mapping) and isinstance(returned.get("logits"), Tensor):
        return "key", note
    raise SubjectError(
        f"Expected {name} to return a tensor of logits (n, classes), got {_shapes(returned)}. "
        "Return the logits alone: wrap the model in a module whose forward picks them."
    )


def _shapes(returned: Any) -> str:
    def shape(value: Any) -> str:
        return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__

    if isinstance(returned, Mapping):
        return "a dict of " + ", ".join(f"{key} {shape(value)}" for key, value in list(returned.items())[:8])
    if isinstance(returned, list | tuple):
        return f"a {type(returned).__name__} of " + ", ".join(shape(value) for value in returned[:8])
    return f"a {type(returned).__name__}"


def _checked_scores(scores: Tensor, n: int, name: str) -> Tensor:
    shape = tuple(scores.shape)
    if shape == (n, 1):
        raise SubjectError(
            f"Expected {name} to return two or more logits an image, got one: output {shape}. For a two-class model "
            "with one score z, return the two logits (0, z)."
        )
    if scores.ndim != 2 or len(scores) != n:
        raise SubjectError(
            f"Expected {name} to return logits of shape ({n}, classes) for {n} images, got {shape}. "
            "Pool or flatten the output to one row an image."
        )
    if not torch.isfinite(scores).all():
        bad = int((~torch.isfinite(scores)).any(1).sum())
        raise SubjectError(
            f"Expected finite outputs of {name}, got NaN or Inf for {bad} of {n} images (grey, black, white, noise). "
            "Check weights and preprocessing."
        )
    return scores.double()


def _kind(scores: Tensor) -> tuple[OutputKind, tuple[Diagnostic, ...]]:
    """Logits, log-probabilities or probabilities; what is true of all images by chance is not believable."""
    inside = bool((scores >= 0).all() and (scores <= 1 + SUM_TOLERANCE).all())
    if inside and bool(((scores.sum(1) - 1).abs() < SUM_TOLERANCE).all()):
        text = "the network returns probabilities; their logarithm is used as logits"
        return "probabilities", (Diagnostic(code="output_probabilities", text=text, severity="info"),)
    if bool((scores <= 0).all()) and bool((scores.logsumexp(1).abs() < SUM_TOLERANCE).all()):
        text = "the network returns log-probabilities, which serve as logits"
        return "log-probabilities", (Diagnostic(code="output_log_probabilities", text=text, severity="info"),)
    if inside and scores.shape[1] >= FEWEST_FOR_SIGMOID:
        text = (
            "all outputs lie in [0, 1] but do not sum to 1, as after a sigmoid for each class; they are taken as "
            "logits, so confidences are too even. Return the values before the sigmoid."
        )
        return "logits", (Diagnostic(code="output_sigmoid", text=text),)
    return "logits", ()
