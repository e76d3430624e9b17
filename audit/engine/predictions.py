"""The prediction pass: the subject's logits on a split, computed once, stored in chunks, shared by all probes."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from audit.api import Batch, DataSplit, Predictions, Role, RunContext, Subject, Tally, Unit
from audit.engine.session import Session
from audit.errors import Inconclusive, SubjectError
from audit.toolkit.batching import Batching

PREDICTIONS = "predictions"
"""The name under which the chunks lie in the run folder, beside those of the probes."""

_CHUNK_BYTES = 32 * 2**20
_CHUNK_MOST = 512
_CPU_BATCH = 64
"""Larger batches fall out of the processor's caches: 512 took twice as long an image as 64 on small networks."""


def chunk_size(subject: Subject) -> int:
    """Samples in a chunk: a full batch, yet bounded in memory whatever the image size."""
    channels, height, width = subject.input_shape
    return int(np.clip(_CHUNK_BYTES // (4 * channels * height * width), 8, _CHUNK_MOST))


def predict(ctx: RunContext, session: Session, role: Role) -> Predictions:
    """Logits on the first n samples of a split, n being all that the budget allowed.

    Raises:
        Inconclusive: when not one chunk was done.
        SubjectError: when a logit is NaN or Inf, naming the samples.
    """
    if role not in session.predictions:
        session.predictions[role] = _pass(ctx, session.subject, session.data[role], role)
    return session.predictions[role]


def _pass(ctx: RunContext, subject: Subject, split: DataSplit, role: Role) -> Predictions:
    size = chunk_size(subject)
    starts = range(0, len(split), size)
    units = [
        Unit(f"{role}/{start}", positions=range(start, min(start + size, len(split))), role=role) for start in starts
    ]
    with _Reader(split, size, ahead=subject.device.type != "cpu") as read:

        def answer(unit: Unit, _: RunContext) -> Tally:
            return Tally(arrays={"logits": _logits(subject, read(unit.positions[0]), split)})

        tallies = ctx.map(answer, units)
    if not tallies:
        raise Inconclusive("budget", "The budget ended before the first predictions. Give --budget more time.")
    logits = np.concatenate([tally.arrays["logits"] for tally in tallies])
    return Predictions(logits=logits, labels=split.labels[split.order[: len(logits)]])


def _logits(subject: Subject, batch: Batch, split: DataSplit) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    with torch.inference_mode():
        size = _CPU_BATCH if subject.device.type == "cpu" else len(batch.pixels)
        parts = Batching(size).parts(len(batch.pixels), lambda rows: subject.logits(batch.pixels[rows]).cpu())
        logits = torch.cat(parts).numpy()
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        named = ", ".join(identity[:12] for identity in split.sample_ids([batch.positions[i] for i in bad[:3]]))
        raise SubjectError(
            f"Expected finite outputs, got NaN or Inf on {len(bad)} of {len(logits)} samples (content hashes {named}). "
            "Check the weights and the preprocessing."
        )
    return logits


class _Reader:
    """Decodes chunks; ahead, in a thread, where the subject works on a device of its own.

    On the CPU a second thread only takes the interpreter and the cores away from the network: it made the pass slower
    (`benchmarks/prediction_pass.py`).
    """

    def __init__(self, split: DataSplit, size: int, *, ahead: bool) -> None:
        self.split = split
        self.size = size
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead") if ahead else None
        self.pending: dict[int, Future[Batch]] = {}

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)

    def __call__(self, start: int) -> Batch:
        """The chunk that begins at this position of the order."""
        if self.pool is None:
            return self._read(start)
        batch = self.pending.pop(start, None) or self.pool.submit(self._read, start)
        following = start + self.size
        self.pending.clear()
        if following < len(self.split):
            self.pending[following] = self.pool.submit(self._read, following)
        return batch.result()

    def _read(self, start: int) -> Batch:
        return self.split.batch(start, start + self.size)
