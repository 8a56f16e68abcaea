"""The thin plate spline against SciPy's, and against kornia's where the two mean the same."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kornia.geometry.transform import get_tps_transform, warp_image_tps, warp_points_tps
from scipy.interpolate import RBFInterpolator

from stn_helpers.sampling import sample
from stn_helpers.thin_plate import thin_plate_basis, thin_plate_kernel
from stn_helpers.transforms import Affine, ThinPlateSpline, target_points

seeds = st.integers(0, 2**31 - 1)


def bent(spline, batch, seed, scale=0.2):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch, spline.num_params, generator=generator, dtype=torch.float64)
    return spline.control.flatten() + scale * noise


def pixel_points(size):
    return target_points(size, dtype=torch.float64)[..., :2].reshape(-1, 2)


@given(seeds, st.integers(2, 6), st.sampled_from([0.0, 0.01, 0.5, 10.0]))
def test_grid_is_scipys(seed, points, regularization):
    spline = ThinPlateSpline(points, regularization)
    theta = bent(spline, 2, seed)
    grid = spline.grid(theta, (5, 8))
    for mine, numbers in zip(grid, theta, strict=True):
        reference = RBFInterpolator(
            spline.control.numpy(),
            numbers.view(-1, 2).numpy(),
            kernel="thin_plate_spline",
            degree=1,
            smoothing=regularization,
        )
        expected = torch.from_numpy(reference(pixel_points((5, 8)).numpy()))
        torch.testing.assert_close(mine.reshape(-1, 2), expected, rtol=0, atol=1e-10)


@given(seeds, st.integers(3, 12))
def test_any_control_points_are_scipys(seed, count):
    control = 2 * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
    spline = ThinPlateSpline(control)
    theta = bent(spline, 1, seed)
    reference = RBFInterpolator(
        control.numpy(), theta.view(-1, 2).numpy(), kernel="thin_plate_spline", degree=1
    )
    expected = torch.from_numpy(reference(pixel_points((4, 4)).numpy()))
    torch.testing.assert_close(spline.grid(theta, (4, 4)).view(-1, 2), expected, rtol=1e-6, atol=1e-6)


@given(seeds, st.integers(2, 6))
def test_the_spline_passes_through_its_control_points(seed, points):
    spline = ThinPlateSpline(points)
    values = bent(spline, 1, seed).view(-1, 2)
    at_control = thin_plate_basis(spline.control, spline.control) @ values
    torch.testing.assert_close(at_control, values, rtol=0, atol=1e-10)


def test_control_points_run_row_by_row_x_first():
    spline = ThinPlateSpline(2)
    assert spline.control.tolist() == [[-1, -1], [1, -1], [-1, 1], [1, 1]]
    assert spline.identity().tolist() == [-1, -1, 1, -1, -1, 1, 1, 1]
    assert ThinPlateSpline().num_params == 32


@given(seeds, st.floats(0, 100))
def test_an_affine_theta_gives_the_affine_grid(seed, regularization):
    # No bending is needed, so neither the kernel nor λ has a say.
    affine = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    spline = ThinPlateSpline(4, regularization)
    control = torch.cat([spline.control, torch.ones(16, 1, dtype=torch.float64)], dim=1)
    theta = (control @ affine.view(2, 2, 3).transpose(1, 2)).flatten(1)
    torch.testing.assert_close(spline.grid(theta, (6, 5)), Affine().grid(affine, (6, 5)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (128, 128), (17, 200)])
def test_identity_at_rest_in_float32(size):
    spline = ThinPlateSpline()
    grid = spline.grid(spline.identity()[None], size)[0]
    torch.testing.assert_close(grid, target_points(size)[..., :2], rtol=0, atol=1e-6)


def test_regularization_leads_to_the_best_affine_map():
    theta = bent(ThinPlateSpline(), 1, 0)
    control = torch.cat([ThinPlateSpline().control, torch.ones(16, 1, dtype=torch.float64)], dim=1)
    best = torch.linalg.lstsq(control, theta.view(16, 2)).solution.T.reshape(1, 6)
    stiff = ThinPlateSpline(regularization=1e9).grid(theta, (7, 7))
    torch.testing.assert_close(stiff, Affine().grid(best, (7, 7)), rtol=0, atol=1e-6)


def test_kornia_agrees_on_affine_maps_pixel_by_pixel():
    # kornia: get_tps_transform(a, b) takes points a to b in the caller's coordinates; an image is warped from
    # output to input, so a are the output's control points. Its frame is ours with align_corners=False, its default.
    spline = ThinPlateSpline()
    image = torch.rand(2, 3, 9, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turn = torch.tensor([[0.8, 0.3], [-0.4, 1.1]], dtype=torch.float64)
    places = (spline.control @ turn.T + 0.1).expand(2, -1, -1).contiguous()
    kernel, affine = get_tps_transform(spline.control.expand(2, -1, -1).contiguous(), places)
    theirs = warp_image_tps(image, places, kernel, affine)
    ours = sample(image, spline.grid(places.flatten(1), (9, 8)))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_kornia_agrees_at_control_points_and_for_small_bends():
    # Elsewhere the two splines differ: kornia hangs its kernels over the *moved* points (the second argument),
    # Bookstein and SciPy over the fixed ones. The difference shrinks with the square of the bend, so a small bend
    # must agree.
    spline = ThinPlateSpline()
    control = spline.control[None]
    points = pixel_points((9, 9))[None]
    for scale, tolerance in [(1e-2, 2e-3), (1e-3, 2e-5), (1e-4, 1e-6)]:
        theta = bent(spline, 1, 0, scale)
        places = theta.view(1, -1, 2)
        kernel, affine = get_tps_transform(control, places)
        at_control = warp_points_tps(control, places, kernel, affine)
        torch.testing.assert_close(at_control, places, rtol=0, atol=1e-6)
        theirs = warp_points_tps(points, places, kernel, affine)
        ours = spline.grid(theta, (9, 9)).reshape(1, -1, 2)
        bend = (ours - points).abs().max()
        assert bend > 5 * tolerance, "no bend at all would pass as well"
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def test_kernel_is_r_squared_log_r():
    r = torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=torch.float64)
    expected = torch.tensor([0.0, 0.25 * math.log(0.5), 0.0, 4 * math.log(2)], dtype=torch.float64)
    torch.testing.assert_close(thin_plate_kernel(r.square()), expected, rtol=0, atol=1e-12)


def test_a_basis_first_made_under_inference_mode_serves_training():
    spline = ThinPlateSpline(5, 0.123)  # not asked for by any other test, so the cache is cold
    with torch.inference_mode():
        spline.grid(spline.identity()[None], (6, 6))
    theta = spline.identity()[None].requires_grad_()
    spline.grid(theta, (6, 6)).sum().backward()
    assert theta.grad.abs().sum() > 0


def test_the_basis_is_solved_once_and_follows_its_key():
    spline = ThinPlateSpline()
    first = spline.basis((6, 7))
    assert spline.basis((6, 7)) is first and ThinPlateSpline().basis((6, 7)) is first
    assert spline.basis((6, 7), dtype=torch.float64).dtype == torch.float64
    assert spline.basis((7, 6)).shape == first.shape and not torch.equal(spline.basis((7, 6)), first)
    assert not torch.equal(ThinPlateSpline(regularization=1.0).basis((6, 7)), first)
    torch.testing.assert_close(first.sum(1), torch.ones(42), rtol=0, atol=1e-6)


def test_a_copy_is_the_same_spline():
    spline = ThinPlateSpline(3, 0.5)
    theta = bent(spline, 1, 0)
    assert torch.equal(copy.deepcopy(spline).grid(theta, (4, 4)), spline.grid(theta, (4, 4)))


def test_bad_control_points_are_named():
    square = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    with pytest.raises(ValueError, match="points: control points 1 and 3 coincide"):
        ThinPlateSpline(torch.cat([square[:3], square[1:2]]))
    with pytest.raises(ValueError, match="points: .*one line"):
        ThinPlateSpline(torch.tensor([[0.0, 0], [0.5, 0.5], [1, 1], [-1, -1]]))
    with pytest.raises(ValueError, match="points: .*NaN"):
        ThinPlateSpline(square * float("nan"))
    with pytest.raises(ValueError, match="points: wanted K×2"):
        ThinPlateSpline(square.T)
    with pytest.raises(ValueError, match="points: wanted at least 2"):
        ThinPlateSpline(1)
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="regularization: wanted"):
            ThinPlateSpline(regularization=bad)
