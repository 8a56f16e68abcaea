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
import torch.nn.functional as F
from torch import Tensor

from stn_helpers.transforms import pixel_centers

__all__ = [
    "FARTHEST",
    "FIELD",
    "Field",
    "cloud_envelope",
    "field_theta",
    "motion_clouds",
    "noisy_field",
    "polar_shift",
    "random_field",
]

FIELD = 128
"""Pixels of the field's side."""
FARTHEST = 40.0
"""Greatest eccentricity of a digit, in pixels from the middle of the field."""
TEXTURE_CONTRAST = 0.75
AT_ONCE = 8  # images that random_field works on at a time: few enough to stay in the processor's cache


class Field(NamedTuple):
    """A batch of noisy fields and how each came about."""

    images: Tensor
    """B×1×S×S, floating, in [0, 1]."""
    shift: Tensor
    """B×2 int64, how far the digit lies from the middle, (x, y) in pixels, x right and y down."""
    contrast: Tensor
    """The contrast of each digit, B in (0, 1]."""


@lru_cache(maxsize=8)
def cloud_envelope(size: int = FIELD, device: torch.device | str = "cpu") -> Tensor:
    """Amplitude of every frequency of a motion cloud: (1/f)·exp(−½ ln²(f/f₀) / ln²((f₀ + B)/f₀)), f₀ = B = 0.1.

    Frequencies f are in cycles per pixel, alike in every orientation. Radial envelope of Sanz-Leon et al. (2012), as
    their package MotionClouds has it.

    Args:
        size: pixels of the image's side, even.
        device: where the tensor is to be.

    Returns:
        size×(size // 2 + 1) float32, in the order of ``torch.fft.rfft2``; 0 at f = 0. It is kept for the next call, so do
        not write to it.

    Raises:
        ValueError: ``size`` is odd or below 2.
    """
    if size < 2 or size % 2:
        raise ValueError(f"size: wanted an even number of pixels from 2 up, got {size}")
    with torch.inference_mode(False):  # the one kept must serve outside of inference mode as well
        frequency = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size))
        centre, bandwidth = 0.1, 0.1
        width = math.log((centre + bandwidth) / centre)
        envelope = torch.exp(-0.5 * (torch.log(frequency / centre) / width) ** 2) / frequency
        envelope[0, 0] = 0.0  # no mean
        return envelope.to(device)


def motion_clouds(count: int, size: int = FIELD, device: torch.device | str = "cpu") -> Tensor:
    """Band-passed noise: random phases under `cloud_envelope`, brought back from the Fourier plane and scaled.

    Args:
        count: how many textures.
        size: pixels of their side, even.
        device: where to make them.

    Returns:
        count×1×size×size float32; each texture has mean 0 and its largest absolute value is 1. Draws from torch's
        random numbers.

    Raises:
        ValueError: ``count`` is below 1, ``size`` is odd or below 2.
    """
    if count < 1:
        raise ValueError(f"count: wanted at least 1 texture, got {count}")
    envelope = cloud_envelope(size, device)
    texture = torch.fft.irfft2(_random_phasors(count, size, device).mul_(envelope), s=(size, size))[:, None]
    return texture.div_(torch.maximum(_highest(texture), -_lowest(texture)))


def _random_phasors(count: int, size: int, device: torch.device | str) -> Tensor:
    """exp(iφ), φ even on the circle, for each frequency of `cloud_envelope`: count×size×(size // 2 + 1) complex64."""
    # A byte is a phase, and eight bytes are drawn at a time. With 256 evenly spaced phases every moment of the pixels
    # below the 256th is what it is with the whole circle.
    half, frequencies = size // 2, count * size * (size // 2 + 1)
    drawn = torch.randint(-(2**63), 2**63 - 1, (math.ceil(frequencies / 8),), device=device).view(torch.uint8)
    phase = drawn[:frequencies].view(count, size, half + 1)
    # Frequencies along the edges of the half plane have their mirror images there too, with the opposite phase.
    phase[:, half + 1 :, ::half] = -phase[:, 1:half, ::half].flip(1)
    return _unit_circle(device).index_select(0, phase.int().flatten()).view(phase.shape)


def polar_shift(eccentricity: Tensor, angle: Tensor) -> Tensor:
    """How far right and down a digit lies that is so far from the middle, in that direction.

    Args:
        eccentricity: B distances from the middle of the field, in pixels.
        angle: B angles in radians, 0 to the right, π/2 down.

    Returns:
        B×2 int64 (x, y), truncated towards zero to whole pixels.

    Raises:
        ValueError: the two are not B numbers each.
    """
    if eccentricity.dim() != 1 or eccentricity.shape != angle.shape:
        shapes = f"{tuple(eccentricity.shape)} and {tuple(angle.shape)}"
        raise ValueError(f"eccentricity and angle: wanted B numbers each, got shapes {shapes}")
    return torch.stack([eccentricity * angle.cos(), eccentricity * angle.sin()], dim=1).trunc().long()


