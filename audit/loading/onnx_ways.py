"""The two ways to run an ONNX graph: as a torch module that was verified, or as a black box by onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from audit.adapters.onnx import OnnxModel, first_line
from audit.adapters.onnx_rewrite import dtypes, in_float32, with_free_batch
from audit.adapters.onnx_runtime import Session, with_constants_folded
from audit.adapters.onnx_torch import ConversionError, conversions
from audit.api import Access
from audit.errors import SubjectError
from audit.loading.model_spec import FULL_ACCESS
from audit.loading.onnx_agreement import (
    HALF_TOLERANCE,
    TOLERANCE,
    Agreement,
    compare,
    first_of_each,
    scores_of,
    seeded_inputs,
)
from audit.loading.onnx_layout import NO_BATCH, Layout
from audit.loading.onnx_network import BlackBox, InParts, OnnxNetwork
from audit.loading.preprocess_choice import Shape

BLACK_BOX: frozenset[Access] = frozenset({"logits", "labels"})


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What onnxruntime computes, and how images are handed to it.

    Attributes:
        graphs: the model with the batch it takes; where a fixed batch could be freed, the freed one comes first.
        layout: of the input.
        inputs: images of several kinds.
        alone: scores on the first of each kind, in a batch of one.
        together: scores on them, all of a kind at once.
        notes: on the batch.
    """

    graphs: tuple[tuple[OnnxModel, int | None], ...]
    layout: Layout
    inputs: list[Tensor]
    alone: list[Tensor]
    together: list[Tensor]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """A network, what may be used of it, and why that is not all; notes are for the user."""

    network: nn.Module
    access: frozenset[Access]
    why_limited: str
    notes: tuple[str, ...] = ()


def observe_runtime(model: OnnxModel, layout: Layout, shape: Shape, file: str) -> Observed:
    """Runs a graph on seeded inputs, and makes it take any number of images.

    A batch that the graph fixes is freed by rewriting it, which is accepted where the outputs stay the same;
    otherwise images go in by as many as it takes. A graph that says it takes any number is left as it is even where
    scores depend on the batch: that is then a finding.

    Raises:
        SubjectError: when onnxruntime cannot run it.
    """
    inputs = seeded_inputs(shape)
    original = _assembled(BlackBox(Session(model, file)), layout, layout.batch)
    alone = scores_of(original, first_of_each(inputs))
    if layout.batch is None:
        return _observe_free(model, original, layout, inputs, alone)
    together = scores_of(original, inputs)
    for freed in _freed(model, file) if layout.batch != NO_BATCH else ():
        network = _assembled(BlackBox(Session(freed, file)), layout, None)
        if _agreement(network, inputs, alone, together):
            note = f"the graph's batch of {layout.batch} is freed; its scores stay the same"
            return Observed(((freed, None), (model, layout.batch)), layout, inputs, alone, together, (note,))
    return Observed(((model, layout.batch),), layout, inputs, alone, together, (_in_parts(layout.batch),))


def find_way(observed: Observed, form: str, file: str) -> Way:
    """A torch module that agrees with onnxruntime, or a black box.

    Args:
        observed: of the graph.
        form: `torch`, `blackbox`, or empty for torch where it can be verified.
        file: for messages.

    Raises:
        SubjectError: when torch is demanded and cannot be had.
    """
    model, batch = observed.graphs[0]
    if form == "blackbox":
        reason = "as=blackbox asks for it"
    elif model.inputs[0].dtype == "uint8":
        reason = "its input is uint8, so that pixels are rounded before the network and no gradient reaches them"
    else:
        found = _as_torch(observed, file)
        if isinstance(found, Way):
            return found
        reason = found
    if form == "torch":
        raise SubjectError(
            f"Expected {file} to become a torch module, as as=torch demands, got none: {reason}. Leave it out: the "
            "file is then audited as a black box."
        )
    graph = BlackBox(Session(model, file), halving=batch is None)
    network = _assembled(graph, observed.layout, batch)
    why = f"{file} is run by onnxruntime as a black box, without gradients and weights: {reason}"
    return Way(network, BLACK_BOX, why, (f"its initialisers hold {model.numbers:,} numbers",))


def _freed(model: OnnxModel, file: str) -> Iterator[OnnxModel]:
    """Attempts to free the batch of the graph as it is, then of the graph with its constants worked out."""
    yield from with_free_batch(model)
    yield from with_free_batch(with_constants_folded(model, file))


def _observe_free(
    model: OnnxModel, original: OnnxNetwork, layout: Layout, inputs: list[Tensor], alone: list[Tensor]
) -> Observed:
    """A graph that says it takes any number of images."""
    try:
        together = scores_of(original, inputs)
    except SubjectError:
        together = scores_of(_assembled(original.graph, layout, 1), inputs)
        note = _in_parts(1, "the graph fails with several, or takes too much memory")
        return Observed(((model, 1),), layout, inputs, alone, together, (note,))
    agreement = compare(alone, first_of_each(together))
    notes = () if agreement else (f"with other images in its batch, {agreement.reason}",)
    return Observed(((model, None),), layout, inputs, alone, together, notes)


