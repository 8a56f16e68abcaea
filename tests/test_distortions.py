"""Distortions against kornia, torchvision, OpenCV and SciPy; what they draw, against SciPy's distributions."""

from functools import partial

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kornia.geometry.transform import rotate as kornia_rotate
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import map_coordinates
from scipy.spatial import ConvexHull
from scipy.stats import kstest
from torchvision.transforms.functional import perspective

from stn_helpers import distortions
from stn_helpers.distortions import (
    cluttered,
    cut_scraps,
    distort_fixed,
    elastic,
    jitter,
    place_among,
    projective,
    rotate,
    rotate_at_random,
    rotated,
    rotated_scaled_translated,
)

by_image = partial(rotated_scaled_translated, by_ink=False)


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


# Distorted MNIST ------------------------------------------------------------------------------------------------


def with_coordinates(image):
    """B×1×H×W → B×4×H×W: the image, −1, and where each pixel is, (x, y) in pixels from the middle, less 100.

    Bilinear reading is exact on a linear ramp, so a warp of these says where it read. None of the three is above 0: to
    the distortions they are not ink.
    """
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij")
    ramps = torch.stack([-torch.ones_like(x), x - 100, y - 100])
    return torch.cat([image, ramps.to(image).expand(len(image), -1, -1, -1)], dim=1)


def where_it_read(warped):
    """Of a warp of such images: the warped image B×H×W, where it read B×H×W×2, and which of this is inside the image."""
    picture, mask, *ramps = warped.double().unbind(1)
    return picture.numpy(), (torch.stack(ramps, dim=-1) + 100).numpy(), (mask < -1 + 1e-6).numpy()


def from_the_middle(size):
    """Pixel centres of a square image, (x, y) in pixels from the middle: size×size×2."""
    axis = np.arange(size) - (size - 1) / 2
    return np.stack(np.meshgrid(axis, axis), axis=-1)


@pytest.mark.parametrize("distort", [rotated, rotated_scaled_translated, by_image, projective, elastic])
def test_pictures_are_what_scipy_reads_at_the_same_places(distort):
    torch.manual_seed(0)
    images = torch.rand(6, 1, 28, 28)
    images[..., :6, :] = images[..., -6:, :] = images[..., :6] = images[..., -6:] = 0
    warped, read, inside = where_it_read(distort(with_coordinates(images)))
    assert inside.mean() > 0.2
    for image, picture, places, within in zip(images[:, 0].double().numpy(), warped, read, inside, strict=True):
        x, y = (places[within] + 13.5).T
        np.testing.assert_allclose(picture[within], map_coordinates(image, [y, x], order=1), atol=1e-4)


def affine_maps(distort, count, canvas):
    """A 2×3 matrix for each of ``count`` images, target to source in pixels from the middle, fitted to where it read."""
    images = torch.zeros(count, 1, 28, 28)
    images[..., 4:24, 4:24] = 1
    _, read, inside = where_it_read(distort(with_coordinates(images)))
    target = np.concatenate([from_the_middle(canvas), np.ones((canvas, canvas, 1))], axis=-1)
    fits = []
    for places, within in zip(read, inside, strict=True):
        matrix, *_ = np.linalg.lstsq(target[within], places[within], rcond=None)
        np.testing.assert_allclose(target[within] @ matrix, places[within], atol=1e-3)
        fits.append(matrix.T)
    return np.array(fits)


def test_rotated_draws_angles_evenly():
    torch.manual_seed(1)
    matrix = affine_maps(rotated, 400, 28)
    np.testing.assert_allclose(np.linalg.det(matrix[:, :, :2]), 1, atol=1e-3)
    np.testing.assert_allclose(matrix[:, :, 2], 0, atol=1e-3)
    angle = np.degrees(np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0]))
    assert kstest(angle, "uniform", (-90, 180)).pvalue > 0.05


