"""Small digits in a large noisy field: the images of the attention chapter, whole batches at a time.

The task of "Getting the attention of your spatial transformer": a 28×28 digit lies somewhere in a 128×128 field of
band-passed noise, at a contrast of its own. `random_field` makes training images on the fly, `noisy_field` makes any
one that you name.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from stn_helpers.transforms import pixel_centers

__all__ = ["FIELD", "Field", "cloud_envelope", "field_theta", "motion_clouds", "noisy_field", "polar_shift", "random_field"]

FIELD = 128
"""Pixels of the field's side."""
FARTHEST = 40.0
"""Greatest eccentricity of a digit, in pixels from the middle of the field."""


class Field(NamedTuple):
    """A batch of noisy fields and how each came about."""

    images: Tensor
    """B×1×S×S, floating, in [0, 1]."""
    shift: Tensor
    """B×2 int64: how far the digit lies from the middle, (x, y) in pixels, x right and y down."""
    contrast: Tensor
    """B: contrast of each digit, in (0, 1]."""


@lru_cache(maxsize=8)
def cloud_envelope(size: int = FIELD, device: torch.device | str = "cpu") -> Tensor:
    """Amplitude of every frequency of a motion cloud: (1/f)·exp(−½ ln²(f/f₀) / ln²((f₀ + B)/f₀)), f₀ = B = 0.1.

    Frequencies f are in cycles per pixel, alike in every orientation. Radial envelope of Sanz-Leon et al. (2012), as
    their package MotionClouds has it.

    Args:
        size: pixels of the image's side.
        device: where the tensor is to be.

    Returns:
        size×(size // 2 + 1) float32, in the order of `torch.fft.rfft2`; 0 at f = 0. It is kept for the next call: do
        not write to it.
    """
    frequency = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size))
    centre, bandwidth = 0.1, 0.1
    width = math.log((centre + bandwidth) / centre)
    envelope = torch.exp(-0.5 * (torch.log(frequency / centre) / width) ** 2) / frequency
    envelope[0, 0] = 0.0  # the mean of the texture
    return envelope.to(device)


