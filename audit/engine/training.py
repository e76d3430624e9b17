"""A training from specs and files to a file of weights and its record."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from torch import nn

from audit.engine.budget import Budget
from audit.engine.poisoning import check_writable, described, planted, success_on, write_poisoned
from audit.engine.prepare import Inputs, Prepared, matched, open_all, prepare
from audit.engine.record import environment
from audit.engine.reporter import Reporter
from audit.engine.settings import configured
from audit.engine.train_request import Kind, TrainRequest, check_files, specs_by_role
from audit.engine.trained_file import accuracy, check_answers, write
from audit.engine.training_context import CommandContext
from audit.errors import TrainingError, UsageError
from audit.loading.checks import check_subject
from audit.loading.models import ModelRequest
from audit.loading.untrained import TRAINABLE
from audit.loading.weights import digest_of
from audit.poisons.planting import Planted
from audit.schema import SubjectInfo, dump_json
from audit.toolkit.writing import write_whole, writing_alone
from audit.training.config import AdversarialConfig, CertifiedConfig, DistillationConfig, TrainingConfig
from audit.training.held_out import BOUNDED
from audit.training.log import Share
from audit.training.loop import Task, Trained, train
from audit.training.poisoning import PoisonedConfig
from audit.training.recipes import adversarial, certified, filled, standard, student, teacher
from audit.training.record import Poisoning, Test, TrainingRecord

T = TypeVar("T")
CONFIGS: Mapping[str, type[TrainingConfig]] = {
    "standard": TrainingConfig, "adversarial": AdversarialConfig, "certified": CertifiedConfig,
    "distill": DistillationConfig, "poisoned": PoisonedConfig,
}  # fmt: skip
NAMES: Mapping[Kind, tuple[str, ...]] = {
    "standard": ("training",), "adversarial": ("training",), "certified": ("training",),
    "distill": ("teacher", "student"), "poisoned": ("training",),
}  # fmt: skip
"""Of the trainings of each kind."""
OF_LABELS = frozenset({"class_names", "class_count"})
"""Notices on which classes the labels of the `eval` data are."""
CHECKED = 32
"""First training images on which a model is asked twice."""
UNSURPRISING = frozenset({"random_weights", "factory_weights"})
"""Notices about a subject that a training is there to change."""


def carry_out(request: TrainRequest, seconds: float | None, reporter: Reporter) -> TrainingRecord:
    """Trains, writes the weights, reads them back as any user would, and tests them.

    Interrupted at any moment, the same request goes on after the last epoch that ended.

    Args:
        request: what shall be trained.
        seconds: of training, from when everything is loaded; None for no limit.
        reporter: of progress.

    Raises:
        AuditError: for whatever cannot be done as asked.
    """
    return _Work(request, seconds, reporter).run()


class _Work:
    """A request under way."""

    def __init__(self, request: TrainRequest, seconds: float | None, reporter: Reporter) -> None:
        self.request, self.reporter = request, reporter
        self.config = configured(request.kind, CONFIGS, request.given, request.settings)
        self.train_spec, self.eval_spec = specs_by_role(request.data)
        check_files(request)
        if self.eval_spec is not None:
            open_all((self.eval_spec,))  # what cannot be read is said before hours go into training
        self.prepared = self._prepare(request.model, self.train_spec)
        if self.eval_spec is not None:  # so are classes that will not have been trained on
            matched(open_all((self.train_spec, self.eval_spec)), self.prepared.subject)
        self.split = self.prepared.data["train"]
        self.planted = self._planted()
        self.model = self._beginning()
        self.ctx = CommandContext(self.prepared.subject.device, request.seed, Budget.of(seconds), reporter)
        self.teacher_info: SubjectInfo | None = None
        self.success: Share | None = None

    def run(self) -> TrainingRecord:
        """See `carry_out`."""
        with writing_alone(self.request.out):
            return self._run()

    def _run(self) -> TrainingRecord:
        check_files(self.request)  # again, as another process may have written meanwhile
        if self.request.fresh:
            self._forget()
        self._check_repeatable()
        self._look_at_outputs()
        trainings = self._distilled() if isinstance(self.config, DistillationConfig) else self._plain()
        last = trainings[-1]
        how = f"{self.request.kind}, seed {self.request.seed}"
        write(last, self.prepared, self.request.unchecked, how)
        try:
            test = self._read_back(last)
            self.request.unchecked.replace(self.request.out)
        finally:
            self.request.unchecked.unlink(missing_ok=True)
        weights = digest_of(self.request.out)
        record = TrainingRecord(
            weights=weights,
            subject=self.prepared.info,
            data=self.prepared.data_infos[0],
            seed=self.request.seed,
            arguments=self._arguments(),
            argv=self.request.argv,
            environment=environment(self.ctx.device),
            trust_exceptions=self.prepared.loaded.trust_exceptions,
            trainings=tuple(trained.log for trained in trainings),
            teacher=self.teacher_info,
            test=test,
            poisoning=self._poisoning(),
            notices=tuple(self.ctx.notices.values()),
        )
        write_whole(self.request.record_file, dump_json(record.model_dump(mode="json")).encode())
        if last.log.ending != "budget":
            self._forget()
        return record

    def _prepare(self, model: ModelRequest, data: str) -> Prepared:
        request = self.request
        inputs = Inputs(model, (data,), request.samples, request.seed, request.device, request.threads)
        prepared = prepare(inputs, note=lambda text: self.reporter.note(f"note: {text}"))
        for check in prepared.info.checks:
            if check.severity == "warning" and check.code not in UNSURPRISING:
                self.reporter.note(f"warning: {check.text}")
        return prepared

    def _beginning(self) -> nn.Module:
        """The network before the first step."""
        subject = self.prepared.subject
        if subject.untrained is None:
            forms = ", ".join(f"{scheme}:" for scheme in TRAINABLE)
            raise UsageError(
                f"Expected an architecture to train ({forms}), got {self.request.model.spec!r}, a file's own graph or "
                "folder. Name the architecture, and give the file's weights with --from."
            )
        model = subject.untrained(self.request.seed)
        if self.request.model.weights is not None:
            model.load_state_dict(subject.model.state_dict())
        return model

    def _check_repeatable(self) -> None:
        """Before hours of training: a file of a model that answers at random cannot be read back and compared."""
        for check in check_subject(self.prepared.subject, self.split.first(CHECKED)):
            if check.code == "nondeterministic" and check.severity == "warning":
                raise TrainingError(
                    f"Expected a model that answers the same twice in evaluation mode, got another: {check.text}. "
                    "Leave dropout and noise to training mode."
                )

    def _look_at_outputs(self) -> None:
        outputs, seen = self.prepared.info.num_classes, len(self.prepared.data_infos[0].class_counts)
        if outputs > seen:
            text = f"the model has {outputs} outputs and the training data {seen} classes; name num_classes in --model"
            self.ctx.diagnose("more_outputs_than_classes", text)

    def _plain(self) -> list[Trained]:
        if isinstance(self.config, AdversarialConfig):
            return [self._train(adversarial(self.model, self.split, self.config))]
        if isinstance(self.config, CertifiedConfig):
            own = self.config.initial if self.request.model.weights is None else "own"
            return [self._train(certified(self.model, self.split, self.config.model_copy(update={"initial": own})))]
        return [self._train(standard(self.model, self.split, self.config))]

    def _planted(self) -> Planted | None:
        """The training data, poisoned, in place of those that were given."""
        if not isinstance(self.config, PoisonedConfig):
            return None
        if self.request.poisoned_data is not None:
            check_writable(self.split)
        found = planted(self.split, self.prepared.subject.num_classes, self.config, self.request.seed)
        self.split = found.split
        return found

    def _poisoning(self) -> Poisoning | None:
        if self.planted is None or not isinstance(self.config, PoisonedConfig):
            return None
        if self.request.poisoned_data is not None:
            write_poisoned(self.planted, self.request.poisoned_data)
        return described(self.planted, self.config, self.success)

    def _distilled(self) -> list[Trained]:
        assert isinstance(self.config, DistillationConfig)
        found: list[Trained] = []
        if self.request.teacher is None:
            found.append(self._train(teacher(self.model, self.split, self.config)))
            if found[0].log.ending == "budget":
                raise TrainingError(
                    "Expected time for the teacher and the student, got a budget that ended within the teacher. Give "
                    "the same command with a larger --budget: it goes on."
                )
            taught_by = filled(self.model, found[0].weights, self.ctx.device)
        else:
            taught_by = self._given_teacher(self.request.teacher)
        found.append(self._train(student(self.model, taught_by, self.split, self.config)))
        return found

    def _given_teacher(self, request: ModelRequest) -> nn.Module:
        """A teacher that was trained before; it must see the same pixels."""
        given, ours = self._prepare(request, self.train_spec), self.prepared
        self.teacher_info = given.info
        if given.loaded.preprocessing.geometry != ours.loaded.preprocessing.geometry:
            sizes = ["x".join(map(str, found.info.input_shape)) for found in (ours, given)]
            raise UsageError(
                f"Expected a teacher that takes the same images as the student ({sizes[0]}), got one that takes others "
                f"({sizes[1]}), or cut and resized otherwise. Give both the same size with --preprocess .../size=N."
            )
        if given.info.num_classes != ours.info.num_classes:
            raise UsageError(
                f"Expected a teacher of {ours.info.num_classes} classes, as the student has, got one of "
                f"{given.info.num_classes}. Name num_classes in --model and --teacher-model."
            )
        return given.subject.model

    def _train(self, task: Task) -> Trained:
        origin = f"{task.origin} {self.prepared.info.digest}"  # spec and code decide beside the tensors
        task = dataclasses.replace(task, origin=origin)
        trained = train(task, self.ctx, state_file=self.request.state_file(task.name), watch=self.ctx.watch)
        if trained.log.ending == "budget":
            done, wanted = len(trained.log.epochs), task.config.epochs
            text = f"the budget ended after {done} of {wanted} epochs of the {task.name}; with a larger one "
            text += "the same command goes on" + ("" if task.name == "teacher" else ", with --force beside it")
            self.ctx.diagnose(f"budget_{task.name}", text)
        self._look_at_accuracy(trained)
        return trained

    def _look_at_accuracy(self, trained: Trained) -> None:
        """A model that learnt nothing, or of which nothing is proven, is not handed over without a word."""
        commonest = float(np.bincount(self.split.labels[self.split.order]).max()) / len(self.split)
        log = trained.log
        if log.held_out.interval.low <= commonest:
            text = (
                f"the {log.name} is right on {log.held_out.value:.1%} of {log.n_held_out} held-out images, not clearly "
            )
            text += f"better than always answering the commonest label ({commonest:.1%}); train longer or otherwise"
            self.ctx.diagnose(f"learnt_nothing_{log.name}", text)
        if log.epochs[log.kept_epoch - 1].certified_accuracy == 0:
            text = f"bounds hold for none of {min(BOUNDED, log.n_held_out)} held-out images within linf "
            text += f"{log.config['eps']}: train longer, or for a smaller radius, or take a smaller network"
            self.ctx.diagnose("nothing_certified", text)

    def _read_back(self, trained: Trained) -> Test | None:
        """Loads the file as any user would, compares answers, and tests on images kept apart where there are any."""
        request = self.request
        model = dataclasses.replace(
            request.model, weights=request.unchecked, weights_key=None, strip_prefix=None, allow_pickle=False
        )
        data = (self.train_spec,) if self.eval_spec is None else (self.train_spec, self.eval_spec)
        inputs = Inputs(model, data, seed=request.seed, device=request.device, threads=request.threads)
        again = prepare(inputs, note=lambda _: None)
        for check in again.info.checks:
            if check.code in OF_LABELS and check not in self.prepared.info.checks:
                self.ctx.diagnose(check.code, check.text, check.severity)
        check_answers(trained, again.subject, self.split)
        if self.eval_spec is None:
            return None
        split = again.data["eval"]
        if self.planted is not None:
            self.success = success_on(again.subject, self.planted, split, request.seed)
        both = split.found_in(self.split)
        if both:
            text = f"{both} of the {len(split)} images of the eval data are among the training data: the test says less"
            self.ctx.diagnose("test_images_trained_on", text)
        return Test(
            data=next(info for info in again.data_infos if info.role == "eval"),
            accuracy=accuracy(again.subject, split),
            also_trained_on=both,
        )

    def _arguments(self) -> dict[str, Any]:
        request = self.request
        return {
            "kind": request.kind,
            "model": request.model.spec,
            "from": None if request.model.weights is None else request.model.weights.name,
            "preprocess": request.model.preprocess,
            "data": list(request.data),
            "samples": request.samples,
            "seed": request.seed,
            "device": request.device,
        }

    def _forget(self) -> None:
        for name in NAMES[self.request.kind]:
            self.request.state_file(name).unlink(missing_ok=True)