@pytest.mark.parametrize("distort", [rotated_scaled_translated, by_image])
def test_rts_draws_angle_and_scale_evenly(distort):
    torch.manual_seed(2)
    matrix = affine_maps(distort, 400, 42)
    scale = np.linalg.det(matrix[:, :, :2]) ** -0.5  # the matrix looks from the canvas into the image
    angle = np.degrees(np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0]))
    np.testing.assert_allclose(matrix[:, 0, 0], matrix[:, 1, 1], atol=1e-3)
    np.testing.assert_allclose(matrix[:, 0, 1], -matrix[:, 1, 0], atol=1e-3)
    assert kstest(scale, "uniform", (0.7, 0.5)).pvalue > 0.05
    assert kstest(angle, "uniform", (-45, 90)).pvalue > 0.05
    assert abs(np.corrcoef(scale, angle)[0, 1]) < 0.1


def test_rts_places_the_whole_digit_evenly(monkeypatch):
    """A smooth digit keeps its ink, however it lies; its free space is shared evenly between the sides."""
    torch.manual_seed(3)
    digit = blobs(1, 28)
    digit = torch.roll(digit * (digit > 0.02), (1, -2), dims=(2, 3)).expand(1000, -1, -1, -1)
    scales = []
    evenly = distortions.evenly
    monkeypatch.setattr(distortions, "evenly", lambda *given: scales.append(evenly(*given)) or scales[-1])
    placed = rotated_scaled_translated(digit)[:, 0]
    ink = placed.sum((1, 2)) / digit.sum((1, 2, 3))
    torch.testing.assert_close(ink, scales[1] ** 2, rtol=0.02, atol=0)
    for axis in (1, 2):
        seen = (placed > 0).any(axis).numpy()
        before, after = seen.argmax(1), seen[:, ::-1].argmax(1)
        assert before.min() == 0 and after.min() == 0
        share = (before + torch.rand(1000).numpy() - 0.5) / (before + after)
        assert kstest(share, "uniform").pvalue > 0.05


def test_rts_by_image_places_the_scaled_square_evenly():
    torch.manual_seed(3)
    matrix = affine_maps(by_image, 400, 42)
    scale = np.linalg.det(matrix[:, :, :2]) ** -0.5
    place = -np.linalg.solve(matrix[:, :, :2], matrix[:, :, 2:])[..., 0]  # what looks at the middle of the image
    room = 21 - 14 * scale
    for axis in (0, 1):
        assert kstest(place[:, axis] / room, "uniform", (-1, 2)).pvalue > 0.05


def test_rts_takes_images_that_are_not_square():
    torch.manual_seed(4)
    y, x = torch.meshgrid(torch.arange(20) - 9.5, torch.arange(30) - 14.5, indexing="ij")
    image = (-(x**2 + y**2) / 18).exp()  # as wide as it is high
    image = (image * (image > 0.01)).expand(50, 1, -1, -1)
    placed = rotated_scaled_translated(image, canvas=64)
    assert placed.shape == (50, 1, 64, 64)
    axis = torch.arange(64.0)
    mass = placed.sum((1, 2, 3))
    spreads = [
        ((axis**2 * side).sum(1) / mass - ((axis * side).sum(1) / mass) ** 2)
        for side in (placed.sum((1, 2)), placed.sum((1, 3)))
    ]
    torch.testing.assert_close(spreads[0], spreads[1], rtol=0.02, atol=0)  # and so it stays


def test_projective_is_torchvisions_perspective_of_the_scaled_image(monkeypatch):
    torch.manual_seed(5)
    given = {}
    to_theta, evenly = distortions.corners_to_theta, distortions.evenly
    monkeypatch.setattr(distortions, "corners_to_theta", lambda c: to_theta(given.setdefault("corners", c)))
    monkeypatch.setattr(distortions, "evenly", lambda *a: given.setdefault("scale", evenly(*a)))
    images = blobs(30, 28)
    _, _, inside = where_it_read(projective(with_coordinates(images)))
    torch.manual_seed(5)
    given.clear()
    ours = projective(images)
    frame = np.float32([[0, 0], [28, 0], [28, 28], [0, 28]])
    for i, image in enumerate(images):
        pulled = (14 + 14 * given["corners"][i].double()).float().numpy()
        pull = cv2.getPerspectiveTransform(frame, pulled)
        scaled = 14 + float(given["scale"][i]) * (frame - 14)
        lands = cv2.perspectiveTransform(scaled[None], pull)[0]  # where the corners of the scaled picture go
        theirs = perspective(image, frame.tolist(), lands.tolist())
        np.testing.assert_allclose(ours[i][:, inside[i]], theirs[:, inside[i]], atol=2e-3)


