"""The sampler: read an image at the points of a sampling grid.

`sample` runs torch's own kernel and is what nets use. `bilinear_sample` is the same thing written out, with the
derivatives of the paper (Jaderberg et al. 2015, equations 5 to 7): it is what the chapters explain, and the two agree to
rounding. `kernel_sample` is the sum over all pixels as the paper prints it, for any kernel. The same grid
serves every channel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "bicubic_kernel",
    "bilinear_kernel",
    "bilinear_sample",
    "integer_kernel",
    "kernel_sample",
    "sample",
]

PADDINGS = ("zeros", "border", "reflection")
MODES = ("bilinear", "nearest", "bicubic")


def sample(image: Tensor, grid: Tensor, mode: str = "bilinear", padding: str = "zeros") -> Tensor:
    """Read ``image`` at the points of ``grid`` with torch's native kernel.

    Args:
        image: B×C×H×W, floating.
        grid: B×H'×W'×2, same dtype; (x, y) in [-1, 1], ``align_corners=False``. H'×W' is the size of the output.
        mode: "bilinear", "nearest" (the paper's integer kernel, but halfway between two pixels torch takes the even one,
            the paper the farther; no gradient reaches the grid) or "bicubic" (16 neighbours, smoother; may leave the
            range of the pixels).
        padding: what lies outside the image: "zeros" (black), "border" (the nearest edge pixel) or
            "reflection" (the image mirrored at its outer edges, again and again).

    Returns:
        B×C×H'×W'.

    Raises:
        ValueError: a shape, dtype, mode or padding that does not fit.
    """
    _check(image, grid, padding)
    if mode not in MODES:
        raise ValueError(f"mode: wanted one of {', '.join(MODES)}, got {mode!r}")
    return F.grid_sample(image, grid, mode=mode, padding_mode=padding, align_corners=False)


def bilinear_sample(image: Tensor, grid: Tensor, padding: str = "zeros") -> Tensor:
    """The bilinear sampler from scratch, with its own derivatives; equal to `sample` up to rounding.

    ``V = Σₙ Σₘ U[n, m] max(0, 1 − |x − m|) max(0, 1 − |y − n|)``, x and y in pixels (equation 5). Of all H·W terms only
    the four neighbours of (x, y) are not zero. Where x falls exactly on a pixel centre the sum has a kink; there we take,
    as torch does, the derivative to the right: U[m + 1] − U[m]; with "border" and "reflection", 0 on the outermost centres.

    Args:
        image: B×C×H×W, floating.
        grid: B×H'×W'×2, same dtype; (x, y) in [-1, 1], ``align_corners=False``.
        padding: "zeros", "border" or "reflection".

    Returns:
        B×C×H'×W'; NaN where the grid is. Gradients flow to ``image`` (equation 6) and to ``grid`` (equation 7).

    Raises:
        ValueError: a shape, dtype or padding that does not fit.
    """
    _check(image, grid, padding)
    return _BilinearSampler.apply(image, grid, padding)


def kernel_sample(image: Tensor, grid: Tensor, kernel: Callable[[Tensor], Tensor]) -> Tensor:
    """The paper's sampler, every pixel against every output (eq. 3): ``V = Σₙ Σₘ U[n, m] k(x − m) k(y − n)``.

    For teaching and checking: it costs H·W terms an output pixel where four would do. Outside the image there
    is nothing to sum, which is padding with zeros. Gradients are autograd's, through the kernel.

    Args:
        image: B×C×H×W, floating.
        grid: B×H'×W'×2, same dtype; (x, y) in [-1, 1], ``align_corners=False``.
        kernel: from distances in pixels, any shape, to weights: `integer_kernel`, `bilinear_kernel`,
            `bicubic_kernel`.

    Returns:
        B×C×H'×W'.

    Raises:
        ValueError: a shape or dtype that does not fit.
    """
    _check(image, grid, "zeros")
    height, width = image.shape[-2:]
    x, _ = _to_pixels(grid[..., 0], width, "zeros")
    y, _ = _to_pixels(grid[..., 1], height, "zeros")
    columns = torch.arange(width, dtype=grid.dtype, device=grid.device)
    rows = torch.arange(height, dtype=grid.dtype, device=grid.device)
    across, down = kernel(x[..., None] - columns), kernel(y[..., None] - rows)  # B×H'×W'×W and B×H'×W'×H
    return torch.einsum("bcnm,bijm,bijn->bcij", image, across, down)


def integer_kernel(distance: Tensor) -> Tensor:
    """1 for the nearest pixel, 0 for the others: δ(⌊x + 0.5⌋ − m) (equation 4); halfway, the one to the right.

    Args:
        distance: x − m in pixels, any shape, floating.

    Returns:
        Weights, the same shape. The derivative is 0 wherever there is one.
    """
    return ((distance >= -0.5) & (distance < 0.5)).to(distance.dtype)


def bilinear_kernel(distance: Tensor) -> Tensor:
    """A tent over two pixels: ``max(0, 1 − |x − m|)`` (equation 5).

    Args:
        distance: x − m in pixels, any shape, floating.

    Returns:
        Weights, the same shape. At the kinks (-1, 0, 1) autograd takes one of the sub-gradients.
    """
    return (1 - distance.abs()).clamp(min=0)


def bicubic_kernel(distance: Tensor) -> Tensor:
    """Cubic pieces over four pixels, smooth where they meet (Keys 1981), with a = -0.75 as in torch (Keys takes -0.5).

    Args:
        distance: x − m in pixels, any shape, floating.

    Returns:
        Weights, the same shape; some are below 0.
    """
    a, d = -0.75, distance.abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, 0.0))


class _BilinearSampler(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image: Tensor, grid: Tensor, padding: str) -> Tensor:
        corners, weights, _, _ = _neighbours(grid, image.shape[-2:], padding)
        ctx.save_for_backward(image, grid)
        ctx.padding = padding
        values = _gather(image, corners)  # B×C×4×P
        return (values * weights[:, None]).sum(2).view(*image.shape[:2], *grid.shape[1:3])

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        image, grid = ctx.saved_tensors
        corners, weights, slope_x, slope_y = _neighbours(grid, image.shape[-2:], ctx.padding)
        grad = grad_output.flatten(2)  # B×C×P
        grad_image = grad_grid = None
        if ctx.needs_input_grad[0]:  # equation 6: each neighbour receives its own weight
            spread = (grad[:, :, None] * weights[:, None]).flatten(2)  # B×C×4P
            index = corners.flatten(1)[:, None].expand_as(spread)
            grad_image = torch.zeros_like(image).flatten(2).scatter_add(2, index, spread).view_as(image)
        if ctx.needs_input_grad[1]:  # equation 7, summed over the channels that share the grid
            per_corner = (_gather(image, corners) * grad[:, :, None]).sum(1)  # B×4×P
            grad_xy = torch.stack([(per_corner * slope_x).sum(1), (per_corner * slope_y).sum(1)], dim=-1)
            grad_grid = grad_xy.view_as(grid)
        return grad_image, grad_grid, None


def _neighbours(grid: Tensor, size: tuple[int, int], padding: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four pixels around each grid point, their weights, and the weights' derivatives in x and y.

    P = H'·W' points. Returns flat pixel indices (B×4×P, int64) and three B×4×P tensors; the derivatives are with respect
    to the grid's own [-1, 1] coordinates. A neighbour outside the image has weight and derivatives 0.
    """
    height, width = size
    x, dx = _to_pixels(grid[..., 0].flatten(1), width, padding)
    y, dy = _to_pixels(grid[..., 1].flatten(1), height, padding)
    left, top = x.floor(), y.floor()
    wx, wy = x - left, y - top  # share of the right and of the lower neighbour
    columns = torch.stack([left, left + 1, left, left + 1], dim=1)
    rows = torch.stack([top, top, top + 1, top + 1], dim=1)
    across = torch.stack([1 - wx, wx, 1 - wx, wx], dim=1)
    down = torch.stack([1 - wy, 1 - wy, wy, wy], dim=1)
    sign_x = torch.stack([-dx, dx, -dx, dx], dim=1)
    sign_y = torch.stack([-dy, -dy, dy, dy], dim=1)

    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    # A number, and inside, before the cast: so neither NaN nor a point far outside overflows. Their weights are NaN and 0.
    rows, columns = (place.nan_to_num().clamp(0, n - 1).long() for place, n in ((rows, height), (columns, width)))
    index = rows * width + columns
    return index, across * down * inside, sign_x * down * inside, across * sign_y * inside


