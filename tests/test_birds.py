"""The reader of CUB-200-2011 on a small tree in its format, whole and damaged in every way."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stn_helpers.birds import FOLDER, birds_folder, load_birds
from stn_helpers.data import DataError

NAMES = ("001.Wren/Wren_0001_10.png", "001.Wren/Wren_0002_20.png", "003.Gull/Gull_0001_30.png")


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Red grows to the right, green downwards; blue says that there is a picture."""
    red, green = np.meshgrid(np.arange(width), np.arange(height))
    colour = np.stack([red, green, np.full_like(red, 200)], axis=-1)
    return Image.fromarray(colour.astype(np.uint8)).convert(mode)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Three photographs of two classes, numbered neither from 1 nor without gaps."""
    monkeypatch.setenv("STN_DATA", str(tmp_path))
    folder = tmp_path / FOLDER
    for name, size, mode in zip(NAMES, ((40, 30), (20, 50), (16, 16)), ("RGB", "RGB", "L"), strict=True):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(*size, mode).save(folder / "images" / name)
    lists = {
        "images.txt": [f"{number} {name}" for number, name in zip((2, 5, 9), NAMES, strict=True)],
        "classes.txt": ["1 001.Wren", "3 003.Gull"],
        "image_class_labels.txt": ["9 3", "5 1", "2 1"],  # the numbers count, not the order
        "train_test_split.txt": ["2 1", "5 0", "9 1"],
    }
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def test_the_lists_are_put_together_by_their_numbers(folder):
    birds = load_birds()
    assert birds_folder() == folder
    assert [path.relative_to(folder / "images").as_posix() for path in birds.paths] == list(NAMES)
    assert birds.classes == ("001.Wren", "003.Gull")
    assert birds.labels.tolist() == [0, 0, 1] and birds.labels.dtype == torch.int64
    assert birds.numbers(training=True).tolist() == [0, 2] and birds.numbers(training=False).tolist() == [1]


def test_the_square_in_the_middle_is_decoded_when_it_is_asked_for(folder):
    birds = load_birds(folder)
    wide, high = birds.images(torch.tensor([0]), size=30), birds.images(torch.tensor([1]), size=20)
    ramp = torch.arange(30) / 255
    torch.testing.assert_close(wide[0, 0], (ramp + 5 / 255).expand(30, 30))  # columns 5 to 34 of 40
    torch.testing.assert_close(wide[0, 1], ramp[:, None].expand(30, 30))
    torch.testing.assert_close(high[0, 1], (ramp[:20, None] + 15 / 255).expand(20, 20))  # rows 15 to 34 of 50
    both = birds.images(torch.tensor([[[1]], [[2]]]), size=8)  # as a training hands them over
    assert both.shape == (2, 3, 8, 8) and both.dtype == torch.float32
    assert torch.equal(both[1, 0], both[1, 1])  # a grey photograph
    theirs = Image.open(birds.paths[1]).crop((0, 15, 20, 35)).resize((8, 8), Image.Resampling.BILINEAR)
    torch.testing.assert_close(both[0], torch.tensor(np.asarray(theirs)).permute(2, 0, 1) / 255)


def test_without_the_folder_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("STN_DATA", str(tmp_path))
    if birds_folder() is not None:
        pytest.skip("the data set lies in data/")
    with pytest.raises(DataError, match=r"there is no folder CUB_200_2011\. To have CUB-200-2011, unpack"):
        load_birds()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images.txt", None, r"images\.txt is missing\. To have"),
        ("classes.txt", "", r"classes\.txt is empty"),
        ("images.txt", "2 001.Wren/Wren_0001_10.png\n5 001.Wren/Wre", r"001\.Wren.Wre is missing, though|does not fit"),
        ("images.txt", "2 ../secret.png", r"images\.txt, line 1: '2 \.\./secret\.png'.*wanted a path under images/"),
        ("images.txt", "2 /secret.png", r"line 1.*wanted a path under images/"),
        ("images.txt", "one 001.Wren/Wren_0001_10.png", r"line 1: 'one .* is none of this list"),
        ("image_class_labels.txt", "2 1\n5 1\n", r"does not fit images\.txt: it lacks, or is cut off before, number 9"),
        ("image_class_labels.txt", "2 1\n5 1\n9 7\n", r"line 3: '9 7'.*classes\.txt has no class 7"),
        ("image_class_labels.txt", "2 1\n5\n9 3\n", r"image_class_labels\.txt, line 2: '5'"),
        ("train_test_split.txt", "2 1\n5 0\n9 2\n", r"line 3: '9 2'.*wanted 0 or 1"),
        ("train_test_split.txt", "2 1\n2 1\n5 0\n9 1\n", r"line 2: number 2 comes twice"),
        ("train_test_split.txt", "2 1\n5 0\n9 1\n11 1\n", r"does not fit images\.txt: images\.txt lacks number 11"),
        ("train_test_split.txt", b"2 1\xff\n", r"train_test_split\.txt cannot be read"),
    ],
)
def test_a_damaged_list_is_named_with_its_line(folder, name, content, message):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        load_birds()


def test_a_missing_or_truncated_photograph_is_named(folder):
    birds = load_birds()
    whole = birds.paths[0].read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no image"):
        birds.paths[0].write_bytes(content)
        with pytest.raises(DataError, match=r"Wren_0001_10\.png is truncated or no image"):
            birds.images(torch.tensor([1, 0]))
    birds.paths[0].unlink()
    with pytest.raises(DataError, match=r"Wren_0001_10\.png is missing\. To have"):
        birds.images(torch.tensor([0]))
    with pytest.raises(DataError, match=r"Wren_0001_10\.png is missing, though images\.txt names it"):
        load_birds()


def test_a_size_below_one_pixel_is_refused(folder):
    with pytest.raises(ValueError, match="size: wanted at least 1 pixel, got 0"):
        load_birds().images(torch.tensor([0]), size=0)
