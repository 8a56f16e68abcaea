"""Creatures and the nets that watch their parts: images pixel by pixel, windows against torch's own, what each may see."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from stn_helpers.data import Digits
from stn_helpers.parts import (
    KINDS,
    MODELS,
    PART,
    SCALE,
    SIDE,
    CreatureImages,
    PartsLocalization,
    creatures,
    draw_creatures,
    part_digits,
    parts_net,
    random_creatures,
    tiling,
)
from stn_helpers.training import Recipe, fit
from stn_helpers.transforms import Window


def parts(count: int = 40) -> Digits:
    """Plain squares of full ink."""
    return Digits(torch.ones(count, 1, PART, PART), torch.arange(count) % KINDS)


# The images -------------------------------------------------------------------------------------------------------


def test_parts_are_the_digits_0_to_4_shrunk_as_pillow_shrinks():
    generator = torch.Generator().manual_seed(0)
    blobs = F.interpolate(torch.rand(20, 1, 7, 7, generator=generator), size=(28, 28), mode="bilinear")
    bytes_ = (255 * blobs).round().to(torch.uint8)
    small = part_digits(Digits(bytes_ / 255, torch.arange(20) % 10))
    assert small.labels.tolist() == [0, 1, 2, 3, 4] * 2
    for image, whole in zip(small.images, bytes_[[0, 1, 2, 3, 4, 10, 11, 12, 13, 14]], strict=True):
        theirs = Image.fromarray(whole[0].numpy()).resize((PART, PART), Image.Resampling.BILINEAR)
        torch.testing.assert_close(image[0], torch.tensor(np.asarray(theirs)) / 255, rtol=0, atol=0.005)


def test_the_species_takes_both_parts():
    drawn = draw_creatures(parts(50), 500, seed=0)
    assert drawn.images.shape == (500, 2, 1, 1)
    head, tail = (drawn.images.flatten(1) % KINDS).unbind(1)
    assert torch.equal(drawn.labels, KINDS * head + tail)
    assert torch.bincount(head).tolist() == torch.bincount(tail).tolist() == [100] * KINDS
    met = torch.bincount(drawn.labels, minlength=KINDS**2)
    assert met.min() > 5 and met.max() < 40  # whatever the head is, every tail comes about as often


def test_a_creature_is_a_texture_with_a_white_head_and_a_black_tail_on_it():
    generator = torch.Generator().manual_seed(0)
    ink, texture = torch.rand(3, 2, 4, 4, generator=generator), 2 * torch.rand(3, 1, 20, 20, generator=generator) - 1
    corner = torch.tensor([[[0, 0], [16, 16]], [[16, 0], [5, 9]], [[7, 3], [0, 16]]])
    images, places = creatures(ink, corner, texture)
    expected = 0.5 + 0.3 * texture
    for b in range(3):
        for part, paper in enumerate((1.0, 0.0)):
            x, y = corner[b, part].tolist()
            below = expected[b, 0, y : y + 4, x : x + 4]
            expected[b, 0, y : y + 4, x : x + 4] = ink[b, part] * paper + (1 - ink[b, part]) * below
    torch.testing.assert_close(images, expected)
    assert places[1, 0].tolist() == pytest.approx([2 * 18 / 20 - 1, 2 * 2 / 20 - 1])  # the middle of four pixels


@given(seed=st.integers(0, 10_000))
def test_parts_lie_in_the_image_and_no_window_sees_both(seed):
    torch.manual_seed(seed)
    images, places = random_creatures(torch.ones(4, 2, PART, PART))
    assert images.shape == (4, 1, SIDE, SIDE) and images.min() >= 0 and images.max() <= 1
    for image, (head, tail) in zip(images[:, 0], ((places + 1) * SIDE / 2).tolist(), strict=True):
        for (x, y), colour in ((head, 1.0), (tail, 0.0)):
            left, top = round(x - PART / 2), round(y - PART / 2)
            square = image[top : top + PART, left : left + PART]
            assert square.shape == (PART, PART) and (square == colour).all()
        gap = max(abs(head[0] - tail[0]), abs(head[1] - tail[1])) - PART
        assert gap >= SCALE * SIDE  # between the nearest pixels of the two


def test_creatures_look_to_the_left_give_or_take_sixty_degrees():
    torch.manual_seed(0)
    _, places = random_creatures(torch.ones(400, 2, PART, PART))
    x, y = (places[:, 0] - places[:, 1]).unbind(1)  # from tail to head
    turn = torch.rad2deg(torch.atan2(y, -x))
    assert -61 < turn.min() < -56 and 56 < turn.max() < 61  # places are rounded to pixels
    assert turn.mean().abs() < 5 and 32 < turn.std() < 37  # evenly, 120 / √12
    middle = SIDE / 2 * places.mean(1)  # in pixels
    assert middle.abs().max() < 9 and (middle.amin(0) < -6).all() and (middle.amax(0) > 6).all()


def test_numbers_are_looked_up():
    digits = Digits(torch.linspace(0.1, 1, 10).view(-1, 1, 1, 1).expand(-1, 1, PART, PART), torch.arange(10) % KINDS)
    pairs = torch.tensor([[9, 0], [2, 5]])[..., None, None]
    torch.manual_seed(1)
    images = CreatureImages(digits.images)(pairs)
    torch.manual_seed(1)
    chosen = torch.stack([digits.images[[9, 0], 0], digits.images[[2, 5], 0]])
    assert torch.equal(images, random_creatures(chosen).images)


# The nets ---------------------------------------------------------------------------------------------------------


@given(
    scale=st.floats(0.1, 2),
    theta=st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=3),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_a_window_is_what_torch_makes_of_its_matrix(scale, theta, size):
    rows = [[[scale, 0.0, x], [0.0, scale, y]] for x, y in theta]
    expected = F.affine_grid(torch.tensor(rows), (len(theta), 1, *size), align_corners=False)
    torch.testing.assert_close(Window(scale).grid(torch.tensor(theta), size), expected, rtol=1e-5, atol=1e-5)


def test_four_windows_tile_the_image():
    image = torch.rand(1, 1, 8, 8)
    grid = Window(0.5).grid(tiling(4), (4, 4))
    seen = F.grid_sample(image.expand(4, -1, -1, -1), grid, align_corners=False)[:, 0]
    quarters = [image[0, 0, :4, :4], image[0, 0, :4, 4:], image[0, 0, 4:, :4], image[0, 0, 4:, 4:]]
    torch.testing.assert_close(seen, torch.stack(quarters))
    assert tiling(2).tolist() == [[-0.5, 0.0], [0.5, 0.0]] and tiling(1).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("size", [(128, 128), (448, 448), (96, 160)])
def test_windows_start_as_a_tiling_whatever_the_image(count, size):
    theta = PartsLocalization(count)(torch.rand(2, 1, *size))
    torch.testing.assert_close(theta, tiling(count).expand(2, -1, -1), rtol=0, atol=0.01)


def test_windows_go_to_what_the_heat_map_says():
    """With weights that answer to white alone, every window moves to the white square; the images differ, so do the θs."""
    torch.manual_seed(0)
    localization = PartsLocalization(2).eval()
    images, places = random_creatures(torch.ones(6, 2, PART, PART))

    class Bright(nn.Module):
        def forward(self, image):
            return F.avg_pool2d(image, 8).expand(-1, 16, -1, -1)

    localization.trunk = Bright()
    nn.init.constant_(localization.heat.weight, 1.0)
    with torch.no_grad():
        localization.tilt.zero_()
        theta = localization(images)
    torch.testing.assert_close(theta, places[:, :1].expand(-1, 2, -1), rtol=0, atol=0.1)


@pytest.mark.parametrize("model", MODELS)
def test_every_net_takes_an_image_and_all_of_it_learns(model):
    net = parts_net(model, classes=7, side=32)
    if model.endswith("x"):
        nn.init.normal_(net.transformer.localization.heat.weight, std=0.1)  # at zero the trunk has no gradient
    logits = net(torch.rand(3, 1, 32, 32))
    assert logits.shape == (3, 7)
    F.cross_entropy(logits, torch.tensor([0, 3, 6])).backward()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert set(still) <= {"transformer.localization.heat.bias"}  # a softmax over the map does not see it


def test_each_window_has_a_net_of_its_own_and_the_answers_stand_side_by_side():
    net = parts_net("2x", side=32).eval()
    image = torch.rand(2, 1, 32, 32)
    theta = net.transformer.localization(image)
    features = []
    for n in range(2):
        rows = torch.stack([torch.tensor([[0.5, 0, x], [0, 0.5, y]]) for x, y in theta[:, n].tolist()])
        grid = F.affine_grid(rows, (2, 1, 16, 16), align_corners=False)
        features.append(net.parts[n](F.grid_sample(image, grid, align_corners=False)))
    expected = F.linear(torch.cat(features, 1), net.classifier.weight, net.classifier.bias)
    torch.testing.assert_close(net(image), expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(net.parts[0][1].weight, net.parts[1][1].weight)


def test_the_seed_decides_the_weights():
    first, again, other = (parts_net("1x", seed).classifier.weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_training_takes_creatures_by_number():
    digits = parts(20)
    train = draw_creatures(digits, 24, seed=0)
    net = parts_net("2x")
    history = fit(
        net, train, Recipe(batch_size=8), seed=0, augment=CreatureImages(digits.images), device="cpu", progress=False
    )
    assert history.steps == 3 and history.losses.isfinite().all()
    assert net.transformer.localization.heat.weight.any()  # no longer zero


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="model: wanted one of cnn, cnn_full, 1x, 2x, 4x, got '3x'"):
        parts_net("3x")
    with pytest.raises(ValueError, match="count: wanted 1, 2 or 4 windows, got 3"):
        tiling(3)
    with pytest.raises(ValueError, match="scale: wanted a number above 0, got 0"):
        Window(0)
    with pytest.raises(ValueError, match="theta: wanted shape B×2"):
        Window(0.5).grid(torch.zeros(1, 3), (4, 4))
    with pytest.raises(ValueError, match="corner: wanted 0 to 12, got 0 to 13"):
        creatures(torch.ones(1, 2, 4, 4), torch.tensor([[[0, 0], [13, 0]]]), torch.zeros(1, 1, 16, 16))
    with pytest.raises(ValueError, match="parts, corner, texture: wanted"):
        creatures(torch.ones(1, 1, 4, 4), torch.zeros(1, 2, 2).long(), torch.zeros(1, 1, 16, 16))
