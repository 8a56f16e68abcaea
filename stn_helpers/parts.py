"""Creatures told apart by two small parts that lie far from each other, and the nets that watch the parts.

They stand in for the birds of Jaderberg et al. 2015, section 4.3, whose species shows in details of head and body: several
transformers in parallel each crop a window of fixed scale, and training decides what each of them watches. A creature has a
bright digit for a head and a dark one for a tail, and looks to the left, more or less; head and tail together are its
species.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_helpers.addition import draw_pairs
from stn_helpers.backbones import SMALL_FEATURES, small_features
from stn_helpers.data import Digits
from stn_helpers.localization import SHARPNESS, SoftArgmax, convolution
from stn_helpers.networks import Standardize
from stn_helpers.noisy_field import motion_clouds
from stn_helpers.spatial_transformer import ParallelSpatialTransformer
from stn_helpers.transforms import Window, pixel_centers

__all__ = [
    "KINDS",
    "MODELS",
    "PART",
    "SCALE",
    "SIDE",
    "CreatureImages",
    "Creatures",
    "PartsLocalization",
    "PartsNet",
    "creatures",
    "draw_creatures",
    "part_digits",
    "parts_net",
    "random_creatures",
    "tiling",
]

SIDE = 128
"""Pixels of the side of an image."""
PART = 16
"""Pixels of the side of a part."""
KINDS = 5
"""So many kinds of heads there are, and of tails, the digits 0 to 4, and KINDS² species. Who knows one part alone is right once
in five times."""
SCALE = 0.5
"""Side of a window as a share of the image's. It is fixed, and only the place is learnt."""
NEAREST, FARTHEST = 41.0, 48.0
"""Pixels from the middle of a creature to its parts, across or down, whichever is more. The parts are then so far from each
other that no window sees a pixel of both."""
ASIDE = 8.0
"""The middle of a creature lies at most so many pixels from the image's, across and down."""
TURN = math.pi / 3
"""A creature looks to the left, give or take so much. Where they looked in any direction, every window met heads as often as
tails, and all of them followed the same part."""
TEXTURE = 0.3
"""The background lies so far to each side of grey at most."""
TILT = 1.797
"""exp(TILT·x) has its mean at 0.5 in [-1, 1]."""
MODELS = ("cnn", "cnn_full", "1x", "2x", "4x")
"""A net that sees the whole image at half its resolution, one that sees all of it, and those with 1, 2 and 4 windows."""


# The images -------------------------------------------------------------------------------------------------------


class Creatures(NamedTuple):
    """A batch of creatures, and where their parts are."""

    images: Tensor
    """B×1×128×128 in [0, 1]."""
    places: Tensor
    """B×2×2: the middle of head and of tail, (x, y) in [-1, 1], ``align_corners=False``."""


def part_digits(digits: Digits) -> Digits:
    """The digits 0 to 4 alone, shrunk to 16×16 pixels.

    Args:
        digits: N×1×28×28 in [0, 1], with their labels.

    Returns:
        M×1×16×16 in [0, 1], labels M.
    """
    chosen = digits.labels < KINDS
    small = F.interpolate(digits.images[chosen], size=(PART, PART), mode="bilinear", antialias=True)
    return Digits(small, digits.labels[chosen])


def draw_creatures(parts: Digits, count: int, seed: int) -> Digits:
    """Which two parts make up each creature, and its species.

    Args:
        parts: M images and their labels, 0 to 4.
        count: how many creatures.
        seed: the same one gives the same creatures.

    Returns:
        Numbers of head and tail, count×2×1×1 int64, for `CreatureImages`, see `stn_helpers.addition.draw_pairs`; species
        5·head + tail, count int64, 0 to 24.
    """
    pairs = draw_pairs(len(parts.labels), count, seed)
    head, tail = parts.labels[pairs].flatten(1).unbind(1)
    return Digits(pairs, KINDS * head + tail)


