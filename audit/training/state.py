"""What is kept after every epoch, so that a training can go on where it was stopped."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audit.errors import UsageError
from audit.toolkit.writing import TEMPORARY, explained
from audit.training.log import Epoch

KEPT = ("kept_epoch", "model", "best", "answers", "optimizer")


@dataclass(slots=True, eq=False)
class State:
    """After some epochs.

    Attributes:
        epochs: so far.
        kept_epoch: the best of them; 0 before the first.
        model: tensors of the model now.
        best: tensors of the best epoch.
        answers: its logits on the first held-out images.
        optimizer: its state.
    """

    epochs: list[Epoch]
    kept_epoch: int
    model: dict[str, Tensor]
    best: dict[str, Tensor]
    answers: Tensor
    optimizer: dict[str, Any]


def save(state: State, path: Path, fingerprint: str) -> None:
    """Writes the state whole or not at all.

    Raises:
        StoreError: when it cannot be written.
    """
    content = {
        "fingerprint": fingerprint,
        "epochs": json.dumps([epoch.model_dump(mode="json") for epoch in state.epochs]),
    } | {name: getattr(state, name) for name in KEPT}
    unfinished = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, path)  # noqa: PTH105 - atomic by contract
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter when the disk is full
        unfinished.unlink(missing_ok=True)
        raise explained(error if isinstance(error, OSError) else OSError(str(error)), path) from error


def load(path: Path, fingerprint: str, device: torch.device) -> State | None:
    """The state that `save` left, or None where there is none.

    Raises:
        UsageError: when it is damaged, or of another training.
    """
    if not path.exists():
        return None
    remedy = "Give --fresh to begin anew, or another --out."
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        same = content["fingerprint"] == fingerprint
        epochs = [Epoch.model_validate(found) for found in json.loads(content["epochs"])]
        state = State(epochs=epochs, **{name: content[name] for name in KEPT})
    except Exception as error:  # whatever is wrong with it
        raise UsageError(f"Expected an unfinished training in {path}, got a damaged file. {remedy}") from error
    if not same:
        raise UsageError(f"Expected {path} to be of this very training, got one of other settings. {remedy}")
    return state
