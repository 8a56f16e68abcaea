"""Localization networks: the soft-argmax against kornia, the search for peaks against SciPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kornia.geometry.subpix import spatial_soft_argmax2d
from scipy import ndimage, special
from torch import nn

from stn_helpers.localization import APART, GENTLY, SHARPNESS, PeakLocalization, SoftArgmax, atn_localization
from stn_helpers.noisy_field import field_theta, random_field
from stn_helpers.stand_in import stand_in_digits
from stn_helpers.transforms import Affine, Attention, Projective, Similarity, ThinPlateSpline

side = st.integers(1, 9)


@given(side, side, st.integers(0, 2**31 - 1))
def test_soft_argmax_is_kornias(height, width, seed):
    # kornia's normalised answer has -1 and 1 on the outermost pixel *centres* (align_corners=True); its answer in
    # pixels has no such choice in it, and (2i + 1)/n - 1 takes that to our coordinates.
    generator = torch.Generator().manual_seed(seed)
    maps = 3 * torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)
    pixels = spatial_soft_argmax2d(maps, normalized_coordinates=False)
    expected = (2 * pixels + 1) / torch.tensor([width, height]) - 1
    torch.testing.assert_close(SoftArgmax()(maps), expected, rtol=0, atol=1e-10)


def test_a_peak_is_found_and_a_flat_map_says_the_centre():
    maps = torch.zeros(1, 2, 5, 8)
    maps[0, 0, 1, 6] = 100.0
    points = SoftArgmax()(maps)
    torch.testing.assert_close(points[0, 0], torch.tensor([(2 * 6 + 1) / 8 - 1, (2 * 1 + 1) / 5 - 1]))
    torch.testing.assert_close(points[0, 1], torch.zeros(2))


def test_soft_argmax_gradcheck():
    maps = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps.requires_grad_()
    assert torch.autograd.gradcheck(SoftArgmax(), maps)


def test_bad_maps_are_named():
    for bad in (torch.rand(3, 4, 4), torch.zeros(1, 1, 0, 4), torch.zeros(1, 1, 4, 4).long()):
        with pytest.raises(ValueError, match="maps: wanted"):
            SoftArgmax()(bad)


# PeakLocalization ---------------------------------------------------------------------------------------------

sides = st.integers(5, 20)
IMAGE = torch.zeros(1, 1, 4, 4)  # what stands for the image where the heat map is given


def search(heat: torch.Tensor, transform=None, features: torch.Tensor | None = None, **kwargs) -> PeakLocalization:
    """A PeakLocalization with this heat map B×1×H×W, whatever the image, in float64; no features: θ is the place."""
    net = PeakLocalization(transform or Attention(), channels=3, **kwargs).double()
    if features is None:
        features = torch.zeros(len(heat), 3, *heat.shape[2:], dtype=heat.dtype)
    net.maps = lambda image: (features, heat)
    return net


def random_heat(batch: int, height: int, width: int, seed: int, smooth: float = 0.0) -> torch.Tensor:
    noise = 3 * np.random.default_rng(seed).standard_normal((batch, height, width))
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, smooth, smooth)) * (1 + 3 * smooth))[:, None]


def scipy_peak(heat: np.ndarray, top: tuple[int, int], reach: int) -> tuple[float, float, float]:
    """(x, y) in [-1, 1] of the centre of mass of exp(heat) in a square around ``top``; the logarithm of the mass."""
    rows, columns = (slice(max(0, i - reach), i + reach + 1) for i in top)
    there = np.full(heat.shape, -np.inf)
    there[rows, columns] = heat[rows, columns]
    y, x = ndimage.center_of_mass(special.softmax(there))
    return (2 * x + 1) / heat.shape[1] - 1, (2 * y + 1) / heat.shape[0] - 1, special.logsumexp(there)


def scipy_tops(heat: np.ndarray, count: int) -> list[tuple[int, int]]:
    """The highest cells, none within `APART` rows and columns of a higher one: suppressed by a maximum filter."""
    tops, rest = [], heat.copy()
    for _ in range(count):
        tops.append(tuple(int(i) for i in ndimage.maximum_position(rest)))
        taken = np.zeros(heat.shape, dtype=bool)
        taken[tops[-1]] = True
        rest[ndimage.maximum_filter(taken, size=2 * APART + 1, mode="constant")] = -np.inf
    return tops


@settings(max_examples=40)
@given(sides, sides, st.integers(0, 4), st.sampled_from([0.0, 1.0]), st.integers(0, 2**31 - 1))
def test_the_peak_is_scipys(height, width, reach, smooth, seed):
    heat = random_heat(3, height, width, seed, smooth)
    theta = search(heat, reach=reach)(IMAGE)
    for found, one in zip(theta, heat[:, 0].numpy(), strict=True):
        x, y, _ = scipy_peak(one, ndimage.maximum_position(one), reach)
        np.testing.assert_allclose(found[1:].detach().numpy(), [x, y], rtol=0, atol=1e-10)
        assert float(found[0].detach()) == pytest.approx(28 / 128)


@settings(max_examples=40)
@given(
    st.integers(10, 20), st.integers(10, 30), st.integers(1, 4), st.sampled_from([0.0, 1.5]), st.integers(0, 2**31 - 1)
)
def test_the_candidates_are_those_of_a_maximum_filter(height, width, count, smooth, seed):
    heat = random_heat(2, height, width, seed, smooth)
    theta, score = search(heat, reach=1).candidates(IMAGE, count)
    assert theta.shape == (2, count, 3) and score.shape == (2, count)
    for image, one in enumerate(heat[:, 0].numpy()):
        tops = scipy_tops(one, count)
        for k, top in enumerate(tops):
            x, y, mass = scipy_peak(one, top, reach=1)
            np.testing.assert_allclose(theta[image, k, 1:].detach().numpy(), [x, y], rtol=0, atol=1e-10)
            assert float(score[image, k]) == pytest.approx(mass, abs=1e-10)
            assert all(max(abs(top[0] - i), abs(top[1] - j)) > APART for i, j in tops[:k])


@settings(max_examples=40)
@given(sides, sides, st.integers(0, 2**31 - 1))
def test_without_a_reach_it_is_the_mean_of_the_whole_map(height, width, seed):
    heat = random_heat(2, height, width, seed)
    theta, score = search(heat, reach=None).candidates(IMAGE, 1)
    share = heat.flatten(1).softmax(1).view(2, height, width)
    x = (share.sum(1) * ((2 * torch.arange(width).double() + 1) / width - 1)).sum(1)
    y = (share.sum(2) * ((2 * torch.arange(height).double() + 1) / height - 1)).sum(1)
    torch.testing.assert_close(theta[:, 0, 1:], torch.stack([x, y], dim=1), rtol=0, atol=1e-10)
    torch.testing.assert_close(score, heat.flatten(1).logsumexp(1, keepdim=True))


@pytest.mark.parametrize("transform", [Attention(), Affine()])
def test_what_is_under_the_peak_gives_the_rest_of_theta(transform):
    """The features, averaged with the shares of the soft-argmax, through the last layer, on top of the start."""
    heat, generator = random_heat(2, 8, 11, seed=1), torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 8, 11, generator=generator, dtype=torch.float64)
    net = search(heat, transform, features, scale=0.3)
    weight = torch.randn(transform.num_params, 3, generator=generator, dtype=torch.float64)
    bias = torch.randn(transform.num_params, generator=generator, dtype=torch.float64)
    net.head.load_state_dict({"weight": weight, "bias": bias})
    for image, theta in enumerate(net(IMAGE).detach().numpy()):
        one = heat[image, 0].numpy()
        top = ndimage.maximum_position(one)
        x, y, _ = scipy_peak(one, top, reach=2)
        near = ndimage.maximum_filter(np.eye(8 * 11)[top[0] * 11 + top[1]].reshape(8, 11), size=5, mode="constant")
        share = special.softmax(np.where(near > 0, one, -np.inf))
        attended = (features[image].numpy() * share).sum((1, 2))
        window = 0.3 * transform.identity().double().numpy() + GENTLY * (weight.numpy() @ attended + bias.numpy())
        place = {3: [0, x, y], 6: [0, 0, x, 0, 0, y]}[transform.num_params]
        np.testing.assert_allclose(theta, window + place, rtol=0, atol=1e-6)  # 0.3 is rounded to float32 on its way


@pytest.mark.parametrize("reach", [1, None])
def test_gradcheck_of_theta_and_score_in_heat_and_features(reach):
    features = torch.randn(1, 3, 5, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    net = search(IMAGE, Affine(), features, reach=reach)
    nn.init.normal_(net.head.weight, generator=torch.Generator().manual_seed(1))

    def both(heat, features):
        net.maps = lambda image: (features, heat)
        return net.candidates(IMAGE, 2)

    heat = random_heat(1, 5, 11, seed=2)
    assert torch.autograd.gradcheck(both, (heat.requires_grad_(), features.requires_grad_()))


def test_the_heat_map_is_convolution_and_brightness():
    """The sum that the docstring states, by SciPy: maxima of 4×4 pixels, their mean over 5×5 inside the map, added."""
    torch.manual_seed(0)
    net = PeakLocalization(Attention(), channels=2, saliency=1.7, mean=0.4, std=0.2).double().eval()
    image = torch.rand(2, 1, 24, 36, dtype=torch.float64)
    features, heat = net.maps(image)
    assert features.shape == (2, 2, 6, 9) and heat.shape == (2, 1, 6, 9)
    inside = ndimage.uniform_filter(np.ones((6, 9)), size=5, mode="constant")
    for k in range(2):
        pixels = (image[k, 0].numpy() - 0.4) / 0.2
        highest = pixels.reshape(6, 4, 9, 4).max((1, 3))
        brightness = ndimage.uniform_filter(highest, size=5, mode="constant") / inside
        weight = net.heat.weight[0].detach().numpy()
        layers = zip(features[k].detach().numpy(), weight, strict=True)
        said = sum(ndimage.correlate(layer, kernel, mode="constant") for layer, kernel in layers)
        expected = SHARPNESS * (said + net.heat.bias.item()) + 1.7 * brightness
        np.testing.assert_allclose(heat[k, 0].detach().numpy(), expected, rtol=0, atol=1e-5)  # 1.7 went through float32


def test_before_anything_is_learnt_it_looks_at_the_digit():
    """At contrast 0.7 the start from saliency finds the digit almost always; started blind it seldom does."""
    torch.manual_seed(0)
    field = random_field(stand_in_digits()[0][0][:50], contrast=(0.7, 0.7))

    def found(**kwargs) -> float:
        torch.manual_seed(1)
        with torch.no_grad():
            theta = PeakLocalization(Attention(), **kwargs).eval()(field.images)
        pixels = 64 * (theta - field_theta(field.shift))[:, 1:].norm(dim=1)
        return float((pixels < 8).double().mean())

    assert found() > 0.95 and found(saliency=0.0) < 0.5


def test_the_parameters_of_both_families():
    # 5×5×1, 3×3×16 three times, all times 16, with scale and shift of the batch norm; the heat's 5×5×16 + 1; saliency.
    shared = 25 * 16 + 3 * (9 * 16 * 16) + 4 * 2 * 16 + (25 * 16 + 1) + 1
    for transform in (Attention(), Affine()):
        net = PeakLocalization(transform)
        assert sum(p.numel() for p in net.parameters()) == shared + 17 * transform.num_params


@pytest.mark.parametrize("shape", [(1, 1, 30, 32), (1, 1, 32, 29), (1, 3, 32, 32), (1, 32, 32), (0, 1, 32, 32)])
def test_an_image_that_is_no_field_is_named(shape):
    with pytest.raises(ValueError, match="image: wanted B×1×H×W with sides divisible by 4, got "):
        PeakLocalization(Attention())(torch.zeros(shape))


@pytest.mark.parametrize("transform", [Similarity(), Projective(), ThinPlateSpline(3), Affine])
def test_a_family_without_one_window_is_refused(transform):
    with pytest.raises(ValueError, match="transform: wanted an Attention or an Affine, got "):
        PeakLocalization(transform)


@pytest.mark.parametrize(("side", "room"), [(16, 1), (36, 1), (40, 4), (128, 16)])
def test_more_peaks_than_there_is_room_for_are_refused(side, room):
    net, image = PeakLocalization(Attention(), channels=1).eval(), torch.rand(1, 1, side, side)
    for count in (0, -1, room + 1):
        with pytest.raises(ValueError, match=f"count: wanted 1 to {room} peaks in images of {side}×{side} pixels, got"):
            net.candidates(image, count)
    _, score = net.candidates(image, room)
    assert score.isfinite().all()


def test_as_many_peaks_as_there_is_room_for_are_always_found():
    """The worst case: the peaks lie so that each takes a whole tile of 9×9 cells from the others."""
    heat = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    heat += 1e-3 * random_heat(1, 32, 32, seed=0)
    places = [min(tile * 9 + 4, 31) for tile in range(4)]
    for rank, (i, j) in enumerate((i, j) for i in places for j in places):
        heat[0, 0, i, j] = 50.0 - rank
    theta, _ = search(heat, reach=0).candidates(torch.zeros(1, 1, 128, 128), 16)
    cells = (((1 + theta[0, :, 1]) * 32 - 1) / 2).tolist()
    assert cells == pytest.approx(4 * places)


def test_two_places_of_the_same_heat_are_two_peaks():
    heat = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    heat[0, 0, 5, 5] = heat[0, 0, 20, 20] = 50.0
    theta, score = search(heat, reach=1).candidates(torch.zeros(1, 1, 128, 128), 2)
    cells = sorted((((1 + theta[0, :, 1:]) * 32 - 1) / 2).tolist())
    assert cells == [pytest.approx([5, 5]), pytest.approx([20, 20])] and score[0, 0] == score[0, 1]


def test_the_authors_net_has_2048_features_and_starts_on_a_fifth_of_the_field():
    net = atn_localization()
    convolutions, layers = net[: -3 - 1], [layer for layer in net if isinstance(layer, nn.Linear)]
    image = torch.rand(2, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert convolutions(image).flatten(1).shape == (2, 2048)
        torch.testing.assert_close(net(image), torch.tensor([[0.2, 0, 0]]).expand(2, 3), rtol=0, atol=0)
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(2048, 32), (32, 3)]
    kernels = [(1, 16, 7), (16, 32, 5), (32, 64, 5), (64, 128, 5)]
    wanted = sum(i * o * k * k + o for i, o, k in kernels) + 2048 * 32 + 32 + 32 * 3 + 3
    assert sum(p.numel() for p in net.parameters()) == wanted
    assert math.isclose(wanted, 335e3, rel_tol=0.002)  # as the docstring says