@pytest.mark.parametrize("each_way", [None, 5.0])
def test_projective_pulls_corners_by_five_pixels_and_never_folds(monkeypatch, each_way):
    """As P has it the way of a corner, as Pxy has it the way across and the way down, is 5 pixels."""
    torch.manual_seed(6)
    more, each_way = ({"pull": each_way * 2**0.5}, each_way) if each_way else ({}, 5 / 2**0.5)
    drawn = []
    to_theta = distortions.corners_to_theta
    monkeypatch.setattr(distortions, "corners_to_theta", lambda c: drawn.append(c) or to_theta(c))
    projective(torch.rand(2000, 1, 20, 40), **more)
    pulled = drawn[0].double().numpy() * [20, 10]  # in pixels from the middle of 40×20
    for corners in pulled[:500]:
        assert len(ConvexHull(corners).vertices) == 4  # convex, every corner of it
    projective(torch.rand(400, 1, 100, 100), **more)  # too large to fold
    moved = 50 * (drawn[1].double().numpy() - [[-1, -1], [1, -1], [1, 1], [-1, 1]])
    assert kstest(moved.ravel(), "norm", (0, each_way)).pvalue > 0.05
    assert np.sqrt((moved**2).sum(-1).mean()) == pytest.approx(2**0.5 * each_way, rel=0.05)
    move = pulled - np.array([[-20, -10], [20, -10], [20, 10], [-20, 10]])
    assert 0.92 * each_way < move[..., 1].std() < each_way  # little is drawn anew
    assert 0.92 * each_way < move[..., 0].std() < 1.02 * each_way


def test_projective_draws_scales_evenly(monkeypatch):
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    torch.manual_seed(7)
    matrix = affine_maps(projective, 300, 28)
    np.testing.assert_allclose(matrix[:, :, 2], 0, atol=1e-3)
    np.testing.assert_allclose(matrix[:, 0, 0], matrix[:, 1, 1], atol=1e-3)
    np.testing.assert_allclose(matrix[:, [0, 1], [1, 0]], 0, atol=1e-3)
    assert kstest(1 / matrix[:, 0, 0], "uniform", (0.75, 0.25)).pvalue > 0.05


def test_elastic_is_scipys_thin_plate_spline_with_moved_control_points():
    torch.manual_seed(8)
    count = 400
    _, read, inside = where_it_read(elastic(with_coordinates(torch.zeros(count, 1, 28, 28))))
    line = np.linspace(-14, 14, 4)
    control = np.stack(np.meshgrid(line, line), axis=-1).reshape(16, 2)
    # SciPy's spline is linear in its values, so sixteen of them, each 1 at one point, span all.
    spline = RBFInterpolator(control, np.eye(16), kernel="thin_plate_spline", degree=1)
    basis = spline(from_the_middle(28).reshape(-1, 2))
    looks = []
    for places, within in zip(read.reshape(count, -1, 2), inside.reshape(count, -1), strict=True):
        values, *_ = np.linalg.lstsq(basis[within], places[within], rcond=None)
        np.testing.assert_allclose(basis[within] @ values, places[within], atol=1e-3)
        if within.sum() > 500:  # else the control points far outside the image are not well determined
            looks.append(values)
    looks = np.array(looks)
    assert len(looks) > 100
    scale = 1 / np.array([np.polyfit(control.ravel(), values.ravel(), 1)[0] for values in looks])
    assert 0.7 < scale.min() and scale.max() < 1.1
    move = looks * scale[:, None, None] - control
    assert abs(move.mean()) < 0.05
    assert move[:, [5, 6, 9, 10]].std() == pytest.approx(1.5, rel=0.06)


