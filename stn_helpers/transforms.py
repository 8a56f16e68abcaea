"""The grid generator: a family of transforms turns θ into a sampling grid.

Coordinates, here and in the whole package, are (x, y): x to the right, y down, both in [-1, 1] from one outer
edge of the image to the other (``align_corners=False``). The centre of pixel i of n is (2i + 1)/n − 1.

A transform maps *target* (output) points to *source* (input) points: θ answers "where do I look?".
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

__all__ = [
    "Affine",
    "Attention",
    "Transform",
    "matrix_grid",
    "pixel_centers",
    "target_points",
]


class Transform(Protocol):
    """What every family offers; a new family is one class with these three."""

    num_params: int

    def identity(self) -> Tensor:
        """The θ that leaves the image as it is: float32, shape (num_params,)."""
        ...

    def grid(self, theta: Tensor, size: tuple[int, int]) -> Tensor:
        """The sampling grid of θ (B×num_params) for an output of ``size`` (H, W): B×H×W×2, (x, y) in [-1, 1]."""
        ...


def pixel_centers(n: int, *, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
    """Centres of n pixels along one axis of length 2, from -1 to 1: (2i + 1)/n − 1.

    Args:
        n: number of pixels, at least 1.
        dtype: a floating dtype.
        device: where the tensor is made.

    Returns:
        Tensor of shape (n,).

    Raises:
        ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f"n: an image is at least 1 pixel wide and high, got {n}")
    return (2 * torch.arange(n, dtype=dtype, device=device) + 1) / n - 1


def target_points(
    size: tuple[int, int], *, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Tensor:
    """The pixel centres of an output image in homogeneous coordinates (x, y, 1).

    Args:
        size: (H, W) of the output, in pixels.
        dtype: a floating dtype.
        device: where the tensor is made.

    Returns:
        Tensor of shape (H, W, 3): the fixed regular grid G of the paper, row by row.

    Raises:
        ValueError: a side is below 1.
    """
    height, width = size
    y = pixel_centers(height, dtype=dtype, device=device)
    x = pixel_centers(width, dtype=dtype, device=device)
    points = torch.ones(height, width, 3, dtype=dtype, device=device)
    points[..., 0] = x
    points[..., 1] = y[:, None]
    return points


def matrix_grid(matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Send every target point through a matrix whose last row is (0, 0, 1).

    Jaderberg et al. 2015, equation 1: (x_s, y_s) = A (x_t, y_t, 1).

    Args:
        matrix: B×3×3, floating; maps target to source, coordinates (x, y) in [-1, 1].
        size: (H, W) of the output, in pixels.

    Returns:
        B×H×W×2 sampling grid, (x, y) in [-1, 1], ``align_corners=False``.

    Raises:
        ValueError: ``matrix`` is not B×3×3, or a side of ``size`` is below 1.
    """
    if matrix.dim() != 3 or matrix.shape[1:] != (3, 3):
        raise ValueError(f"matrix: wanted shape B×3×3, got {tuple(matrix.shape)}")
    points = target_points(size, dtype=matrix.dtype, device=matrix.device)
    source = matrix[:, :2] @ points.view(-1, 3).T  # B×2×3 times 3×HW: one product for the whole batch
    return source.transpose(1, 2).view(-1, *size, 2)


class _MatrixFamily:
    """A family whose θ fills in a 3×3 matrix with last row (0, 0, 1)."""

    num_params: int

    def matrix(self, theta: Tensor) -> Tensor:
        raise NotImplementedError

    def grid(self, theta: Tensor, size: tuple[int, int]) -> Tensor:
        """The sampling grid of θ.

        Args:
            theta: B×num_params, floating.
            size: (H, W) of the output, in pixels; the input may have any size.

        Returns:
            B×H×W×2: where each output pixel looks in the input, (x, y) in [-1, 1], ``align_corners=False``.

        Raises:
            ValueError: θ has another shape, is not floating or not finite; a side of ``size`` is below 1.
        """
        return matrix_grid(self.matrix(theta), size)


class Affine(_MatrixFamily):
    """Six numbers: rotation, scale, shear and translation (Jaderberg et al. 2015, equation 1).

    θ = (θ₁₁, θ₁₂, θ₁₃, θ₂₁, θ₂₂, θ₂₃), the first two rows of the matrix, row by row.
    """

    num_params = 6

    def identity(self) -> Tensor:
        """(1, 0, 0, 0, 1, 0), float32."""
        return torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])

    def matrix(self, theta: Tensor) -> Tensor:
        """B×6 → B×3×3: two rows of θ above (0, 0, 1).

        Raises:
            ValueError: θ has another shape, is not floating or not finite.
        """
        _check_theta(theta, self.num_params)
        last_row = theta.new_tensor([0.0, 0.0, 1.0]).expand(len(theta), 1, 3)
        return torch.cat([theta.view(-1, 2, 3), last_row], dim=1)


class Attention(_MatrixFamily):
    """Three numbers: a window of one scale, moved about (Jaderberg et al. 2015, equation 2).

    θ = (s, t_x, t_y) stands for the matrix [[s, 0, t_x], [0, s, t_y]]. The window's centre is (t_x, t_y); s is its
    half side in units of the half image, so s = 0.2 looks at a fifth of the image's width.
    """

    num_params = 3

    def identity(self) -> Tensor:
        """(1, 0, 0), float32."""
        return torch.tensor([1.0, 0.0, 0.0])

    def matrix(self, theta: Tensor) -> Tensor:
        """B×3 → B×3×3.

        Raises:
            ValueError: θ has another shape, is not floating or not finite.
        """
        _check_theta(theta, self.num_params)
        scale, tx, ty = theta.unbind(1)
        zero, one = torch.zeros_like(scale), torch.ones_like(scale)
        rows = [scale, zero, tx, zero, scale, ty, zero, zero, one]
        return torch.stack(rows, dim=1).view(-1, 3, 3)


def _check_theta(theta: Tensor, num_params: int) -> None:
    if theta.dim() != 2 or theta.shape[1] != num_params:
        raise ValueError(f"theta: wanted shape B×{num_params}, got {tuple(theta.shape)}")
    if not theta.is_floating_point():
        raise ValueError(f"theta: wanted a floating dtype, got {theta.dtype}")
    if not bool(theta.isfinite().all()):
        raise ValueError("theta: holds NaN or infinity; the localization network has diverged, lower its learning rate")
