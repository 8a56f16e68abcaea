"""The localization network: an image goes in, θ comes out.

Any ``nn.Module`` from B×C×H×W to B×num_params will do. What matters is how its last layer starts: see `theta_head`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stn_helpers.transforms import Transform, pixel_centers

__all__ = ["SoftArgmax", "theta_head", "tutorial_localization"]


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


class SoftArgmax(nn.Module):
    """The spatial soft-argmax: where each map peaks, as a point that can be differentiated (Levine et al. 2016).

    A softmax over all pixels makes every map a distribution; its mean position is the answer. A sharp peak is
    found to a fraction of a pixel; a flat map says the centre, (0, 0), which is the identity of a
    translation. Scaling the maps up sharpens the answer.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """B×K×H×W maps, floating → B×K×2 points, (x, y) in [-1, 1], ``align_corners=False``.

        Raises:
            ValueError: ``maps`` is not a non-empty B×K×H×W floating tensor.
        """
        if maps.dim() != 4 or maps.numel() == 0 or not maps.is_floating_point():
            raise ValueError(f"maps: wanted a non-empty floating B×K×H×W, got {maps.dtype} {tuple(maps.shape)}")
        height, width = maps.shape[-2:]
        share = maps.flatten(2).softmax(2).view_as(maps)
        x = share.sum(2) @ pixel_centers(width, dtype=maps.dtype, device=maps.device)
        y = share.sum(3) @ pixel_centers(height, dtype=maps.dtype, device=maps.device)
        return torch.stack([x, y], dim=2)


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
