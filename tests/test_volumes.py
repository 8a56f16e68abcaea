"""Volumes against torch's five-dimensional grids and sampler, SciPy's interpolation and rotations, and gradcheck."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from stn_helpers.sampling import sample
from stn_helpers.transforms import pixel_centers
from stn_helpers.volumes import (
    Affine3D,
    Rotation3D,
    extrude,
    project,
    rotate_volumes,
    rotation_3d,
    sample_volume,
    target_voxels,
    trilinear_sample,
)

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
dtypes = st.sampled_from([torch.float32, torch.float64])
side = st.integers(1, 5)
sizes = st.tuples(side, side, side)
seeds = st.integers(0, 2**31 - 1)
FAMILIES = [Affine3D(), Rotation3D()]
SAMPLERS = {"sample_volume": sample_volume, "trilinear_sample": trilinear_sample}


def draw(shape, seed, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def random_theta(batch, seed):
    return Affine3D().identity().double() + draw((batch, 12), seed)


def values_and_gradients(sampler, volume, grid, weights):
    volume, grid = volume.clone().requires_grad_(), grid.clone().requires_grad_()
    output = sampler(volume, grid)
    return output, *torch.autograd.grad((output * weights).sum(), (volume, grid))


# The grid -----------------------------------------------------------------------------------------------------


@given(sizes, seeds, st.integers(1, 4))
def test_affine_grid_is_torchs(size, seed, batch):
    theta = random_theta(batch, seed)
    expected = F.affine_grid(theta.view(-1, 3, 4), [batch, 1, *size], align_corners=False)
    torch.testing.assert_close(Affine3D().grid(theta, size), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
@given(size=sizes)
def test_identity_looks_straight_ahead(family, size):
    theta = family.identity()
    assert theta.shape == (family.num_params,) and theta.dtype == torch.float32
    grid = family.grid(theta[None], size)
    torch.testing.assert_close(grid[0], target_voxels(size)[..., :3], rtol=0, atol=0)


def test_target_voxels_count_x_along_the_last_side_and_z_along_the_first():
    points = target_voxels((2, 3, 4), dtype=torch.float64)
    assert points.shape == (2, 3, 4, 4) and (points[..., 3] == 1).all()
    for coordinate, along in ((0, 2), (1, 1), (2, 0)):
        lines = points[..., coordinate].movedim(along, -1).reshape(-1, points.shape[along])
        centers = pixel_centers(points.shape[along], dtype=torch.float64).expand_as(lines)
        torch.testing.assert_close(lines, centers, rtol=0, atol=0)


@given(seeds)
def test_the_matrix_has_the_last_row_of_an_affine_map(seed):
    theta = random_theta(3, seed)
    matrix = Affine3D().matrix(theta)
    assert torch.equal(matrix[:, :3].flatten(1), theta)
    assert torch.equal(matrix[:, 3], torch.tensor([0.0, 0, 0, 1], dtype=torch.float64).expand(3, 4))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
def test_gradcheck_of_the_grid(family):
    theta = draw((2, family.num_params), 0).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: family.grid(t, (2, 3, 4)), theta)


# The sampler --------------------------------------------------------------------------------------------------


@given(sizes, sizes, st.integers(1, 3), st.integers(1, 3), seeds, dtypes)
def test_values_and_gradients_are_torchs(size, out_size, batch, channels, seed, dtype):
    volume = draw((batch, channels, *size), seed, dtype, scale=1 / 8)  # so that the tolerance is absolute
    grid = draw((batch, *out_size, 3), seed + 1, dtype, scale=0.8)  # a good part lies outside [-1, 1]
    weights = draw((batch, channels, *out_size), seed + 2, dtype, scale=1 / 8)
    ours = values_and_gradients(trilinear_sample, volume, grid, weights)
    theirs = values_and_gradients(
        lambda u, g: F.grid_sample(u, g, align_corners=False), volume, grid, weights
    )
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=0, atol=TOLERANCE[dtype])
    assert torch.equal(sample_volume(volume, grid), theirs[0])


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_values_are_scipys(sampler):
    volume, grid = draw((1, 1, 4, 5, 6), 0), draw((1, 3, 7, 8, 3), 1, scale=0.7)
    place = ((grid + 1) * torch.tensor([6, 5, 4]) - 1) / 2  # x, y, z in voxels
    theirs = map_coordinates(
        volume[0, 0].numpy(), place[0].flip(-1).movedim(-1, 0).numpy(), order=1, mode="grid-constant", cval=0.0
    )
    np.testing.assert_allclose(sampler(volume, grid)[0, 0].numpy(), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_gradcheck_of_the_sampler(sampler):
    volume = draw((2, 2, 3, 4, 2), 0).requires_grad_()
    grid = draw((2, 2, 1, 3, 3), 1, scale=0.7).requires_grad_()
    assert torch.autograd.gradcheck(sampler, (volume, grid))


@pytest.mark.parametrize("far", [1e6, 1e30])
def test_far_outside_there_are_zeros(far):
    grid = torch.tensor([[far, 0.0, 0.0], [0.0, -far, 0.0], [0.0, 0.0, far]]).view(1, 3, 1, 1, 3)
    assert (trilinear_sample(torch.ones(1, 1, 3, 3, 3), grid) == 0).all()


def test_where_the_grid_is_nan_so_is_the_output_and_nothing_else():
    volume, grid = draw((1, 2, 4, 4, 4), 0), draw((1, 2, 3, 3, 3), 1)
    expected = trilinear_sample(volume, grid)
    grid[0, 1, 1, 2, 0], expected[..., 1, 1, 2] = float("nan"), float("nan")
    torch.testing.assert_close(trilinear_sample(volume, grid), expected, equal_nan=True)


def test_voxel_centers_return_the_voxels():
    volume = draw((2, 3, 4, 5, 6), 3)
    grid = Affine3D().grid(Affine3D().identity().double().repeat(2, 1), (4, 5, 6))
    torch.testing.assert_close(trilinear_sample(volume, grid), volume, rtol=0, atol=1e-12)


def test_at_a_voxel_center_the_derivative_is_the_one_to_the_right():
    volume = torch.tensor([1.0, 5.0, 2.0, 7.0], dtype=torch.float64).view(1, 1, 4, 1, 1)
    center = torch.tensor([0.0, 0.0, -0.25], dtype=torch.float64).view(1, 1, 1, 1, 3).requires_grad_()
    (slope,) = torch.autograd.grad(trilinear_sample(volume, center).sum(), center)
    assert slope[..., 2].item() == (2.0 - 5.0) * 4 / 2  # U[2] − U[1], times voxels per unit of z


@given(seeds)
def test_one_slice_thick_it_is_the_bilinear_sampler(seed):
    image, grid = draw((2, 3, 5, 4), seed), draw((2, 6, 3, 2), seed + 1, scale=0.8)
    flat = sample_volume(image[:, :, None], F.pad(grid, (0, 1))[:, None])  # z = 0 is the middle of the one slice
    torch.testing.assert_close(flat[:, :, 0], sample(image, grid), rtol=0, atol=1e-12)


# Rotations ----------------------------------------------------------------------------------------------------


@given(seeds, sizes)
def test_three_angles_are_a_case_of_the_twelve_numbers(seed, size):
    angles = draw((2, 3), seed)
    theta = torch.cat([rotation_3d(angles), torch.zeros(2, 3, 1, dtype=torch.float64)], dim=2).flatten(1)
    torch.testing.assert_close(Rotation3D().grid(angles, size), Affine3D().grid(theta, size))


@given(st.lists(st.tuples(*[st.floats(-10, 10)] * 3), min_size=1, max_size=4))
def test_rotations_are_scipys(angles):
    angles = torch.tensor(angles, dtype=torch.float64)
    theirs = Rotation.from_euler("xyz", angles.numpy()).as_matrix()  # lower case: about axes fixed in space
    np.testing.assert_allclose(rotation_3d(angles).numpy(), theirs, rtol=0, atol=1e-12)


def test_gradcheck_of_the_rotation():
    assert torch.autograd.gradcheck(rotation_3d, draw((2, 3), 0).requires_grad_())


@pytest.mark.parametrize("axis, dims", [(0, (3, 2)), (1, (2, 4)), (2, (4, 3))])
def test_a_quarter_turn_moves_voxels_onto_voxels(axis, dims):
    # About x from y to z, about y from z to x, about z from x to y; dimensions 2, 3, 4 are z, y, x.
    volume = draw((1, 2, 5, 5, 5), 0)
    angles = torch.zeros(1, 3, dtype=torch.float64)
    angles[0, axis] = torch.pi / 2
    turned = rotate_volumes(volume, rotation_3d(angles))
    torch.testing.assert_close(turned, volume.rot90(1, dims=dims), rtol=0, atol=1e-12)


def test_a_point_goes_where_the_matrix_sends_it():
    rotation = rotation_3d(torch.tensor([[0.7, -0.4, 1.1]], dtype=torch.float64))
    points = target_voxels((21, 21, 21), dtype=torch.float64)[..., :3]
    start = torch.tensor([0.3, -0.2, 0.4], dtype=torch.float64)
    blob = torch.exp(-(points - start).square().sum(-1) / 0.02)[None, None]
    turned = rotate_volumes(blob, rotation)[0, 0]
    center = (turned[..., None] * points).sum((0, 1, 2)) / turned.sum()
    torch.testing.assert_close(center, rotation[0] @ start, rtol=0, atol=2e-3)


# Digits with a thickness --------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 6), st.integers(6, 9), st.data())
def test_an_upright_extrusion_projects_to_the_image_times_its_depth(height, width, size, data):
    depth = data.draw(st.integers(1, size))
    images = draw((2, 3, height, width), 0)
    volumes = extrude(images, depth, size)
    assert volumes.shape == (2, 3, size, size, size)
    top, left = (size - height) // 2, (size - width) // 2
    bottom, right = size - height - top, size - width - left
    torch.testing.assert_close(project(volumes), depth * F.pad(images, (left, right, top, bottom)))
    filled = volumes.flatten(3).abs().sum((0, 1, 3)) > 0
    before = int(filled.float().argmax())
    assert filled.sum() == depth and 0 <= (size - depth - before) - before <= 1  # in the middle


def test_the_papers_size_is_the_default():
    volumes = extrude(torch.rand(1, 1, 28, 28), depth=10)
    assert volumes.shape == (1, 1, 60, 60, 60) and project(volumes).shape == (1, 1, 60, 60)


def test_a_turned_extrusion_read_along_its_rotation_stands_upright():
    size = 33
    axis = pixel_centers(size)
    images = torch.exp(-((axis[:, None] - 0.2) ** 2 + (axis + 0.1) ** 2) / 0.05)[None, None]
    upright = extrude(images, 9, size)
    angles = torch.tensor([[0.8, -0.6, 0.5]])
    rotation = rotation_3d(angles)
    grid = Rotation3D().grid(angles, (size, size, size))  # maps target to source
    read = sample_volume(rotate_volumes(upright, rotation), grid)
    looked_at, unturned = (project(volumes) / 9 for volumes in (read, rotate_volumes(upright, rotation)))
    assert (looked_at - images).abs().mean() < 0.1 * (unturned - images).abs().mean()


def test_the_sum_passes_a_gradient_to_every_voxel():
    volumes = torch.rand(2, 1, 3, 4, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(project(volumes).sum(), volumes)
    assert (gradient == 1).all()


# Bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_bad_input_of_the_samplers_is_named(sampler):
    volume, grid = torch.rand(2, 1, 4, 4, 4), torch.zeros(2, 3, 3, 3, 3)
    with pytest.raises(ValueError, match="volume: wanted a non-empty B×C×D×H×W"):
        sampler(volume[0], grid)
    with pytest.raises(ValueError, match="volume: wanted a non-empty"):
        sampler(volume[..., :0], grid)
    with pytest.raises(ValueError, match="grid: wanted shape .* B = 2"):
        sampler(volume, grid[:1])
    with pytest.raises(ValueError, match="grid: wanted shape"):
        sampler(volume, grid[..., :2])
    with pytest.raises(ValueError, match="one floating dtype"):
        sampler(volume, grid.double())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
def test_bad_theta_and_size_are_named(family):
    good = family.identity()[None]
    for bad, words in [
        (good[0], "shape"),
        (good[:, 1:], "shape"),
        (good.long(), "floating"),
        (good + float("nan"), "NaN"),
    ]:
        with pytest.raises(ValueError, match=f"theta: .*{words}"):
            family.grid(bad, (2, 2, 2))
    for size in [(2, 2), (2, 0, 2)]:
        with pytest.raises(ValueError, match="size: wanted .*D, H, W.*at least 1"):
            family.grid(good, size)


def test_bad_rotations_are_named():
    with pytest.raises(ValueError, match="angles: wanted shape B×3"):
        rotation_3d(torch.zeros(3))
    with pytest.raises(ValueError, match="rotation: wanted shape B×3×3"):
        rotate_volumes(torch.rand(1, 1, 3, 3, 3), torch.eye(3))
    with pytest.raises(ValueError, match="volumes: wanted cubes"):
        rotate_volumes(torch.rand(1, 1, 3, 3, 4), torch.eye(3)[None])
    with pytest.raises(ValueError, match="volumes: wanted cubes"):
        rotate_volumes(torch.rand(1, 1, 3, 3), torch.eye(3)[None])
    with pytest.raises(ValueError, match="B = 2"):
        rotate_volumes(torch.rand(2, 1, 3, 3, 3), torch.eye(3)[None])


def test_bad_extrusions_and_projections_are_named():
    images = torch.rand(1, 1, 5, 6)
    with pytest.raises(ValueError, match="images: wanted floating B×C×H×W"):
        extrude(images[0], 2, 8)
    with pytest.raises(ValueError, match="images: wanted floating"):
        extrude(images.long(), 2, 8)
    with pytest.raises(ValueError, match=r"size: a cube of side 5 does not hold images of \(5, 6\) pixels"):
        extrude(images, 2, 5)
    for depth in (0, 9):
        with pytest.raises(ValueError, match=f"depth: wanted 1 to 8 slices, as the cube has, got {depth}"):
            extrude(images, depth, 8)
    with pytest.raises(ValueError, match="volumes: wanted B×C×D×H×W"):
        project(images)