@torch.no_grad()
def noisy_field(digits: Tensor, shift: Tensor, contrast: Tensor | float, texture: Tensor) -> Tensor:
    """Lay each digit, at its contrast and its place, over its texture.

    The field is scaled to [-1, 1], multiplied by the contrast c and mapped back to [0, 1]; whatever is at or below 0.5
    is background. The texture has three quarters of the full contrast. The brighter of the two wins, pixel by pixel;
    then the darkest pixel becomes 0 and the brightest 1, and outside the inscribed circle the field is 0.5.

    Args:
        digits: B×1×h×w, floating, in [0, 1].
        shift: B×2 int64, from the middle of the field to the digit's, (x, y) in pixels, x right and y down.
        contrast: B numbers or one, in (0, 1].
        texture: B×1×S×S in [-1, 1], of the digits' dtype, such as `motion_clouds` makes.

    Returns:
        B×1×S×S in [0, 1], of the digits' dtype; no gradient flows through it.

    Raises:
        ValueError: a digit larger than the field or shifted out of it, a contrast outside (0, 1], a field that is not
            square, values out of range, or shapes and dtypes that do not fit.
    """
    batch = _check_digits(digits)
    if texture.dim() != 4 or texture.shape[:2] != (batch, 1) or texture.shape[2] != texture.shape[3]:
        raise ValueError(f"texture: wanted a square field {batch}×1×S×S, got shape {tuple(texture.shape)}")
    if texture.dtype != digits.dtype:
        raise ValueError(f"texture: wanted the dtype of the digits, {digits.dtype}, got {texture.dtype}")
    _check_range("texture", texture, -1, 1)
    contrast = _check_contrast(contrast, digits)
    pixels = _pixels(digits, shift, texture.shape[-1])
    return _compose(_ink(digits, contrast), pixels, texture, texture.new_empty(texture.shape))


@torch.no_grad()
def random_field(
    digits: Tensor,
    contrast: tuple[float, float] = (0.3, 0.7),
    spread: float = FARTHEST,
    faint: float = 1.0,
    size: int = FIELD,
) -> Field:
    """Give each digit a texture, a contrast and a place of its own: a batch of training images.

    The angle is drawn evenly, the eccentricity as min(abs(N(0, ``spread``)), 40), the contrast evenly or, with
    ``faint`` above 1, more often low than high: low + (high − low)·u^faint, u even in [0, 1).

    Args:
        digits: B×1×h×w, floating, in [0, 1].
        contrast: lowest and highest contrast, in (0, 1].
        spread: σ of the eccentricity, in pixels; 0 leaves every digit in the middle.
        faint: how much more often faint digits come than others.
        size: pixels of the field's side, even.

    Returns:
        The images B×1×size×size, and where each digit lies at which contrast. Draws from torch's random numbers.

    Raises:
        ValueError: ``spread`` is negative or not finite, ``faint`` not above 0, ``contrast`` not a lowest and a highest
            in (0, 1], or as for `noisy_field`.
    """
    batch, device = _check_digits(digits), digits.device
    if not 0 <= spread < math.inf:
        raise ValueError(f"spread: wanted a finite number of pixels from 0 up, got {spread}")
    if not 0 < faint < math.inf:
        raise ValueError(f"faint: wanted a number above 0, got {faint}")
    low, high = contrast
    if not 0 < low <= high <= 1:
        raise ValueError(f"contrast: wanted a lowest and a highest in (0, 1], got {contrast}")

    eccentricity = (spread * torch.randn(batch, device=device)).abs().clamp(max=FARTHEST)
    shift = polar_shift(eccentricity, 2 * math.pi * torch.rand(batch, device=device))
    strength = low + (high - low) * torch.rand(batch, dtype=digits.dtype, device=device) ** faint
    ink, pixels = _ink(digits, strength), _pixels(digits, shift, size)

    images = digits.new_empty(batch, 1, size, size)
    for start in range(0, batch, AT_ONCE):
        part = slice(start, start + AT_ONCE)
        texture = motion_clouds(len(ink[part]), size, device).to(digits.dtype)
        _compose(ink[part], pixels[part], texture, out=images[part])
    return Field(images, shift, strength)


