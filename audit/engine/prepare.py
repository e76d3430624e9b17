"""From what was asked to what can be measured: the subject and the data, loaded, fitted and checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from audit.api import DataSplit, Role, Subject
from audit.errors import PrerequisiteError, UsageError
from audit.loading.checks import adapted, check_subject
from audit.loading.class_names import match_labels
from audit.loading.datasets import (
    Dataset,
    check_labels,
    conversion_notes,
    fit,
    open_dataset,
    parse_data_argument,
)
from audit.loading.models import LoadedSubject, ModelRequest, load_subject
from audit.loading.preprocess import Geometry
from audit.loading.selftest import preprocessing_selftest
from audit.schema import DataInfo, Diagnostic, SubjectInfo

SELFTEST_SAMPLES = 512
CHECK_PIXELS = 2**22
"""Pixels (height times width, over all images) that the checks may look at: 512 images at 64x64, 83 at 224x224."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run is asked to work on.

    Attributes:
        data: each `[ROLE=]SPEC`.
        samples: at most so many of the `eval` split, or of the only one, a seeded random choice; None for all.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
    """

    model: ModelRequest
    data: tuple[str, ...] = ()
    samples: int | None = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Everything loaded and checked."""

    loaded: LoadedSubject
    subject: Subject
    info: SubjectInfo
    data: dict[Role, DataSplit]
    data_infos: tuple[DataInfo, ...]


def prepare(inputs: Inputs, note: Callable[[str], None]) -> Prepared:
    """Loads the model and the data, fits the one to the other, and checks both.

    Args:
        inputs: what was asked.
        note: receives a line for every guess that was taken, while the rest is still going on; warnings are in
            `info.checks` alone.

    Raises:
        AuditError: for whatever cannot be audited as asked.
    """
    device = choose_device(inputs.device)
    torch.set_num_threads(inputs.threads or available_threads())
    set_exact_numerics()
    datasets = open_all(inputs.data)
    for dataset in datasets.values():
        for remark in dataset.notes:
            note(remark)
    measured: Role | None = "eval" if "eval" in datasets else next(iter(datasets), None)
    main = datasets[measured] if measured else None
    loaded = load_subject(
        inputs.model,
        native_shape=main.native_shape if main else None,
        device=device,
        class_names=main.class_names if main else (),
    )
    for check in loaded.info.checks:
        if check.severity == "info":
            note(check.text)
    datasets, name_checks = matched(datasets, loaded.subject)
    for check in name_checks:
        if check.severity == "info":
            note(check.text)
    geometry = loaded.preprocessing.geometry
    data = {
        role: fit(dataset, role, geometry, seed=inputs.seed, samples=inputs.samples if role == measured else None)
        for role, dataset in datasets.items()
    }
    checks = (*name_checks, *_checks(loaded, datasets, data, inputs.seed))
    info = loaded.info.model_copy(update={"checks": (*loaded.info.checks, *checks)})
    subject = adapted(loaded.subject, checks)
    info = info.model_copy(update={"access": tuple(sorted(subject.access))})
    return Prepared(loaded, subject, info, data, tuple(_data_info(datasets[role], data[role]) for role in data))


def open_all(arguments: Sequence[str]) -> dict[Role, Dataset]:
    """Data sets by role.

    Raises:
        UsageError: when a role is given twice.
    """
    datasets: dict[Role, Dataset] = {}
    for argument in arguments:
        role, spec = parse_data_argument(argument)
        if role in datasets:
            raise UsageError(f"Expected one --data for the role {role!r}, got two. Drop one, or name another role.")
        datasets[role] = open_dataset(spec)
    return datasets


def choose_device(name: str) -> torch.device:
    """The device by name; `auto` takes a GPU where there is one.

    Raises:
        UsageError: for a name that torch does not know.
        PrerequisiteError: for a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"Expected --device auto, cpu or cuda:0, got {name!r}. Choose one.") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"Expected --device auto, cpu or cuda:0, got {name!r}. Choose one.")
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise PrerequisiteError(f"Expected {name} to be there, got {count} CUDA devices. Use --device auto or cpu.")
    return device


def set_exact_numerics() -> None:
    """Full float32 and repeatable convolutions on a GPU: what is verified there must hold elsewhere as well."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def available_threads() -> int:
    """Threads that torch itself would take (OMP_NUM_THREADS is obeyed), but at most the cores this process may use.

    More threads than cores make torch many times slower.
    """
    return min(available_cores(), torch.get_num_threads())


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def matched(datasets: dict[Role, Dataset], subject: Subject) -> tuple[dict[Role, Dataset], tuple[Diagnostic, ...]]:
    """The data sets with labels that are the subject's classes, by its own names or by those of the `train` data.

    Raises:
        DataError: when some of a data set's names are the subject's and others are not.
    """
    names, train = subject.class_names, datasets.get("train")
    if not names and train is not None and len(train.class_names) == subject.num_classes:
        names = tuple(train.class_names)
    found: dict[Role, Dataset] = {}
    checks: list[Diagnostic] = []
    for role, dataset in datasets.items():
        found[role], diagnostics = match_labels(dataset, names, subject.num_classes)
        check_labels(found[role], subject.num_classes)
        checks += diagnostics
    return found, tuple(checks)


def _checks(
    loaded: LoadedSubject, datasets: dict[Role, Dataset], data: dict[Role, DataSplit], seed: int
) -> tuple[Diagnostic, ...]:
    """What only real images can show; nothing without `eval` data."""
    if "eval" not in data:
        return ()
    dataset = datasets["eval"]
    _, height, width = loaded.subject.input_shape
    most = max(32, min(SELFTEST_SAMPLES, CHECK_PIXELS // (height * width), len(data["eval"])))
    notes = conversion_notes(dataset, loaded.preprocessing.geometry)

    def refit(geometry: Geometry) -> DataSplit:
        return fit(dataset, "eval", geometry, seed=seed, samples=most)

    return (
        *_trained_on(data),
        *check_subject(loaded.subject, data["eval"].first(most)),
        *(Diagnostic(code="channels_converted", text=text) for text in notes),
        *preprocessing_selftest(loaded, refit, native_shape=dataset.native_shape, n=most),
    )


def _trained_on(data: dict[Role, DataSplit]) -> list[Diagnostic]:
    """Whether images to measure on are among those to train on."""
    both = data["eval"].found_in(data["train"]) if "train" in data else 0
    if not both:
        return []
    text = (
        f"{both} of the {len(data['eval'])} images of the eval data are among the train data: a model that was trained "
        "on these is right on them more often than on others, and what is measured says less"
    )
    return [Diagnostic(code="eval_among_train", text=text)]


def _data_info(dataset: Dataset, split: DataSplit) -> DataInfo:
    used = split.labels[split.order]
    names = dataset.class_names
    counts = {
        (names[label] if label < len(names) else str(label)): int((used == label).sum())
        for label in sorted({int(label) for label in used})
    }
    return DataInfo(
        role=split.role, spec=dataset.spec, digest=split.digest, n=len(split.labels), n_used=len(split),
        class_counts=counts,
    )  # fmt: skip
