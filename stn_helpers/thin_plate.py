"""The thin plate spline as one matrix (Bookstein 1989): what `stn_helpers.transforms.ThinPlateSpline` stands on."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["thin_plate_basis", "thin_plate_kernel"]


def thin_plate_kernel(squared_distance: Tensor) -> Tensor:
    """ψ = r² log r = ½ r² log r², and 0 at r = 0: the bend of a thin plate held down at one point.

    Args:
        squared_distance: r², any shape, floating, not below 0.

    Returns:
        ψ, the same shape.
    """
    return 0.5 * torch.xlogy(squared_distance, squared_distance)


def thin_plate_basis(control: Tensor, points: Tensor, regularization: float = 0.0) -> Tensor:
    """The matrix that takes values at control points to the thin plate spline's values elsewhere.

    The spline ``f(p) = Σₖ bₖ ψ(|p − cₖ|) + a₀ + a₁x + a₂y`` through the values v solves (Bookstein 1989; the λ
    is Wahba 1990)::

        | Ψ + λI  P | |b|   |v|
        | Pᵀ      0 | |a| = |0|        Ψ: ψ between control points; P: a row (1, x, y) for each control point

    b and a are linear in v and f is linear in them, so f(points) = basis · v with a basis that no v changes.

    Args:
        control: K×2 control points, (x, y), floating.
        points: Q×2 points at which the spline is wanted, same dtype.
        regularization: λ ≥ 0.

    Returns:
        Q×K, of the dtype of ``control``; work in float64 and cast afterwards.

    Raises:
        ValueError: control points coincide or all lie on one line.
    """
    check_control(control)
    count = len(control)
    system = control.new_zeros(count + 3, count + 3)
    system[:count, :count] = thin_plate_kernel(_squared_distances(control, control))
    system[:count, :count] += regularization * torch.eye(count, dtype=control.dtype, device=control.device)
    system[:count, count:] = _with_one(control)
    system[count:, :count] = _with_one(control).T
    evaluate = torch.cat([thin_plate_kernel(_squared_distances(points, control)), _with_one(points)], dim=1)
    # evaluate · system⁻¹, of which the last three columns meet the zeros under v. The system is symmetric.
    return torch.linalg.solve(system, evaluate.T)[:count].T


def check_control(control: Tensor, name: str = "control") -> None:
    """Raise a ValueError that names the argument unless a thin plate spline can stand on these points."""
    if control.dim() != 2 or control.shape[1] != 2 or len(control) < 3:
        raise ValueError(f"{name}: wanted K×2 control points, K at least 3, got shape {tuple(control.shape)}")
    if not bool(control.isfinite().all()):
        raise ValueError(f"{name}: the control points hold NaN or infinity")
    distances = _squared_distances(control, control).fill_diagonal_(1.0)
    if distances.min() < 1e-12:
        first, second = divmod(int(distances.argmin()), len(control))
        raise ValueError(f"{name}: control points {first} and {second} coincide; give distinct points")
    if torch.linalg.matrix_rank(_with_one(control)) < 3:
        raise ValueError(f"{name}: the control points lie on one line; the spline needs three that do not")


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None] - b[None]).square().sum(-1)


def _with_one(points: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(points[:, :1]), points], dim=1)
