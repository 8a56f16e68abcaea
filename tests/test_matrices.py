"""Chaining, undoing and taking apart θ, corners and pixel matrices: against torch, kornia and OpenCV."""

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kornia.geometry.transform import get_perspective_transform

from stn_helpers.matrices import (
    affine_theta,
    compose_affine,
    corners_to_theta,
    decompose_affine,
    invert_affine,
    pixels_from_theta,
    theta_from_pixels,
    theta_to_corners,
)
from stn_helpers.sampling import sample
from stn_helpers.transforms import Affine, Projective, Similarity

seeds = st.integers(0, 2**31 - 1)
aspects = st.floats(0.2, 5)
SQUARE = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)


def draw(*shape, seed, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_parts(batch, seed):
    u = torch.rand(6, batch, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mirror = torch.where(u[2] < 0.3, -1.0, 1.0)
    return {
        "rotation": (2 * u[0] - 1) * 3.1,
        "scale_x": 0.2 + 2 * u[1],
        "scale_y": mirror * (0.2 + 2 * u[2]),
        "shear": 2 * u[3] - 1,
        "tx": 2 * u[4] - 1,
        "ty": 2 * u[5] - 1,
    }


@given(seeds, aspects)
def test_parts_come_back(seed, aspect):
    parts = random_parts(4, seed)
    found = decompose_affine(affine_theta(**parts, aspect=aspect), aspect)
    for name, part in parts.items():
        torch.testing.assert_close(getattr(found, name), part, rtol=1e-9, atol=1e-9)


@given(seeds, aspects)
def test_theta_comes_back(seed, aspect):
    theta = draw(4, 6, seed=seed)
    again = affine_theta(**decompose_affine(theta, aspect)._asdict(), aspect=aspect)
    torch.testing.assert_close(again, theta, rtol=1e-6, atol=1e-6)


def test_the_order_is_scale_shear_rotate_move():
    phi = 0.4
    product = (
        np.array([[1, 0, 0.1], [0, 1, -0.2], [0, 0, 1]])
        @ np.array([[math.cos(phi), -math.sin(phi), 0], [math.sin(phi), math.cos(phi), 0], [0, 0, 1]])
        @ np.array([[1, 0.3, 0], [0, 1, 0], [0, 0, 1]])
        @ np.diag([0.5, 0.8, 1])
    )
    theta = affine_theta(rotation=phi, scale_x=0.5, scale_y=0.8, shear=0.3, tx=0.1, ty=-0.2)
    torch.testing.assert_close(theta.view(2, 3), torch.from_numpy(product[:2]).float())
    similar = torch.tensor([[0.7 * math.cos(phi), 0.7 * math.sin(phi), 0.1, -0.2]])
    expected = affine_theta(rotation=phi, scale_x=0.7, scale_y=0.7, tx=0.1, ty=-0.2)
    torch.testing.assert_close(Similarity().matrix(similar)[:, :2].flatten(1), expected)


def test_a_quarter_turn_of_an_image_that_is_not_square_moves_whole_pixels():
    image = torch.rand(1, 1, 4, 8, dtype=torch.float64)
    theta = affine_theta(rotation=torch.tensor([math.pi / 2], dtype=torch.float64), aspect=8 / 4)
    turned = sample(image, Affine().grid(theta, (4, 8)))
    # The window turns clockwise, so the picture turns the other way; of its 8 rows then the middle 4 show.
    expected = torch.zeros_like(image)
    expected[..., 2:6] = torch.rot90(image, 1, dims=(2, 3))[..., 2:6, :]
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-9)


@given(seeds)
def test_composition_is_a_map_after_a_map_and_associates(seed):
    first, second, third = draw(3, 2, 6, seed=seed)
    points = draw(2, 5, 2, seed=seed + 1)

    def through(theta, p):
        return p @ theta.view(-1, 2, 3)[..., :2].transpose(1, 2) + theta.view(-1, 2, 3)[:, None, :, 2]

    torch.testing.assert_close(
        through(compose_affine(first, second), points), through(second, through(first, points))
    )
    left = compose_affine(compose_affine(first, second), third)
    torch.testing.assert_close(left, compose_affine(first, compose_affine(second, third)))


@given(seeds)
def test_inverse_undoes(seed):
    theta = affine_theta(**random_parts(3, seed))
    identity = Affine().identity().double().expand(3, -1)
    for both in (compose_affine(theta, invert_affine(theta)), compose_affine(invert_affine(theta), theta)):
        torch.testing.assert_close(both, identity, rtol=0, atol=1e-9)


@given(seeds)
def test_four_corners_are_kornias_and_opencvs(seed):
    corners = SQUARE + draw(3, 4, 2, seed=seed, scale=0.15)
    theta = corners_to_theta(corners)
    theirs = get_perspective_transform(SQUARE.expand(3, -1, -1), corners)
    theirs = theirs / theirs[:, 2:, 2:]
    torch.testing.assert_close(Projective().matrix(theta), theirs, rtol=1e-6, atol=1e-6)
    opencv = cv2.getPerspectiveTransform(SQUARE.numpy().astype("f4"), corners[0].numpy().astype("f4"))
    torch.testing.assert_close(Projective().matrix(theta)[0], torch.from_numpy(opencv), rtol=1e-4, atol=1e-5)


@given(seeds)
def test_corners_come_back_from_theta(seed):
    corners = SQUARE + draw(3, 4, 2, seed=seed, scale=0.15)
    torch.testing.assert_close(theta_to_corners(corners_to_theta(corners)), corners)
    theta = Projective().identity().double() + draw(3, 8, seed=seed, scale=0.1)
    torch.testing.assert_close(corners_to_theta(theta_to_corners(theta)), theta, rtol=1e-6, atol=1e-6)


def test_a_dented_quadrilateral_comes_back_too():
    corners = torch.tensor([[[-1.0, -1], [1, -1], [-0.3, -0.2], [-1, 1]]])
    torch.testing.assert_close(theta_to_corners(corners_to_theta(corners)), corners)
    grid = Projective().grid(corners_to_theta(corners), (8, 8))[0]
    assert (grid[0, 0] > 2).all() and (grid[-1, -1] < 0).all()  # behind it: the corner across from the dent


def smooth_image(height, width, channels=1):
    """Waves of 8 pixels and more that fade out at the border: bilinear reading 1/32 px off stays close."""
    y, x = np.mgrid[:height, :width].astype("f8")
    wave = 0.5 + 0.25 * np.sin(2 * np.pi * x / 9 + 1) + 0.25 * np.cos(2 * np.pi * y / 11)
    fade = np.sin(np.pi * (x + 0.5) / width) * np.sin(np.pi * (y + 0.5) / height)
    return (wave * fade).astype("f4")


# OpenCV 4 rounds the place it reads to 1/32 px in each direction, so up to 1/64 px off, times the steepest
# slope (below 0.4 a pixel in each direction), is what the two may differ by.
OPENCV_TOLERANCE = 2 * 0.4 / 64


@pytest.mark.parametrize("direction", ["source_to_target", "target_to_source"])
@pytest.mark.parametrize("seed", range(6))
def test_affine_pixel_matrices_are_opencvs(seed, direction):
    in_size, out_size = (30, 44), (36, 25)
    rng = np.random.default_rng(seed)
    matrix = np.array([[1, 0, 0], [0, 1, 0]]) + rng.normal(size=(2, 3)) * [0.3, 0.3, 4]
    inverse = cv2.WARP_INVERSE_MAP if direction == "target_to_source" else 0
    image = smooth_image(*in_size)
    expected = cv2.warpAffine(image, matrix, out_size[::-1], flags=cv2.INTER_LINEAR | inverse)
    theta = theta_from_pixels(torch.from_numpy(matrix)[None], in_size, out_size, direction=direction)
    grid = Affine().grid(theta, out_size).float()
    ours = sample(torch.from_numpy(image)[None, None], grid)[0, 0]
    torch.testing.assert_close(ours, torch.from_numpy(expected), rtol=0, atol=OPENCV_TOLERANCE)
    assert ours.max() > 0.2  # else two black pictures would agree


@pytest.mark.parametrize("direction", ["source_to_target", "target_to_source"])
@pytest.mark.parametrize("seed", range(6))
def test_homography_pixel_matrices_are_opencvs(seed, direction):
    in_size, out_size = (30, 44), (36, 25)
    rng = np.random.default_rng(seed)
    matrix = np.eye(3) + rng.normal(size=(3, 3)) * [[0.2, 0.2, 3], [0.2, 0.2, 3], [0.003, 0.003, 0]]
    inverse = cv2.WARP_INVERSE_MAP if direction == "target_to_source" else 0
    image = smooth_image(*in_size)
    expected = cv2.warpPerspective(image, matrix, out_size[::-1], flags=cv2.INTER_LINEAR | inverse)
    theta = theta_from_pixels(torch.from_numpy(matrix)[None], in_size, out_size, direction=direction)
    ours = sample(torch.from_numpy(image)[None, None], Projective().grid(theta, out_size).float())[0, 0]
    torch.testing.assert_close(ours, torch.from_numpy(expected), rtol=0, atol=OPENCV_TOLERANCE)
    assert ours.max() > 0.2


def test_opencvs_quarter_turn_is_exact():
    image = torch.rand(1, 1, 9, 9)
    matrix = cv2.getRotationMatrix2D((4, 4), 90, 1.0)  # about the centre pixel, anticlockwise on the screen
    pixels = torch.from_numpy(matrix)[None].float()
    theta = theta_from_pixels(pixels, (9, 9), (9, 9), direction="source_to_target")
    turned = sample(image, Affine().grid(theta, (9, 9)))
    torch.testing.assert_close(turned, torch.rot90(image, 1, dims=(2, 3)), rtol=0, atol=1e-5)


@given(seeds, st.sampled_from(["source_to_target", "target_to_source"]), st.booleans())
def test_pixel_matrices_come_back(seed, direction, affine):
    sizes = {"in_size": (7, 12), "out_size": (20, 5), "direction": direction}
    if affine:
        theta = affine_theta(**random_parts(2, seed))
    else:
        theta = Projective().identity().double() + draw(2, 8, seed=seed, scale=0.1)
    pixels = pixels_from_theta(theta, **sizes)
    assert pixels.shape == ((2, 2, 3) if affine else (2, 3, 3))
    torch.testing.assert_close(theta_from_pixels(pixels, **sizes), theta, rtol=1e-6, atol=1e-6)


def test_gradients_reach_parts_and_corners():
    parts = {name: part.requires_grad_() for name, part in random_parts(2, 0).items()}
    assert torch.autograd.gradcheck(
        lambda *values: affine_theta(**dict(zip(parts, values, strict=True)), aspect=1.5),
        tuple(parts.values())
    )
    theta = affine_theta(**random_parts(2, 1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: tuple(decompose_affine(t)), theta)
    assert torch.autograd.gradcheck(invert_affine, theta)
    corners = (SQUARE + draw(2, 4, 2, seed=2, scale=0.1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: theta_to_corners(corners_to_theta(c)), corners)
    assert torch.autograd.gradcheck(corners_to_theta, corners)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_input_is_named(dtype):
    square = SQUARE.to(dtype)
    flat = torch.stack([square, torch.tensor([[-0.7, -0.7], [0.1, 0.1], [0.9, 0.9], [-1, 1]], dtype=dtype)])
    with pytest.raises(ValueError, match=r"corners: three corners lie on one line.*number 1 of the batch"):
        corners_to_theta(flat)
    with pytest.raises(ValueError, match="corners: .*two coincide"):
        corners_to_theta(square[[0, 0, 2, 3]][None])
    with pytest.raises(ValueError, match="corners: the sides cross"):
        corners_to_theta(square[[0, 2, 1, 3]][None])
    with pytest.raises(ValueError, match="corners: wanted shape B×4×2"):
        corners_to_theta(square)
    with pytest.raises(ValueError, match="corners: .*NaN"):
        corners_to_theta(square[None] * float("nan"))
    with pytest.raises(ValueError, match="theta: a corner of the output lies on the horizon"):
        theta_to_corners(torch.tensor([[1, 0, 0, 0, 1, 0, 1, 0]], dtype=dtype))

    singular = torch.tensor([[1, 2, 0, 2, 4, 0]], dtype=dtype)
    for call in (
        invert_affine,
        decompose_affine,
        lambda t: pixels_from_theta(t, (4, 4), (4, 4), direction="source_to_target"),
    ):
        with pytest.raises(ValueError, match="theta: a matrix that flattens"):
            call(singular)
    with pytest.raises(ValueError, match="matrix: a matrix that flattens"):
        theta_from_pixels(singular.view(1, 2, 3), (4, 4), (4, 4), direction="source_to_target")
    theta_from_pixels(singular.view(1, 2, 3), (4, 4), (4, 4), direction="target_to_source")  # nothing to invert


def test_bad_arguments_are_named():
    pixels = torch.eye(3)[None]
    with pytest.raises(ValueError, match="direction: wanted source_to_target or target_to_source"):
        theta_from_pixels(pixels, (4, 4), (4, 4), direction="inverse")
    with pytest.raises(ValueError, match="matrix: wanted shape B×3×3"):
        theta_from_pixels(pixels[0], (4, 4), (4, 4), direction="target_to_source")
    with pytest.raises(ValueError, match="size: wanted"):
        theta_from_pixels(pixels, (0, 4), (4, 4), direction="target_to_source")
    with pytest.raises(ValueError, match="theta: wanted shape"):
        pixels_from_theta(torch.zeros(1, 5), (4, 4), (4, 4), direction="target_to_source")
    for aspect in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="aspect: wanted"):
            affine_theta(aspect=aspect)
    with pytest.raises(ValueError, match="rotation: .*NaN"):
        affine_theta(rotation=float("nan"))
    with pytest.raises(ValueError, match="tx: wanted a floating dtype, got torch.int64"):
        affine_theta(rotation=torch.zeros(2), tx=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"batches of one size, or of 1, got 2 \(rotation\), 1 \(scale_x\).*3 \(tx\)"):
        affine_theta(rotation=torch.zeros(2), tx=torch.zeros(3))
    with pytest.raises(ValueError, match=r"batches of one size, or of 1, got 2 \(first\), 3 \(second\)"):
        compose_affine(torch.eye(2, 3).reshape(1, 6).repeat(2, 1), torch.eye(2, 3).reshape(1, 6).repeat(3, 1))


def test_theta_has_the_widest_dtype_of_its_parts():
    theta = affine_theta(rotation=torch.zeros(2), tx=torch.full((1,), 0.1, dtype=torch.float64), ty=0.5)
    assert theta.dtype == torch.float64 and theta[:, 2].tolist() == [0.1, 0.1]


@pytest.mark.parametrize("factor", [1e-7, 1e3, -1e6])
def test_a_homography_in_pixels_counts_up_to_a_factor(factor):
    sizes = {"in_size": (30, 44), "out_size": (36, 25), "direction": "target_to_source"}
    sound = torch.tensor([[[1.1, 0.2, 3.0], [-0.1, 0.9, 2.0], [0.001, 0.002, 1.0]]])
    torch.testing.assert_close(theta_from_pixels(factor * sound, **sizes), theta_from_pixels(sound, **sizes))
    centre = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [1, 0, -12]]])  # w = 0 in the middle of 25 columns
    with pytest.raises(ValueError, match="matrix: the horizon runs through the centre of the output"):
        theta_from_pixels(factor * centre, **sizes)
    centre = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [1, 0, -1.5]]])  # pixel 1.5 of 4 is the centre
    with pytest.raises(ValueError, match="matrix: the horizon runs through the centre"):
        theta_from_pixels(centre, (4, 4), (4, 4), direction="target_to_source")
