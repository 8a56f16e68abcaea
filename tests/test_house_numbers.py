"""House numbers: which digits make one up, how they are drawn, and which of the two sources is taken."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_svhn import BOXES, write_part

from stn_helpers import data, house_numbers
from stn_helpers.data import DataError, DigitData, Digits
from stn_helpers.house_numbers import (
    NumberPictures,
    draw_numbers,
    load_house_numbers,
    photographs,
    random_numbers,
)
from stn_helpers.svhn import BLANK


def blocks(count: int, length: int, ink: float = 1.0) -> torch.Tensor:
    """Rows of so many digits that are nothing but ink."""
    digits = torch.zeros(count, 5, 28, 28)
    digits[:, :length] = ink
    return digits


def drawn(digits: torch.Tensor, size: int, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return draw_numbers(digits, size)


def small_digits(count: int, seed: int) -> Digits:
    generator = torch.Generator().manual_seed(seed)
    return Digits(torch.rand(count, 1, 28, 28, generator=generator), torch.randint(10, (count,), generator=generator))


@pytest.fixture
def few_digits(monkeypatch):
    """load_digits and the counts of numbers, small."""
    digits = DigitData(small_digits(60, 1), small_digits(20, 2), "mnist")
    monkeypatch.setattr(house_numbers, "load_digits", lambda: digits)
    monkeypatch.setattr(house_numbers, "COUNTS", {"train": 400, "validation": 30, "test": 50})
    monkeypatch.setattr(data, "_said", set())
    return digits


# Which digits


@given(digits=st.integers(1, 30), count=st.integers(1, 50), seed=st.integers(0, 5))
def test_labels_are_what_the_digits_show_and_nothing_stands_behind_the_last(digits, count, seed):
    labels = torch.arange(digits) % 10
    numbers = random_numbers(labels, count, seed)
    which = numbers.images.view(count, 5)
    assert numbers.images.shape == (count, 5, 1, 1) and numbers.labels.shape == (count, 5)
    for row, shown in zip(which.tolist(), numbers.labels.tolist(), strict=True):
        length = sum(index >= 0 for index in row)
        assert length >= 1 and row[length:] == [-1] * (5 - length) and shown[length:] == [BLANK] * (5 - length)
        assert shown[:length] == [index % 10 for index in row[:length]]


def test_every_length_and_every_digit_comes_alike_often_and_a_seed_fixes_all():
    labels = torch.arange(20) % 10
    state = torch.get_rng_state()
    numbers, again, other = (random_numbers(labels, 20_000, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(numbers.images, again.images) and not torch.equal(numbers.images, other.images)
    lengths = (numbers.labels != BLANK).sum(1).bincount(minlength=6)[1:] / 20_000
    assert (lengths - 0.2).abs().max() < 4 * (0.2 * 0.8 / 20_000) ** 0.5
    shares = numbers.labels[numbers.labels != BLANK].bincount(minlength=10) / 60_000
    assert (shares - 0.1).abs().max() < 5 * (0.1 * 0.9 / 60_000) ** 0.5


@pytest.mark.parametrize(("labels", "count"), [(torch.arange(3), 0), (torch.arange(0), 2)])
def test_no_numbers_are_refused(labels, count):
    with pytest.raises(ValueError, match="count and labels"):
        random_numbers(labels, count, 0)


# How they are drawn


@given(length=st.integers(1, 5), count=st.integers(1, 6), size=st.sampled_from([64, 65, 128]), seed=st.integers(0, 20))
def test_pictures_are_images_of_the_convention(length, count, size, seed):
    picture = drawn(blocks(count, length), size, seed)
    assert picture.shape == (count, 3, size, size) and picture.dtype == torch.float32
    assert 0 <= picture.min() and picture.max() <= 1 and picture.isfinite().all()
    assert torch.equal(picture, drawn(blocks(count, length), size, seed))
    assert not torch.equal(picture, drawn(blocks(count, length), size, seed + 1))


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("length", [1, 3, 5])
def test_the_whole_number_is_in_the_picture_and_in_64_pixels(length, size):
    """Solid cells: the ink seen must have the area that the map says, as it has not where it is cut off."""
    torch.manual_seed(0)
    theta = house_numbers._look_at(torch.full((200,), length), size)
    tape = torch.zeros(200, 1, 28, 100)
    tape[..., : 20 * length] = 1
    grid = torch.nn.functional.affine_grid(theta.view(-1, 2, 3), (200, 1, size, size), align_corners=False)
    ink = torch.nn.functional.grid_sample(tape, grid, align_corners=False)
    determinant = torch.linalg.det(theta.view(-1, 2, 3)[:, :, :2].double())
    area = length / 5 / determinant * size**2  # of the tape's part that holds digits, as seen in the picture
    torch.testing.assert_close(ink.sum((1, 2, 3)).double(), area, rtol=0.02, atol=0)
    rows, columns = (ink > 0.01).any(3)[:, 0].sum(1), (ink > 0.01).any(2)[:, 0].sum(1)
    assert rows.max() <= 66 and columns.max() <= 66  # a pixel of blur on each side
    assert rows.min() > 12 and columns.min() > 12 * length**0.5  # and can be read


def test_digits_stand_from_left_to_right_and_upright():
    """Of two pictures that differ in one digit's ink alone, the difference is that digit."""
    faint = blocks(40, 5, ink=0.2)
    centres = []
    for place in range(5):
        upper, lower = faint.clone(), faint.clone()
        upper[:, place, :14], lower[:, place, 14:] = 1, 1
        tops, bottoms = ((drawn(one, 128) - drawn(faint, 128)).abs().sum(1) for one in (upper, lower))
        middles = [scipy.ndimage.center_of_mass(part.numpy()) for part in (tops + bottoms)]
        centres.append([x for _, x in middles])
        for top, bottom in zip(tops, bottoms, strict=True):
            assert scipy.ndimage.center_of_mass(top.numpy())[0] < scipy.ndimage.center_of_mass(bottom.numpy())[0]
    assert (np.diff(np.array(centres), axis=0) > 4).all()  # pixels from each to the next


