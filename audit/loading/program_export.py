"""Loads programs of torch.export (`.pt2`), and reads what they take and how they behave."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from audit.errors import SubjectError
from audit.loading.model_spec import FULL_ACCESS
from audit.loading.program_export_network import ExportNetwork, Input
from audit.loading.program_network import Program, training_note
from audit.loading.sources import shown

TRAINING_ARGUMENT = {"batch_norm": 5, "_native_batch_norm_legit": 5, "native_batch_norm": 5, "dropout": 2,
                     "_native_batch_norm_legit_functional": 5, "dropout_": 2, "native_dropout": 2,
                     "feature_dropout": 2, "alpha_dropout": 2, "cudnn_batch_norm": 5}  # fmt: skip
"""Place of the flag that says whether the layer trains."""


def load_export(content: bytes, name: str) -> Program:
    """Loads a program of torch.export: its code may run from here on.

    Args:
        content: of the file.
        name: its spec, for messages.

    Raises:
        SubjectError: when it cannot be loaded, or takes anything but one batch of images.
    """
    exported = _loaded(content, name)
    taken = _input(exported, name)
    network = ExportNetwork(exported.module(), name, taken).cpu()
    notes = training_note(name, _training(exported.graph_module))
    if taken.most == taken.least:
        notes += (f"{name} takes batches of {taken.least} alone; others are run in pieces of that size",)
    channels, height, width = taken.shape
    shape = None if height is None or width is None else (channels, height, width)
    why = "" if shape is None else _why_no_gradient(network, shape)
    if why:
        why = f"no gradient reaches the input of {name} ({why})"
        return Program(network, notes, shape, FULL_ACCESS - {"gradients"}, why)
    return Program(network, notes, shape)


def _loaded(content: bytes, name: str) -> Any:
    try:
        with warnings.catch_warnings(), _said() as said:
            warnings.simplefilter("ignore")
            return torch.export.load(io.BytesIO(content))
    except Exception as error:
        lines = [line.strip() for text in (str(error), *said) for line in text.splitlines() if line.strip()]
        reason = lines[-1] if lines else "nothing more"
        elsewhere = any("NVIDIA" in line or "CUDA" in line for line in lines)
        remedy = (
            "It was exported on a GPU: move it before saving (torch.export.passes.move_to_device_pass(program, 'cpu'))."
            if elsewhere
            else "Export it with a torch no newer than this, and let it return plain tensors."
        )
        raise SubjectError(
            f"Expected {name} to load with torch.export of torch {torch.__version__}, got {shown(reason)}. {remedy}"
        ) from error


@contextlib.contextmanager
def _said() -> Iterator[list[str]]:
    """What torch.export logs, kept from the terminal: its error itself only points to the log."""
    said: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())
            if record.exc_info and record.exc_info[1] is not None:
                said.append(str(record.exc_info[1]))

    logger, keeper = logging.getLogger("torch.export"), Keeper()
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [keeper], False
    try:
        yield said
    finally:
        logger.handlers, logger.propagate = handlers, propagate


def _input(exported: Any, name: str) -> Input:
    """The one tensor of images that the program takes.

    Raises:
        SubjectError: when it takes anything else.
    """
    names = exported.graph_signature.user_inputs
    nodes = [node for node in exported.graph.nodes if node.op == "placeholder" and node.name in names]
    values = [node.meta.get("val") for node in nodes]
    got = shown(", ".join(f"{node.name} {_described(value)}" for node, value in zip(nodes, values, strict=True)))
    keywords = exported.call_spec.in_spec.children()[1].context or []
    value = values[0] if len(values) == 1 == len(names) else None
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim != 4:
        raise SubjectError(
            f"Expected {name} to take one batch of images (n, c, h, w) of floats, got {got or 'nothing'}. Export a "
            "wrapper that takes the images alone."
        )
    channels, height, width = (side if isinstance(side, int) else None for side in value.shape[1:])
    if channels not in (1, 3):
        raise SubjectError(
            f"Expected {name} to take images with their 1 or 3 channels first, got {got}. Export a wrapper that "
            "rearranges them."
        )
    least, most = _batch(value.shape[0], exported, name)
    return Input(str(keywords[0]) if keywords else "", (channels, height, width), least, most)


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"({type(value).__name__})"
    return f"{[side if isinstance(side, int) else '?' for side in value.shape]} {value.dtype}".replace("'", "")


def _batch(size: Any, exported: Any, name: str) -> tuple[int, int | None]:
    """The smallest and the largest batch; the largest is None where there is none."""
    if isinstance(size, int):
        return size, size
    expression = size.node.expr
    if not expression.is_Symbol:
        raise SubjectError(
            f"Expected {name} to take batches of any size, got sizes {expression}. Export it with one free batch "
            "dimension."
        )
    known = exported.range_constraints.get(expression)
    if known is None:
        return 0, None
    return max(int(known.lower), 0), int(known.upper) if known.upper.is_Integer else None


def _training(graph_module: nn.Module) -> dict[str, int]:
    """Layers by kind whose training flag is set."""
    found: Counter[str] = Counter()
    for node in _graph_nodes(graph_module):
        kind = getattr(node.target, "__name__", "").partition(".")[0]
        place = TRAINING_ARGUMENT.get(kind)
        if place is not None and len(node.args) > place and node.args[place] is True:
            found[kind] += 1
    return dict(found)


def _graph_nodes(graph_module: nn.Module) -> Iterator[fx.Node]:
    for module in graph_module.modules():
        if isinstance(module, fx.GraphModule):
            yield from module.graph.nodes


def _why_no_gradient(network: nn.Module, shape: tuple[int, int, int]) -> str:
    """Why no gradient reaches the input, or nothing where one does, or where the program cannot run at all."""
    pixels = torch.full((2, *shape), 0.5)
    try:
        with torch.no_grad():
            network(pixels)
    except Exception:  # its failure is explained later, on the images of the audit
        return ""
    try:
        leaves = [leaf for leaf in pytree.tree_leaves(network(pixels.requires_grad_())) if isinstance(leaf, Tensor)]
        reaching = [leaf for leaf in leaves if leaf.requires_grad]
        if not reaching:
            return "it runs without gradients inside, as after export under no_grad or inference_mode"
        torch.autograd.grad([leaf.sum() for leaf in reaching], pixels)
    except (RuntimeError, NotImplementedError) as error:
        return (str(error).strip().splitlines() or [""])[0]
    return ""
