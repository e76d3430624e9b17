"""`onnx:FILE`: converted to torch where that is verified, else a black box."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audit.adapters.onnx import OnnxModel, Port, shown
from audit.adapters.onnx_reading import objection, read_model
from audit.adapters.onnx_rewrite import dtypes, in_float32, in_inference_mode, with_output
from audit.adapters.onnx_runtime import Session
from audit.errors import SubjectError, UsageError
from audit.loading.danger import refuse_dangerous
from audit.loading.model_spec import Architecture, ModelRequest, ModelSpec
from audit.loading.onnx_layout import NO_BATCH, Layout, find_layout
from audit.loading.onnx_ways import find_way, observe_runtime
from audit.loading.preprocess_choice import Shape
from audit.loading.preprocess_option import parse_option
from audit.loading.weights import digest_of
from audit.scan import Kind, kind_of

OF_TORCH = frozenset({
    Kind.SAFETENSORS, Kind.TORCH_ZIP, Kind.TORCH_LEGACY, Kind.TORCH_TAR, Kind.TORCHSCRIPT, Kind.EXPORTED_PROGRAM,
})  # fmt: skip
ARGUMENTS = ("input", "output", "as")
FORMS = ("", "torch", "blackbox")
GUESSED_SIDES = (32, 224)
"""Sizes to verify on, where nothing says one."""
MOST_OF_AN_IMAGE, MOST_OF_AN_INPUT = 2**26, 2**28
"""Numbers: a colour image of 4,700 pixels a side, and four of them or a thousand of 224 in a batch."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the query of the spec says.

    Attributes:
        shape: (c, h, w) of an image, or None.
        output: name of the output with the scores, or None.
        form: `torch`, `blackbox`, or empty for torch where it can be verified.
    """

    shape: Shape | None
    output: str | None
    form: str


def build_onnx(spec: ModelSpec, request: ModelRequest, native_shape: Shape | None) -> Architecture:
    """Reads an ONNX file and makes a network of it that takes normalised images (n, c, h, w) float32.

    The graph is converted to torch and accepted where its outputs agree with onnxruntime's on seeded inputs, with
    full access. Elsewhere onnxruntime runs it, without gradients and weights, and `why_limited` says why.

    Args:
        spec: `onnx:FILE[?input=CxHxW&output=NAME&as=torch|blackbox]`.
        request: must name no weights.
        native_shape: (c, h, w) of the data's images, used where the graph does not say what an image is.

    Raises:
        UsageError: when the query or an option is wrong, or has to say more.
        SubjectError: when the file is damaged or cannot be run, or is no classifier of images.
        UnsafeArtefactError: when the static scan refuses it.
        PrerequisiteError: when the extra `onnx` is not installed.
    """
    wishes = _wishes(spec, request)
    path = Path(spec.target).expanduser()
    if not path.is_file():
        raise SubjectError(f"Expected an ONNX file, got {path}, which is no file. Correct the path.")
    _check_kind(path)
    refuse_dangerous(path, read_as=Kind.ONNX)
    model, notes = _runnable(read_model(path), path.name)
    port = _image_input(model, path.name)
    layout = find_layout(port, wishes.shape, native_shape, path.name)
    _check_preprocess(request, port, path.name)
    shape, output = _trial(model, layout, _sizes(layout, request, native_shape), wishes, path.name)
    if len(model.outputs) > 1:
        notes += (f"of {len(model.outputs)} outputs, {shown(output)} is taken as the scores",)
    observed = observe_runtime(with_output(model, output), layout, shape, path.name)
    way = find_way(observed, wishes.form, path.name)
    return Architecture(
        network=way.network,
        name=path.stem,
        files=tuple(digest_of(file) for file in (path, *model.external)),
        notes=(*notes, f"the input {port} takes {layout}", *observed.notes, *way.notes),
        input_shape=layout.shape,
        channels=layout.channels,
        holds_weights=True,
        access=way.access,
        why_limited=way.why_limited,
    )


def _check_kind(path: Path) -> None:
    """A file of torch is said to be one; read as ONNX, it would look like a file that is two things at once."""
    found = kind_of(path)
    if found in OF_TORCH:
        refuse_dangerous(path)
        raise SubjectError(
            f"Expected an ONNX file, got {shown(path.name)}, {found.value}. Name the network with --model and the file "
            "with --weights, or begin its path with script: or export: where it is a program."
        )


def _wishes(spec: ModelSpec, request: ModelRequest) -> Wishes:
    if request.weights is not None:
        raise UsageError(
            f"Expected no --weights with {spec.text}, got {request.weights.name}: an ONNX file holds its own. Drop it."
        )
    stated = {name: str(value) for name, value in spec.arguments.items()}
    size = re.fullmatch(r"([13])x([1-9]\d{0,4})x([1-9]\d{0,4})", stated.get("input", "3x1x1"))
    if set(stated) - set(ARGUMENTS) or stated.get("as", "") not in FORMS or size is None:
        raise UsageError(
            "Expected onnx:FILE[?input=CxHxW&output=NAME&as=torch|blackbox], such as ?input=1x28x28, got "
            f"{spec.text!r}. Correct it."
        )
    channels, height, width = (int(text) for text in size.groups())
    shape = (channels, height, width) if "input" in stated else None
    return Wishes(shape, stated.get("output"), stated.get("as", ""))


def _image_input(model: OnnxModel, file: str) -> Port:
    if len(model.inputs) != 1:
        found = ", ".join(map(str, model.inputs)) or "none"
        raise SubjectError(
            f"Expected one input, the images, in {file}, got {len(model.inputs)}: {found}. Export the network so that "
            "all else is a constant."
        )
    return model.inputs[0]


def _runnable(model: OnnxModel, file: str) -> tuple[OnnxModel, tuple[str, ...]]:
    """The model as onnxruntime opens it, in inference mode, and notes.

    Where the operators are not there for float64 or float16, it is the same in float32.
    """
    objected = objection(model)
    remark = f"the checker of onnx objects to {file}: {objected}"
    model, notes = in_inference_mode(model)
    notes += (remark,) if objected else ()
    try:
        Session(model, file).open()
    except SubjectError as error:
        single = in_float32(model)
        if single is model:
            raise SubjectError(f"{error}" + (f" Also, {remark}." if objected else "")) from None
        Session(single, file).open()
        names = " and ".join(sorted(dtypes(model)))
        return single, (*notes, f"onnxruntime has no {names} form of its operators: it is computed in float32")
    return model, notes


def _check_preprocess(request: ModelRequest, port: Port, file: str) -> None:
    _, steps = parse_option(request.preprocess)
    moved = any(value != 0 for value in steps.mean or ()) or any(value != 1 for value in steps.std or ())
    if port.dtype == "uint8" and moved:
        raise UsageError(
            f"Expected no mean and std for {file}, whose input {port} takes whole numbers from 0 to 255, got "
            f"--preprocess {request.preprocess}. Leave them out: pixels are multiplied by 255."
        )


def _sizes(layout: Layout, request: ModelRequest, native: Shape | None) -> Sequence[tuple[int, int]]:
    """Sizes of images to try the graph with, the likeliest first."""
    if layout.size is not None:
        return (layout.size,)
    _, steps = parse_option(request.preprocess)
    side = steps.crop or steps.resize
    stated = (side, side) if isinstance(side, int) else side
    if stated is not None or native is not None:
        return (stated or (native or (0, 0, 0))[1:],)
    return tuple((side, side) for side in GUESSED_SIDES)


def _trial(
    model: OnnxModel, layout: Layout, sizes: Sequence[tuple[int, int]], wishes: Wishes, file: str
) -> tuple[Shape, str]:
    """Runs the graph once, for the size of an image that it takes and the name of the output with the scores."""
    session = Session(model, file)
    batch = layout.batch or 1
    for place, size in enumerate(sizes):
        shape = (layout.channels, *size)
        _check_input(batch, shape, file)
        images = layout.arranged(torch.full((batch, *shape), 0.5)).numpy()
        try:
            results = session.run(images[0] if layout.batch == NO_BATCH else images)
        except SubjectError:
            if place + 1 < len(sizes):
                continue
            raise
        return shape, _scores_output(results, layout, wishes, file)
    raise AssertionError("there is always a size to try")


def _check_input(batch: int, shape: Shape, file: str) -> None:
    """An input that fits the memory; a graph can state any sizes."""
    image = math.prod(shape)
    if image > MOST_OF_AN_IMAGE or batch * image > MOST_OF_AN_INPUT:
        raise SubjectError(
            f"Expected an input of at most {MOST_OF_AN_INPUT:,} numbers, {MOST_OF_AN_IMAGE:,} an image, in {file}, got "
            f"{batch} images of {'x'.join(map(str, shape))}. Export it again for fewer or smaller images."
        )


def _scores_output(results: dict[str, Any], layout: Layout, wishes: Wishes, file: str) -> str:
    """The output that is asked for, or the only one with a row of scores an image."""
    described = ", ".join(f"{shown(name)} {list(np.shape(value))}" for name, value in results.items())
    if wishes.output is not None and wishes.output not in results:
        raise UsageError(
            f"Expected ?output= to name an output of {file} ({described}), got {wishes.output}. Correct it."
        )
    fewest = 1 if len(results) == 1 else 2
    fit = [name for name, value in results.items() if _classes(value, layout) >= fewest]
    wanted = [wishes.output] if wishes.output is not None else fit
    if not set(wanted) & set(fit):
        maps = any(isinstance(value, list) and value and isinstance(value[0], dict) for value in results.values())
        advice = (
            "with zipmap=False, which gives scores as rows and not as a map of every image"
            if maps
            else ("with its scores as an output")
        )
        raise SubjectError(
            f"Expected an output of one row of scores an image in {file}, got {described}. Export the classifier "
            f"{advice}."
        )
    if len(wanted) > 1:
        raise UsageError(
            f"Expected one output with scores in {file}, got several that could be: {described}. Choose one with "
            f"?output=NAME, such as ?output={shown(wanted[0])}."
        )
    return wanted[0]


def _classes(value: Any, layout: Layout) -> int:
    """Scores an image, or 0 where the value is no row of scores an image."""
    batch = layout.batch or 1
    if not isinstance(value, np.ndarray) or not np.issubdtype(value.dtype, np.floating):
        return 0
    if layout.batch != NO_BATCH and (not value.ndim or len(value) != batch):
        return 0
    classes = value.size // batch
    return classes if classes in value.shape else 0
