"""The grid generator against torch's affine_grid, and its own algebra."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from stn_helpers.transforms import Affine, Attention, matrix_grid, pixel_centers, target_points

FAMILIES = [Affine(), Attention()]
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
    theta = random_theta(family, 2, seed=0).requires_grad_()
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
    with pytest.raises(ValueError, match="matrix: wanted shape"):
        matrix_grid(torch.eye(3), (2, 2))
