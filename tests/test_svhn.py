"""The photographs of SVHN, from a small data set of the same format that is written here."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stn_helpers.data import DataError
from stn_helpers.svhn import BLANK, crop_box, read_boxes, read_photographs

BOXES = {  # file → (left, top, width, height, label) of each digit, in pixels; 10 stands for 0
    "1.png": [(20, 10, 12, 24, 5), (33, 12, 11, 22, 10), (45, 11, 12, 24, 5)],
    "2.png": [(8, 6, 9, 15, 1)],
    "3.png": [(30 + 9 * digit, 20, 8, 12, digit + 1) for digit in range(5)],
}


def smooth_photograph(seed: int, size: tuple[int, int] = (90, 60)) -> Image.Image:
    """Blurred colours, (width, height) = ``size``; without fine detail, so that readings of it agree."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def write_part(folder: Path, boxes: dict[str, list[tuple]]) -> None:
    """Photographs and a digitStruct.mat as MATLAB writes it: 512 bytes of its own, then HDF5 in which every text, and
    every number of a column with several, is a data set of its own that is referred to."""
    folder.mkdir(parents=True)
    with h5py.File(folder / "digitStruct.mat", "w", userblock_size=512) as file:
        heap, count = file.create_group("#refs#"), [0]

        def kept(values: np.ndarray) -> h5py.Reference:
            count[0] += 1
            return heap.create_dataset(f"v{count[0]}", data=values).ref

        def column(values: list[float]) -> dict:
            if len(values) == 1:
                return {"data": np.array([values], dtype=np.float64)}
            references = [[kept(np.array([[value]], dtype=np.float64))] for value in values]
            return {"data": np.array(references, dtype=object), "dtype": h5py.ref_dtype}

        names, groups = [], []
        for index, (name, digits) in enumerate(boxes.items()):
            smooth_photograph(index).save(folder / name)
            names.append([kept(np.array([[ord(letter)] for letter in name], dtype=np.uint16))])
            group = heap.create_group(f"b{index}")
            for key, values in zip(("left", "top", "width", "height", "label"), zip(*digits, strict=True), strict=True):
                group.create_dataset(key, **column(list(map(float, values))))
            groups.append([group.ref])
        struct = file.create_group("digitStruct")
        for key, references in (("name", names), ("bbox", groups)):
            struct.create_dataset(key, data=np.array(references, dtype=object), dtype=h5py.ref_dtype)


@pytest.fixture
def folder(tmp_path) -> Path:
    write_part(tmp_path / "train", BOXES)
    return tmp_path / "train"


def test_boxes_and_labels_are_those_of_the_file(folder):
    numbers = read_boxes(folder / "digitStruct.mat")
    assert [number.name for number in numbers] == list(BOXES)
    for number, digits in zip(numbers, BOXES.values(), strict=True):
        assert number.boxes.tolist() == [list(digit[:4]) for digit in digits]
        assert number.labels == [digit[4] % 10 for digit in digits]


def test_five_labels_a_photograph_and_images_as_bytes(folder):
    (images, labels), skipped = read_photographs(folder, 64, progress=False)
    assert images.shape == (3, 3, 64, 64) and images.dtype == torch.uint8 and skipped == 0
    assert labels.dtype == torch.int64
    assert labels.tolist() == [[5, 0, 5, BLANK, BLANK], [1] + [BLANK] * 4, [1, 2, 3, 4, 5]]


@pytest.mark.parametrize("size", [64, 128])
def test_a_crop_is_what_torch_reads_in_the_window(folder, size):
    """Both crops enlarge the photograph's part, where averaging and interpolating are the same."""
    images = read_photographs(folder, size, progress=False).digits.images
    for index, (name, digits) in enumerate(BOXES.items()):
        with Image.open(folder / name) as photograph:
            pixels = torch.from_numpy(np.array(photograph)).permute(2, 0, 1)[None].double()
        height, width = pixels.shape[2:]
        boxes = torch.tensor([digit[:4] for digit in digits]).float()
        left, top, right, bottom = crop_box(boxes, (width, height), size)
        assert right - left <= size and bottom - top <= size
        x = (left + (right - left) * (torch.arange(size) + 0.5) / size) * 2 / width - 1
        y = (top + (bottom - top) * (torch.arange(size) + 0.5) / size) * 2 / height - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None].double()
        expected = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)[0]
        torch.testing.assert_close(images[index].double(), expected, atol=1.01, rtol=0)  # rounded twice


def test_a_crop_that_shrinks_averages(tmp_path):
    """Stripes of one pixel become grey; reading single pixels would keep them, or make others."""
    write_part(tmp_path / "train", {"1.png": [(0, 0, 256, 256, 1)]})
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "train" / "1.png")
    image = read_photographs(tmp_path / "train", 64, progress=False).digits.images.float()
    assert (image - 127.5).abs().max() < 20


def test_the_crop_by_hand():
    boxes = torch.tensor([[10.0, 20, 10, 30], [25, 22, 15, 28]])  # together from (10, 20) to (40, 50)
    assert crop_box(boxes, (100, 100)) == pytest.approx((5.5, 15.5, 44.5, 54.5))  # 30 × 1.3 = 39 wide
    assert crop_box(boxes, (42, 48)) == pytest.approx((5.5, 15.5, 42, 48))
    assert crop_box(boxes, (200, 200), 128) == pytest.approx((0, 0, 64, 74))  # 78 wide, about the same centre