class CreatureImages:
    """Turns numbers of heads and tails into images by `random_creatures`: an ``augment`` for `fit`.

    Args:
        parts: M×1×16×16 in [0, 1], what the numbers count.
    """

    def __init__(self, parts: Tensor) -> None:
        self.parts = parts

    def creatures(self, pairs: Tensor) -> Creatures:
        """B×2×1×1 numbers → images and places."""
        self.parts = self.parts.to(pairs.device)  # once
        return random_creatures(self.parts[pairs.flatten()].view(-1, 2, *self.parts.shape[2:]))

    def __call__(self, pairs: Tensor) -> Tensor:
        """B×2×1×1 numbers → B×1×128×128 in [0, 1]."""
        return self.creatures(pairs).images


def random_creatures(parts: Tensor) -> Creatures:
    """Give each creature a texture, a direction from tail to head, a length and a place, with torch's random numbers.

    Args:
        parts: B×2×16×16 in [0, 1], head and tail.
    """
    batch, device = len(parts), parts.device
    angle = math.pi + TURN * (2 * torch.rand(batch, device=device) - 1)
    ahead = torch.stack([angle.cos(), angle.sin()], dim=1)
    ahead = ahead / ahead.abs().amax(1, keepdim=True)  # on the square around the middle, not on the circle
    reach = NEAREST + (FARTHEST - NEAREST) * torch.rand(batch, 1, device=device)
    middle = ASIDE * (2 * torch.rand(batch, 2, device=device) - 1)
    centre = torch.stack([middle + reach * ahead, middle - reach * ahead], dim=1) + SIDE / 2
    corner = (centre - PART / 2).round().long()
    return creatures(parts, corner, motion_clouds(batch, SIDE, device))


def creatures(parts: Tensor, corner: Tensor, texture: Tensor) -> Creatures:
    """Lay a bright head and a dark tail over a texture.

    Args:
        parts: B×2×h×h in [0, 1], head and tail.
        corner: B×2×2 int64, the part's left and top pixel in the image: (x, y), x right and y down.
        texture: B×1×S×S in [-1, 1].

    Raises:
        ValueError: a part that does not lie within the image; shapes that do not fit.
    """
    batch, size = len(parts), texture.shape[-1]
    if parts.dim() != 4 or parts.shape[1] != 2 or corner.shape != (batch, 2, 2) or texture.shape != (batch, 1, size, size):
        shapes = ", ".join(str(tuple(value.shape)) for value in (parts, corner, texture))
        raise ValueError(f"parts, corner, texture: wanted B×2×h×h, B×2×2, B×1×S×S, got {shapes}")
    side = parts.shape[-1]
    if corner.min() < 0 or corner.max() > size - side:
        raise ValueError(f"corner: wanted 0 to {size - side}, got {int(corner.min())} to {int(corner.max())}")
    images = 0.5 + TEXTURE * texture.flatten(1)
    across = torch.arange(side, device=corner.device)
    pixels = corner[..., 1:] * size + corner[..., :1] + (across[:, None] * size + across).flatten()  # B×2×h²
    below = images.gather(1, pixels.flatten(1)).view_as(pixels)
    ink = images.new_tensor([1.0, 0.0]).view(1, 2, 1)  # a white head, a black tail
    laid = torch.lerp(below, ink, parts.flatten(2))
    images = images.scatter(1, pixels.flatten(1), laid.flatten(1))
    places = (2 * corner + side).to(images.dtype) / size - 1
    return Creatures(images.view(batch, 1, size, size), places)


# The nets ---------------------------------------------------------------------------------------------------------


def tiling(count: int) -> Tensor:
    """Middles of windows of half the image's side that lie beside each other: count×2, (x, y) in [-1, 1].

    Four cover the image, two a band in the middle of its height, one the middle.

    Raises:
        ValueError: ``count`` is none of 1, 2, 4.
    """
    if count not in (1, 2, 4):
        raise ValueError(f"count: wanted 1, 2 or 4 windows, got {count}")
    across = [[0.0]] if count == 1 else [[-0.5], [0.5]]
    return torch.tensor([[*x, y] for y in ((-0.5, 0.5) if count == 4 else (0.0,)) for x in across])


