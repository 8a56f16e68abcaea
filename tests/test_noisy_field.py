"""Noisy fields against the package MotionClouds, and against the definition written out in NumPy, image by image."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, kstest

from stn_helpers import noisy_field as module
from stn_helpers.noisy_field import (
    FARTHEST,
    FIELD,
    cloud_envelope,
    field_theta,
    motion_clouds,
    noisy_field,
    polar_shift,
    random_field,
)
from stn_helpers.sampling import sample
from stn_helpers.transforms import Attention

EVEN = st.integers(1, 24).map(lambda half: 2 * half)


@pytest.fixture(scope="module")
def mc():
    return pytest.importorskip("MotionClouds")


def their_envelope(mc, size=FIELD, **changed):
    """What MotionClouds makes of the benchmark's settings, in the order of NumPy's fft2."""
    settings_ = {"V_X": 0, "V_Y": 0, "B_V": 0, "sf_0": 0.1, "B_sf": 0.1, "B_theta": np.inf} | changed
    return np.fft.ifftshift(mc.envelope_gabor(*mc.get_grids(size, size, 1), **settings_)[:, :, 0])


def their_clouds(mc, count=100, **changed):
    """count×128×128 in [-1, 1]."""
    envelope = np.fft.fftshift(their_envelope(mc, **changed))[:, :, None]
    return np.stack([2 * mc.rectif(mc.random_cloud(envelope, seed=seed))[:, :, 0] - 1 for seed in range(count)])


@pytest.fixture(scope="module")
def our_clouds():
    torch.manual_seed(0)
    return motion_clouds(200)[:, 0].double().numpy()


@pytest.fixture(scope="module")
def clouds(mc):
    return their_clouds(mc)


def energy(textures):
    """Share of the textures' energy at each frequency."""
    power = (np.abs(np.fft.fft2(textures)) ** 2).mean(0)
    return power / power.sum()


def energy_up_to(textures):
    """Share of the energy below each of the frequencies 1/128, 2/128, … cycles per pixel."""
    size = textures.shape[-1]
    axis = np.fft.fftfreq(size)
    ring = (np.hypot(axis[:, None], axis) * size).astype(int)
    return np.bincount(ring.ravel(), energy(textures).ravel()).cumsum()


def energy_by_angle(textures, flat, sectors=8):
    """Energy in every sector of the half turn, over what an envelope alike in every orientation has there."""
    axis = np.fft.fftfreq(textures.shape[-1])
    angle = np.arctan2(axis[:, None], axis)
    sector = (np.round(angle / np.pi * sectors).astype(int) % sectors).ravel()
    share = flat**2 / (flat**2).sum()
    return np.bincount(sector, energy(textures).ravel()) / np.bincount(sector, share.ravel())


