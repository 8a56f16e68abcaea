"""The localization network: an image goes in, θ comes out.

Any ``nn.Module`` from B×C×H×W to B×num_params will do. What matters is how its last layer starts: see `theta_head`.
"""

from __future__ import annotations

import torch
from torch import nn

from stn_helpers.transforms import Transform

__all__ = ["theta_head", "tutorial_localization"]


def theta_head(in_features: int, transform: Transform) -> nn.Linear:
    """The regression layer that ends a localization network.

    It starts with zero weights and the identity as bias (Jaderberg et al. 2015, section 4), so that before the first step
    every image passes unchanged, whatever the layers below say.

    Args:
        in_features: length of the feature vector.
        transform: the family whose θ is regressed.

    Returns:
        ``nn.Linear`` from B×in_features to B×num_params.
    """
    head = nn.Linear(in_features, transform.num_params)
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(transform.identity())
    return head


def tutorial_localization(transform: Transform) -> nn.Sequential:
    """The localization network of PyTorch's STN tutorial, for 1×28×28 images: 5,520 parameters with `Affine`.

    Two convolutions, each followed by max pooling and ReLU, take 28×28 to 10 maps of 3×3; two linear layers take
    these 90 numbers to θ.

    Args:
        transform: the family whose θ is regressed.

    Returns:
        A module from B×1×28×28 to B×num_params.
    """
    return nn.Sequential(
        nn.Conv2d(1, 8, kernel_size=7),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(8, 10, kernel_size=5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(10 * 3 * 3, 32),
        nn.ReLU(),
        theta_head(32, transform),
    )