def test_ink_stands_out_from_the_wall():
    numbers = drawn(blocks(300, 2), 64)
    faint = drawn(blocks(300, 2, ink=1e-6), 64)
    difference = (numbers - faint).abs().mean(1).amax((1, 2))
    assert difference.min() > 0.15
    lighter = (numbers - faint).sum((1, 2, 3)) > 0
    assert 0.3 < lighter.double().mean() < 0.7  # some light on dark, some dark on light


def test_numbers_vary_in_size_place_slant_and_spacing():
    torch.manual_seed(0)
    theta = house_numbers._look_at(torch.full((500,), 3), 128).view(-1, 2, 3)
    forth = torch.linalg.inv(torch.cat([theta, torch.tensor([0.0, 0, 1]).expand(500, 1, 3)], 1).double())
    middle = (forth @ torch.tensor([3 / 5 - 1, 0, 1]).double())[:, :2] * 64  # pixels from the picture's middle
    assert (middle.std(0) > 12).all() and middle.abs().max() < 64
    turn = torch.rad2deg(torch.atan2(forth[:, 1, 0], forth[:, 0, 0]))
    assert turn.abs().max() <= 12.01 and turn.std() > 3
    height = forth[:, :2, 1].norm(dim=1)
    assert height.max() / height.min() > 1.8
    gaps = house_numbers._tape(torch.nn.functional.pad(torch.ones(50, 5, 16, 16), (6, 6, 6, 6)))
    ink = (gaps > 0.5).any(2).float().mean((1, 2))  # columns of the tape that hold ink
    assert ink.max() - ink.min() > 0.1


@given(pick=st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=5), min_size=1, max_size=4))
def test_numbers_are_looked_up_and_drawn(pick):
    digits = small_digits(9, 0).images
    which = torch.tensor([row + [-1] * (5 - len(row)) for row in pick])
    rows = torch.zeros(len(pick), 5, 28, 28)
    for number, row in enumerate(pick):
        for place, index in enumerate(row):
            rows[number, place] = digits[index, 0]
    torch.manual_seed(1)
    picture = NumberPictures(digits, 64)(which[..., None, None])
    assert torch.equal(picture, drawn(rows, 64, seed=1))


@pytest.mark.parametrize(
    ("digits", "size", "message"),
    [
        (torch.ones(2, 4, 28, 28), 64, r"digits: wanted floating B×5×h×w.*\(2, 4, 28, 28\)"),
        (torch.ones(0, 5, 28, 28), 64, "digits: wanted floating B×5×h×w"),
        (torch.ones(2, 5, 28, 28, dtype=torch.uint8), 64, "digits: wanted floating B×5×h×w.*uint8"),
        (torch.zeros(2, 5, 28, 28), 64, "digits: wanted one or more in each row"),
        (blocks(2, 3).flip(1), 64, "digits: wanted one or more in each row, from the left, with no gap"),
        (blocks(2, 3), 63, "size: wanted at least 64 pixels, got 63"),
    ],
)
def test_what_cannot_be_drawn_is_named(digits, size, message):
    with pytest.raises(ValueError, match=message):
        draw_numbers(digits, size)


