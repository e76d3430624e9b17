"""Pixels to image files."""

import io

import numpy as np
import torch
from PIL import Image


def encode_png(pixels: torch.Tensor) -> bytes:
    """A PNG of one image.

    Args:
        pixels: (c, h, w) in [0, 1] with one or three channels; values outside are clipped, for display only.
    """
    array = (pixels.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    picture = Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def enlarged(pixels: torch.Tensor, width: int) -> torch.Tensor:
    """One image (c, h, w), each pixel repeated as often as the image fits into the width, at least once."""
    times = max(1, width // pixels.shape[-1])
    return pixels.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)