def _as_torch(observed: Observed, file: str) -> Way | str:
    """A verified torch module, or why there is none."""
    rejected, failed = "", ""
    for model, batch in observed.graphs:
        single, alone, together, notes, rejected = _single_precision(observed, model, batch, file)
        if rejected:
            break
        for convert in conversions(single, _examples(observed, batch)):
            try:
                network = _assembled(convert(), observed.layout, batch).eval().float()
            except ConversionError as error:
                failed = str(error)
                continue
            agreement = _agreement(network, observed.inputs, alone, together)
            if agreement:
                return _verified(network, observed, agreement, notes, file)
            rejected = f"its conversion to torch is not the same network: {agreement.reason}"
    return rejected or f"it cannot be converted to torch: {failed}"


def _verified(network: nn.Module, observed: Observed, agreement: Agreement, notes: tuple[str, ...], file: str) -> Way:
    n = sum(len(images) for images in observed.inputs)
    note = (
        f"{file} is converted to torch by onnx2torch; on {n} seeded inputs, alone and in batches, its scores differ "
        f"from onnxruntime's by at most {agreement.difference:.0e} of their spread"
    )
    broken = _gradient_problem(network, observed.inputs[1][:1])
    if not broken:
        return Way(network, FULL_ACCESS, "", (*notes, note))
    why = f"{file} is converted to torch, and no gradient reaches the pixels: {broken}"
    return Way(network, FULL_ACCESS - {"gradients"}, why, (*notes, note))


def _single_precision(
    observed: Observed, model: OnnxModel, batch: int | None, file: str
) -> tuple[OnnxModel, list[Tensor], list[Tensor], tuple[str, ...], str]:
    """The graph in float32, its scores alone and together, notes, and why it may not be used, if so."""
    single = in_float32(model)
    if single is model:
        return model, observed.alone, observed.together, (), ""
    found = dtypes(model) - dtypes(single)
    tolerance = HALF_TOLERANCE if "float16" in found else TOLERANCE
    network = _assembled(BlackBox(Session(single, file)), observed.layout, batch)
    agreement = _agreement(network, observed.inputs, observed.alone, observed.together, tolerance)
    names = " and ".join(sorted(found))
    if not agreement:
        return single, [], [], (), f"in float32 instead of {names} {agreement.reason}"
    note = f"{names} is computed in float32, which moves scores by at most {agreement.difference:.0e} of their spread"
    alone = scores_of(network, first_of_each(observed.inputs))
    return single, alone, scores_of(network, observed.inputs), (note,), ""


def _examples(observed: Observed, batch: int | None) -> list[Tensor]:
    """Three inputs of the graph, or none where the size of an image is free."""
    layout = observed.layout
    if layout.size is None:
        return []
    images = torch.cat(observed.inputs[1:])
    if layout.batch == NO_BATCH:
        return [layout.arranged(images)[place] for place in range(3)]
    counts = (1, 2, 3) if batch is None else (batch,) * 3
    repeats = -(-sum(counts) // len(images))
    return [layout.arranged(part) for part in torch.split(images.repeat(repeats, 1, 1, 1)[: sum(counts)], list(counts))]


def _assembled(graph: nn.Module, layout: Layout, batch: int | None) -> OnnxNetwork:
    return OnnxNetwork(graph if batch is None else InParts(graph, batch), layout)


def _agreement(
    network: nn.Module,
    inputs: list[Tensor],
    alone: list[Tensor],
    together: list[Tensor],
    tolerance: float = TOLERANCE,
) -> Agreement:
    """The worse of one image at a time and all at once; a network that fails does not agree."""
    try:
        found = scores_of(network, first_of_each(inputs)), scores_of(network, inputs)
    except Exception as error:  # an engine's, of any class
        return Agreement(float("inf"), f"it fails: {first_line(error)}")
    agreements = (compare(alone, found[0], tolerance), compare(together, found[1], tolerance))
    return max(agreements, key=lambda agreement: (not agreement, agreement.difference))


def _gradient_problem(network: nn.Module, images: Tensor) -> str:
    """Why no gradient reaches the images, or nothing."""
    images = images.clone().requires_grad_()
    try:
        gradient = torch.autograd.grad(network(images).sum(), images, allow_unused=True)[0]
    except (RuntimeError, NotImplementedError) as error:
        return first_line(error)
    return "the scores do not depend on them" if gradient is None else ""


def _in_parts(batch: int, why: str = "the graph fixes its batch") -> str:
    at_once = "one" if batch in (1, NO_BATCH) else str(batch)
    return f"images are run {at_once} at a time, as {why}"
