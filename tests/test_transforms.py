"""The grid generator against torch's affine_grid, and its own algebra."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from kornia.geometry.transform import homography_warp

from stn_helpers.sampling import sample
from stn_helpers.transforms import (
    HORIZON,
    Affine,
    Attention,
    Projective,
    Similarity,
    ThinPlateSpline,
    matrix_grid,
    pixel_centers,
    projective_grid,
    target_points,
)

FAMILIES = [Affine(), Attention(), Similarity(), Projective(), ThinPlateSpline(), ThinPlateSpline(3, 0.1)]
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
seeds = st.integers(0, 2**31 - 1)


def random_theta(family, batch, seed, dtype=torch.float64):
    noise = torch.randn(batch, family.num_params, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return family.identity().to(dtype) + noise


@given(sizes, seeds, st.integers(1, 4))
def test_affine_grid_is_torchs(size, seed, batch):
    theta = random_theta(Affine(), batch, seed)
    expected = F.affine_grid(theta.view(-1, 2, 3), [batch, 1, *size], align_corners=False)
    torch.testing.assert_close(Affine().grid(theta, size), expected, rtol=0, atol=1e-12)


@given(sizes, seeds)
def test_attention_grid_is_torchs(size, seed):
    theta = random_theta(Attention(), 3, seed)
    scale, tx, ty = theta.T
    zero = torch.zeros(3, dtype=theta.dtype)
    rows = torch.stack([scale, zero, tx, zero, scale, ty], dim=1).view(3, 2, 3)
    expected = F.affine_grid(rows, [3, 1, *size], align_corners=False)
    torch.testing.assert_close(Attention().grid(theta, size), expected, rtol=0, atol=1e-12)


@given(sizes, seeds)
def test_similarity_grid_is_torchs(size, seed):
    theta = random_theta(Similarity(), 3, seed)
    a, b, tx, ty = theta.T
    rows = torch.stack([a, -b, tx, b, a, ty], dim=1).view(3, 2, 3)
    expected = F.affine_grid(rows, [3, 1, *size], align_corners=False)
    torch.testing.assert_close(Similarity().grid(theta, size), expected, rtol=0, atol=1e-12)


@given(seeds)
def test_a_similarity_keeps_angles_and_ratios(seed):
    corner = torch.tensor([[0.3, -0.2, 1.0], [0.9, 0.1, 1.0], [0.1, 0.2, 1.0]], dtype=torch.float64)
    moved = corner @ Similarity().matrix(random_theta(Similarity(), 1, seed))[0].T
    before, after = (torch.view_as_complex((p[1:, :2] - p[0, :2]).contiguous()) for p in (corner, moved))
    torch.testing.assert_close(after[0] / after[1], before[0] / before[1])


@given(sizes, seeds, st.integers(1, 3))
def test_projective_with_no_perspective_is_affine(size, seed, batch):
    theta = random_theta(Affine(), batch, seed)
    grid = Projective().grid(F.pad(theta, (0, 2)), size)
    torch.testing.assert_close(grid, Affine().grid(theta, size), rtol=0, atol=1e-12)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("seed", range(5))
def test_projective_warp_is_kornias(seed, padding):
    # kornia's homography_warp takes the same map (target to source, normalised) with align_corners=False as its
    # default. It adds 1e-8 to the denominator and sees through the back of the camera: here no horizon is in view.
    generator = torch.Generator().manual_seed(seed)
    theta = random_theta(Projective(), 2, seed)
    theta[:, 6:] = 0.8 * torch.rand(2, 2, generator=generator) - 0.4
    image = torch.rand(2, 3, 7, 9, generator=generator, dtype=torch.float64)
    ours = sample(image, Projective().grid(theta, (8, 6)), padding=padding)
    theirs = homography_warp(image, Projective().matrix(theta), (8, 6), padding_mode=padding)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@given(sizes, seeds)
def test_in_front_of_the_horizon_homogeneous_coordinates_are_divided(size, seed):
    theta = random_theta(Projective(), 2, seed)
    points = target_points(size, dtype=theta.dtype).view(-1, 3)
    homogeneous = points @ Projective().matrix(theta).transpose(1, 2)
    front = homogeneous[..., 2] > HORIZON
    grid = Projective().grid(theta, size).flatten(1, 2)
    quotient = homogeneous[..., :2] / homogeneous[..., 2:]
    torch.testing.assert_close(grid[front], quotient[front], rtol=1e-9, atol=1e-9)
    assert (grid[~front] == 1 / HORIZON).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_horizon_is_finite_and_outside(dtype):
    # w = 1 + 2x is 0 at x = -0.5, a pixel centre of two; behind it the plain quotient would look inside again.
    theta = torch.tensor([[0.2, 0, 0, 0, 0.2, 0, 2.0, 0.0]], dtype=dtype).requires_grad_()
    for size in [(2, 2), (5, 8)]:
        grid = Projective().grid(theta, size)
        behind = 1 + 2 * pixel_centers(size[1], dtype=dtype) <= HORIZON
        assert grid.isfinite().all() and behind.any()
        assert (grid[:, :, behind] > 2).all()
        (slope,) = torch.autograd.grad(grid.float().square().sum(), theta)
        assert slope.isfinite().all()


def test_nothing_is_seen_behind_the_horizon():
    theta = torch.tensor([[0.2, 0, 0, 0, 0.2, 0, 2.0, 0.0]], requires_grad=True)
    grid = Projective().grid(theta, (6, 6))
    output = sample(torch.ones(1, 1, 6, 6), grid)
    assert (output[..., :2] == 0).all() and (output[..., 3:] > 0).all()
    (slope,) = torch.autograd.grad(grid[:, :, :2].sum(), theta)
    assert (slope == 0).all()


@given(sizes, seeds)
def test_homographies_compose_and_undo_each_other(size, seed):
    generator = torch.Generator().manual_seed(seed)
    noise = 0.2 * torch.rand(1, 3, 3, generator=generator, dtype=torch.float64) - 0.1
    matrix = torch.eye(3, dtype=torch.float64) + noise  # near enough to 1 that the horizon stays away
    points = projective_grid(matrix, size)[0].reshape(-1, 2)
    homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], dim=1) @ torch.linalg.inv(matrix[0]).T
    back = homogeneous[:, :2] / homogeneous[:, 2:]
    torch.testing.assert_close(back, target_points(size, dtype=torch.float64)[..., :2].reshape(-1, 2))
    there_and_back = projective_grid(torch.linalg.inv(matrix) @ matrix, size)[0]
    torch.testing.assert_close(there_and_back, target_points(size, dtype=torch.float64)[..., :2])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
@given(size=sizes)
def test_identity_looks_straight_ahead(family, size):
    theta = family.identity()
    assert theta.shape == (family.num_params,) and theta.dtype == torch.float32
    grid = family.grid(theta[None], size)
    torch.testing.assert_close(grid[0], target_points(size)[..., :2], rtol=0, atol=1e-6)


@given(sizes, seeds)
def test_composition_is_a_matrix_product(size, seed):
    first, second = Affine().matrix(random_theta(Affine(), 2, seed)).unbind(0)
    points = matrix_grid(first[None], size)[0]
    homogeneous = torch.cat([points, torch.ones(*size, 1, dtype=points.dtype)], dim=-1)
    twice = (homogeneous @ second.T)[..., :2]
    torch.testing.assert_close(matrix_grid((second @ first)[None], size)[0], twice)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
def test_gradcheck(family):
    theta = random_theta(family, 2, seed=0)
    if isinstance(family, Projective):
        theta[:, 6:] *= 0.3  # keeps the horizon, where the derivative jumps, off the pixel centres
    theta.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: family.grid(t, (3, 5)), theta)


@given(st.integers(1, 50))
def test_pixel_centers_are_evenly_spaced_inside_the_edges(n):
    centers = pixel_centers(n, dtype=torch.float64)
    edges = torch.linspace(-1, 1, n + 1, dtype=torch.float64)
    torch.testing.assert_close(centers, (edges[1:] + edges[:-1]) / 2, rtol=0, atol=1e-12)


def test_target_points_run_x_right_and_y_down():
    points = target_points((2, 3))
    assert points.shape == (2, 3, 3)
    torch.testing.assert_close(points[0, :, 0], torch.tensor([-2 / 3, 0.0, 2 / 3]), rtol=0, atol=1e-6)
    torch.testing.assert_close(points[:, 0, 1], torch.tensor([-0.5, 0.5]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
def test_bad_theta_is_named(family):
    good = family.identity()[None]
    for bad, words in [
        (good[0], "shape"),
        (good[:, 1:], "shape"),
        (good.long(), "floating"),
        (good * float("nan"), "NaN"),
    ]:
        with pytest.raises(ValueError, match=f"theta: .*{words}"):
            family.grid(bad, (2, 2))


def test_bad_size_and_matrix_are_named():
    with pytest.raises(ValueError, match="at least 1 pixel"):
        Affine().grid(Affine().identity()[None], (0, 4))
    with pytest.raises(ValueError, match="at least 1 pixel"):
        ThinPlateSpline().grid(ThinPlateSpline().identity()[None], (0, 4))
    with pytest.raises(ValueError, match="matrix: wanted shape"):
        matrix_grid(torch.eye(3), (2, 2))