# Which of the two sources


def test_without_svhn_numbers_made_of_digits_stand_in_and_a_line_says_so(few_digits, tmp_path, capsys):
    numbers = load_house_numbers(64, root=tmp_path)
    load_house_numbers(128, root=tmp_path)
    assert numbers.source == "synthetic (mnist)"
    said = capsys.readouterr().out
    assert said.count("Standing in for SVHN") == 1 and str(tmp_path / "SVHN") in said and "train.tar.gz" in said
    shown = torch.cat([few_digits.train.images, few_digits.test.images])
    by_image = {image.sum().item(): int(label) for image, label in zip(
        shown, torch.cat([few_digits.train.labels, few_digits.test.labels]), strict=True)}  # fmt: skip
    used = []
    for part, count in zip(numbers[:3], (400, 30, 50), strict=True):
        assert part.labels.shape == (count, 5)
        which = part.images.view(count, 5)
        used.append(set(which[which >= 0].tolist()))
        looked_up = numbers.picture.digits[which.clamp(min=0)].sum((2, 3, 4))
        expected = [[by_image[s.item()] if i >= 0 else BLANK for s, i in zip(*pair, strict=True)]
                    for pair in zip(looked_up, which, strict=True)]  # fmt: skip
        assert part.labels.tolist() == expected
    assert used[0] | used[1] == set(range(60)) and len(used[0]) == 50  # ten digits held back
    assert not used[0] & used[1] and used[2] <= set(range(60, 80))
    assert numbers.picture(numbers.test.images[:2]).shape == (2, 3, 64, 64)


def test_what_the_digits_are_is_said_too(few_digits, tmp_path, monkeypatch):
    monkeypatch.setattr(house_numbers, "load_digits", lambda: few_digits._replace(source="sklearn"))
    assert load_house_numbers(64, "synthetic", tmp_path).source == "synthetic (sklearn)"


def test_svhn_is_taken_where_it_is(few_digits, tmp_path, monkeypatch, capsys):
    six = {"7.png": [(5 + 9 * digit, 20, 8, 12, 1) for digit in range(6)]}
    write_part(tmp_path / "SVHN" / "train", BOXES | six)
    write_part(tmp_path / "SVHN" / "test", {"1.png": BOXES["2.png"]})
    monkeypatch.setenv("STN_DATA", str(tmp_path))
    numbers = load_house_numbers(64)
    assert numbers.source == "svhn" and numbers.picture is photographs
    assert (len(numbers.train.labels), len(numbers.validation.labels), len(numbers.test.labels)) == (2, 1, 1)
    every = torch.cat([numbers.train.labels, numbers.validation.labels])
    assert sorted(every[:, 0].tolist()) == [1, 1, 5] and numbers.test.labels[0].tolist() == [1] + [BLANK] * 4
    assert "SVHN: 1 photographs left out" in capsys.readouterr().out
    picture = numbers.picture(numbers.test.images)
    assert picture.dtype == torch.float32 and picture.shape == (1, 3, 64, 64)
    assert torch.equal((picture * 255).round().byte(), numbers.test.images) and picture.max() <= 1

    write_part(tmp_path / "SVHN" / "extra", {"1.png": BOXES["3.png"]})
    with_extra = load_house_numbers(64)
    assert torch.equal(with_extra.validation.labels, numbers.validation.labels)  # never of the easier part
    assert with_extra.train.labels[-1].tolist() == [1, 2, 3, 4, 5] and len(with_extra.train.labels) == 3
    assert load_house_numbers(64, "synthetic").source == "synthetic (mnist)"


def test_svhn_that_is_asked_for_or_damaged_is_not_replaced(few_digits, tmp_path):
    with pytest.raises(DataError, match=r"SVHN is not in .*SVHN\. To have SVHN, unpack"):
        load_house_numbers(64, "svhn", tmp_path)
    write_part(tmp_path / "SVHN" / "train", BOXES)
    with pytest.raises(DataError, match=r"test/digitStruct\.mat is missing"):
        load_house_numbers(64, root=tmp_path)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size": 32}, "size: wanted 64 or 128, got 32"),
        ({"source": "mnist"}, "source: wanted 'svhn' or 'synthetic', got 'mnist'"),
    ],
)
def test_other_sizes_and_sources_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        load_house_numbers(**kwargs)
