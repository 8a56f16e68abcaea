"""The algebra of the matrix families: chain, undo and take apart θ; θ from corners and from pixel matrices.

θ maps target (output) to source (input), (x, y) in [-1, 1], ``align_corners=False``, as in
`stn_helpers.transforms`. All functions take whole batches and can be differentiated.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stn_helpers.transforms import HORIZON, Affine, Projective, check_batch

__all__ = [
    "AffineParts",
    "affine_theta",
    "compose_affine",
    "corners_to_theta",
    "decompose_affine",
    "invert_affine",
    "pixels_from_theta",
    "theta_from_pixels",
    "theta_to_corners",
]


OUTPUT_CORNERS = ((-1, -1, 1), (1, -1, 1), (1, 1, 1), (-1, 1, 1))  # (x, y, 1), from top left clockwise


class AffineParts(NamedTuple):
    """An affine map taken apart: a target point is scaled, sheared, rotated, then moved. Each field is (B,)."""

    rotation: Tensor
    """φ in radians, in (-π, π]. As y points down, φ > 0 turns the window clockwise, so the picture the other way."""
    scale_x: Tensor
    """Above 0; below 1 zooms in, as a smaller window is spread over the output."""
    scale_y: Tensor
    """Below 0 where the map mirrors."""
    shear: Tensor
    """κ, by which x grows with y, to x + κ·y."""
    tx: Tensor
    """The window's centre, in units of half the image's width."""
    ty: Tensor
    """The window's centre, in units of half the image's height."""


def affine_theta(
    *,
    rotation: Tensor | float = 0.0,
    scale_x: Tensor | float = 1.0,
    scale_y: Tensor | float = 1.0,
    shear: Tensor | float = 0.0,
    tx: Tensor | float = 0.0,
    ty: Tensor | float = 0.0,
    aspect: float = 1.0,
) -> Tensor:
    """θ of `Affine` from its parts: R(φ) · [[1, κ], [0, 1]] · diag(s_x, s_y) beside the column (t_x, t_y).

    On an image of W×H pixels [-1, 1] spans W pixels across and H down, so a rotation in these coordinates
    shears the picture unless W = H. Give ``aspect`` = W/H, and rotation, scales and shear act on the picture
    in pixels instead: with D = diag(aspect, 1) the matrix becomes D⁻¹ · (the product above) · D.

    Args:
        rotation: φ in radians; like the others a number, or a floating tensor of shape (B,).
        scale_x: s_x.
        scale_y: s_y.
        shear: κ.
        tx: t_x, in [-1, 1] inside the image whatever the aspect.
        ty: t_y, likewise.
        aspect: width/height of the image (input and output alike), above 0.

    Returns:
        B×6, of the tensors' dtype (of several, the widest); 1×6 float32 where all are numbers.
        ``affine_theta(**parts._asdict())`` undoes `decompose_affine`.

    Raises:
        ValueError: a part has another shape, is not floating or not finite; parts of several B that are not 1;
            ``aspect`` is not above 0.
    """
    _check_aspect(aspect)
    given = {"rotation": rotation, "scale_x": scale_x, "scale_y": scale_y, "shear": shear, "tx": tx, "ty": ty}
    like = next((part for part in given.values() if isinstance(part, Tensor)), torch.zeros(1))
    parts = []
    for name, part in given.items():
        part = part if isinstance(part, Tensor) else torch.as_tensor(part, dtype=like.dtype, device=like.device)
        parts.append(part if part.dim() else part[None])
        check_batch(name, parts[-1])
    _check_one_batch(dict(zip(given, parts, strict=True)))
    rotation, scale_x, scale_y, shear, tx, ty = torch.broadcast_tensors(*parts)
    cos, sin = rotation.cos(), rotation.sin()
    row_x = [cos * scale_x, (cos * shear - sin) * scale_y / aspect, tx]
    row_y = [sin * scale_x * aspect, (sin * shear + cos) * scale_y, ty]
    return torch.stack(row_x + row_y, dim=1)


def decompose_affine(theta: Tensor, aspect: float = 1.0) -> AffineParts:
    """Rotation, scales, shear and translation of an affine θ; the parts are unique, as scale_x is above 0.

    Args:
        theta: B×6, floating.
        aspect: width/height of the image, as in `affine_theta`.

    Returns:
        `AffineParts`, six tensors of shape (B,).

    Raises:
        ValueError: θ has another shape, is not floating, not finite or singular; ``aspect`` is not above 0.
    """
    _check_aspect(aspect)
    determinant = _check_invertible("theta", Affine().matrix(theta)[:, :2, :2])
    a, b, tx, c, d, ty = theta.unbind(1)
    b, c = b * aspect, c / aspect
    scale_x = torch.hypot(a, c)  # the first column is scale_x · (cos φ, sin φ)
    scale_y = determinant / scale_x
    return AffineParts(torch.atan2(c, a), scale_x, scale_y, (a * b + c * d) / determinant, tx, ty)


def compose_affine(first: Tensor, second: Tensor) -> Tensor:
    """θ of one map that sends a target point through ``first`` and the result through ``second``.

    The matrices multiply as M(second) · M(first). Images are warped in the opposite order: sampling with the
    composed θ is sampling the picture with ``second``, then that output with ``first`` (but for the blur of
    sampling twice).

    Args:
        first: B×6, floating.
        second: B×6, same dtype; either may have B = 1.

    Returns:
        B×6.

    Raises:
        ValueError: a θ has another shape, is not floating or not finite; two B that are not 1.
    """
    _check_one_batch({"first": first, "second": second})
    product = Affine().matrix(second) @ Affine().matrix(first)
    return product[:, :2].flatten(1)


def invert_affine(theta: Tensor) -> Tensor:
    """θ of the map from source to target.

    Args:
        theta: B×6, floating.

    Returns:
        B×6; `compose_affine` of the two is the identity.

    Raises:
        ValueError: θ has another shape, is not floating, not finite or singular.
    """
    matrix = Affine().matrix(theta)
    _check_invertible("theta", matrix[:, :2, :2])
    return torch.linalg.inv(matrix)[:, :2].flatten(1)


def corners_to_theta(corners: Tensor) -> Tensor:
    """θ of `Projective` from the places where the four corners of the output look.

    With the corners in homogeneous coordinates p_i = (x, y, 1), the map sends target corner i to w_i p_i,
    where w_i is the determinant of the other three (twice the area of their triangle). The columns of the
    matrix are then (−w₁p₁ + w₂p₂ + w₃p₃ − w₄p₄)/4, (−w₁p₁ − w₂p₂ + w₃p₃ + w₄p₄)/4 and (w₁p₁ + w₂p₂ + w₃p₃ +
    w₄p₄)/4, all divided by the last entry, (w₁ + w₂ + w₃ + w₄)/4: the area of the quadrilateral.

    In a convex quadrilateral all w_i have one sign. Where one corner lies inside the triangle of the others,
    or two sides cross, the horizon runs through the output, and `projective_grid` reads outside the image
    behind it.

    Args:
        corners: B×4×2, floating, (x, y): where top left, top right, bottom right and bottom left of the
            *output* (its outer corners, (±1, ±1)) lie in the input.

    Returns:
        B×8.

    Raises:
        ValueError: another shape, not floating, not finite; three corners on one line (or two in one place);
            or two sides cross so that the horizon runs through the centre, where θ's last entry cannot be 1.
    """
    check_batch("corners", corners, 4, 2)
    homogeneous = torch.cat([corners, torch.ones_like(corners[..., :1])], dim=2)
    others = torch.tensor([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]], device=corners.device)
    weights = torch.linalg.det(homogeneous[:, others])  # B×4
    smallest = _tiny(corners) * (corners - corners.mean(1, keepdim=True)).square().sum((1, 2))
    _check_all("corners", weights.abs().amin(1) > smallest, "three corners lie on one line, or two coincide")
    centered = weights.sum(1).abs() > smallest
    _check_all("corners", centered, "the sides cross and the horizon runs through the centre")

    signs = corners.new_tensor(OUTPUT_CORNERS)  # of the columns above
    matrix = torch.einsum("bi,bir,ic->brc", weights, homogeneous, signs)
    return (matrix / matrix[:, 2:, 2:]).flatten(1)[:, :8]


def theta_to_corners(theta: Tensor) -> Tensor:
    """Where the four corners of the output look under a `Projective` θ; undoes `corners_to_theta`.

    Args:
        theta: B×8, floating.

    Returns:
        B×4×2, (x, y): top left, top right, bottom right, bottom left. A corner behind the horizon has a place
        all the same, the one through which its ray passes backwards.

    Raises:
        ValueError: θ has another shape, is not floating or not finite; a corner lies on the horizon.
    """
    matrix = Projective().matrix(theta)
    homogeneous = theta.new_tensor(OUTPUT_CORNERS) @ matrix.transpose(1, 2)
    denominator = homogeneous[..., 2:]
    on_horizon = (denominator.abs() <= HORIZON).flatten(1).any(1)
    _check_all("theta", ~on_horizon, "a corner of the output lies on the horizon, infinitely far away")
    return homogeneous[..., :2] / denominator


def theta_from_pixels(
    matrix: Tensor, in_size: tuple[int, int], out_size: tuple[int, int], *, direction: str
) -> Tensor:
    """θ from a matrix in pixels, as OpenCV's ``warpAffine`` (2×3) and ``warpPerspective`` (3×3) take it.

    In pixels the centre of the top left pixel is (0, 0) and that of its right neighbour (1, 0).

    Args:
        matrix: B×2×3 or B×3×3, floating.
        in_size: (H, W) of the input, in pixels.
        out_size: (H', W') of the output, in pixels.
        direction: which way the matrix maps. "source_to_target" is what OpenCV expects unless told otherwise
            (it inverts the matrix itself); "target_to_source" is what it expects with the flag
            ``WARP_INVERSE_MAP``, and what θ does.

    Returns:
        B×6 for `Affine` from B×2×3; B×8 for `Projective` from B×3×3.

    Raises:
        ValueError: another shape, not floating, not finite; a singular matrix that would have to be inverted;
            an unknown direction; a size below 1; a homography whose horizon runs through the centre of the
            output.
    """
    rows = 2 if matrix.dim() == 3 and matrix.shape[1] == 2 else 3
    check_batch("matrix", matrix, rows, 3)
    if rows == 2:
        matrix = Affine().matrix(matrix.flatten(1))
    inverts = _inverts(direction)
    before, after = (in_size, out_size) if inverts else (out_size, in_size)
    matrix = _normalizer(after, matrix) @ matrix @ torch.linalg.inv(_normalizer(before, matrix))
    if inverts:
        _check_invertible("matrix", matrix[:, :rows, :rows])
        matrix = torch.linalg.inv(matrix)
    if rows == 2:
        return matrix[:, :2].flatten(1)
    last = matrix[:, 2:, 2:]
    fits = last.flatten().abs() > _tiny(matrix) * matrix.abs().amax((1, 2))
    _check_all("matrix", fits, "the horizon runs through the centre of the output")
    return (matrix / last).flatten(1)[:, :8]


def pixels_from_theta(
    theta: Tensor, in_size: tuple[int, int], out_size: tuple[int, int], *, direction: str
) -> Tensor:
    """The matrix in pixels of an `Affine` or `Projective` θ; undoes `theta_from_pixels`.

    Args:
        theta: B×6 or B×8, floating.
        in_size: (H, W) of the input, in pixels.
        out_size: (H', W') of the output, in pixels.
        direction: "source_to_target" (OpenCV's default) or "target_to_source" (OpenCV's
            ``WARP_INVERSE_MAP``).

    Returns:
        B×2×3 from B×6; B×3×3 from B×8, defined up to a factor.

    Raises:
        ValueError: another shape, not floating, not finite; a singular θ that would have to be inverted; an
            unknown direction; a size below 1.
    """
    affine = theta.dim() == 2 and theta.shape[1] == 6
    matrix = (Affine() if affine else Projective()).matrix(theta)
    rows = 2 if affine else 3
    before, after = out_size, in_size
    if _inverts(direction):
        _check_invertible("theta", matrix[:, :rows, :rows])
        matrix = torch.linalg.inv(matrix)
        before, after = after, before
    matrix = torch.linalg.inv(_normalizer(after, matrix)) @ matrix @ _normalizer(before, matrix)
    return matrix[:, :rows]


def _normalizer(size: tuple[int, int], like: Tensor) -> Tensor:
    """3×3: pixel centres 0 … n − 1 to (2i + 1)/n − 1."""
    height, width = size
    if min(size) < 1:
        raise ValueError(f"size: wanted (H, W), both at least 1, got {size}")
    return like.new_tensor([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]])


def _inverts(direction: str) -> bool:
    if direction not in ("source_to_target", "target_to_source"):
        raise ValueError(f"direction: wanted source_to_target or target_to_source, got {direction!r}")
    return direction == "source_to_target"


def _check_aspect(aspect: float) -> None:
    if not 0 < aspect < float("inf"):
        raise ValueError(f"aspect: wanted width/height of the image, a number above 0, got {aspect}")


def _check_one_batch(values: dict[str, Tensor]) -> None:
    if len({len(value) for value in values.values()} - {1}) > 1:
        sizes = ", ".join(f"{len(value)} ({name})" for name, value in values.items())
        raise ValueError(f"wanted batches of one size, or of 1, got {sizes}")


def _check_invertible(name: str, matrix: Tensor) -> Tensor:
    """The determinants of B×n×n, once it is sure that no matrix is singular."""
    determinant = torch.linalg.det(matrix)
    columns = matrix.norm(dim=1).prod(1)  # the determinant of columns this long at right angles
    invertible = determinant.abs() > _tiny(matrix) * columns
    _check_all(name, invertible, "a matrix that flattens the plane has no inverse")
    return determinant


def _check_all(name: str, good: Tensor, wrong: str) -> None:
    if not bool(good.all()):
        raise ValueError(f"{name}: {wrong} (number {int((~good).nonzero()[0])} of the batch)")


def _tiny(value: Tensor) -> float:
    """Relative size under which a determinant of this dtype is rounding."""
    return 8 * torch.finfo(value.dtype).eps
