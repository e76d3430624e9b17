"""Batches that fit into memory: as many rows at once as the device holds, found by trying."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from audit.api import Inconclusive
from audit.api.subject import out_of_memory
from audit.errors import PrerequisiteError

T = TypeVar("T")


@dataclass(slots=True)
class Batching:
    """Cuts rows into parts of `most` rows, and halves `most` for good whenever a part does not fit into memory."""

    most: int = 1024

    def parts(self, n: int, work: Callable[[slice], T]) -> list[T]:
        """What `work` gives for consecutive slices that together are the rows 0 to n, in order; none for no rows.

        Raises:
            Inconclusive: `memory` where not even one row fits.
        """
        done: list[T] = []
        start = 0
        while start < n:
            rows = slice(start, min(start + self.most, n))
            try:
                done.append(work(rows))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self._halve(rows.stop - rows.start)
                continue
            start = rows.stop
        return done

    def _halve(self, tried: int) -> None:
        if tried <= 1:
            text = "Not even one image fits into memory with what is computed from it. Use a device with more memory."
            raise Inconclusive("memory", text)
        self.most = max(1, tried // 2)
        torch.cuda.empty_cache()  # does nothing where CUDA was not used


@contextmanager
def memory_for_one() -> Iterator[None]:
    """Outside of a probe, that not even one image fits is an error like others."""
    try:
        yield
    except Inconclusive as outcome:
        raise PrerequisiteError(f"Expected memory for one image at a time, got too little. {outcome.text}") from outcome
