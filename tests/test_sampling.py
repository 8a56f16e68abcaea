"""The sampler from scratch against torch's kernel, values and derivatives, and against gradcheck."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from stn_helpers.sampling import bilinear_sample, sample

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
paddings = st.sampled_from(["zeros", "border"])
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


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_gradcheck(padding):
    image = draw((2, 2, 4, 5), 0, torch.float64).requires_grad_()
    grid = draw((2, 3, 3, 2), 1, torch.float64, scale=0.7).requires_grad_()
    assert torch.autograd.gradcheck(lambda u, g: bilinear_sample(u, g, padding), (image, grid))


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("far", [1e6, 1e30])
def test_points_far_outside_read_the_padding(padding, far):
    image = torch.ones(1, 1, 3, 3)
    grid = torch.tensor([[far, 0.0], [-far, 0.0], [0.0, far]]).view(1, 1, 3, 2)
    expected = F.grid_sample(image, grid, padding_mode=padding, align_corners=False)
    torch.testing.assert_close(bilinear_sample(image, grid, padding), expected)


def test_pixel_centers_return_the_pixels():
    image = draw((1, 1, 4, 6), 3, torch.float64)
    identity = F.affine_grid(torch.eye(2, 3, dtype=torch.float64)[None], [1, 1, 4, 6], align_corners=False)
    torch.testing.assert_close(bilinear_sample(image, identity), image, rtol=0, atol=1e-12)


def test_at_a_pixel_center_the_derivative_is_the_one_to_the_right():
    image = torch.tensor([1.0, 5.0, 2.0, 7.0]).view(1, 1, 1, 4).double()
    center = torch.tensor([[-0.25, 0.0]]).double().view(1, 1, 1, 2).requires_grad_()  # pixel 1 of 4
    (slope,) = torch.autograd.grad(bilinear_sample(image, center).sum(), center)
    assert slope[0, 0, 0, 0].item() == (2.0 - 5.0) * 4 / 2  # U[2] − U[1], times pixels per unit of x


def test_nearest_is_torchs():
    image, grid = draw((1, 2, 5, 5), 0, torch.float32), draw((1, 4, 4, 2), 1, torch.float32)
    expected = F.grid_sample(image, grid, mode="nearest", align_corners=False)
    assert torch.equal(sample(image, grid, mode="nearest"), expected)


@pytest.mark.parametrize("sampler", [sample, bilinear_sample])
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
    with pytest.raises(ValueError, match="padding: wanted one of zeros, border"):
        sampler(image, grid, padding="grey")


def test_bad_mode_is_named():
    with pytest.raises(ValueError, match="mode: wanted one of bilinear, nearest"):
        sample(torch.rand(1, 1, 4, 4), torch.zeros(1, 3, 3, 2), mode="cubic")