def test_elastic_draws_scales_evenly(monkeypatch):
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    torch.manual_seed(9)
    matrix = affine_maps(elastic, 300, 28)
    np.testing.assert_allclose(matrix[:, :, 2], 0, atol=1e-3)
    np.testing.assert_allclose(matrix[:, 0, 0], matrix[:, 1, 1], atol=1e-3)
    assert kstest(1 / matrix[:, 0, 0], "uniform", (0.75, 0.25)).pvalue > 0.05


def test_elastic_moves_control_points_by_a_pixel_and_a_half(monkeypatch):
    torch.manual_seed(10)
    monkeypatch.setattr(distortions, "evenly", lambda like, *limits: torch.ones(len(like)))
    drawn = []
    grid = distortions.SPLINE.grid
    monkeypatch.setattr(distortions.SPLINE, "grid", lambda theta, size: drawn.append(theta) or grid(theta, size))
    elastic(torch.rand(200, 1, 20, 40))
    moved = (drawn[0].view(200, 16, 2) - distortions.SPLINE.control.float()).numpy() * [20, 10]
    assert kstest(moved.ravel(), "norm", (0, 1.5)).pvalue > 0.05


def test_cluttered_puts_the_image_anywhere():
    torch.manual_seed(11)
    images = torch.rand(2000, 1, 28, 28) * 0.5 + 0.5
    fields = cluttered(images, patches=0)
    assert fields.shape == (2000, 1, 60, 60)
    rows, columns = (fields[:, 0] > 0).any(2).float().argmax(1), (fields[:, 0] > 0).any(1).float().argmax(1)
    for image, field, top, left in zip(images[:20, 0], fields[:20, 0], rows, columns, strict=False):
        assert torch.equal(field[top : top + 28, left : left + 28], image) and field.sum() == pytest.approx(image.sum())
    for place in (rows, columns):
        assert set(place.tolist()) == set(range(33))
        jittered = place.numpy() + np.random.default_rng(0).random(2000)
        assert kstest(jittered, "uniform", (0, 33)).pvalue > 0.05


def test_cluttered_takes_scraps_from_anywhere_in_other_images():
    """A black image beside one whose pixels all differ: what the canvas of the first shows is a scrap of the second."""
    torch.manual_seed(12)
    other = 0.1 + 0.9 * torch.arange(784.0).view(28, 28) / 784
    images = torch.stack([torch.zeros(28, 28), other])[:, None]
    places, sources = [], []
    for _ in range(700):
        field = cluttered(images, patches=1)[0, 0]
        row, column = int((field > 0).any(1).float().argmax()), int((field > 0).any(0).float().argmax())
        scrap = field[row : row + 6, column : column + 6]
        assert int((field > 0).sum()) == 36
        top, left = divmod(round(float((scrap[0, 0] - 0.1) / 0.9 * 784)), 28)
        assert torch.equal(scrap, other[top : top + 6, left : left + 6])
        places.append((row, column))
        sources.append((top, left))
    noise = np.random.default_rng(1)
    for found, room in ((np.array(places), 55), (np.array(sources), 23)):
        assert kstest((found + noise.random(found.shape)).ravel(), "uniform", (0, room)).pvalue > 0.05


def test_cluttered_adds_six_scraps_of_other_images_up_to_white():
    torch.manual_seed(13)
    images = torch.tensor([1.0, 10, 100]).view(3, 1, 1, 1).expand(-1, 1, 28, 28) / 100_000
    hundreds = (cluttered(images) * 100_000).sum((1, 2, 3)).round().long()
    for image, ink in enumerate(hundreds.tolist()):
        own = 10**image
        others = [10**other for other in range(3) if other != image]
        counts = [(a, 6 - a) for a in range(7) if 784 * own + 36 * (a * others[0] + (6 - a) * others[1]) == ink]
        assert len(counts) == 1  # six scraps in all, none of them its own
    white = cluttered(torch.ones(50, 1, 28, 28))
    assert white.max() == 1 and white.min() == 0


def test_scraps_are_cut_from_the_images_asked_for():
    torch.manual_seed(14)
    images = torch.rand(3, 2, 10, 9)
    chosen = torch.tensor([[0, 2], [1, 1], [2, 0], [0, 1]])
    scraps = cut_scraps(images, chosen)
    assert scraps.shape == (4, 2, 2, 6, 6)
    windows = images.unfold(2, 6, 1).unfold(3, 6, 1)  # every place of every image
    for wanted, scrap in zip(chosen.flatten(), scraps.flatten(0, 1), strict=True):
        places = windows[wanted].flatten(1, 2)
        assert (places == scrap[:, None]).all(dim=(0, 2, 3)).any()