def field_theta(shift: Tensor, digit: int = 28, size: int = FIELD) -> Tensor:
    """θ of the family `Attention` that looks straight at a digit: s = digit/size, (tx, ty) the digit's middle.

    Args:
        shift: B×2 (x, y) in pixels from the middle of the field.
        digit: pixels of the digit's side.
        size: pixels of the field's side.

    Returns:
        B×3 float32 (s, tx, ty). With an output of digit×digit pixels, every sampling point is the centre of a pixel.

    Raises:
        ValueError: ``shift`` is not B×2.
    """
    if shift.dim() != 2 or shift.shape[1] != 2:
        raise ValueError(f"shift: wanted B×2 (x, y), got shape {tuple(shift.shape)}")
    corner = shift + (size - digit) // 2
    middle = (2 * corner + digit).float() / size - 1
    return torch.cat([torch.full_like(middle[:, :1], digit / size), middle], dim=1)


def _ink(digits: Tensor, contrast: Tensor) -> Tensor:
    """Each digit at its contrast, B×(h·w); its background is 0."""
    return F.threshold((digits.flatten(1) - 0.5) * contrast[:, None] + 0.5, 0.5, 0.0)


def _compose(ink: Tensor, pixels: Tensor, texture: Tensor, out: Tensor) -> Tensor:
    """The brighter of texture and ink wins, then the field is stretched to [0, 1] and masked; written to ``out``."""
    field = torch.mul(texture, TEXTURE_CONTRAST / 2, out=out).add_(0.5)
    field.view(len(ink), -1).scatter_reduce_(1, pixels, ink, "amax")
    field.sub_(_lowest(field))
    field.div_(_highest(field).clamp_(min=torch.finfo(field.dtype).tiny))  # a flat field becomes 0, not NaN
    inside = _inside(texture.shape[-1], field.dtype, field.device)
    return field.mul_(inside).add_((1 - inside) / 2)


def _lowest(images: Tensor) -> Tensor:
    # amin and amax are each thirty times as fast as aminmax, which does not vectorise along a dimension.
    return images.amin(dim=(1, 2, 3), keepdim=True)


def _highest(images: Tensor) -> Tensor:
    return images.amax(dim=(1, 2, 3), keepdim=True)


@lru_cache(maxsize=8)
def _unit_circle(device: torch.device | str) -> Tensor:
    """256 evenly spaced points of the unit circle, complex64."""
    return torch.polar(torch.ones(256), torch.arange(256) * (2 * math.pi / 256)).to(device)


@lru_cache(maxsize=8)
def _inside(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """size×size: 1 where a pixel's centre is in the inscribed circle, 0 outside."""
    centre = pixel_centers(size)
    return (torch.hypot(centre[:, None], centre) <= 1).to(device, dtype)


def _check_digits(digits: Tensor) -> int:
    if digits.dim() != 4 or digits.shape[1] != 1 or digits.numel() == 0 or not digits.is_floating_point():
        raise ValueError(f"digits: wanted floating B×1×h×w with B above 0, got {digits.dtype} {tuple(digits.shape)}")
    _check_range("digits", digits, 0, 1)
    return len(digits)


def _check_range(name: str, value: Tensor, lowest: float, highest: float) -> None:
    low, high = value.amin().item(), value.amax().item()
    if not (lowest <= low and high <= highest):  # also where one is NaN
        raise ValueError(f"{name}: wanted values in [{lowest}, {highest}], got {low:g} to {high:g}")


def _check_contrast(contrast: Tensor | float, digits: Tensor) -> Tensor:
    """The contrast of each digit, B of the digits' dtype."""
    contrast = torch.as_tensor(contrast, dtype=digits.dtype, device=digits.device)
    if contrast.shape not in ((), digits.shape[:1]):
        raise ValueError(f"contrast: wanted one number or {len(digits)}, got shape {tuple(contrast.shape)}")
    if not ((contrast > 0) & (contrast <= 1)).all():
        raise ValueError(f"contrast: wanted numbers in (0, 1], got {contrast.min():g} to {contrast.max():g}")
    return contrast.expand(len(digits))


def _pixels(digits: Tensor, shift: Tensor, size: int) -> Tensor:
    """Which pixels of its field, counted row by row, each digit covers: B×(h·w)."""
    batch, _, height, width = digits.shape
    if max(height, width) > size:
        raise ValueError(f"digits: {height}×{width} pixels are larger than the field of {size}×{size}")
    if shift.shape != (batch, 2) or shift.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"shift: wanted whole numbers {batch}×2 (x, y), got {shift.dtype} {tuple(shift.shape)}")
    across, down = (torch.arange(n, device=shift.device) for n in (width, height))
    room = torch.tensor([size - width, size - height], device=shift.device)
    corner = room // 2 + shift
    leaves = ((corner < 0) | (corner > room)).any(dim=1)
    if leaves.any():
        first = int(leaves.nonzero()[0])
        x, y = shift[first].tolist()
        raise ValueError(f"shift: ({x}, {y}) takes digit {first} out of the field of {size}×{size} pixels")
    left, top = corner.T[..., None]
    return top * size + left + (down[:, None] * size + across).flatten()
