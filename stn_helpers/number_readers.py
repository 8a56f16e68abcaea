"""The nets that read house numbers: without a transformer, with one, with four in depth.

Jaderberg et al. 2015, section 4.2 and appendix A.5. Each has eleven hidden layers and five answers; the layers,
their kernels and their order are the paper's. So that they can be trained on a CPU they are narrower: a quarter of the
filters (12 to 48 for 48 to 192) and 256 units in place of 3072. The localization networks are narrower too, and their
fully connected layers see maps averaged to 8×8. Batch norm follows each convolution; the paper has dropout instead.
"""

from __future__ import annotations

import torch
from torch import nn

from stn_helpers.localization import convolution, theta_head
from stn_helpers.networks import Standardize
from stn_helpers.spatial_transformer import SpatialTransformer
from stn_helpers.svhn import BLANK, DIGITS
from stn_helpers.transforms import Affine

__all__ = ["FILTERS", "MODELS", "UNITS", "number_reader", "up_to_last_transformer"]

MODELS = ("cnn", "st_cnn_single", "st_cnn_multi")
"""Without a transformer, with one on the image, with one before each of the first four convolutions."""
FILTERS = (12, 16, 32, 40, 48, 48, 48, 48)
"""Filters of the eight convolutions, 5×5 each; max pooling by 2 follows every other one, from the first on."""
UNITS = 256
"""Units of each of the three fully connected layers."""
LOCALIZATION_FILTERS = 8
SEEN = 8
"""The fully connected layers of a localization network see maps averaged to so many rows and columns."""


def number_reader(model: str, size: int, seed: int = 0) -> nn.Sequential:
    """A net that reads a house number of up to five digits.

    A place behind the last digit is a class of its own, `stn_helpers.svhn.BLANK`, so that the five answers also say
    how long the number is. At 64 pixels the nets have 0.61, 0.63 and 0.75 million parameters; those of the
    localization networks are meant to learn at a tenth of the rate (``Recipe(localization_lr=0.1)``).

    Args:
        model: "cnn", "st_cnn_single" or "st_cnn_multi".
        size: pixels of the images' side, a multiple of 16.
        seed: of the initial weights.

    Returns:
        A module from B×3×size×size in [0, 1] to logits B×11×5: for each of the five places, how much speaks for each
        digit and for none. Its transformers, all affine, are the parts ``transformer1`` to ``transformer4``, as far
        as it has them, in front of ``convolution1`` to ``convolution4``.

    Raises:
        ValueError: another ``model``; ``size`` is no multiple of 16.
    """
    if model not in MODELS:
        raise ValueError(f"model: wanted one of {', '.join(MODELS)}, got {model!r}")
    if size < 16 or size % 16:
        raise ValueError(f"size: wanted a multiple of 16, as four poolings halve it, got {size}")
    torch.manual_seed(seed)
    transformers = {"cnn": 0, "st_cnn_single": 1, "st_cnn_multi": 4}[model]
    net, channels = nn.Sequential(), 3
    for layer, filters in enumerate(FILTERS, start=1):
        if layer <= transformers:
            localization = cnn_localization() if model == "st_cnn_single" else fcn_localization(channels)
            net.add_module(f"transformer{layer}", SpatialTransformer(localization, Affine()))
        if layer == 1:
            net.add_module("standardize", Standardize(0.5, 0.25))  # behind the first transformer: outside is black
        pooling = [nn.MaxPool2d(2)] if layer in (1, 3, 5, 7) else []
        net.add_module(f"convolution{layer}", nn.Sequential(*convolution(channels, filters, 5), *pooling))
        channels = filters
    net.add_module("flatten", nn.Flatten())
    inputs = channels * (size // 16) ** 2
    for layer in range(1, 4):
        net.add_module(f"connected{layer}", nn.Sequential(nn.Linear(inputs, UNITS), nn.ReLU()))
        inputs = UNITS
    # Five heads that share nothing but what they see: five rows of one matrix.
    net.add_module("heads", nn.Sequential(nn.Linear(UNITS, (BLANK + 1) * DIGITS), nn.Unflatten(1, (BLANK + 1, DIGITS))))
    return net


def up_to_last_transformer(net: nn.Sequential) -> nn.Sequential:
    """The part of a `number_reader` that ends with its last transformer: all it takes to see where the net looks.

    Args:
        net: one with a transformer.

    Returns:
        The same modules under the same names.

    Raises:
        ValueError: ``net`` has no transformer.
    """
    places = [place for place, part in enumerate(net) if isinstance(part, SpatialTransformer)]
    if not places:
        raise ValueError("net: wanted a number reader with a transformer, got one without")
    return net[: places[-1] + 1]


def cnn_localization() -> nn.Sequential:
    """For the image itself: conv 5×5 – max-pool 2 – conv 5×5 – fc 32 – fc 32 – θ."""
    return nn.Sequential(
        Standardize(0.5, 0.25),
        nn.Conv2d(3, LOCALIZATION_FILTERS, 5, padding=2),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(LOCALIZATION_FILTERS, LOCALIZATION_FILTERS, 5, padding=2),
        nn.ReLU(),
        fcn_localization(LOCALIZATION_FILTERS),
    )


def fcn_localization(channels: int) -> nn.Sequential:
    """For maps of so many channels: fc 32 – fc 32 – θ."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(SEEN),
        nn.Flatten(),
        nn.Linear(channels * SEEN * SEEN, 32),
        nn.ReLU(),
        nn.Linear(32, 32),
        nn.ReLU(),
        theta_head(32, Affine()),
    )