@given(EVEN)
@settings(max_examples=10)
def test_envelope_is_the_packages(size):
    mc = pytest.importorskip("MotionClouds")
    theirs = their_envelope(mc, size)[:, : size // 2 + 1]
    np.testing.assert_allclose(cloud_envelope(size).numpy(), theirs, rtol=1e-4, atol=1e-6)


def test_every_texture_has_exactly_the_packages_envelope(mc, our_clouds):
    spectrum = np.abs(np.fft.fft2(our_clouds))
    their = their_envelope(mc)
    # Where a frequency is its own mirror image, a real texture has only the real part of exp(iφ).
    own_mirror = np.zeros_like(their, dtype=bool)
    own_mirror[::64, ::64] = True
    ratio = (spectrum / np.where(own_mirror, 1, their))[:, ~own_mirror]
    np.testing.assert_allclose(ratio / ratio.mean(1, keepdims=True), 1, atol=2e-3)
    assert (spectrum[:, 0, 0] < 1e-3 * spectrum.max()).all()


def test_average_spectrum_is_the_packages(mc, our_clouds, clouds):
    def distance(theirs):
        return np.abs(energy_up_to(our_clouds) - energy_up_to(theirs)).max()

    assert distance(clouds) < 0.015
    for wrong in ({"B_sf": 0.2}, {"B_sf": 0.12}, {"sf_0": 0.12}, {"loggabor": False}):
        assert distance(their_clouds(mc, 40, **wrong)) > 0.02, wrong


def test_every_orientation_is_alike(mc, our_clouds, clouds):
    flat = their_envelope(mc)
    np.testing.assert_allclose(energy_by_angle(clouds, flat), 1, atol=0.08)
    np.testing.assert_allclose(energy_by_angle(our_clouds, flat), 1, atol=0.001)
    assert np.ptp(energy_by_angle(their_clouds(mc, 40, B_theta=1.0), flat)) > 0.5  # the measure sees an orientation


def test_pixels_are_distributed_as_the_packages(our_clouds, clouds):
    assert ks_2samp(our_clouds.ravel(), clouds.ravel()).statistic < 0.01
    assert ks_2samp(0.9 * our_clouds.ravel(), clouds.ravel()).statistic > 0.015
    levels = [0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999]
    np.testing.assert_allclose(np.quantile(our_clouds, levels), np.quantile(clouds, levels), atol=0.015)
    contrasts = [textures.std((1, 2)) for textures in (our_clouds, clouds)]  # one for each texture
    assert ks_2samp(*contrasts).pvalue > 0.01


def test_textures_are_scaled_by_their_largest_value():
    texture = motion_clouds(30)
    assert texture.shape == (30, 1, 128, 128) and texture.dtype == torch.float32 and texture.is_contiguous()
    torch.testing.assert_close(texture.mean((1, 2, 3)), torch.zeros(30), rtol=0, atol=1e-6)
    assert (texture.abs().amax((1, 2, 3)) == 1).all()
    assert (texture.amax((1, 2, 3)) < 1).any() and (texture.amin((1, 2, 3)) > -1).any()  # and not by both ends


def test_phases_are_even_on_the_circle_and_independent():
    torch.manual_seed(0)
    count, size = 2000, 16
    phasor = np.fft.rfft2(motion_clouds(count, size)[:, 0].double().numpy())
    once = np.ones(phasor.shape[1:], dtype=bool)
    once[8:, ::8] = once[0, ::8] = False  # mirror images of others, and frequencies that are their own
    phasor = phasor[:, once] / np.abs(phasor[:, once])  # count×n

    def surprises(phasors):
        """count·|mean|² is distributed as exp(−x) where phases are even and independent."""
        return kstest(len(phasors) * np.abs(phasors.mean(0)) ** 2, "expon").pvalue

    for times in (1, 2, 3):
        assert surprises(phasor**times) > 0.001
    assert surprises((phasor[:, :40, None] * phasor[:, None, 40:].conj()).reshape(count, -1)) > 0.001
    assert surprises(phasor[1:] * phasor[:-1].conj()) > 0.001  # one texture and the next


def test_no_two_images_share_a_texture():
    torch.manual_seed(0)
    count = 3 * module.AT_ONCE + 5
    images = random_field(torch.zeros(count, 1, 4, 4), size=84).images.flatten(1)
    assert images.shape[0] == count
    alike = torch.corrcoef(images - images.mean(0))
    assert (alike - torch.eye(count)).abs().max() < 0.4


def by_the_definition(digit, shift, contrast, texture):
    """One image, step by step, in float64."""
    size = len(texture)
    height, width = digit.shape
    field = np.zeros((size, size))
    for row in range(height):
        for column in range(width):
            field[(size - height) // 2 + shift[1] + row, (size - width) // 2 + shift[0] + column] = digit[row, column]
    field = (field * 2 - 1) * contrast
    field = field / 2 + 0.5
    field[field <= 0.5] = 0
    field = np.clip(np.maximum(field, texture * 0.75 / 2 + 0.5), 0, 1)
    field = (field - field.min()) / (field.max() - field.min())
    for row in range(size):
        for column in range(size):
            if math.hypot(row + 0.5 - size / 2, column + 0.5 - size / 2) > size / 2:
                field[row, column] = 0.5
    return field


@st.composite
def scenes(draw):
    """Sizes of the field, a digit and a place for it, B shifts and contrasts, and a seed."""
    size, batch = draw(st.integers(2, 24)), draw(st.integers(1, 3))
    height, width = draw(st.integers(1, size)), draw(st.integers(1, size))
    rooms = [(size - width, size - height)] * batch
    shifts = [[draw(st.integers(-(room // 2), room - room // 2)) for room in pair] for pair in rooms]
    contrasts = [draw(st.floats(0.05, 1)) for _ in range(batch)]
    return size, height, width, shifts, contrasts, draw(st.integers(0, 1000))


@given(scenes(), st.sampled_from([torch.float32, torch.float64]))
def test_an_image_is_what_the_definition_says(scene, dtype):
    size, height, width, shifts, contrasts, seed = scene
    random = torch.Generator().manual_seed(seed)
    digits = torch.rand(len(shifts), 1, height, width, generator=random).to(dtype)
    digits = torch.where(digits < 0.3, 0.5, digits)  # just background, whatever the contrast
    texture = (2 * torch.rand(len(shifts), 1, size, size, generator=random) - 1).to(dtype)
    before = texture.clone()
    images = noisy_field(digits, torch.tensor(shifts), torch.tensor(contrasts, dtype=dtype), texture)
    assert images.dtype == dtype and images.shape == texture.shape and torch.equal(texture, before)
    for image, *one in zip(images, digits, shifts, contrasts, texture, strict=True):
        expected = by_the_definition(one[0][0].double().numpy(), one[1], one[2], one[3][0].double().numpy())
        np.testing.assert_allclose(image[0].numpy(), expected, atol=1e-5)


def test_half_grey_is_background():
    texture = -torch.ones(1, 1, 8, 8)
    digits = torch.full((1, 1, 2, 2), 0.5)
    digits[0, 0, 0, 0] = 1.0
    image = noisy_field(digits, torch.zeros(1, 2, dtype=torch.int64), 0.4, texture)[0, 0]
    assert image[3, 3] == 1 and image[3, 4] == image[4, 3] == image[4, 4] == image[2, 2] == 0


def test_extremes_are_exact_and_the_corners_grey():
    torch.manual_seed(0)
    fields = random_field(torch.rand(100, 1, 28, 28))
    centre = torch.arange(FIELD) + 0.5 - FIELD / 2
    outside = torch.hypot(centre[:, None], centre) > FIELD / 2
    assert (fields.images[:, 0, outside] == 0.5).all()
    low, high = fields.images[:, 0, ~outside].amin(1), fields.images[:, 0, ~outside].amax(1)
    assert (low >= 0).all() and (high <= 1).all()
    assert (low == 0).float().mean() > 0.5 and (high == 1).float().mean() > 0.5  # where the extreme is not outside


def test_a_contrast_may_be_one_number_and_a_shift_int32():
    digits, texture = torch.rand(2, 1, 3, 3), motion_clouds(2, 10)
    shift = torch.tensor([[1, 2], [-1, 0]])
    expected = noisy_field(digits, shift, torch.tensor([0.4, 0.4]), texture)
    assert torch.equal(noisy_field(digits, shift.int(), 0.4, texture), expected)


def test_a_texture_may_lie_in_memory_in_any_order():
    digits, shift, texture = torch.rand(2, 1, 3, 3), torch.tensor([[1, 2], [-1, 0]]), motion_clouds(2, 10)
    for turned in (texture.mT, texture[:1].expand(2, -1, -1, -1), texture.to(memory_format=torch.channels_last)):
        expected = noisy_field(digits, shift, 0.9, turned.contiguous())
        assert torch.equal(noisy_field(digits, shift, 0.9, turned), expected)


def test_a_field_without_contrast_is_0_not_nan():
    image = noisy_field(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, dtype=torch.int64), 1.0, torch.zeros(1, 1, 6, 6))
    assert image[0, 0, 3, 3] == 0 and image.isfinite().all()


def test_shift_is_truncated_towards_zero():
    eccentricity = torch.tensor([1.9, 1.9, 2.5, 2.5, 0.0, 40.0])
    angle = torch.tensor([0.0, math.pi, math.pi / 4, 5 * math.pi / 4, 1.0, math.pi / 2])
    shift = polar_shift(eccentricity, angle)
    assert shift.dtype == torch.int64
    assert shift.tolist() == [[1, 0], [-1, 0], [1, 1], [-1, -1], [0, 0], [0, 40]]


@given(st.lists(st.tuples(st.floats(0, 40), st.floats(0, 2 * math.pi)), min_size=1, max_size=5))
def test_shift_is_numpys(polar):
    eccentricity, angle = torch.tensor(polar, dtype=torch.float64).T
    expected = [[int(r * np.cos(a)), int(r * np.sin(a))] for r, a in polar]
    assert np.abs(polar_shift(eccentricity, angle).numpy() - expected).sum() <= 1  # 1: cosines may differ in a last bit


def drawn(monkeypatch, **arguments):
    """What `random_field` gives, and the eccentricities and angles that it drew."""
    polar = []
    monkeypatch.setattr(module, "polar_shift", lambda *pair: polar.append(pair) or polar_shift(*pair))
    torch.manual_seed(0)
    fields = random_field(torch.rand(3000, 1, 2, 2), size=84, **arguments)
    return fields, polar[0][0].numpy(), polar[0][1].numpy()


def test_eccentricity_angle_and_contrast_are_drawn_as_defined(monkeypatch):
    fields, eccentricity, angle = drawn(monkeypatch, contrast=(0.2, 0.6))
    at_the_edge = math.erfc(1 / math.sqrt(2))  # of abs(N(0, 40)), what is beyond 40: 0.317
    assert (eccentricity == FARTHEST).mean() == pytest.approx(at_the_edge, abs=0.025)
    nearer = eccentricity[eccentricity < FARTHEST] / FARTHEST
    normal = np.vectorize(lambda x: math.erf(x / math.sqrt(2)) / (1 - at_the_edge))
    assert kstest(nearer, normal).pvalue > 0.01
    assert kstest(angle, "uniform", (0, 2 * math.pi)).pvalue > 0.01
    assert kstest(fields.contrast.numpy(), "uniform", (0.2, 0.4)).pvalue > 0.01
    assert np.abs(np.corrcoef([eccentricity, angle, fields.contrast.numpy()]) - np.eye(3)).max() < 0.06
    assert torch.equal(fields.shift, polar_shift(torch.tensor(eccentricity), torch.tensor(angle)))


def test_spread_is_the_standard_deviation(monkeypatch):
    _, eccentricity, _ = drawn(monkeypatch, spread=5.0)
    assert np.sqrt((eccentricity**2).mean()) == pytest.approx(5, rel=0.04)
    fields, _, _ = drawn(monkeypatch, spread=0, contrast=(0.5, 0.5))
    assert (fields.shift == 0).all() and (fields.contrast == 0.5).all()


def test_a_random_field_is_made_of_its_parts(monkeypatch):
    textures = []
    monkeypatch.setattr(
        module, "motion_clouds", lambda *asked: textures.append(motion_clouds(*asked)) or textures[-1].clone()
    )
    digits = torch.rand(module.AT_ONCE + 3, 1, 28, 28)
    images, shift, contrast = random_field(digits)
    assert torch.equal(images, noisy_field(digits, shift, contrast, torch.cat(textures)))


def test_the_seed_fixes_all_whatever_the_threads():
    digits = torch.rand(20, 1, 28, 28)

    def seeded(seed, threads):
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        return random_field(digits)

    threads = torch.get_num_threads()
    try:
        first, again, on_two, other = seeded(1, 1), seeded(1, 1), seeded(1, 2), seeded(2, 1)
    finally:
        torch.set_num_threads(threads)
    for one, same, two in zip(first, again, on_two, strict=True):
        assert torch.equal(one, same) and torch.equal(one, two)
    assert not torch.equal(first.images, other.images) and not torch.equal(first.shift, other.shift)


@given(st.integers(1, 16), st.integers(0, 40), st.integers(0, 1000))
def test_theta_looks_straight_at_the_digit(digit, more, seed):
    size, random = digit + more, torch.Generator().manual_seed(seed)
    shift = torch.randint(-(more // 2), more - more // 2 + 1, (2, 2), generator=random)
    image = torch.rand(2, 1, size, size, generator=random)
    seen = sample(image, Attention().grid(field_theta(shift, digit, size), (digit, digit)))
    for b, (right, down) in enumerate((shift + more // 2).tolist()):
        there = image[b : b + 1, :, down : down + digit, right : right + digit]
        torch.testing.assert_close(seen[b : b + 1], there, rtol=0, atol=2e-5)


def test_theta_reads_the_digit_in_its_field():
    torch.manual_seed(0)
    digits = torch.rand(50, 1, 28, 28).round()
    digits[:, :, 0, 0] = 1.0
    images, shift, contrast = random_field(digits, contrast=(1.0, 1.0), spread=20.0)
    theta = field_theta(shift)
    assert torch.equal(theta[:, 1:], shift / 64) and (theta[:, 0] == 28 / 128).all()
    seen = sample(images, Attention().grid(theta, (28, 28)))
    assert (seen[digits == 1] > 1 - 1e-5).all() and (seen[digits == 0] < 1 - 1e-3).float().mean() > 0.999


def test_what_is_kept_serves_with_gradients_too():
    digits, shift = torch.rand(1, 1, 4, 4, requires_grad=True), torch.zeros(1, 2, dtype=torch.int64)
    for kept in (cloud_envelope, module._unit_circle, module._inside):
        kept.cache_clear()
    with torch.inference_mode():
        assert cloud_envelope(94) is cloud_envelope(94)
        random_field(digits, size=94)
    weight = torch.ones((), requires_grad=True)
    (weight * cloud_envelope(94)).sum().backward()
    assert weight.grad > 0
    images = noisy_field(digits, shift, 0.5, motion_clouds(1, 94, torch.device("cpu")))
    assert images.isfinite().all() and not images.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu():
    torch.manual_seed(0)
    digits = torch.rand(40, 1, 28, 28, device="cuda")
    fields = random_field(digits)
    assert fields.images.is_cuda and fields.images.isfinite().all()
    texture = motion_clouds(40, device="cuda")
    there = noisy_field(digits, fields.shift, fields.contrast, texture)
    here = noisy_field(digits.cpu(), fields.shift.cpu(), fields.contrast.cpu(), texture.cpu())
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-5)


def call(digits=(2, 1, 4, 4), shift=((0, 0), (0, 0)), contrast=0.5, texture=(2, 1, 8, 8), **dtypes):
    return noisy_field(
        torch.zeros(digits, dtype=dtypes.get("digits_dtype", torch.float32)),
        torch.tensor(shift, dtype=dtypes.get("shift_dtype", torch.int64)),
        contrast,
        torch.zeros(texture, dtype=dtypes.get("texture_dtype", torch.float32)),
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"digits": (2, 4, 4)}, "digits: wanted floating B×1×h×w"),
        ({"digits": (2, 3, 4, 4)}, "digits: wanted floating B×1×h×w"),
        ({"digits": (0, 1, 4, 4)}, "digits: wanted floating B×1×h×w with B above 0"),
        ({"digits_dtype": torch.uint8}, "digits: wanted floating"),
        ({"digits": (2, 1, 4, 9)}, "digits: 4×9 pixels are larger than the field of 8×8"),
        ({"texture": (2, 1, 8, 9)}, "texture: wanted a square field 2×1×S×S"),
        ({"texture": (1, 1, 8, 8)}, "texture: wanted a square field 2×1×S×S"),
        ({"texture": (2, 8, 8)}, "texture: wanted a square field 2×1×S×S"),
        ({"texture_dtype": torch.float64}, "texture: wanted the dtype of the digits, torch.float32"),
        ({"shift": ((0, 0),)}, "shift: wanted whole numbers 2×2"),
        ({"shift_dtype": torch.float32}, "shift: wanted whole numbers 2×2"),
        ({"shift": ((2, 2), (3, 0))}, r"shift: \(3, 0\) takes digit 1 out of the field of 8×8"),
        ({"shift": ((0, -3), (0, 0))}, r"shift: \(0, -3\) takes digit 0 out of the field of 8×8"),
        ({"contrast": 0.0}, r"contrast: wanted numbers in \(0, 1\]"),
        ({"contrast": 1.01}, r"contrast: wanted numbers in \(0, 1\]"),
        ({"contrast": torch.tensor([0.5, math.nan])}, r"contrast: wanted numbers in \(0, 1\]"),
        ({"contrast": torch.tensor([0.5, 0.5, 0.5])}, r"contrast: wanted one number or 2, got shape \(3,\)"),
        ({"contrast": torch.tensor([[0.5], [0.5]])}, "contrast: wanted one number or 2"),
    ],
)
def test_bad_input_is_named(arguments, says):
    with pytest.raises(ValueError, match=says):
        call(**arguments)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_values_out_of_range_are_named(value):
    digits, texture = torch.full((1, 1, 4, 4), value), motion_clouds(1, 8)
    shift = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"digits: wanted values in \[0, 1\]"):
        noisy_field(digits, shift, 0.5, texture)
    with pytest.raises(ValueError, match=r"digits: wanted values in \[0, 1\]"):
        random_field(digits)
    with pytest.raises(ValueError, match=r"texture: wanted values in \[-1, 1\]"):
        noisy_field(torch.zeros(1, 1, 4, 4), shift, 0.5, texture + 10 * value)


def test_bad_draws_are_named():
    digits = torch.zeros(2, 1, 4, 4)
    for spread in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="spread: wanted a finite number of pixels from 0 up"):
            random_field(digits, spread=spread)
    for contrast in ((0.0, 0.5), (0.5, 1.1), (0.7, 0.3), (math.nan, 0.5)):
        with pytest.raises(ValueError, match="contrast: wanted a lowest and a highest"):
            random_field(digits, contrast)
    with pytest.raises(ValueError, match="out of the field of 20×20"):
        random_field(digits, spread=1000.0, size=20)
    for size in (0, 7, -2):
        with pytest.raises(ValueError, match="size: wanted an even number"):
            motion_clouds(1, size)
    with pytest.raises(ValueError, match="count: wanted at least 1"):
        motion_clouds(0)
    with pytest.raises(ValueError, match="eccentricity and angle: wanted B numbers each"):
        polar_shift(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match="shift: wanted B×2"):
        field_theta(torch.zeros(3, 3))
