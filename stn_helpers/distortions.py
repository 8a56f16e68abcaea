"""Whole batches of images warped by chance, through the package's own grids and sampler."""

from __future__ import annotations

import torch
from torch import Tensor

from stn_helpers.matrices import affine_theta
from stn_helpers.sampling import sample
from stn_helpers.transforms import Affine

__all__ = ["jitter", "rotate", "rotate_at_random"]


def jitter(images: Tensor, strength: float = 0.05) -> Tensor:
    """Warp every image by an affine map of its own, close to the identity.

    Each of the six numbers of θ is moved by a normally distributed amount. As augmentation it shows a net every image a
    little differently each time.

    Args:
        images: B×C×H×W, floating, outside of which there is black (0).
        strength: standard deviation of the six numbers; 0.05 moves the edge of an image by about a twentieth of its half
            width.

    Returns:
        B×C×H×W. Draws from torch's random numbers.
    """
    noise = strength * torch.randn(len(images), 6, dtype=images.dtype, device=images.device)
    theta = Affine().identity().to(noise) + noise
    return sample(images, Affine().grid(theta, tuple(images.shape[-2:])))


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn what is in every image by an angle of its own, about the centre.

    Args:
        images: B×C×H×W, floating, outside of which there is black (0).
        degrees: B angles; a positive one turns clockwise as one sees it, since y points down.

    Returns:
        B×C×H×W.

    Raises:
        ValueError: ``degrees`` is not one number for each image.
    """
    if degrees.shape != images.shape[:1]:
        raise ValueError(f"degrees: wanted {len(images)} angles, got shape {tuple(degrees.shape)}")
    height, width = images.shape[-2:]
    # θ maps target to source: to turn the picture by an angle, look along the opposite one.
    theta = affine_theta(rotation=-torch.deg2rad(degrees).to(images), aspect=width / height)
    return sample(images, Affine().grid(theta, (height, width)))


def rotate_at_random(images: Tensor, most: float = 60.0) -> Tensor:
    """`rotate` by angles drawn evenly from −``most`` to ``most`` degrees, with torch's random numbers."""
    return rotate(images, most * (2 * torch.rand(len(images), device=images.device) - 1))
