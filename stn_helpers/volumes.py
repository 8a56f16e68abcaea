"""The third dimension: affine grids, a sampler and rotations for volumes, and digits with a thickness.

A volume is B×C×D×H×W. Coordinates are (x, y, z): x to the right, y down, z away from the reader, each in [-1, 1] from
one outer face of the volume to the other (``align_corners=False``). The centre of voxel i of n is (2i + 1)/n − 1.
This is the order of torch's five-dimensional `torch.nn.functional.grid_sample`: x counts along W, y along H, z along D.

A transform maps *target* (output) points to *source* (input) points, as it does in `stn_helpers.transforms`.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from stn_helpers.transforms import check_batch, pixel_centers

__all__ = [
    "Affine3D",
    "Rotation3D",
    "extrude",
    "project",
    "rotate_volumes",
    "rotation_3d",
    "sample_volume",
    "target_voxels",
    "trilinear_sample",
]


class _MatrixFamily3D:
    """A family whose θ fills in a 4×4 matrix with last row (0, 0, 0, 1)."""

    num_params: int

    def matrix(self, theta: Tensor) -> Tensor:
        raise NotImplementedError

    def grid(self, theta: Tensor, size: tuple[int, int, int]) -> Tensor:
        """The sampling grid of θ: (x_s, y_s, z_s, 1) = M (x_t, y_t, z_t, 1).

        Args:
            theta: B×num_params, floating.
            size: (D, H, W) of the output, in voxels; the input may have any size.

        Returns:
            B×D×H×W×3: where each output voxel looks in the input, (x, y, z) in [-1, 1], ``align_corners=False``.

        Raises:
            ValueError: θ has another shape, is not floating or not finite; a side of ``size`` is below 1.
        """
        return _grid(self.matrix(theta)[:, :3], size)


class Affine3D(_MatrixFamily3D):
    """Twelve numbers: rotation, scale, shear and translation in space (Jaderberg et al. 2015, appendix A.3).

    θ holds the 3×4 matrix that takes (x, y, z, 1) of the target to (x, y, z) of the source, row by row.
    """

    num_params = 12

    def identity(self) -> Tensor:
        """(1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0), float32."""
        return torch.eye(3, 4).flatten()

    def matrix(self, theta: Tensor) -> Tensor:
        """B×12 → B×4×4: three rows of θ above (0, 0, 0, 1).

        Raises:
            ValueError: θ has another shape, is not floating or not finite.
        """
        check_batch("theta", theta, self.num_params)
        last_row = theta.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(theta.shape[0], 1, 4)
        return torch.cat([theta.view(-1, 3, 4), last_row], dim=1)


class Rotation3D(_MatrixFamily3D):
    """Three numbers: the angles of `rotation_3d`, about x, y and z, in radians.

    For what is rigid and stands in the middle. On a volume that is no cube the axes of [-1, 1]³ have different
    lengths, and a rotation in them shears.
    """

    num_params = 3

    def identity(self) -> Tensor:
        """(0, 0, 0), float32."""
        return torch.zeros(3)

    def matrix(self, theta: Tensor) -> Tensor:
        """B×3 → B×4×4: the rotation, with no translation.

        Raises:
            ValueError: θ has another shape, is not floating or not finite.
        """
        check_batch("theta", theta, self.num_params)
        return Affine3D().matrix(F.pad(rotation_3d(theta), (0, 1)).flatten(1))


def target_voxels(
    size: tuple[int, int, int], *, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Tensor:
    """The voxel centres of an output volume in homogeneous coordinates (x, y, z, 1).

    Args:
        size: (D, H, W) of the output, in voxels.
        dtype: a floating dtype.
        device: where the tensor is made.

    Returns:
        Tensor of shape (D, H, W, 4).

    Raises:
        ValueError: ``size`` is not three sides, each at least 1.
    """
    if len(size) != 3 or min(size) < 1:
        raise ValueError(f"size: wanted (D, H, W), each at least 1, got {tuple(size)}")
    z, y, x = (pixel_centers(side, dtype=dtype, device=device) for side in size)
    points = torch.ones(*size, 4, dtype=dtype, device=device)
    points[..., 0] = x
    points[..., 1] = y[:, None]
    points[..., 2] = z[:, None, None]
    return points


def sample_volume(volume: Tensor, grid: Tensor) -> Tensor:
    """Read ``volume`` at the points of ``grid`` with torch's native kernel: trilinear, zeros outside.

    Args:
        volume: B×C×D×H×W, floating.
        grid: B×D'×H'×W'×3, same dtype; (x, y, z) in [-1, 1], ``align_corners=False``. D'×H'×W' is the size of the
            output.

    Returns:
        B×C×D'×H'×W'.

    Raises:
        ValueError: a shape or dtype that does not fit.
    """
    _check(volume, grid)
    return F.grid_sample(volume, grid, align_corners=False)


def trilinear_sample(volume: Tensor, grid: Tensor) -> Tensor:
    """The trilinear sampler from scratch; equal to `sample_volume` up to rounding.

    ``V = Σₗ Σₙ Σₘ U[l, n, m] max(0, 1 − |x − m|) max(0, 1 − |y − n|) max(0, 1 − |z − l|)`` with x, y, z in voxels: a
    third hat beside the two of equation 5 of the paper. Of all D·H·W terms only those of the eight voxels around the
    point are not zero, and these are added up one after another. Where a coordinate falls exactly on a voxel's centre
    the sum has a kink; there the derivative is the one to the right, as torch takes it.

    Args:
        volume: B×C×D×H×W, floating; outside there are zeros.
        grid: B×D'×H'×W'×3, same dtype; (x, y, z) in [-1, 1], ``align_corners=False``.

    Returns:
        B×C×D'×H'×W'; NaN where the grid is. Gradients flow to ``volume`` and to ``grid``, by autograd.

    Raises:
        ValueError: a shape or dtype that does not fit.
    """
    _check(volume, grid)
    channels, (depth, height, width) = volume.shape[1], volume.shape[2:]
    sides = grid.new_tensor([width, height, depth])
    strides = torch.tensor([1, width, height * width], device=grid.device)  # of x, y, z among the flat voxels
    voxels = volume.flatten(2)  # B×C×(D·H·W)
    place = ((grid.flatten(1, 3) + 1) * sides - 1) / 2  # B×P×3, in voxels: voxel i has its centre at i
    first = place.floor()
    share = place - first  # of the farther neighbour, along each axis

    output = 0
    for corner in product((0, 1), repeat=3):
        farther = torch.tensor(corner, device=grid.device)
        neighbour = first + farther
        weight = torch.where(farther == 1, share, 1 - share).unbind(-1)
        inside = ((neighbour >= 0) & (neighbour < sides)).all(-1)
        # A number, and inside, before the cast: so neither NaN nor a point far outside overflows. Their weights are NaN and 0.
        index = (neighbour.nan_to_num().clamp(min=0).minimum(sides - 1).long() * strides).sum(-1)
        values = voxels.gather(2, index[:, None].expand(-1, channels, -1))
        output = output + values * (weight[0] * weight[1] * weight[2] * inside)[:, None]
    return output.view(len(volume), channels, *grid.shape[1:4])


def rotation_3d(angles: Tensor) -> Tensor:
    """The matrix that turns about the x axis, then the y axis, then the z axis, all three fixed in space.

    R = R_z(γ) R_y(β) R_x(α). With x right, y down and z away from the reader, γ > 0 turns clockwise as one sees it.

    Args:
        angles: B×3, floating: (α, β, γ) about x, y and z, in radians.

    Returns:
        B×3×3, orthogonal with determinant 1. Its inverse is its transpose.

    Raises:
        ValueError: ``angles`` has another shape, is not floating or not finite.
    """
    check_batch("angles", angles, 3)
    rotation = torch.eye(3, dtype=angles.dtype, device=angles.device)
    # Each axis with the two that it turns: from the first towards the second.
    for axis, (one, other) in enumerate([(1, 2), (2, 0), (0, 1)]):
        cos, sin = angles[:, axis].cos(), angles[:, axis].sin()
        turn = torch.zeros(len(angles), 3, 3, dtype=angles.dtype, device=angles.device)
        turn[:, axis, axis] = 1
        turn[:, one, one] = turn[:, other, other] = cos
        turn[:, one, other], turn[:, other, one] = -sin, sin
        rotation = turn @ rotation
    return rotation


def rotate_volumes(volumes: Tensor, rotation: Tensor) -> Tensor:
    """Turn what is in every volume by a rotation of its own, about the centre.

    Args:
        volumes: B×C×S×S×S, floating, outside of which there are zeros.
        rotation: B×3×3, same dtype, of `rotation_3d`: a point p of what is inside goes to R p.

    Returns:
        B×C×S×S×S.

    Raises:
        ValueError: a volume that is no cube (there a rotation of [-1, 1]³ shears), or another shape or dtype that does
            not fit.
    """
    check_batch("rotation", rotation, 3, 3)
    size = tuple(volumes.shape[2:])
    if len(size) != 3 or len(set(size)) != 1:
        raise ValueError(f"volumes: wanted cubes, B×C×S×S×S, got {tuple(volumes.shape)}")
    # The grid maps target to source: to turn what is inside by R, look along the inverse.
    return sample_volume(volumes, _grid(F.pad(rotation.transpose(1, 2), (0, 1)), size))


def extrude(images: Tensor, depth: int, size: int = 60) -> Tensor:
    """Give images a thickness: each stands in the middle of a cube, the same on ``depth`` slices.

    Args:
        images: B×C×H×W, floating; their pixels become voxels, unscaled.
        depth: slices that show the image; before and behind them there is nothing (0).
        size: side of the cube in voxels; the paper's is 60.

    Returns:
        B×C×size×size×size. What cannot be centred exactly stands half a voxel towards the first.

    Raises:
        ValueError: ``images`` has another shape or is not floating; image or depth does not fit into the cube.
    """
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(f"images: wanted floating B×C×H×W, got {images.dtype} {tuple(images.shape)}")
    if max(images.shape[2:]) > size:
        raise ValueError(f"size: a cube of side {size} does not hold images of {tuple(images.shape[2:])} pixels")
    if not 1 <= depth <= size:
        raise ValueError(f"depth: wanted 1 to {size} slices, as the cube has, got {depth}")
    height, width = images.shape[2:]
    z, y, x = ((size - side) // 2 for side in (depth, height, width))
    volumes = images.new_zeros(*images.shape[:2], size, size, size)
    volumes[:, :, z : z + depth, y : y + height, x : x + width] = images[:, :, None]
    return volumes


def project(volumes: Tensor) -> Tensor:
    """Flatten volumes to images: the sum along z, as on an X-ray film.

    The sum and not the greatest voxel, because to a sum every voxel of the ray contributes and so every one gets a
    gradient; a maximum would pass it to one voxel of the ray. An extruded image that stands upright comes back times
    its depth.

    Args:
        volumes: B×C×D×H×W, floating.

    Returns:
        B×C×H×W.

    Raises:
        ValueError: ``volumes`` has another shape.
    """
    if volumes.dim() != 5:
        raise ValueError(f"volumes: wanted B×C×D×H×W, got shape {tuple(volumes.shape)}")
    return volumes.sum(2)


def _grid(rows: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Every target voxel through the 3×4 matrix of its batch entry: B×3×4 → B×D×H×W×3."""
    points = target_voxels(size, dtype=rows.dtype, device=rows.device).view(-1, 4)
    return (points @ rows.transpose(1, 2)).view(-1, *size, 3)


def _check(volume: Tensor, grid: Tensor) -> None:
    if volume.dim() != 5 or volume.numel() == 0:
        raise ValueError(f"volume: wanted a non-empty B×C×D×H×W tensor, got shape {tuple(volume.shape)}")
    if grid.dim() != 5 or grid.shape[-1] != 3 or grid.shape[0] != volume.shape[0]:
        wanted = f"wanted shape B×D'×H'×W'×3 with the volume's B = {volume.shape[0]}"
        raise ValueError(f"grid: {wanted}, got {tuple(grid.shape)}")
    if not volume.is_floating_point() or volume.dtype != grid.dtype:
        raise ValueError(f"volume and grid: wanted one floating dtype, got {volume.dtype} and {grid.dtype}")
