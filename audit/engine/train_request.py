"""What `audit train` is asked for, and whether its files may be written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from audit.errors import UsageError
from audit.loading.models import ModelRequest

Kind = Literal["standard", "adversarial", "certified", "distill", "poisoned"]


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
        poisoned_data: of `poisoned`, where to write the data as they were trained on; None for nowhere.
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
    poisoned_data: Path | None = None
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


def specs_by_role(arguments: tuple[str, ...]) -> tuple[str, str | None]:
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


def check_files(request: TrainRequest) -> None:
    """Goes on when nothing is overwritten that should not be.

    Raises:
        UsageError: when something would be.
    """
    if request.out.suffix != ".safetensors":
        raise UsageError(f"Expected --out FILE.safetensors, got {request.out.name}. Give it that ending.")
    files = [request.out, request.record_file, *_data_file(request)]
    for file in files:
        if file.exists() and not file.is_file():
            raise UsageError(f"Expected --out to name a file, got {file}, which is none. Choose another.")
        if file.exists() and not request.force:
            raise UsageError(
                f"Expected --out to name new files, got {file}, which exists. Choose another, or add --force."
            )
    read = {"--from": request.model.weights, "--teacher": request.teacher.weights if request.teacher else None}
    for option, own in read.items():
        if own is not None and own.exists() and request.out.exists() and own.samefile(request.out):
            raise UsageError(f"Expected --out to be another file than {option}, got the same. Choose another.")
    if request.teacher is not None and request.kind != "distill":
        raise UsageError(f"Expected --teacher with distill alone, got it with {request.kind}. Drop it.")


def _data_file(request: TrainRequest) -> list[Path]:
    """The file of poisoned data, where one is asked for."""
    file = request.poisoned_data
    if file is None:
        return []
    if request.kind != "poisoned":
        raise UsageError(f"Expected --poisoned-data with poisoned alone, got it with {request.kind}. Drop it.")
    if file.suffix != ".npz":
        raise UsageError(f"Expected --poisoned-data FILE.npz, got {file.name}. Give it that ending.")
    return [file]
