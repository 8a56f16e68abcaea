"""Distortions against kornia's and torch's own, and the direction in which they turn."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kornia.geometry.transform import rotate as kornia_rotate

from stn_helpers.distortions import jitter, rotate, rotate_at_random


def blobs(batch, size):
    """Smooth random images, black towards the edges, so that interpolation hardly matters."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.linspace(-1, 1, size)
    center = 0.5 * torch.rand(batch, 2, 1, 1, generator=generator) - 0.25
    squared = (axis[None, :, None] - center[:, 0]) ** 2 + (axis[None, None, :] - center[:, 1]) ** 2
    return (-squared / 0.05).exp()[:, None]


@given(st.lists(st.floats(-180, 180), min_size=1, max_size=4))
def test_rotation_is_kornias(angles):
    images, degrees = blobs(len(angles), 33), torch.tensor(angles, dtype=torch.float32)
    theirs = kornia_rotate(images, -degrees, align_corners=False)  # kornia counts anticlockwise
    torch.testing.assert_close(rotate(images, degrees), theirs, rtol=0, atol=1e-4)


def test_a_quarter_turn_is_clockwise():
    image = torch.rand(1, 1, 5, 5)
    turned = rotate(image, torch.tensor([90.0]))
    torch.testing.assert_close(turned, image.rot90(-1, dims=(2, 3)), rtol=0, atol=1e-5)


def test_an_image_that_is_not_square_is_turned_without_shear():
    image = blobs(1, 33)[..., 6:-6]  # 33 high, 21 wide
    theirs = kornia_rotate(image, torch.tensor([-30.0]), align_corners=False)
    torch.testing.assert_close(rotate(image, torch.tensor([30.0])), theirs, rtol=0, atol=1e-4)


def test_random_angles_keep_to_their_limit_and_to_the_seed():
    image = blobs(1, 33).expand(200, -1, -1, -1)
    torch.manual_seed(0)
    first = rotate_at_random(image, most=0.0)
    torch.testing.assert_close(first, image, rtol=0, atol=1e-5)
    torch.manual_seed(1)
    once = rotate_at_random(image)
    torch.manual_seed(1)
    assert torch.equal(once, rotate_at_random(image))
    assert once.std(0).max() > 0.01  # and the angles differ


def test_jitter_is_small_seeded_and_centred_on_the_identity():
    image = blobs(1, 28).expand(4000, -1, -1, -1)
    torch.testing.assert_close(jitter(image, 0.0), image, rtol=0, atol=1e-5)
    torch.manual_seed(2)
    moved = jitter(image)
    across, down = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="xy")
    mass = moved.sum((1, 2, 3))
    shift = torch.stack([(moved[:, 0] * across).sum((1, 2)), (moved[:, 0] * down).sum((1, 2))]) / mass
    assert shift.std(dim=1) == pytest.approx([0.05, 0.05], rel=0.15)  # strength is the standard deviation


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="degrees: wanted 2 angles"):
        rotate(torch.rand(2, 1, 4, 4), torch.zeros(3))
