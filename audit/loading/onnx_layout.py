"""How an image lies in the input of an ONNX graph."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from audit.adapters.onnx import Port
from audit.errors import SubjectError, UsageError
from audit.loading.preprocess_choice import Shape

DTYPES = ("float32", "float16", "float64", "uint8")
CHANNELS = (1, 3)
NO_BATCH = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """From images (n, c, h, w) to what the graph takes.

    Attributes:
        channels: 1 or 3.
        size: (height, width) where the graph or the user fixes it, else None.
        last: whether channels come last.
        dims: sizes after the batch that images are brought to, or None where they have them already.
        batch: images that go in at once: a number where the graph fixes it, `NO_BATCH` where it takes one image
            without a batch dimension, None where any number will do.
    """

    channels: int
    size: tuple[int, int] | None
    last: bool = False
    dims: tuple[int, ...] | None = None
    batch: int | None = None

    @property
    def shape(self) -> Shape | None:
        """(c, h, w) where fixed."""
        return None if self.size is None else (self.channels, *self.size)

    def arranged(self, images: Tensor) -> Tensor:
        """Images (n, c, h, w) as the graph takes them, a batch dimension first."""
        images = images.permute(0, 2, 3, 1) if self.last else images
        return images if self.dims is None else images.reshape(len(images), *self.dims)

    def __str__(self) -> str:
        order = "(height, width, channels)" if self.last else "(channels, height, width)"
        if self.dims is None:
            return f"images as {order}"
        return f"images of {order} flattened to {'x'.join(map(str, self.dims))}"


def find_layout(port: Port, stated: Shape | None, native: Shape | None, file: str) -> Layout:
    """The layout of the graph's input.

    Args:
        port: the input.
        stated: (c, h, w) by the user, or None.
        native: (c, h, w) of the data's images, used where the input does not say what an image is.
        file: for messages.

    Raises:
        UsageError: when what is stated does not fit, or something must be stated.
        SubjectError: when the input takes no images.
    """
    if port.dtype not in DTYPES:
        raise SubjectError(
            f"Expected an input of {', '.join(DTYPES[:-1])} or uint8 in {file}, got {port}. Export the network so "
            "that it takes images."
        )
    if port.shape is None:
        raise SubjectError(f"Expected an input whose shape is written down in {file}, got {port}. Export it again.")
    known = stated or native
    if _is_single(port.shape, known):
        layout = _of_sizes(tuple(size or 0 for size in port.shape), port, known, file, NO_BATCH)
    elif len(port.shape) < 2 or _may_be_single(port.shape, known):
        raise _ask(port, known, file)
    else:
        rest, batch = port.shape[1:], port.shape[0]
        sizes = tuple(size or 0 for size in rest)
        if None in rest:
            layout = _with_free_sizes(port, stated, known, batch, file)
        else:
            layout = _of_sizes(sizes, port, known, file, batch)
    if stated is not None and layout.shape != stated:
        raise UsageError(f"Expected ?input= to agree with the graph's input {port}, got {_text(stated)}. Correct it.")
    return layout


def _is_single(shape: tuple[int | None, ...], known: Shape | None) -> bool:
    """Whether the input is one image without a batch dimension."""
    if known is None or None in shape or not shape:
        return False
    sizes = [size or 0 for size in shape]
    return math.prod(sizes) == math.prod(known) != math.prod(sizes[1:])


def _may_be_single(shape: tuple[int | None, ...], known: Shape | None) -> bool:
    """Whether (3, h, w) may be one colour image, so that taking it for three grey ones would be a guess."""
    sizes = [size or 0 for size in shape[1:]]
    return len(shape) == 3 and shape[0] == 3 and (known is None or math.prod(sizes) != math.prod(known))


def _of_sizes(sizes: tuple[int, ...], port: Port, known: Shape | None, file: str, batch: int | None) -> Layout:
    """All sizes are fixed."""
    core = sizes if len(sizes) <= 3 else tuple(size for size in sizes if size != 1)
    dims = None if len(sizes) == 3 else sizes
    for channels, height, width, last in _forms(core, known):
        if min(height, width) > 1:
            return Layout(channels, (height, width), last, dims, batch)
    if known is None or math.prod(known) != math.prod(sizes):
        raise _ask(port, known, file)
    channels, height, width = known
    last = channels > 1 and sizes[-1] == channels and sizes[0] != channels
    return Layout(channels, (height, width), last, sizes, batch)


def _forms(core: tuple[int, ...], known: Shape | None) -> list[tuple[int, int, int, bool]]:
    """What sizes can mean, the likeliest first: (c, h, w, channels last)."""
    if len(core) == 3:
        first = [(*core, False)] if core[0] in CHANNELS else []
        last = [(core[2], core[0], core[1], True)] if core[2] in CHANNELS else []
        return [*last, *first] if last and known == last[0][:3] else [*first, *last]
    if len(core) == 2:
        flattened = known is not None and known[0] > 1 and math.prod(known) == math.prod(core)
        return [] if flattened or 3 in core else [(1, *core, False)]
    return []


def _with_free_sizes(port: Port, stated: Shape | None, known: Shape | None, batch: int | None, file: str) -> Layout:
    """Some sizes after the batch are free."""
    shape = port.shape or ()
    if len(shape) != 4:
        if known is None:
            raise _ask(port, known, file)
        filled = _filled(shape[1:], known)
        if filled is None:
            raise _ask(port, known, file)
        return _of_sizes(filled, port, known, file, batch)
    last = shape[3] in CHANNELS and shape[1] not in CHANNELS
    channels = shape[3] if last else shape[1] or (known[0] if known else None)
    height, width = shape[1:3] if last else shape[2:4]
    if channels not in CHANNELS:
        raise _ask(port, known, file)
    size = (height, width) if height is not None and width is not None else stated[1:] if stated else None
    return Layout(int(channels), size, last, None, batch)


def _filled(rest: tuple[int | None, ...], known: Shape) -> tuple[int, ...] | None:
    """Free sizes of a flat or grey input, as the known shape says."""
    if len(rest) == 1:
        return (math.prod(known),)
    if len(rest) == 2 and known[0] == 1:
        wanted = known[1:]
        return wanted if all(a in (None, b) for a, b in zip(rest, wanted, strict=True)) else None
    return None


def _ask(port: Port, known: Shape | None, file: str) -> UsageError:
    got = "" if known is None else f" and images of {_text(known)}"
    return UsageError(
        f"Expected an input of {file} that says what an image of 1 or 3 channels is, got {port}{got}. "
        "Say it with ?input=CxHxW after the file, such as ?input=1x28x28."
    )


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))
