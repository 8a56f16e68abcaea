"""The grid generator: a family of transforms turns θ into a sampling grid.

Coordinates, here and in the whole package, are (x, y): x to the right, y down, both in [-1, 1] from one outer
edge of the image to the other (``align_corners=False``). The centre of pixel i of n is (2i + 1)/n − 1.

A transform maps *target* (output) points to *source* (input) points: θ answers "where do I look?".
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from stn_helpers.thin_plate import check_control, thin_plate_basis

__all__ = [
    "HORIZON",
    "Affine",
    "Attention",
    "Projective",
    "Similarity",
    "ThinPlateSpline",
    "Transform",
    "Window",
    "matrix_grid",
    "pixel_centers",
    "projective_grid",
    "target_points",
]

HORIZON = 1e-3
"""Target points whose projective denominator is not above this lie at or behind the horizon."""


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
        ValueError: ``matrix`` is not B×3×3, floating and finite, or a side of ``size`` is below 1.
    """
    check_batch("matrix", matrix, 3, 3)
    return _as_grid(_through(matrix[:, :2], size), size)


def projective_grid(matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Send every target point through a homography.

    (X, Y, w) = H (x_t, y_t, 1), then (x_s, y_s) = (X/w, Y/w).

    Where w nears 0 the point nears the *horizon*, and what lies behind it (w < 0) would be seen upside down
    through the back of the camera. So a point whose w is not above `HORIZON` reads outside the image: both
    coordinates become 1/`HORIZON` = 1000, and no gradient reaches θ from there. Every other point, and so all
    near the identity, is the plain quotient. The sign of the matrix decides which side is the front;
    `Projective` fixes it by its last entry, 1, which is w at the centre of the output.

    Args:
        matrix: B×3×3, floating; maps target to source, coordinates (x, y) in [-1, 1].
        size: (H, W) of the output, in pixels.

    Returns:
        B×H×W×2 sampling grid, (x, y) in [-1, 1], ``align_corners=False``; finite everywhere.

    Raises:
        ValueError: ``matrix`` is not B×3×3, floating and finite, or a side of ``size`` is below 1.
    """
    check_batch("matrix", matrix, 3, 3)
    numerators, denominator = _through(matrix[:, :2], size), _through(matrix[:, 2:], size)
    quotient = numerators / denominator.clamp(min=HORIZON)  # the clamp keeps value and slope finite
    return _as_grid(quotient.masked_fill(denominator <= HORIZON, 1 / HORIZON), size)


def _through(rows: Tensor, size: tuple[int, int]) -> Tensor:
    """B×R×3 rows of a matrix times every target point: B×R×(H·W)."""
    return _times(rows, target_points(size, dtype=rows.dtype, device=rows.device).view(-1, 3))


def _times(rows: Tensor, points: Tensor) -> Tensor:
    """B×R×K rows times N×K points: B×R×N, one product for the whole batch.

    Left to itself, torch multiplies B times two or three rows, and takes several times as long.
    """
    return (rows.reshape(-1, rows.shape[2]) @ points.T).unflatten(0, rows.shape[:2])


def _as_grid(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """B×2×(H·W), all x before all y, as a B×H×W×2 grid: the axis is moved, nothing is copied."""
    return planes.transpose(1, 2).unflatten(1, size)


class _MatrixFamily:
    """A family whose θ fills in a 3×3 matrix: with last row (0, 0, 1), but for `Projective`, which maps its own way."""

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
        check_batch("theta", theta, self.num_params)
        last_row = theta.new_tensor([0.0, 0.0, 1.0]).expand(theta.shape[0], 1, 3)
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
        check_batch("theta", theta, self.num_params)
        scale, tx, ty = theta.unbind(1)
        zero, one = torch.zeros_like(scale), torch.ones_like(scale)
        rows = [scale, zero, tx, zero, scale, ty, zero, zero, one]
        return torch.stack(rows, dim=1).view(-1, 3, 3)


class Window(_MatrixFamily):
    """Two numbers: a window of fixed scale, moved about. θ = (t_x, t_y) stands for [[s, 0, t_x], [0, s, t_y]].

    `Attention` with s held fast (Jaderberg et al. 2015, equation 2 and section 4.3).

    Args:
        scale: s, the window's half side in units of the half image; above 0.

    Raises:
        ValueError: ``scale`` is not above 0.
    """

    num_params = 2

    def __init__(self, scale: float) -> None:
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale: wanted a number above 0, got {scale}")
        self.scale = scale

    def identity(self) -> Tensor:
        """(0, 0), float32: the window in the middle. No θ leaves the image as it is, unless the scale is 1."""
        return torch.zeros(2)

    def matrix(self, theta: Tensor) -> Tensor:
        """B×2 → B×3×3.

        Raises:
            ValueError: θ has another shape, is not floating or not finite.
        """
        check_batch("theta", theta, self.num_params)
        return Attention().matrix(torch.cat([torch.full_like(theta[:, :1], self.scale), theta], dim=1))


class Similarity(_MatrixFamily):
    """Four numbers: rotation, one scale, translation. Squares stay squares.

    θ = (a, b, t_x, t_y) stands for the matrix [[a, −b, t_x], [b, a, t_y]]: a = s·cos φ, b = s·sin φ for the
    scale s and the angle φ. On an image that is not square the two axes of [-1, 1] have different lengths,
    and a rotation in them shears the picture: there take `stn_helpers.matrices.affine_theta` with its
    ``aspect``.
    """

    num_params = 4

    def identity(self) -> Tensor:
        """(1, 0, 0, 0), float32."""
        return torch.tensor([1.0, 0.0, 0.0, 0.0])

    def matrix(self, theta: Tensor) -> Tensor:
        """B×4 → B×3×3.

        Raises:
            ValueError: θ has another shape, is not floating or not finite.
        """
        check_batch("theta", theta, self.num_params)
        a, b, tx, ty = theta.unbind(1)
        zero, one = torch.zeros_like(a), torch.ones_like(a)
        rows = [a, -b, tx, b, a, ty, zero, zero, one]
        return torch.stack(rows, dim=1).view(-1, 3, 3)


class Projective(_MatrixFamily):
    """Eight numbers: a homography, which is how a camera sees a flat picture.

    θ holds the 3×3 matrix row by row without its last entry, which is 1. For the horizon see
    `projective_grid`; for θ from four corners see `stn_helpers.matrices.corners_to_theta`.
    """

    num_params = 8

    def identity(self) -> Tensor:
        """(1, 0, 0, 0, 1, 0, 0, 0), float32."""
        return torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])

    def matrix(self, theta: Tensor) -> Tensor:
        """B×8 → B×3×3 with last entry 1.

        Raises:
            ValueError: θ has another shape, is not floating or not finite.
        """
        check_batch("theta", theta, self.num_params)
        return torch.cat([theta, torch.ones_like(theta[:, :1])], dim=1).view(-1, 3, 3)

    def grid(self, theta: Tensor, size: tuple[int, int]) -> Tensor:
        """The sampling grid of θ; points at or behind the horizon read outside the image (`projective_grid`).

        Args:
            theta: B×8, floating.
            size: (H, W) of the output, in pixels; the input may have any size.

        Returns:
            B×H×W×2: where each output pixel looks in the input, (x, y) in [-1, 1], ``align_corners=False``.

        Raises:
            ValueError: θ has another shape, is not floating or not finite; a side of ``size`` is below 1.
        """
        return projective_grid(self.matrix(theta), size)


class ThinPlateSpline:
    """2K numbers: the smoothest map that takes K fixed points of the output to wherever θ says.

    θ = (x₁, y₁, x₂, y₂, …): for each control point of the output, where it looks in the input. The spline
    between them bends least (Bookstein 1989). As the control points of the *output* never move, its linear
    system is the same for every image; solved once for an output size, it leaves one matrix, and the grid is
    that matrix times θ. ``torch.export`` wants that matrix to be there: make one grid of the size before.

    Args:
        points: control points a side of a regular grid from -1 to 1, row by row, so K = points²; or the K×2
            control points themselves, (x, y) in [-1, 1].
        regularization: λ ≥ 0. At 0 the spline passes through θ exactly; the larger λ, the closer it comes to
            the best affine map. The identity stays the identity whatever λ is.

    Attributes:
        control: the K×2 control points, (x, y), float64.

    Raises:
        ValueError: fewer than 2 points a side, control points that coincide or all lie on one line, or a λ
            below 0.
    """

    def __init__(self, points: int | Tensor = 4, regularization: float = 0.0) -> None:
        if not 0 <= regularization < float("inf"):
            raise ValueError(f"regularization: wanted a finite number from 0 up, got {regularization}")
        self.control = _control_points(points)
        self.regularization = float(regularization)
        self.num_params = self.control.numel()
        self._key = tuple(self.control.flatten().tolist())

    def identity(self) -> Tensor:
        """The control points themselves, float32, shape (2K,)."""
        return self.control.flatten().float()

    @torch.compiler.assume_constant_result  # a compiled net keeps the matrix, and not the way to it
    def basis(
        self, size: tuple[int, int], *, dtype: torch.dtype = torch.float32, device: torch.device | None = None
    ) -> Tensor:
        """The fixed matrix that takes control points to the grid, one row a pixel; every row sums to 1.

        Solved in float64, then cast; kept for the sizes used last, so a training loop solves once.

        Args:
            size: (H, W) of the output, in pixels.
            dtype: of the result, floating.
            device: of the result.

        Returns:
            (H·W)×K. Shared between calls: do not write into it.

        Raises:
            ValueError: a side of ``size`` is below 1.
        """
        return _pixel_basis(self._key, self.regularization, tuple(size), dtype, torch.device(device or "cpu"))

    def grid(self, theta: Tensor, size: tuple[int, int]) -> Tensor:
        """The sampling grid of θ: one matrix product.

        Args:
            theta: B×2K, floating; (x, y) of each control point in the input.
            size: (H, W) of the output, in pixels; the input may have any size.

        Returns:
            B×H×W×2: where each output pixel looks in the input, (x, y) in [-1, 1], ``align_corners=False``.

        Raises:
            ValueError: θ has another shape, is not floating or not finite; a side of ``size`` is below 1.
        """
        check_batch("theta", theta, self.num_params)
        basis = self.basis(size, dtype=theta.dtype, device=theta.device)
        coordinates = theta.unflatten(1, (-1, 2)).transpose(1, 2)  # B×2×K
        return _as_grid(_times(coordinates, basis), size)


@lru_cache(maxsize=32)
def _pixel_basis(
    control: tuple[float, ...],
    regularization: float,
    size: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    # Whoever asks first may stand under inference_mode; the cached matrix must serve training as well.
    with torch.inference_mode(False), torch.no_grad():
        points = target_points(size, dtype=torch.float64, device=torch.device("cpu"))[..., :2].reshape(-1, 2)
        fixed = torch.tensor(control, dtype=torch.float64, device="cpu").view(-1, 2)
        return thin_plate_basis(fixed, points, regularization).contiguous().to(device, dtype)


def _control_points(points: int | Tensor) -> Tensor:
    if isinstance(points, Tensor):
        control = points.detach().to("cpu", torch.float64, copy=True)
    elif points < 2:
        raise ValueError(f"points: wanted at least 2 control points a side, got {points}")
    else:
        line = torch.linspace(-1, 1, points, dtype=torch.float64, device="cpu")
        control = torch.cartesian_prod(line, line).flip(1)  # x runs fastest
    check_control(control, "points")
    return control


def check_batch(name: str, value: Tensor, *shape: int) -> None:
    """Raise a ValueError that names the argument unless ``value`` is B×shape, floating and (when not compiled) finite."""
    if value.dim() != 1 + len(shape) or value.shape[1:] != shape:
        wanted = "×".join(map(str, ("B", *shape)))
        raise ValueError(f"{name}: wanted shape {wanted}, got {tuple(value.shape)}")
    if not value.is_floating_point():
        raise ValueError(f"{name}: wanted a floating dtype, got {value.dtype}")
    # Values are not to be looked at while torch.compile or torch.export traces the shapes.
    if not torch.compiler.is_compiling() and not bool(value.isfinite().all()):
        raise ValueError(
            f"{name}: holds NaN or infinity; a localization network that says so has diverged, lower its learning rate"
        )
