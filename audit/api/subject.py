"""The classifier under audit, as probes see it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from audit.errors import AuditError, SubjectError

Access = Literal["weights", "gradients", "logits", "labels"]


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """The classifier under audit.

    Attributes:
        model: maps pixels (n, c, h, w) float32 in [0, 1] to logits (n, num_classes); normalisation lives inside.
            In eval mode, parameters without `requires_grad`. Hand it to third-party engines; else use `logits`.
        name: short, for titles.
        num_classes: columns of the logits.
        class_names: one a class, or empty.
        input_shape: (channels, height, width) of an image.
        device: where the model lives.
        digest: sha256 over everything that decides the output.
        access: what may be used of it.
        output: what the raw network returned before it was brought to logits.
        why_limited: one clause on why access is less than all; empty when it is all.
        untrained: gives a network of the same form with the initial values of a seed, behind the same normalisation,
            on the same device, ready to be trained; None where there is no architecture to build again.
    """

    model: nn.Module
    name: str
    num_classes: int
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    device: torch.device
    digest: str
    access: frozenset[Access] = frozenset({"weights", "gradients", "logits", "labels"})
    output: Literal["logits", "log-probabilities", "probabilities"] = "logits"
    why_limited: str = ""
    untrained: Callable[[int], nn.Module] | None = None

    def logits(self, pixels: Tensor) -> Tensor:
        """Logits (n, num_classes) float32 of pixels (n, c, h, w) float32 in [0, 1]; keeps the graph for gradients.

        Raises:
            SubjectError: where the model raises; its own exception is the cause. Memory that ends is not its doing.
        """
        images = pixels.to(self.device, non_blocking=True)
        with own_errors_named(len(images)):
            logits: Tensor = self.model(images)
            return logits.float()

    @contextlib.contextmanager
    def untouched(self) -> Iterator[nn.Module]:
        """The model for a third-party engine; flags, buffers and gradients are put back afterwards, whatever it did."""
        modes = {module: module.training for module in self.model.modules()}
        wanted = {parameter: parameter.requires_grad for parameter in self.model.parameters()}
        buffers = {name: buffer.detach().clone() for name, buffer in self.model.named_buffers()}
        try:
            yield self.model
        finally:
            for module, training in modes.items():
                module.training = training
            for parameter, requires_grad in wanted.items():
                parameter.requires_grad_(requires_grad)
                parameter.grad = None
            with torch.no_grad():
                for name, buffer in self.model.named_buffers():
                    if name in buffers and not torch.equal(buffer, buffers[name]):
                        buffer.copy_(buffers[name])

    @contextlib.contextmanager
    def frozen(self, seed: int) -> Iterator[nn.Module]:
        """The model for a search: eval mode, parameters without gradients, gradients on, a random state of its own.

        A model that draws random numbers when called draws the same ones for the same seed. All is put back afterwards:
        flags, buffers, gradients, global random state.
        """
        cuda = [self.device] if self.device.type == "cuda" else []
        with (
            self.untouched() as model,
            torch.random.fork_rng(devices=cuda),
            torch.inference_mode(mode=False),
            torch.enable_grad(),
        ):
            for module in model.modules():
                module.training = False
            for parameter in model.parameters():
                parameter.requires_grad_(False)
            torch.default_generator.manual_seed(seed)
            for device in cuda:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield model


@contextlib.contextmanager
def own_errors_named(images: int) -> Iterator[None]:
    """What a model raises on so many images is said to be the model's."""
    try:
        yield
    except AuditError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise SubjectError(
            f"Expected the model to answer a batch of {images}, got {type(error).__name__} from it: {reason}. "
            "Mend the model, or wrap it so that it takes batches of any size."
        ) from error


def needs_contiguous(error: BaseException) -> bool:
    """Whether a model failed since it flattens by `view` what lies in channels-last memory."""
    return "view size is not compatible" in str(error)


_NO_MEMORY = ("not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ended; on a CPU, and within CUDA's libraries, torch has no class for it."""
    ended = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return ended or (isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY))
