"""A training from specs and files to a file of weights and its record."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import nn

from audit.engine.budget import Budget
from audit.engine.prepare import Inputs, Prepared, open_all, prepare
from audit.engine.record import environment
from audit.engine.reporter import Reporter
from audit.engine.settings import configured
from audit.engine.trained_file import accuracy, check_answers, shared, write
from audit.engine.training_context import CommandContext
from audit.errors import TrainingError, UsageError
from audit.loading.models import ModelRequest
from audit.loading.untrained import TRAINABLE
from audit.loading.weights import digest_of
from audit.schema import SubjectInfo, dump_json
from audit.toolkit.writing import write_whole, writing_alone
from audit.training.config import AdversarialConfig, DistillationConfig, TrainingConfig
from audit.training.loop import Task, Trained, train
from audit.training.recipes import adversarial, filled, standard, student, teacher
from audit.training.record import Test, TrainingRecord

T = TypeVar("T")
Kind = Literal["standard", "adversarial", "distill"]
CONFIGS: Mapping[str, type[TrainingConfig]] = {
    "standard": TrainingConfig, "adversarial": AdversarialConfig, "distill": DistillationConfig,
}  # fmt: skip
UNSURPRISING = frozenset({"random_weights", "factory_weights"})
"""Notices about a subject that a training is there to change."""


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What shall be trained.

    Attributes:
        model: its architecture, and weights to begin with.
        data: each `ROLE=SPEC`; `train`, and `eval` where the result is to be tested.
        out: the safetensors file to write.
        given: settings by name.
        settings: further ones, each `KEY=VALUE`.
        teacher: a trained teacher for `distill`; None to train one.
        argv: the command, for the record.
    """

    kind: Kind
    model: ModelRequest
    data: tuple[str, ...]
    out: Path
    given: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    samples: int | None = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    teacher: ModelRequest | None = None
    fresh: bool = False
    force: bool = False
    argv: tuple[str, ...] = ()

    @property
    def record_file(self) -> Path:
        """Where the record lies."""
        return self.out.with_suffix(".training.json")

    @property
    def unchecked(self) -> Path:
        """Where the weights lie until they were read back; what `out` holds is left alone so long."""
        return self.out.with_name(f".unchecked-{self.out.name}")

    def state_file(self, name: str) -> Path:
        """Where the unfinished training of this name lies."""
        return self.out.with_name(f"{self.out.name}.{name}.unfinished")


def carry_out(request: TrainRequest, budget: Budget, reporter: Reporter) -> TrainingRecord:
    """Trains, writes the weights, reads them back as any user would, and tests them.

    Interrupted at any moment, the same request goes on after the last epoch that ended.

    Raises:
        AuditError: for whatever cannot be done as asked.
    """
    return _Work(request, budget, reporter).run()


class _Work:
    """A request under way."""

    def __init__(self, request: TrainRequest, budget: Budget, reporter: Reporter) -> None:
        self.request, self.reporter = request, reporter
        self.config = configured(CONFIGS[request.kind], request.given, request.settings)
        self.train_spec, self.eval_spec = _specs(request.data)
        _check_files(request)
        if self.eval_spec is not None:
            open_all((self.eval_spec,))  # what cannot be read is said before hours go into training
        self.prepared = self._prepare(request.model, self.train_spec)
        self.split = self.prepared.data["train"]
        self.model = self._beginning()
        self.ctx = CommandContext(self.prepared.subject.device, request.seed, budget, reporter)
        self.teacher_info: SubjectInfo | None = None

    def run(self) -> TrainingRecord:
        """See `carry_out`."""
        with writing_alone(self.request.out):
            return self._run()

    def _run(self) -> TrainingRecord:
        if self.request.fresh:
            self._forget()
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

    def _look_at_outputs(self) -> None:
        outputs, seen = self.prepared.info.num_classes, len(self.prepared.data_infos[0].class_counts)
        if outputs > seen:
            text = f"the model has {outputs} outputs and the training data {seen} classes; name num_classes in --model"
            self.ctx.diagnose("more_outputs_than_classes", text)

    def _plain(self) -> list[Trained]:
        if isinstance(self.config, AdversarialConfig):
            return [self._train(adversarial(self.model, self.split, self.config))]
        return [self._train(standard(self.model, self.split, self.config))]

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
            taught_by = filled(self.model, found[0].weights)
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
            text = (
                f"the budget ended after {done} of {wanted} epochs of the {task.name}; with --force and a larger one "
            )
            text += "the same command goes on"
            self.ctx.diagnose(f"budget_{task.name}", text)
        return trained

    def _read_back(self, trained: Trained) -> Test | None:
        """Loads the file as any user would, compares answers, and tests on images kept apart where there are any."""
        request = self.request
        model = dataclasses.replace(
            request.model, weights=request.unchecked, weights_key=None, strip_prefix=None, allow_pickle=False
        )
        data = (self.eval_spec or self.train_spec,)
        inputs = Inputs(model, data, seed=request.seed, device=request.device, threads=request.threads)
        again = prepare(inputs, note=lambda _: None)
        check_answers(trained, again.subject, self.split)
        if self.eval_spec is None:
            return None
        split = again.data["eval"]
        both = shared(self.split, split)
        if both:
            text = f"{both} of the {len(split)} images of the eval data are among the training data: the test says less"
            self.ctx.diagnose("test_images_trained_on", text)
        return Test(data=again.data_infos[0], accuracy=accuracy(again.subject, split), also_trained_on=both)

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
        for name in ("training", "teacher", "student"):
            self.request.state_file(name).unlink(missing_ok=True)


def _specs(arguments: tuple[str, ...]) -> tuple[str, str | None]:
    """The data arguments of the roles `train` and `eval`."""
    by_role = {argument.partition("=")[0]: argument for argument in arguments}
    known = all(argument.startswith(("train=", "eval=")) for argument in arguments)
    if not known or len(by_role) < len(arguments) or "train" not in by_role:
        got = ", ".join(arguments) or "none"
        raise UsageError(
            f"Expected --data train=SPEC, and --data eval=SPEC where the result is to be tested, got {got}. "
            "Name the role before each spec."
        )
    return by_role["train"], by_role.get("eval")


def _check_files(request: TrainRequest) -> None:
    if request.out.suffix != ".safetensors":
        raise UsageError(f"Expected --out FILE.safetensors, got {request.out.name}. Give it that ending.")
    own = request.model.weights
    for file in (request.out, request.record_file):
        if file.exists() and (not request.force or not file.is_file()):
            raise UsageError(
                f"Expected --out to name new files, got {file}, which exists. Choose another, or add --force."
            )
    if own is not None and own.exists() and request.out.exists() and own.samefile(request.out):
        raise UsageError("Expected --out to be another file than --from, got the same. Choose another.")
    if request.teacher is not None and request.kind != "distill":
        raise UsageError(f"Expected --teacher with distill alone, got it with {request.kind}. Drop it.")
