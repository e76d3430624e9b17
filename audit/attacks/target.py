"""The model as a search sees it: asked for logits, losses and gradients of whole batches, and left as it was found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from audit.api import Inconclusive, Subject
from audit.api.subject import needs_contiguous
from audit.attacks import losses
from audit.errors import SubjectError
from audit.toolkit.batching import Batching
from audit.toolkit.tensor_cores import has_tensor_cores, tensor_cores


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What the model says to n images.

    Attributes:
        logits: (n, k) float32.
        loss: (n,) float32, of the search.
        gradient: (n, c, h, w) float32, of each row's loss by its own pixels, entries that are not finite as 0: such an
            entry says nothing of its pixel, and left in would end the search of its row. None where not asked for.
        finite: (n,) bool, whether there was no such entry; True where no gradient was asked for.
    """

    logits: Tensor
    loss: Tensor
    gradient: Tensor | None
    finite: Tensor


@dataclass(slots=True, eq=False)
class Target:
    """A subject opened for searching; made by `opened`.

    Attributes:
        subject: in eval mode, parameters frozen.
        fast: whether searches are computed on tensor cores: see `search`.
        draws: passes that each look is the mean of; more than 1 for a model that answers at random (expectation over
            transformations, Athalye et al. 2018, arXiv 1802.00420).
        batching: how many rows fit into memory together, as far as is known.
        needs_contiguous: whether the model was seen to fail on images in channels-last memory.
        forwards, backwards: rows that were passed so far, each draw counted, tries that did not fit as well.
    """

    subject: Subject
    fast: bool = False
    draws: int = 1
    batching: Batching = field(default_factory=Batching)
    needs_contiguous: bool = field(default=False, init=False)
    forwards: int = field(default=0, init=False)
    backwards: int = field(default=0, init=False)

    def look(self, images: Tensor, loss: Callable[[Tensor, slice], Tensor], *, gradient: bool) -> Look:
        """Logits, losses and, where wanted, gradients of images (n, c, h, w).

        Args:
            images: on the subject's device.
            loss: from logits (m, k) of some consecutive rows, and which rows these are, to their losses (m,).
            gradient: whether gradients are wanted.

        Raises:
            Inconclusive: `no_gradients` where the logits do not depend differentiably on the pixels; `memory` where
                not even one row fits.
        """
        parts = self.batching.parts(len(images), lambda rows: self._looks(images[rows], rows, loss, gradient))
        gradients = [part.gradient for part in parts if part.gradient is not None]
        return Look(
            torch.cat([part.logits for part in parts]),
            torch.cat([part.loss for part in parts]),
            torch.cat(gradients) if gradients else None,
            torch.cat([part.finite for part in parts]),
        )

    def search(
        self, images: Tensor, loss: Callable[[Tensor, slice], Tensor], labels: Tensor, *, gradient: bool
    ) -> Look:
        """As `look`, and coarser where `fast` allows it: what then seems to fool the model is computed again exactly.

        So a search ends with what holds, and only the way there is a coarse one. Of a model that answers at random, a
        look is a mean of draws, and exact.

        Args:
            images: see `look`.
            loss: see `look`.
            labels: (n,), the true classes.
            gradient: see `look`.
        """
        if not self.fast or self.draws > 1:
            return self.look(images, loss, gradient=gradient)
        with tensor_cores():
            look = self._coarse(images, loss, gradient=gradient)
        rows = (~(losses.margin(look.logits, labels) < 0)).nonzero().flatten()
        if not len(rows):
            return look
        exact = self.logits(images[rows]).to(look.logits.device)
        return replace(look, logits=look.logits.index_copy(0, rows, exact))

    def _coarse(self, images: Tensor, loss: Callable[[Tensor, slice], Tensor], *, gradient: bool) -> Look:
        """A look in the memory format that tensor cores take, unless the model needs the usual one."""
        if not self.needs_contiguous:
            try:
                return self.look(images.contiguous(memory_format=torch.channels_last), loss, gradient=gradient)
            except SubjectError as error:
                if not needs_contiguous(error):
                    raise
                self.needs_contiguous = True
        return self.look(images, loss, gradient=gradient)

    def logits(self, images: Tensor) -> Tensor:
        """Logits (n, k) of images on any device, on the CPU; of a single pass."""
        with torch.no_grad():
            return torch.cat(self.batching.parts(len(images), lambda rows: self.subject.logits(images[rows]).cpu()))

    def _looks(self, images: Tensor, rows: slice, loss: Callable[[Tensor, slice], Tensor], gradient: bool) -> Look:
        """The mean of all draws."""
        look = self._differentiated if gradient else self._plain
        looks = [look(images, lambda logits: loss(logits, rows)) for _ in range(self.draws)]
        return looks[0] if self.draws == 1 else _mean(looks)

    def _plain(self, images: Tensor, loss: Callable[[Tensor], Tensor]) -> Look:
        self.forwards += len(images)
        with torch.no_grad():
            logits = self.subject.logits(images)
            return Look(logits, loss(logits), None, torch.ones(len(images), dtype=torch.bool, device=logits.device))

    def _differentiated(self, images: Tensor, loss: Callable[[Tensor], Tensor]) -> Look:
        self.forwards += len(images)
        self.backwards += len(images)
        inputs = images.detach().requires_grad_(True)
        logits = self.subject.logits(inputs)
        losses = loss(logits)
        found = torch.autograd.grad(losses.sum(), inputs, allow_unused=True)[0] if losses.requires_grad else None
        if found is None:
            text = "The logits carry no gradient to the pixels, so gradient attacks say nothing. "
            raise Inconclusive("no_gradients", text + "A black-box attack would.")
        finite = found.flatten(1).isfinite().all(dim=1)
        return Look(logits.detach(), losses.detach(), found.contiguous().nan_to_num(0.0, 0.0, 0.0), finite)


def _mean(looks: list[Look]) -> Look:
    gradients = [look.gradient for look in looks if look.gradient is not None]
    return Look(
        torch.stack([look.logits for look in looks]).mean(dim=0),
        torch.stack([look.loss for look in looks]).mean(dim=0),
        torch.stack(gradients).mean(dim=0) if gradients else None,
        torch.stack([look.finite for look in looks]).all(dim=0),
    )


@contextlib.contextmanager
def opened(subject: Subject, *, draws: int = 1, seed: int = 0, fast: bool = False) -> Iterator[Target]:
    """The subject for searching; see `Subject.frozen`. `fast` counts on a GPU alone."""
    with subject.frozen(seed):
        yield Target(subject, fast=fast and has_tensor_cores(subject.device), draws=draws)
