"""The sampler from scratch against torch's kernel, values and derivatives, and against gradcheck."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from stn_helpers.sampling import (
    PADDINGS,
    bicubic_kernel,
    bilinear_kernel,
    bilinear_sample,
    integer_kernel,
    kernel_sample,
    sample,
)

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
paddings = st.sampled_from(PADDINGS)
dtypes = st.sampled_from([torch.float32, torch.float64])
side = st.integers(1, 8)


def draw(shape, seed, dtype, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def values_and_gradients(sampler, image, grid, weights):
    image, grid = image.clone().requires_grad_(), grid.clone().requires_grad_()
    output = sampler(image, grid)
    return output, *torch.autograd.grad((output * weights).sum(), (image, grid))


@given(side, side, side, side, st.integers(0, 2**31 - 1), paddings, dtypes)
def test_values_and_gradients_are_torchs(height, width, out_height, out_width, seed, padding, dtype):
    image = draw((2, 3, height, width), seed, dtype)
    grid = draw((2, out_height, out_width, 2), seed + 1, dtype, scale=0.8)  # a good part lies outside [-1, 1]
    weights = draw((2, 3, out_height, out_width), seed + 2, dtype)
    weights, image = weights / 8, image / 8  # so that sums stay near 1 and the tolerance is absolute
    ours = values_and_gradients(lambda u, g: bilinear_sample(u, g, padding), image, grid, weights)
    theirs = values_and_gradients(
        lambda u, g: F.grid_sample(u, g, padding_mode=padding, align_corners=False), image, grid, weights
    )
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("padding", PADDINGS)
def test_gradcheck(padding):
    image = draw((2, 2, 4, 5), 0, torch.float64).requires_grad_()
    grid = draw((2, 3, 3, 2), 1, torch.float64, scale=0.7).requires_grad_()
    assert torch.autograd.gradcheck(lambda u, g: bilinear_sample(u, g, padding), (image, grid))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("far", [1e6, 1e30])
def test_points_far_outside_read_the_padding(padding, far):
    image = torch.ones(1, 1, 3, 3)
    grid = torch.tensor([[far, 0.0], [-far, 0.0], [0.0, far]]).view(1, 1, 3, 2)
    expected = F.grid_sample(image, grid, padding_mode=padding, align_corners=False)
    torch.testing.assert_close(bilinear_sample(image, grid, padding), expected)


@pytest.mark.parametrize("padding", PADDINGS)
def test_where_the_grid_is_nan_so_is_the_output_and_nothing_else(padding):
    image, grid = draw((1, 2, 4, 4), 0, torch.float32), draw((1, 3, 3, 2), 1, torch.float32)
    expected = bilinear_sample(image, grid, padding)
    grid[0, 1, 2, 0], expected[..., 1, 2] = float("nan"), float("nan")
    torch.testing.assert_close(bilinear_sample(image, grid, padding), expected, equal_nan=True)


def test_pixel_centers_return_the_pixels():
    image = draw((1, 1, 4, 6), 3, torch.float64)
    identity = F.affine_grid(torch.eye(2, 3, dtype=torch.float64)[None], [1, 1, 4, 6], align_corners=False)
    torch.testing.assert_close(bilinear_sample(image, identity), image, rtol=0, atol=1e-12)


def test_at_a_pixel_center_the_derivative_is_the_one_to_the_right():
    image = torch.tensor([1.0, 5.0, 2.0, 7.0]).view(1, 1, 1, 4).double()
    center = torch.tensor([[-0.25, 0.0]]).double().view(1, 1, 1, 2).requires_grad_()  # pixel 1 of 4
    (slope,) = torch.autograd.grad(bilinear_sample(image, center).sum(), center)
    assert slope[0, 0, 0, 0].item() == (2.0 - 5.0) * 4 / 2  # U[2] − U[1], times pixels per unit of x


@pytest.mark.parametrize("scale", [1.0, 5.0, 40.0])
def test_reflection_many_widths_away_is_torchs(scale):
    image, grid = draw((2, 1, 4, 5), 0, torch.float64), draw((2, 9, 9, 2), 1, torch.float64, scale)
    weights = draw((2, 1, 9, 9), 2, torch.float64)
    ours = values_and_gradients(lambda u, g: bilinear_sample(u, g, "reflection"), image, grid, weights)
    theirs = values_and_gradients(
        lambda u, g: F.grid_sample(u, g, padding_mode="reflection", align_corners=False), image, grid, weights
    )
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=0, atol=1e-10)


kernels = {"nearest": integer_kernel, "bilinear": bilinear_kernel, "bicubic": bicubic_kernel}


@pytest.mark.parametrize("mode", kernels)
@given(side, side, st.integers(0, 2**31 - 1))
def test_the_double_sum_is_torchs_kernel(mode, height, width, seed):
    image = draw((2, 3, height, width), seed, torch.float64)
    grid = draw((2, 4, 3, 2), seed + 1, torch.float64)
    expected = F.grid_sample(image, grid, mode=mode, align_corners=False)
    torch.testing.assert_close(kernel_sample(image, grid, kernels[mode]), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(sample(image, grid, mode=mode), expected, rtol=0, atol=0)


@pytest.mark.parametrize("kernel", [bilinear_kernel, bicubic_kernel])
def test_the_double_sum_has_the_same_derivatives(kernel):
    mode = {v: k for k, v in kernels.items()}[kernel]
    image, grid = draw((2, 3, 5, 6), 0, torch.float64), draw((2, 4, 3, 2), 1, torch.float64)
    weights = draw((2, 3, 4, 3), 2, torch.float64)
    ours = values_and_gradients(lambda u, g: kernel_sample(u, g, kernel), image, grid, weights)
    theirs = values_and_gradients(lambda u, g: sample(u, g, mode=mode), image, grid, weights)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kernel", kernels.values(), ids=kernels)
@given(offset=st.floats(0, 1, exclude_max=True))
def test_the_weights_of_a_kernel_sum_to_one(kernel, offset):
    distances = offset - torch.arange(-4, 5, dtype=torch.float64)
    assert kernel(distances).sum().item() == pytest.approx(1.0, abs=1e-12)


def test_nearest_is_torchs():
    image, grid = draw((1, 2, 5, 5), 0, torch.float32), draw((1, 4, 4, 2), 1, torch.float32)
    expected = F.grid_sample(image, grid, mode="nearest", align_corners=False)
    assert torch.equal(sample(image, grid, mode="nearest"), expected)


samplers = [sample, bilinear_sample, lambda u, g: kernel_sample(u, g, bilinear_kernel)]


@pytest.mark.parametrize("sampler", samplers, ids=["sample", "bilinear_sample", "kernel_sample"])
def test_bad_input_is_named(sampler):
    image, grid = torch.rand(2, 1, 4, 4), torch.zeros(2, 3, 3, 2)
    with pytest.raises(ValueError, match="image: wanted"):
        sampler(image[0], grid)
    with pytest.raises(ValueError, match="image: wanted"):
        sampler(image[..., :0], grid)
    with pytest.raises(ValueError, match="grid: wanted shape .* B = 2"):
        sampler(image, grid[:1])
    with pytest.raises(ValueError, match="one floating dtype"):
        sampler(image, grid.double())


@pytest.mark.parametrize("sampler", [sample, bilinear_sample])
def test_bad_padding_is_named(sampler):
    with pytest.raises(ValueError, match="padding: wanted one of zeros, border, reflection, got 'grey'"):
        sampler(torch.rand(2, 1, 4, 4), torch.zeros(2, 3, 3, 2), padding="grey")


def test_bad_mode_is_named():
    with pytest.raises(ValueError, match="mode: wanted one of bilinear, nearest, bicubic"):
        sample(torch.rand(1, 1, 4, 4), torch.zeros(1, 3, 3, 2), mode="cubic")
