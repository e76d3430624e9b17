"""Images of no data at all, with the statistics of natural ones: what a model can be asked where no images are given.

Half are dead leaves (shapes of all sizes that hide one another), the others noise of a 1/f spectrum, or both mixed.
Noise that a search bends towards a class would not do: the model is so sure of it that hardly any trigger turns it.

Source: Lee, Mumford & Huang 2001, Occlusion models for natural images, IJCV 41; Baradad et al. 2021, Learning to See by
Looking at Noise, arXiv 2106.05963.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

MOST_LEAVES = 40
SMALLEST_LEAF, LARGEST_LEAF = 0.04, 0.34
"""Radius, of the image's side."""
ROUND = 0.6
"""Share of the leaves that are ellipses; others are rectangles."""
COMMON = 0.6
"""Share of a leaf's colour that all channels have in common; of the noise's power, `COMMON_NOISE`."""
COMMON_NOISE = 0.8


def pictures(count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Images (count, c, h, w) in [0, 1], of a shape (c, h, w)."""
    leaves = _leaves(count, shape, generator)
    noise = torch.cat([_noise(count - count // 2, shape, 1.0, generator), _noise(count // 2, shape, 1.5, generator)])
    kind = torch.rand((count, 1, 1, 1), generator=generator)
    mixed = 0.6 * leaves + 0.4 * noise
    found = torch.where(kind < 1 / 2, leaves, torch.where(kind < 5 / 6, noise, mixed))
    soft = avg_pool2d(pad(found, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.where(torch.rand((count, 1, 1, 1), generator=generator) < 1 / 2, soft, found).clamp(0, 1)


def _colours(count: int, channels: int, generator: torch.Generator) -> Tensor:
    """Colours (count, c, 1, 1) in [0, 1]; one channel has no others to share a level with."""
    common = COMMON if channels > 1 else 0.0
    own = torch.rand((count, channels, 1, 1), generator=generator)
    return common * torch.rand((count, 1, 1, 1), generator=generator) + (1 - common) * own


def _leaves(count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    channels, height, width = shape
    side = min(height, width)
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5
    images = _colours(count, channels, generator).expand(count, *shape).clone()
    wanted = torch.randint(1, MOST_LEAVES, (count, 1, 1), generator=generator)
    for turn in range(MOST_LEAVES):
        draws = torch.rand((6, count, 1, 1), generator=generator)
        tall = side * (SMALLEST_LEAF + draws[0] ** 2 * (LARGEST_LEAF - SMALLEST_LEAF))
        wide = tall * (0.5 + draws[1])
        away = (rows - draws[2] * height).abs() / tall, (columns - draws[3] * width).abs() / wide
        inside = torch.where(draws[4] < ROUND, away[0] ** 2 + away[1] ** 2 < 1, (away[0] < 1) & (away[1] < 1))
        drawn = (inside & (turn < wanted))[:, None]
        images = torch.where(drawn, _colours(count, channels, generator), images)
    return images


def _noise(count: int, shape: tuple[int, ...], slope: float, generator: torch.Generator) -> Tensor:
    """With an amplitude that falls as frequency to the power of the slope; each image with its own level."""
    channels = shape[0]
    common = COMMON_NOISE if channels > 1 else 0.0
    found = (1 - common) ** 0.5 * _filtered(count, shape, slope, generator)
    found = found + common**0.5 * _filtered(count, (1, *shape[1:]), slope, generator)
    level = 0.3 + 0.4 * torch.rand((count, 1, 1, 1), generator=generator)
    contrast = 0.1 + 0.15 * torch.rand((count, 1, 1, 1), generator=generator)
    levelled: Tensor = (level + contrast * found).clamp(0, 1)
    return levelled


def _filtered(count: int, shape: tuple[int, ...], slope: float, generator: torch.Generator) -> Tensor:
    """Noise of mean 0 and spread 1 over an image."""
    _, height, width = shape
    frequency = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width)[None] ** 2).sqrt()
    frequency[0, 0] = 1.0
    spectrum = torch.fft.rfft2(torch.randn((count, *shape), generator=generator)) / frequency**slope
    found: Tensor = torch.fft.irfft2(spectrum, s=(height, width))
    centred = found - found.mean(dim=(2, 3), keepdim=True)
    spread = centred.square().mean(dim=(2, 3), keepdim=True).sqrt()
    scaled: Tensor = centred / spread.clamp_min(1e-6)
    return scaled