@given(st.integers(1, 4), st.integers(0, 3), st.integers(5, 9), st.integers(5, 9), st.integers(0, 9))
def test_the_corner_says_where_the_image_lies(batch, patches, height, width, seed):
    torch.manual_seed(seed)
    images, scraps = 0.25 + 0.25 * torch.rand(batch, 1, height, width), torch.full((batch, patches, 1, 2, 3), 0.125)
    field, corner = place_among(images, scraps, 12)
    assert corner.shape == (batch, 2) and corner.dtype == torch.int64
    for image, there, (x, y) in zip(images[:, 0], field[:, 0], corner.tolist(), strict=True):
        rest = there.clone()
        rest[y : y + height, x : x + width] -= image
        assert rest.min() >= 0  # the image is whole, at its place
        assert rest.sum() == pytest.approx(patches * 6 * 0.125, abs=1e-5)  # and beside it or over it lie the scraps


@given(
    st.sampled_from([rotated, rotated_scaled_translated, by_image, projective, elastic, cluttered]),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(6, 30),
    st.integers(6, 30),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_any_batch_can_be_distorted(distort, batch, channels, height, width, dtype):
    images = torch.rand(batch, channels, height, width, dtype=dtype)
    torch.manual_seed(0)
    once = distort(images)
    torch.manual_seed(0)
    assert torch.equal(distort(images), once)
    side = {rotated_scaled_translated: (42, 42), by_image: (42, 42), cluttered: (60, 60)}.get(distort, (height, width))
    assert once.shape == (batch, channels, *side) and once.dtype == dtype
    assert 0 <= once.min() and once.max() <= 1 + 1e-6


def test_a_test_set_is_always_the_same_and_leaves_the_random_numbers_alone():
    images = torch.rand(2300, 1, 8, 8)
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    first = distort_fixed(images, rotated, seed=5)
    assert torch.equal(torch.rand(3), wanted)
    assert first.shape == images.shape and torch.equal(first, distort_fixed(images, rotated, seed=5))
    torch.manual_seed(5)
    assert torch.equal(first[:1000], rotated(images[:1000]))
    assert not torch.equal(first, distort_fixed(images, rotated, seed=6))


@pytest.mark.parametrize("distort", [rotated_scaled_translated, projective, elastic, cluttered])
@pytest.mark.parametrize("images", [torch.rand(28, 28), torch.zeros(0, 1, 28, 28), torch.ones(2, 1, 28, 28).long()])
def test_what_is_no_batch_of_images_is_named(distort, images):
    with pytest.raises(ValueError, match="images: wanted a non-empty floating B×C×H×W, got torch"):
        distort(images)


@pytest.mark.parametrize("pull", [-1.0, float("nan"), float("inf")])
def test_a_pull_that_is_none_is_named(pull):
    with pytest.raises(ValueError, match=f"pull: wanted 0 pixels or more, and finite, got {pull}"):
        projective(torch.rand(1, 1, 28, 28), pull)


def test_canvases_and_images_that_are_too_small_are_named():
    for distort in (rotated_scaled_translated, cluttered):
        with pytest.raises(ValueError, match="canvas: wanted at least 28 pixels, the image's side, got 27"):
            distort(torch.rand(1, 1, 28, 20), canvas=27)
    with pytest.raises(ValueError, match="images: wanted sides of at least 6 pixels, got 9×5"):
        cluttered(torch.rand(1, 1, 9, 5))
    with pytest.raises(ValueError, match="canvas: wanted at least 8 pixels, the scraps' side, got 7"):
        place_among(torch.rand(1, 1, 5, 5), torch.rand(1, 2, 1, 8, 4), 7)
    with pytest.raises(ValueError, match="patches: wanted 0 or more, got -1"):
        cluttered(torch.rand(1, 1, 9, 9), patches=-1)