def _to_pixels(coordinate: Tensor, n: int, padding: str) -> tuple[Tensor, Tensor]:
    """[-1, 1] → pixel units, in which pixel i has its centre at i; and the derivative of that map."""
    pixel = ((coordinate + 1) * n - 1) / 2
    slope = torch.full_like(pixel, n / 2)
    if padding == "reflection":  # mirrored at the outer edges, half a pixel past the outermost centres
        from_edge = pixel + 0.5
        turns = (from_edge.abs() / n).floor() % 2 == 1  # an odd number of image widths away: runs backwards
        inside = from_edge.abs().fmod(n)
        pixel = torch.where(turns, n - inside, inside) - 0.5
        slope = slope * torch.where(turns ^ (from_edge < 0), -1.0, 1.0)
    if padding != "zeros":  # past the outermost centres nothing changes any more
        slope = slope * ((pixel > 0) & (pixel < n - 1))
        pixel = pixel.clamp(0, n - 1)
    return pixel, slope


def _gather(image: Tensor, index: Tensor) -> Tensor:
    """image B×C×H×W read at flat pixel indices B×4×P: B×C×4×P."""
    channels = image.shape[1]
    flat = index.flatten(1)[:, None].expand(-1, channels, -1)
    return image.flatten(2).gather(2, flat).view(len(image), channels, *index.shape[1:])


def _check(image: Tensor, grid: Tensor, padding: str) -> None:
    if image.dim() != 4 or image.numel() == 0:
        raise ValueError(f"image: wanted a non-empty B×C×H×W tensor, got shape {tuple(image.shape)}")
    if grid.dim() != 4 or grid.shape[-1] != 2 or grid.shape[0] != image.shape[0]:
        raise ValueError(
            f"grid: wanted shape B×H'×W'×2 with the image's B = {image.shape[0]}, got {tuple(grid.shape)}"
        )
    if not image.is_floating_point() or image.dtype != grid.dtype:
        raise ValueError(f"image and grid: wanted one floating dtype, got {image.dtype} and {grid.dtype}")
    if padding not in PADDINGS:
        raise ValueError(f"padding: wanted one of {', '.join(PADDINGS)}, got {padding!r}")
