"""Trained weights as a file: written, read back by the way of any user, and tested."""

from __future__ import annotations

from pathlib import Path

import torch

from audit.api import DataSplit, Subject
from audit.engine.prepare import Prepared
from audit.errors import SubjectError
from audit.loading.weights_out import write_weights
from audit.toolkit.statistics import proportion
from audit.training.log import Share
from audit.training.loop import Trained

NETWORK = "network."
"""How the names of a subject's tensors begin that belong to its network."""
AT_ONCE, AGREEMENT = 64, 1e-4
"""Images of a batch, and how far two answers may differ, in parts of the largest logit."""


def write(trained: Trained, prepared: Prepared, out: Path, how: str) -> None:
    """Writes the network's tensors; the normalisation before it is the spec's and no part of the file.

    Args:
        trained: weights of a subject's model.
        prepared: that subject.
        out: where to.
        how: a word on the training, for the file's metadata.
    """
    tensors = {
        name.removeprefix(NETWORK): tensor for name, tensor in trained.weights.items() if name.startswith(NETWORK)
    }
    metadata = {
        "format": "pt",
        "trained_by": f"trust-audit, {how}",
        "spec": prepared.info.spec,
        "preprocessing": prepared.loaded.preprocessing.option(),
        "tensors_sha256": trained.log.weights_sha256,
    }
    write_weights(out, tensors, metadata)


def check_answers(trained: Trained, again: Subject, split: DataSplit) -> None:
    """Goes on when what was loaded from the file answers as what was trained.

    Args:
        trained: with its answers on the first images of the split.
        again: loaded from the file.
        split: that it was trained on.

    Raises:
        SubjectError: when it does not.
    """
    pixels = split.batch(0, len(trained.answers)).pixels
    same = again.input_shape == tuple(pixels.shape[1:])
    if same:
        with torch.no_grad():
            there = again.logits(pixels).cpu()
        scale = max(1.0, float(trained.answers.abs().max()))
        same = torch.allclose(trained.answers, there, rtol=0, atol=AGREEMENT * scale)
    if not same:
        raise SubjectError(
            "Expected the file to answer as the model that was trained, got other answers: some of its state is not in "
            "its state_dict. Keep that in persistent buffers."
        )


def accuracy(subject: Subject, split: DataSplit) -> Share:
    """On all of a split."""
    right, n = 0, len(split)
    with torch.inference_mode():
        for start in range(0, n, AT_ONCE):
            batch = split.batch(start, start + AT_ONCE)
            right += int((subject.logits(batch.pixels).argmax(dim=1).cpu() == batch.labels).sum())
    return Share(right=right, n=n, value=right / n, interval=proportion(right, n))
