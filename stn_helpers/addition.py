"""The addition of two digits: what goes in are two distorted digits, what comes out is their sum.

Jaderberg et al. 2015, appendix A.1. Each digit lies in a channel of its own, turned, scaled and moved on its own, so that no
single warp can bring both upright: a task for two transformers in parallel.

Batch norm, of which the paper does not speak, follows every hidden layer: a sum says so little about either digit that
the nets stand at chance for long, and it is meant to shorten that.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stn_helpers.data import Digits
from stn_helpers.distortions import rotated_scaled_translated
from stn_helpers.networks import Standardize
from stn_helpers.paper_networks import FAMILIES, SEEN, connected, convolved
from stn_helpers.spatial_transformer import ParallelSpatialTransformer, parallel_head
from stn_helpers.transforms import Transform

__all__ = ["CANVAS", "MODELS", "SUMS", "PairImages", "addition_net", "draw_pairs", "draw_sums"]

CANVAS = 42
"""Pixels of the side of the images."""
SUMS = 19
"""The classes are the sums 0 to 18."""
MODELS = ("fcn", "cnn", *(f"{kind}_{family}" for kind in ("st_fcn", "2xst_fcn") for family in FAMILIES))
"""The eight nets, without a transformer, with one, with two in parallel."""
UNITS = {"fcn": 219, "st_fcn": 205, "2xst_fcn": 103}
FILTERS = 112
"""These widths make about 400 thousand parameters of every net."""
FRAME = 4
"""Black pixels around what the CNN sees. A 9×9 filter without padding lies over a corner pixel at one place, over one in the
middle at 81; in trials with a thirteenth of the pairs the frame took the error on digits held back from 32 to 26 %."""


def draw_pairs(digits: int, count: int, seed: int) -> Tensor:
    """Pairs of digits drawn by chance: which two of a set of digits make up each example.

    `stn_helpers.training.fit` takes all images at once, with their labels, and an ``augment`` that sees the images alone. So
    that every epoch has pairs that no other had, each still with its own label, a training is given the *numbers* of the
    digits in place of images, for many epochs in advance, and looks the images up by an ``augment`` (`PairImages`).

    Args:
        digits: how many there are to draw from.
        count: how many pairs. Every digit is drawn as often as any other, or once more, first and second of a pair.
        seed: the same one gives the same pairs. Torch's random numbers are left as they were.

    Returns:
        count×2×1×1 int64, from 0 to ``digits`` − 1.

    Raises:
        ValueError: ``digits`` or ``count`` is below 1.
    """
    if min(digits, count) < 1:
        raise ValueError(f"digits and count: wanted at least 1 of each, got {digits} and {count}")
    generator = torch.Generator().manual_seed(seed)
    rounds = [torch.randperm(digits, generator=generator) for _ in range(2 * math.ceil(count / digits))]
    first, second = torch.cat(rounds[::2])[:count], torch.cat(rounds[1::2])[:count]
    return torch.stack([first, second], dim=1)[..., None, None]


def draw_sums(digits: Digits, count: int, seed: int) -> Digits:
    """`draw_pairs` of these digits, and as labels what the two add up to: count int64, 0 to 18."""
    pairs = draw_pairs(len(digits.labels), count, seed)
    return Digits(pairs, digits.labels[pairs].sum((1, 2, 3)))


class PairImages:
    """Turns pairs of numbers into images: looks both digits up and distorts each on its own; an ``augment`` for `fit`.

    Args:
        digits: N×1×28×28 in [0, 1], what the numbers count.
    """

    def __init__(self, digits: Tensor) -> None:
        self.digits = digits

    def __call__(self, pairs: Tensor) -> Tensor:
        """B×2×1×1 numbers → B×2×42×42 in [0, 1]: RTS, see `stn_helpers.distortions.rotated_scaled_translated`."""
        self.digits = self.digits.to(pairs.device)  # once
        chosen = self.digits[pairs.flatten()]
        return rotated_scaled_translated(chosen, CANVAS).view(-1, 2, CANVAS, CANVAS)


def pair_localization(transform: Transform, count: int) -> nn.Sequential:
    """The fully connected localization network: at half the resolution, two layers of 32 units a transformer, then every θ.

    Args:
        transform: the family whose θ is regressed.
        count: transformers, each of which starts at the identity.

    Returns:
        A module from B×2×42×42 to B×(count·num_params).
    """
    return nn.Sequential(
        Standardize(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        *connected(2 * (CANVAS // 2) ** 2, 32 * count),
        *connected(32 * count, 32 * count),
        parallel_head(32 * count, transform.identity().expand(count, -1)),
    )


def sum_fcn(channels: int, units: int) -> nn.Sequential:
    """Fully connected: two hidden layers of so many units, on channels×28×28; logits of 19 sums."""
    return nn.Sequential(
        nn.Flatten(),
        *connected(channels * SEEN**2, units),
        *connected(units, units),
        nn.Linear(units, SUMS),
    )


def sum_cnn(channels: int, filters: int) -> nn.Sequential:
    """Convolutional: 64 filters of 9×9, ``filters`` of 7×7, each max-pooled by 2, on channels×36×36; logits of 19 sums."""
    return nn.Sequential(
        *convolved(nn.Conv2d(channels, 64, kernel_size=9, bias=False), 2),
        *convolved(nn.Conv2d(64, filters, kernel_size=7, bias=False), 2),
        nn.Flatten(),
        nn.Linear(filters * 4 * 4, SUMS),
    )


def addition_net(model: str, seed: int = 0) -> nn.Sequential:
    """A net of the table: what it looks at, then standardising, then the classifier; about 400 thousand parameters.

    Every transformer sees both channels and warps both, so that two of them put out four. They read the image at 56×56
    points, which average pooling by 2, the paper's, makes 28×28. A net without a transformer sees the whole image the same
    way: at 56×56 points, pooled; the CNN with a black frame around it.

    Args:
        model: one of `MODELS`.
        seed: of the initial weights.

    Returns:
        A module from B×2×42×42 in [0, 1] to B×19 logits, with the parts ``transformer`` (where there is one),
        ``standardize`` and ``classifier``, among others.

    Raises:
        ValueError: ``model`` is none of those.
    """
    if model not in MODELS:
        raise ValueError(f"model: wanted one of {', '.join(MODELS)}, got {model!r}")
    torch.manual_seed(seed)
    net, channels = nn.Sequential(), 2
    if model in ("fcn", "cnn"):
        kind = model
        net.add_module("whole", nn.Upsample(size=(2 * SEEN, 2 * SEEN), mode="bilinear"))
    else:
        kind, _, family = model.rpartition("_")
        transform, count = FAMILIES[family], 2 if kind == "2xst_fcn" else 1
        localization, channels = pair_localization(transform, count), 2 * count
        transformer = ParallelSpatialTransformer(localization, transform, count, out_size=(2 * SEEN, 2 * SEEN))
        net.add_module("transformer", transformer)
        net.add_module("channels", nn.Flatten(1, 2))
    net.add_module("shrink", nn.AvgPool2d(2))
    if kind == "cnn":
        net.add_module("frame", nn.ZeroPad2d(FRAME))
    net.add_module("standardize", Standardize())
    classifier = sum_cnn(channels, FILTERS) if kind == "cnn" else sum_fcn(channels, UNITS[kind])
    net.add_module("classifier", classifier)
    return net
