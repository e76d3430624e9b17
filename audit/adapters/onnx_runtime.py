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
- A graph may loop for ever. Every run has a limit of time, and is ended through its options beyond it (run).
  `test_a_graph_that_never_ends_is_ended`.
- Its errors are of a dozen classes (run). They become `SubjectError` with their first line.
  `test_what_the_runtime_refuses_is_said`.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from audit.adapters.onnx import OnnxModel, first_line, missing_package, onnx_package
from audit.errors import SubjectError

SILENT = 4
"""Only what ends the process is logged."""
SECONDS, SECONDS_AN_IMAGE = 20.0, 5.0
SECONDS_A_PRODUCT = 2e-12
"""What a run may take: some seconds, some an image, and some for each product of a parameter with a pixel. That is far
more than any classifier needs on one core (a vision transformer of a billion parameters takes a tenth of it), and an
end for graphs that have none."""


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
            SubjectError: when it cannot run the graph.
        """
        if self._session is not None:
            return
        self._session = _opened(self.content, self.name, _options())

    def run(self, images: npt.NDArray[np.generic]) -> dict[str, Any]:
        """Outputs by name, for an input that is cast to the graph's type.

        Raises:
            SubjectError: when the graph cannot be run, fails on these images, or does not end in time.
        """
        self.open()
        fed = {self.input.name: np.ascontiguousarray(images.astype(self.input.dtype, copy=False))}
        given = "x".join(map(str, images.shape))
        count = images.shape[0] if images.ndim > 3 else 1
        seconds = SECONDS + SECONDS_AN_IMAGE * count + SECONDS_A_PRODUCT * self.numbers * images.size
        try:
            with _ended_after(seconds) as options:
                results = self._session.run(list(self.outputs), fed, options)
        except Exception as error:
            if options.terminate:
                raise SubjectError(
                    f"Expected {self.name} to answer on an input of {given} within {seconds:.0f} seconds, got no "
                    "answer. It may loop for ever; have it exported again without loops."
                ) from None
            raise SubjectError(
                f"Expected {self.name} to take an input of {given}, got from onnxruntime: {first_line(error)}. "
                "Say what an image is with ?input=CxHxW, such as ?input=3x32x32, or with --preprocess .../size=HxW."
            ) from None
        return dict(zip(self.outputs, results, strict=True))


def with_constants_folded(model: OnnxModel, name: str) -> OnnxModel:
    """The same model after the runtime's basic rewriting: what follows from constants and fixed sizes is worked out.

    Raises:
        SubjectError: when the runtime cannot open the model.
    """
    options = _options()
    options.graph_optimization_level = _package().GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory(prefix="audit-onnx-") as folder:
        path = Path(folder) / "model.onnx"
        options.optimized_model_filepath = str(path)
        _opened(model.to_bytes(), name, options)
        return OnnxModel(onnx_package().load_model_from_string(path.read_bytes()), model.external)


@contextmanager
def _ended_after(seconds: float) -> Iterator[Any]:
    """Options of a run that is ended when its time is over; they then say `terminate`."""
    options = _package().RunOptions()
    options.log_severity_level = SILENT
    timer = threading.Timer(seconds, lambda: setattr(options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()


def _options() -> Any:
    options = _package().SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _opened(content: bytes, name: str, options: Any) -> Any:
    package = _package()
    try:
        return package.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise SubjectError(
            f"Expected a graph that onnxruntime {package.__version__} can run, got from {name}: "
            f"{first_line(error)}. Export it again with standard operators."
        ) from None


def _package() -> Any:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when the library is loaded
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package("onnxruntime", error) from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime
