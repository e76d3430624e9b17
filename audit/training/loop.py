"""Epochs of training, the best of them, and how a training ends."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from audit.api import DataSplit
from audit.api.subject import out_of_memory
from audit.errors import DataError, TrainingError
from audit.schema import dump_json
from audit.toolkit.statistics import proportion
from audit.toolkit.tensors import tensors_of, tensors_sha256
from audit.training import state as states
from audit.training.bounded import Bounded
from audit.training.choosing import merit
from audit.training.config import AdversarialConfig, TrainingConfig
from audit.training.context import TrainingContext
from audit.training.feed import Feed, augmented
from audit.training.held_out import WORST, HeldOut
from audit.training.log import Ending, Epoch, Share, TrainingLog
from audit.training.objectives import Objective, Shown
from audit.training.optimizing import learning_rate, optimizer_of
from audit.training.overfitting import catastrophic
from audit.training.placing import Placed

FEWEST_IMAGES = 20
Kind = Literal["standard", "adversarial", "certified", "distillation"]


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What a training leaves.

    Attributes:
        weights: every parameter and buffer of the epoch that was kept, by name, on the CPU.
        answers: (n, classes) float32, logits of that epoch on the first n held-out images, the first of the split; by
            which whoever fills a model with the weights can see that nothing is missing.
        log: how they came to be.
    """

    weights: dict[str, Tensor]
    answers: Tensor
    log: TrainingLog


def ignore(epoch: Epoch, of: int) -> None:
    """Watches nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One training, before it is carried out.

    Attributes:
        kind: for the log.
        model: maps pixels in [0, 1] to logits; a copy is trained, those parameters that require gradients.
        split: labelled images; a held-out part of them chooses the epoch.
        config: settings.
        objective: what is asked of the model.
        name: of the training among others in the same context; part of its random streams.
        origin: digest of whatever else decides the result, such as a teacher's weights.
    """

    kind: Kind
    model: nn.Module
    split: DataSplit
    config: TrainingConfig
    objective: Objective
    name: str = "training"
    origin: str = ""


def train(
    task: Task,
    ctx: TrainingContext,
    *,
    state_file: Path | None = None,
    watch: Callable[[Epoch, int], None] = ignore,
) -> Trained:
    """Carries out a training.

    The same task, seed and machine give the same weights, also when it goes on from `state_file`.

    Args:
        task: what to train.
        ctx: the device, randomness, time and progress.
        state_file: kept after every epoch, and read at the beginning; None keeps nothing.
        watch: is told each epoch as it ends, and of how many.

    Raises:
        DataError: when there are too few images.
        TrainingError: when nothing can be trained, memory ends, or the loss is no longer finite.
        UsageError: when the state is of another training.
    """
    try:
        return _Training(task, ctx, state_file, watch).run()
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise TrainingError(
            f"Expected memory for {task.config.batch_size} images of {task.name} at once, got too little. "
            "Give a smaller --batch-size, or a device with more memory."
        ) from error