class PartsLocalization(nn.Module):
    """Where each of N windows should lie: one trunk for all, then a heat map for each, whose mean position is the answer.

    At first the heat maps are blind: exp(a·x + b·y), a and b such that the windows tile the image (`tiling`). These N pairs
    of numbers are parameters, and learn as the convolutions do, which add to the logarithm of the heat what they see.

    Args:
        count: N: 1, 2 or 4.
        channels: of the images.
        features: maps of each layer of the trunk.

    Raises:
        ValueError: ``count`` is none of those.
    """

    def __init__(self, count: int, channels: int = 1, features: int = 16) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            Standardize(0.5, 0.2),
            nn.AvgPool2d(2),
            *convolution(channels, features, 5, stride=2),
            *convolution(features, features, 3, stride=2),
            *convolution(features, features, 3),
        )
        self.heat = nn.Conv2d(features, count, kernel_size=3, padding=1)
        nn.init.zeros_(self.heat.weight)
        nn.init.zeros_(self.heat.bias)
        self.tilt = nn.Parameter(TILT / 0.5 * tiling(count))
        self.peak = SoftArgmax()

    def forward(self, image: Tensor) -> Tensor:
        """B×channels×H×W in [0, 1] → B×N×2, θ of each `Window`."""
        seen = SHARPNESS * self.heat(self.trunk(image))
        height, width = seen.shape[-2:]
        x = pixel_centers(width, dtype=seen.dtype, device=seen.device)
        y = pixel_centers(height, dtype=seen.dtype, device=seen.device)
        return self.peak(seen + self.tilt[:, 0, None, None] * x + self.tilt[:, 1, None, None] * y[:, None])


class PartsNet(nn.Module):
    """Several windows on one image, a net of its own for each; one softmax on all that they say.

    Args:
        transformer: puts out N windows.
        parts: N nets, from a window B×C×h×w to B×features.
        features: that each of them puts out.
        classes: to tell apart.
    """

    def __init__(
        self, transformer: ParallelSpatialTransformer, parts: list[nn.Module], features: int, classes: int
    ) -> None:
        super().__init__()
        self.transformer, self.parts = transformer, nn.ModuleList(parts)
        self.classifier = nn.Linear(len(parts) * features, classes)

    def forward(self, image: Tensor) -> Tensor:
        """B×C×H×W in [0, 1] → logits B×classes."""
        windows = self.transformer(image).unbind(1)
        said = [part(window) for part, window in zip(self.parts, windows, strict=True)]
        return self.classifier(torch.cat(said, dim=1))


def parts_net(
    model: str,
    seed: int = 0,
    *,
    side: int = SIDE,
    channels: int = 1,
    classes: int = KINDS**2,
    backbone: Callable[[], nn.Module] = small_features,
    features: int = SMALL_FEATURES,
) -> nn.Module:
    """A net of the table.

    The windows have half the image's side in pixels too, so that they lose nothing of it. "cnn" sees as many pixels as one
    window, of the whole image.

    Args:
        model: one of `MODELS`.
        seed: of the initial weights.
        side: pixels of the images' side.
        channels: of the images.
        classes: to tell apart.
        backbone: makes a net from images in [0, 1], of any size, to B×features.
        features: as it says.

    Returns:
        A module from B×channels×side×side in [0, 1] to B×classes logits.

    Raises:
        ValueError: ``model`` is none of those.
    """
    if model not in MODELS:
        raise ValueError(f"model: wanted one of {', '.join(MODELS)}, got {model!r}")
    torch.manual_seed(seed)
    if model in ("cnn", "cnn_full"):
        seen = nn.AvgPool2d(2) if model == "cnn" else nn.Identity()
        return nn.Sequential(seen, backbone(), nn.Linear(features, classes))
    count = int(model[0])
    transformer = ParallelSpatialTransformer(
        PartsLocalization(count, channels), Window(SCALE), count, out_size=(side // 2, side // 2)
    )
    return PartsNet(transformer, [backbone() for _ in range(count)], features, classes)