SIDE, START = st.floats(2, 40), st.floats(-1, 60)  # some boxes of SVHN begin a pixel outside


@given(left=START, top=START, width=SIDE, height=SIDE, size=st.sampled_from([64, 128]))
def test_a_crop_lies_in_the_photograph_and_holds_what_of_the_number_does(left, top, width, height, size):
    box = crop_box(torch.tensor([[left, top, width, height]]), (100, 80), size)
    assert 0 <= box[0] < box[2] <= 100 and 0 <= box[1] < box[3] <= 80
    inside = max(left, 0), max(top, 0), min(left + width, 100), min(top + height, 80)
    assert all(ours <= its + 1e-4 for ours, its in zip(box[:2], inside[:2], strict=True))
    assert all(ours >= its - 1e-4 for ours, its in zip(box[2:], inside[2:], strict=True))


def test_longer_numbers_are_left_out_and_counted(tmp_path):
    six = [(5 + 9 * digit, 20, 8, 12, 1) for digit in range(6)]
    write_part(tmp_path / "some", {"1.png": six, **{"2.png": BOXES["2.png"]}, "3.png": six})
    (images, labels), skipped = read_photographs(tmp_path / "some", progress=False)
    assert skipped == 2 and labels.tolist() == [[1] + [BLANK] * 4] and len(images) == 1
    write_part(tmp_path / "none", {"1.png": six})
    with pytest.raises(DataError, match=r"digitStruct\.mat names no photograph of a number that can be read"):
        read_photographs(tmp_path / "none", progress=False)


def test_the_order_of_the_file_counts_not_that_of_the_names(tmp_path):
    write_part(tmp_path / "part", dict(reversed(BOXES.items())))
    labels = read_photographs(tmp_path / "part", progress=False).digits.labels
    assert labels[0].tolist() == [1, 2, 3, 4, 5] and labels[2, 0] == 5


def test_damaged_files_are_named_with_the_way_out(folder):
    path = folder / "digitStruct.mat"
    whole = path.read_bytes()
    for content in (b"", b"no HDF5 at all" * 100, whole[: len(whole) // 2], whole[:600]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"digitStruct\.mat is truncated, damaged or no digitS.*unpack train\.tar"):
            read_photographs(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"digitStruct\.mat is missing.*unpack train\.tar\.gz"):
        read_photographs(folder)
    with h5py.File(path, "w") as file:
        file["something"] = [1, 2]
    with pytest.raises(DataError, match=r"digitStruct\.mat is truncated, damaged or no digitStruct"):
        read_photographs(folder)


def test_damaged_photographs_are_named_with_the_way_out(folder):
    path = folder / "2.png"
    whole = path.read_bytes()
    short = whole.replace(b"\0\0\0\rIHDR", b"\0\0\0\5IHDR")  # a header said to have 5 bytes, in place of 13
    vast = whole.replace(whole[16:24], b"\0\1\0\0" * 2)  # and one that says 65,536×65,536 pixels
    for content in (b"", b"no image", whole[:-400], whole[: len(whole) // 2], short, vast):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"2\.png is truncated or no image.*unpack train\.tar\.gz"):
            read_photographs(folder, progress=False)
    path.unlink()
    with pytest.raises(DataError, match=r"2\.png is missing, though digitStruct\.mat names it"):
        read_photographs(folder, progress=False)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_boxes_that_are_no_numbers_are_named(tmp_path, number):
    write_part(tmp_path / "a", {"1.png": [(1, 1, 5, number, 1)]})
    with pytest.raises(DataError, match=r"digitStruct\.mat: 1\.png has a box .*wanted finite numbers.*unpack train"):
        read_boxes(tmp_path / "a" / "digitStruct.mat")


def test_a_photograph_elsewhere_is_not_read(tmp_path):
    write_part(tmp_path / "a", {"../1.png": [(1, 1, 5, 5, 1)]})
    with pytest.raises(DataError, match=r"digitStruct\.mat: it names the photograph '\.\./1\.png'; wanted a file beside"):
        read_boxes(tmp_path / "a" / "digitStruct.mat")


def test_labels_that_are_no_digits_and_boxes_outside_are_named(tmp_path):
    write_part(tmp_path / "a", {"1.png": [(1, 1, 5, 5, 11)]})
    with pytest.raises(DataError, match=r"digitStruct\.mat: 1\.png has labels \[11\]; wanted 1 to 10"):
        read_photographs(tmp_path / "a", progress=False)
    write_part(tmp_path / "b", {"1.png": [(200, 1, 5, 5, 1)]})
    with pytest.raises(DataError, match=r"1\.png: the boxes of its digits are empty or lie outside"):
        read_photographs(tmp_path / "b", progress=False)
    with pytest.raises(ValueError, match="size: wanted at least 1 pixel, got 0"):
        read_photographs(tmp_path / "a", 0)


def test_without_h5py_the_message_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r'digitStruct\.mat is a file of HDF5.*pip install "stn_helpers\[svhn\]"'):
        read_photographs(folder)


def test_reading_leaves_the_files_alone(folder):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    read_photographs(folder, progress=False)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
