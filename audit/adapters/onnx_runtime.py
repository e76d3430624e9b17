"""onnxruntime (1.20 or newer; 1.32 read and run): what an ONNX file computes, on the CPU.

What is walled off, how it was seen, and the test in tests/audit/adapters/test_onnx.py that pins it:

- A session can be neither copied nor pickled (run). `Session` keeps the model's bytes and opens itself again.
  `test_session_survives_copy_and_pickle`.
- Its threads spin while they wait, and take the cores from torch (read in its performance guide). Spinning is off, and
  there are as many threads as torch has.
- It prints warnings on stderr, and reads custom libraries and optimised models where options name some (read). Its log
  is silent, and it gets bytes in memory with all tensors inside, never a path.
- Official builds send telemetry, since 1.29 on Linux too: the import writes an identifier below the home
  folder (run), and events name the model's file and hash its graph (read: microsoft/onnxruntime#27379).
  `ORT_DISABLE_TELEMETRY`, set before the import, is the one complete way out (run). `test_nothing_is_told_to_anyone`.
- A graph may loop for ever. Every run has a limit of time, and so has opening, where constants are worked out. Beyond
  it they are ended through their options (run), which are looked at between two operators: one operator that alone
  takes hours, such as a convolution of a constant with one as large, is not ended (run).
  `test_a_graph_that_never_ends_is_ended`, `test_opening_has_an_end` in test_onnx_limits.py.
- A few bytes may ask for any memory, such as a ConstantOfShape of 2^31 numbers (run: 9.4 GB). A run takes its memory
  from an arena, of which the library makes one for the process, without limit. Here each session gets its own, with a
  limit, and gives back after each run what it holds; registering another leaves older sessions theirs (run). Not in
  it, and so not limited: weights, which are as large as the file; what opening makes of constants, which has its own
  limit; what an operator takes for itself, such as NonZero, which is a small multiple of its input.
  `test_a_run_has_a_limit_of_memory`, `test_constants_stay_small`, in test_onnx_limits.py.
- Its errors are of a dozen classes (run). They become `SubjectError` with their first line.
  `test_what_the_runtime_refuses_is_said`.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from audit.adapters.onnx import OnnxModel, first_line, missing_package, onnx_package
from audit.adapters.onnx_limits import inlined_extent
from audit.errors import SubjectError

SILENT = 4
"""Only what ends the process is logged."""
SECONDS, SECONDS_AN_IMAGE = 20.0, 5.0
SECONDS_A_PRODUCT = 2e-12
"""What a run may take: some seconds, some an image, and some for each product of a parameter with a pixel. Chosen
generously, not measured: it is an end for graphs that have none."""
SECONDS_TO_OPEN, SECONDS_A_NUMBER = 60.0, 2e-7
"""The same for opening: some time, and some for each parameter."""
RUN_BYTES = 4 * 2**30
"""What a run may hold beside the weights: an image takes megabytes, and a batch that does not fit is halved."""
FOLDED_BYTES, FOLDED_BYTES_A_NODE = 2**28, 2**20
"""What opening may make of constants, all in all and of one node: a convolution of two constants of that size takes
some seconds, and opening cannot be ended within a node. What it leaves is computed in runs."""
OUT_OF_MEMORY = ("smaller than requested bytes", "Failed to allocate memory", "bad_alloc", "would require more than")
"""What the arena, the system and Tile say."""
AS_REQUESTED = 1
"""How the arena grows."""


class RunMemoryError(SubjectError):
    """A run takes more than its memory; with fewer images it may not."""


class Session:
    """A model that is ready to run; opened on first use, and again after a copy.

    Args:
        model: whose tensors are all in memory.
        name: for messages.
    """

    def __init__(self, model: OnnxModel, name: str) -> None:
        self.content = model.to_bytes()
        self.name = name
        self.numbers = model.numbers
        self.nodes = inlined_extent(model.proto).nodes
        self.input = model.inputs[0]
        self.outputs = tuple(port.name for port in model.outputs)
        self._session: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """All but the open session."""
        return {**self.__dict__, "_session": None}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)

    def open(self) -> None:
        """Opens it, if it is not.

        Raises:
            PrerequisiteError: when onnxruntime is not installed.
            SubjectError: when it cannot run the graph, or does not open it in time.
        """
        if self._session is not None:
            return
        self._session = _opened(self.content, self.name, _options(self.nodes), self.numbers)

    def run(self, images: npt.NDArray[np.generic]) -> dict[str, Any]:
        """Outputs by name, for an input that is cast to the graph's type.

        Raises:
            RunMemoryError: when these images take more than `RUN_BYTES`.
            SubjectError: when the graph cannot be run, fails on these images, or does not end in time.
        """
        self.open()
        fed = {self.input.name: np.ascontiguousarray(images.astype(self.input.dtype, copy=False))}
        given = "x".join(map(str, images.shape))
        count = images.shape[0] if images.ndim > 3 else 1
        seconds = SECONDS + SECONDS_AN_IMAGE * count + SECONDS_A_PRODUCT * self.numbers * images.size
        options = _run_options()
        try:
            with _after(seconds, lambda: setattr(options, "terminate", True)):
                results = self._session.run(list(self.outputs), fed, options)
        except Exception as error:
            raise self._explained(error, given, seconds if options.terminate else None) from None
        return dict(zip(self.outputs, results, strict=True))

    def _explained(self, error: Exception, given: str, seconds: float | None) -> SubjectError:
        """What went wrong with an input; `seconds` where it was ended after so many."""
        if seconds is not None:
            return SubjectError(
                f"Expected {self.name} to answer on an input of {given} within {seconds:.0f} seconds, got no "
                "answer. It may loop for ever; have it exported again without loops."
            )
        if any(words in str(error) for words in OUT_OF_MEMORY):
            return RunMemoryError(
                f"Expected {self.name} to take an input of {given} within {RUN_BYTES / 2**30:.0f} GiB of memory, got "
                "a graph that needs more. Take smaller images, or have it exported again."
            )
        return SubjectError(
            f"Expected {self.name} to take an input of {given}, got from onnxruntime: {first_line(error)}. "
            "Say what an image is with ?input=CxHxW, such as ?input=3x32x32, or with --preprocess .../size=HxW."
        )


def with_constants_folded(model: OnnxModel, name: str) -> OnnxModel:
    """The same model after the runtime's basic rewriting: what follows from constants and fixed sizes is worked out.

    Raises:
        SubjectError: when the runtime cannot open the model.
    """
    options = _options(inlined_extent(model.proto).nodes)
    options.graph_optimization_level = _package().GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory(prefix="audit-onnx-") as folder:
        path = Path(folder) / "model.onnx"
        options.optimized_model_filepath = str(path)
        _opened(model.to_bytes(), name, options, model.numbers)
        return OnnxModel(onnx_package().load_model_from_string(path.read_bytes()), model.external)


@contextmanager
def _after(seconds: float, end: Callable[[], None]) -> Iterator[None]:
    """Calls `end` when the time is over."""
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _run_options() -> Any:
    options = _package().RunOptions()
    options.log_severity_level = SILENT
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _options(nodes: int) -> Any:
    options = _package().SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    folded = min(FOLDED_BYTES_A_NODE, FOLDED_BYTES // max(nodes, 1))
    entries = {
        "session.intra_op.allow_spinning": "0",
        "session.use_env_allocators": "1",
        "session.use_device_allocator_for_initializers": "1",
        "optimization.constant_folding_max_output_size_in_bytes": str(folded),
    }
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    return options


def _opened(content: bytes, name: str, options: Any, numbers: int) -> Any:
    """A session with an arena of its own."""
    package, late = _package(), threading.Event()

    def cancel() -> None:
        late.set()
        options.set_load_cancellation_flag(True)

    place = package.OrtMemoryInfo("Cpu", package.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, package.OrtMemType.DEFAULT)
    arena = package.OrtArenaCfg({"max_mem": RUN_BYTES, "arena_extend_strategy": AS_REQUESTED})
    seconds = SECONDS_TO_OPEN + SECONDS_A_NUMBER * numbers
    with suppress(Exception):  # a version that takes one arena alone keeps the first, with the same limit
        package.create_and_register_allocator(place, arena)
    try:
        with _after(seconds, cancel):
            return package.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        why = f"no end within {seconds:.0f} seconds" if late.is_set() else first_line(error)
        raise SubjectError(
            f"Expected a graph that onnxruntime {package.__version__} can run, got from {name}: "
            f"{why}. Export it again with standard operators."
        ) from None


def _package() -> Any:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when the library is loaded
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package("onnxruntime", error) from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime
