"""TorchScript archives as networks.

The executor's optimiser is off while they run: it compiles during the first calls, and results could differ between
calls. What `torch.jit` says about its own deprecation is not the user's concern.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from audit.errors import SubjectError
from audit.loading.model_spec import FULL_ACCESS
from audit.loading.program_network import Program, ProgramNetwork, training_note
from audit.loading.sources import shown

TRAINING_ARGUMENT = {
    "aten::batch_norm": 5,
    "aten::_batch_norm_impl_index": 5,
    "aten::native_batch_norm": 5,
    "aten::dropout": 2,
    "aten::dropout_": 2,
    "aten::feature_dropout": 2,
    "aten::alpha_dropout": 2,
}
"""Place of the flag that says whether the layer trains."""
CONVOLUTIONS = ("aten::conv2d", "aten::_convolution")
QUANTISED = "quantized::"


class ScriptNetwork(ProgramNetwork):
    """A TorchScript module; its parameters are this module's."""

    def run(self, pixels: Tensor) -> Any:
        """The program, operator by operator."""
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return self.program(pixels)

    def __getstate__(self) -> dict[str, Any]:
        """For copies, also in other processes: torch would copy the parameters as results of an operation."""
        saved = io.BytesIO()
        with _without_warnings():
            torch.jit.save(self.program, saved)
        return {**vars(self), "_modules": {}, "saved": saved.getvalue()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Loads the program again."""
        own = {key: value for key, value in state.items() if key != "saved"}
        super().__setstate__(own)  # type: ignore[no-untyped-call]
        with _without_warnings():
            self.program = torch.jit.load(io.BytesIO(state["saved"]))  # type: ignore[no-untyped-call]


def load_script(content: bytes, name: str, in_chans: int | None = None) -> Program:
    """Loads a TorchScript archive: its code may run from here on.

    Args:
        content: of the file.
        name: its spec, for messages.
        in_chans: channels of an image, where the user says so.

    Raises:
        SubjectError: when it cannot be loaded, or takes anything but one tensor.
    """
    import torchvision  # noqa: F401, PLC0415 - registers operators that programs may use

    try:
        with _without_warnings():
            program = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:
        raise SubjectError(
            f"Expected {name} to load as TorchScript with torch {torch.__version__}, got {type(error).__name__}: "
            f"{shown(_last_line(error))}. Save the scripted or traced model itself (torch.jit.save), without "
            "optimize_for_inference, from a torch no newer than this."
        ) from error
    _check_arguments(program, name)
    nodes = list(_nodes(program.inlined_graph))
    channels = in_chans or _image_channels(program, nodes)
    frozen = not any(True for _ in program.parameters())
    devices = _devices(nodes) | ({"cpu"} if frozen else set())  # constants stay where they were loaded
    network = ScriptNetwork(program, name, devices, channels)
    notes = training_note(name, _training(nodes))
    quantised = sorted({node.kind() for node in nodes if node.kind().startswith(QUANTISED)})
    if quantised:
        why = f"{name} computes in integers ({', '.join(quantised[:3])}): no gradient passes through them"
        return Program(network, notes, None, frozenset({"logits", "labels"}), why)
    if frozen:
        why = f"the weights of {name} are constants of its code (frozen), which no probe can look at"
        return Program(network, notes, None, FULL_ACCESS - {"weights"}, why)
    return Program(network, notes)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_arguments(program: Any, name: str) -> None:
    stated = program.forward.schema.arguments[1:]  # the first is the module itself, whatever its name
    required = [argument for argument in stated if not argument.has_default_value()]
    if len(required) == 1 and stated[0] is required[0] and str(required[0].type) == "Tensor":
        return
    got = shown(", ".join(f"{argument.name}: {argument.type}" for argument in required)) or "nothing"
    raise SubjectError(
        f"Expected {name} to take one tensor of images, got ({got}). Script a wrapper that takes the images alone."
    )


def _nodes(graph: Any) -> Iterator[Any]:
    """Every node of a graph, those of branches and loops too."""
    for node in graph.nodes():
        yield node
        for block in node.blocks():
            yield from _nodes(block)


def _constant(value: Any) -> Any:
    """What a value always is, or None where that depends."""
    return value.toIValue() if value.node().kind() == "prim::Constant" else None


def _training(nodes: list[Any]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for node in nodes:
        place = TRAINING_ARGUMENT.get(node.kind())
        if place is not None and _constant(list(node.inputs())[place]) is True:
            found[node.kind().removeprefix("aten::")] += 1
    return dict(found)


def _devices(nodes: list[Any]) -> frozenset[str]:
    values = (node.output() for node in nodes if node.kind() == "prim::Constant" and node.outputsSize() == 1)
    return frozenset(str(value.toIValue()) for value in values if value.type().kind() == "DeviceObjType")


def _image_channels(program: nn.Module, nodes: list[Any]) -> int | None:
    """Of the first convolution's weights: a parameter, or a constant of a frozen program."""
    held = (tensor for tensor in program.parameters() if tensor.ndim == 4)
    baked = (_constant(list(node.inputs())[1]) for node in nodes if node.kind() in CONVOLUTIONS)
    first = next((tensor for tensor in (*held, *baked) if isinstance(tensor, Tensor)), None)
    return int(first.shape[1]) if first is not None and first.shape[1] in (1, 3) else None


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["nothing more"])[-1].strip()