def motion_clouds(count: int, size: int = FIELD, device: torch.device | str = "cpu") -> Tensor:
    """Band-passed noise: random phases under `cloud_envelope`, brought back from the Fourier plane, scaled by Michelson.

    Args:
        count: how many textures.
        size: pixels of their side.
        device: where to make them.

    Returns:
        count×1×size×size float32; each texture has mean 0 and its largest absolute value is 1. Draws from torch's
        random numbers.

    Raises:
        ValueError: ``count`` or ``size`` is below 1.
    """
    if count < 1 or size < 1:
        raise ValueError(f"count and size: wanted at least 1 each, got {count} and {size}")
    phase = torch.rand(count, size, size // 2 + 1, device=device).mul_(2 * math.pi)
    texture = torch.fft.irfft2(torch.polar(cloud_envelope(size, device).expand_as(phase), phase), s=(size, size))
    low, high = texture.flatten(1).aminmax(dim=1)
    return texture.div_(torch.maximum(high, -low)[:, None, None])[:, None]


def polar_shift(eccentricity: Tensor, angle: Tensor) -> Tensor:
    """Eccentricity in pixels and angle in radians, B each → B×2 int64 shift (x, y), truncated to whole pixels."""
    return torch.stack([eccentricity * angle.cos(), eccentricity * angle.sin()], dim=1).trunc().long()


def noisy_field(digits: Tensor, shift: Tensor, contrast: Tensor | float, texture: Tensor) -> Tensor:
    """Lay each digit, at its contrast and its place, over its texture.

    The field is scaled to [-1, 1], multiplied by the contrast c and mapped back to [0, 1]; whatever is at or below 0.5
    is background. The texture has three quarters of the full contrast. The brighter of the two wins, pixel by pixel;
    then the darkest pixel becomes 0 and the brightest 1, and outside the inscribed circle the field is 0.5.

    Args:
        digits: B×1×h×w, floating, in [0, 1].
        shift: B×2, whole numbers: of the digit from the middle of the field, (x, y) in pixels, x right and y down.
        contrast: B numbers or one, in (0, 1].
        texture: B×1×S×S in [-1, 1], such as `motion_clouds` makes.

    Returns:
        B×1×S×S in [0, 1].

    Raises:
        ValueError: a digit larger than the field or shifted out of it, a contrast outside (0, 1], a field that is not
            square, or shapes that do not fit each other.
    """
    batch, _, height, width = _check_digits(digits)
    if texture.dim() != 4 or texture.shape[:2] != (batch, 1) or texture.shape[2] != texture.shape[3]:
        raise ValueError(f"texture: wanted a square field {batch}×1×S×S, got shape {tuple(texture.shape)}")
    contrast = torch.as_tensor(contrast, dtype=digits.dtype, device=digits.device).expand(batch)
    if not ((contrast > 0) & (contrast <= 1)).all():
        raise ValueError(f"contrast: wanted numbers in (0, 1], got {contrast.min():g} to {contrast.max():g}")
    left, top = _corners(digits, shift, texture.shape[-1])

    rows = (top[:, None] + torch.arange(height, device=digits.device))[:, :, None]
    columns = (left[:, None] + torch.arange(width, device=digits.device))[:, None, :]
    place = torch.arange(batch, device=digits.device)[:, None, None], 0, rows, columns
    field = texture * (0.75 / 2) + 0.5
    ink = (digits[:, 0] - 0.5) * contrast[:, None, None] + 0.5
    behind = field[place]
    field[place] = torch.where(ink > 0.5, torch.maximum(ink, behind), behind)
    low, high = field.flatten(1).aminmax(dim=1)
    field.sub_(low[:, None, None, None]).div_((high - low)[:, None, None, None])
    return field.masked_fill_(_outside(texture.shape[-1], digits.device), 0.5)


def random_field(
    digits: Tensor, contrast: tuple[float, float] = (0.3, 0.7), spread: float = FARTHEST, size: int = FIELD
) -> Field:
    """Give each digit a texture, a contrast and a place of its own: a batch of training images.

    The angle is drawn evenly, the eccentricity as min(abs(N(0, ``spread``)), 40), the contrast evenly.

    Args:
        digits: B×1×h×w, floating, in [0, 1].
        contrast: lowest and highest contrast, in (0, 1].
        spread: σ of the eccentricity, in pixels; 0 leaves every digit in the middle.
        size: pixels of the field's side.

    Returns:
        The images B×1×size×size, and where each digit lies at which contrast. Draws from torch's random numbers.

    Raises:
        ValueError: as for `noisy_field`.
    """
    batch, device = len(digits), digits.device
    eccentricity = (spread * torch.randn(batch, device=device)).abs().clamp(max=FARTHEST)
    shift = polar_shift(eccentricity, 2 * math.pi * torch.rand(batch, device=device))
    low, high = contrast
    strength = low + (high - low) * torch.rand(batch, device=device)
    return Field(noisy_field(digits, shift, strength, motion_clouds(batch, size, device)), shift, strength)


def field_theta(shift: Tensor, digit: int = 28, size: int = FIELD) -> Tensor:
    """θ of the family `Attention` that looks straight at a digit: s = digit/size, (tx, ty) = 2·shift/size.

    Args:
        shift: B×2 (x, y) in pixels from the middle of the field.
        digit: pixels of the digit's side.
        size: pixels of the field's side.

    Returns:
        B×3 float32 (s, tx, ty). With an output of digit×digit pixels, every sampling point is the centre of a pixel.
    """
    centre = 2 * shift.float() / size
    return torch.cat([torch.full_like(centre[:, :1], digit / size), centre], dim=1)


def _check_digits(digits: Tensor) -> torch.Size:
    if digits.dim() != 4 or digits.shape[1] != 1 or len(digits) == 0 or not digits.is_floating_point():
        raise ValueError(f"digits: wanted floating B×1×h×w with B above 0, got {digits.dtype} {tuple(digits.shape)}")
    return digits.shape


def _corners(digits: Tensor, shift: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Left column and top row of every digit in its field."""
    batch, _, height, width = digits.shape
    if max(height, width) > size:
        raise ValueError(f"digits: {height}×{width} pixels are larger than the field of {size}×{size}")
    if shift.shape != (batch, 2) or shift.is_floating_point():
        raise ValueError(f"shift: wanted whole numbers {batch}×2 (x, y), got {shift.dtype} {tuple(shift.shape)}")
    left, top = (size - width) // 2 + shift[:, 0], (size - height) // 2 + shift[:, 1]
    leaves = (left < 0) | (left + width > size) | (top < 0) | (top + height > size)
    if leaves.any():
        first = int(leaves.nonzero()[0])
        raise ValueError(
            f"shift: {shift[first].tolist()} takes digit {first} out of the field; wanted at most "
            f"{(size - width) // 2} pixels in x and {(size - height) // 2} in y"
        )
    return left, top


@lru_cache(maxsize=8)
def _outside(size: int, device: torch.device | str) -> Tensor:
    """size×size bool: the pixels whose centre is outside the inscribed circle."""
    centre = pixel_centers(size, device=device)
    return torch.hypot(centre[:, None], centre) > 1