class _Training:
    """A training under way."""

    def __init__(
        self, task: Task, ctx: TrainingContext, state_file: Path | None, watch: Callable[[Epoch, int], None]
    ) -> None:
        self.task, self.ctx, self.file, self.watch = task, ctx, state_file, watch
        config = task.config
        n_held_out = max(2, math.ceil(config.held_out * len(task.split)))
        if len(task.split) < FEWEST_IMAGES or n_held_out > len(task.split) // 2:
            raise DataError(
                f"Expected at least {FEWEST_IMAGES} images to train on, at most half of them held out, got "
                f"{len(task.split)} with {n_held_out} held out. Give more images, or a smaller held-out share."
            )
        model = copy.deepcopy(task.model)
        self.initial = tensors_sha256(tensors_of(model))
        self.images = Feed(task.split, range(n_held_out, len(task.split)), ctx)
        whole, rest = divmod(len(self.images), config.batch_size)
        self.steps = whole + (rest > 1)  # a single image has no statistics
        self.placed = Placed(model, config, ctx, self.steps * config.epochs, task.split.batch(0, 2).pixels)
        kept_apart = Feed(task.split, range(n_held_out), ctx)
        self.held_out = HeldOut(self.placed, kept_apart, task.objective, config.batch_size)
        self.optimizer = optimizer_of(model, config)
        self.state = states.State([], 0, {}, {}, torch.empty(0), {})
        self.fingerprint = self._fingerprint()
        self.ending: Ending = "completed"

    def run(self) -> Trained:
        """See `train`."""
        found = states.load(self.file, self.fingerprint, self.ctx.device) if self.file else None
        if found is not None:
            self.state = found
            self.placed.model.load_state_dict(found.model, strict=False)
            self.optimizer.load_state_dict(found.optimizer)
        ended = len(self.state.epochs)
        if not self._over():
            what = f"{self.task.name}, from epoch {ended + 1} on" if ended else self.task.name
            for _ in self.ctx.progress(self._all_steps(), what, (self.task.config.epochs - ended) * self.steps):
                pass
        if self.state.epochs[self.state.kept_epoch - 1].held_out_loss >= WORST:
            raise self._astray("answers of NaN or infinity after every epoch")
        weights = {name: tensor.cpu() for name, tensor in self.state.best.items()}
        return Trained(weights, self.state.answers.cpu(), self._log())

    def _all_steps(self) -> Iterator[None]:
        """Trains as it is iterated over: an item a step."""
        while True:
            yield from self._epoch(len(self.state.epochs) + 1)
            self.watch(self.state.epochs[-1], self.task.config.epochs)
            if self._over():
                return

    def _epoch(self, epoch: int) -> Iterator[None]:
        """One pass over the images, and what follows from it."""
        config, ctx, name = self.task.config, self.ctx, f"{self.task.name}/{epoch}"
        order = torch.randperm(len(self.images), generator=ctx.torch_generator(f"{name}/order"))
        generator = ctx.torch_generator(f"{name}/images")
        total = torch.zeros((), device=ctx.device)
        right = torch.zeros((), dtype=torch.int64, device=ctx.device)
        shown = step = 0
        self.placed.model.train()
        draws = ctx.torch_generator(f"{name}/model")
        for pixels, labels in self.images.batches(order, config.batch_size, drop_single=True):
            done = ((epoch - 1) * self.steps + step) / (config.epochs * self.steps)
            rate = learning_rate(config, done)
            with _own_randomness(ctx.device, draws):
                images = augmented(pixels, config.augmentation, generator)
                loss, hits = self._step(Shown(images, labels, generator, done), rate)
            total += loss * len(labels)
            right += hits.sum()
            shown, step = shown + len(labels), step + 1
            yield
        mean = float(total) / shown
        if not math.isfinite(mean):
            raise self._astray(f"a loss of {mean} in epoch {epoch}")
        self._note(Epoch(
            epoch=epoch, learning_rate=rate, train_loss=mean, train_accuracy=int(right) / shown, **self._look()
        ))  # fmt: skip

    def _astray(self, got: str) -> TrainingError:
        rate = self.task.config.highest_learning_rate
        return TrainingError(
            f"Expected {self.task.name} to keep a finite loss, got {got}. Lower the learning rate (now {rate:g})."
        )

    def _step(self, shown: Shown, rate: float) -> tuple[Tensor, Tensor]:
        """One step of the optimizer; the loss before it, and which images were right."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        with torch.inference_mode(mode=False), torch.enable_grad(), self.placed.arithmetic():
            loss, hits = self.task.objective.loss(self.placed, shown)
            if not loss.requires_grad:
                raise TrainingError(
                    "Expected logits that depend on the weights in a way that can be differentiated, got none. Train a "
                    "model that does not compute without gradients (no_grad, detach)."
                )
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.placed.model.parameters(), self.task.config.clip)
        self.optimizer.step()
        return loss.detach(), hits

    def _look(self) -> dict[str, float]:
        found, config = self.held_out.look(), self.task.config
        if isinstance(config, AdversarialConfig):
            found |= self.held_out.attacked(config, lambda: self.ctx.torch_generator(f"{self.task.name}/attacked"))
        if isinstance(self.task.objective, Bounded):
            found |= self.held_out.bounded(self.task.objective)
        return found

    def _note(self, epoch: Epoch) -> None:
        """Keeps the epoch, and its weights where they are the best so far."""
        state = self.state
        kept = next((found for found in state.epochs if found.epoch == state.kept_epoch), None)
        state.epochs.append(epoch)
        state.model = {name: tensor.detach() for name, tensor in tensors_of(self.placed.model).items()}
        if kept is None or merit(epoch, self.task.config) > merit(kept, self.task.config):
            state.kept_epoch = epoch.epoch
            state.best = {name: tensor.clone() for name, tensor in state.model.items()}
            state.answers = self.held_out.answers()
        state.optimizer = self.optimizer.state_dict()
        if self.file is not None:
            states.save(state, self.file, self.fingerprint)

    def _over(self) -> bool:
        """Whether no further epoch follows; `ending` says why."""
        state, config = self.state, self.task.config
        if not state.epochs:
            return False
        if isinstance(config, AdversarialConfig) and catastrophic(state.epochs, self.held_out.n_attacked):
            self.ending = "catastrophic_overfitting"
            text = "training on single steps stopped to defend against several; the best epoch before is kept"
            self.ctx.diagnose("catastrophic_overfitting", f"{self.task.name}: {text}.")
        elif len(state.epochs) >= config.epochs:
            self.ending = "completed"
        elif config.patience is not None and len(state.epochs) - state.kept_epoch >= config.patience:
            self.ending = "early_stopping"
        elif self.ctx.seconds_left() <= 0:
            self.ending = "budget"
        else:
            return False
        return True

    def _fingerprint(self) -> str:
        """What the state must be of."""
        stream = self.ctx.torch_generator(f"{self.task.name}/fingerprint").initial_seed()
        return dump_json([
            self.task.kind, self.task.config.model_dump(mode="json"), self.task.split.digest, len(self.task.split),
            self.initial, self.task.origin, stream,
        ])  # fmt: skip

    def _log(self) -> TrainingLog:
        task, state = self.task, self.state
        kept = next(epoch for epoch in state.epochs if epoch.epoch == state.kept_epoch)
        n = len(self.held_out.images)
        right = round(kept.held_out_accuracy * n)
        return TrainingLog(
            name=task.name,
            kind=task.kind,
            config=task.config.model_dump(mode="json"),
            n_train=len(self.images),
            n_held_out=n,
            data_digest=task.split.digest,
            initial_sha256=self.initial,
            weights_sha256=tensors_sha256(state.best),
            epochs=tuple(state.epochs),
            kept_epoch=state.kept_epoch,
            ending=self.ending,
            held_out=Share(right=right, n=n, value=right / n, interval=proportion(right, n)),
            settings=self.placed.settings | {"images": self.images.kept},
        )


@contextmanager
def _own_randomness(device: torch.device, draws: torch.Generator) -> Iterator[None]:
    """Dropout and the like draw from a stream of this training; the global random state is put back."""
    cuda = [device] if device.type == "cuda" else []
    seed = int(torch.randint(2**62, (), generator=draws))
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for place in cuda:
            with torch.cuda.device(place):
                torch.cuda.manual_seed(seed)
        yield
