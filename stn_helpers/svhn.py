"""House numbers in photographs: the Street View House Numbers (SVHN), in their format of full numbers.

Netzer et al. (2011). The data set has three parts, each a folder: ``train/`` (33,402 photographs), ``test/`` (13,068)
and ``extra/`` (202,353, easier ones). In a folder lie the photographs, ``1.png``, ``2.png``, …, and
``digitStruct.mat``, which holds for every photograph a box and a label for each of its digits. The file is one of
MATLAB 7.3, and so of HDF5: to read it the package h5py is needed, ``pip install "stn_helpers[svhn]"``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from stn_helpers.data import DataError, Digits

if TYPE_CHECKING:
    import h5py

__all__ = ["BLANK", "DIGITS", "BoxedNumber", "Photographs", "crop_box", "read_boxes", "read_photographs"]

DIGITS = 5
"""The longest number that is read."""
BLANK = 10
"""The label of a place behind the last digit."""
MARGIN = 0.3
"""The box around a number is made wider and higher by this share of itself, in a crop of 64 pixels."""
WAY_OUT = (
    "To have SVHN, unpack train.tar.gz, test.tar.gz and, if you like, extra.tar.gz (format 1, full numbers) from "
    "http://ufldl.stanford.edu/housenumbers into SVHN/ in the folder that STN_DATA names."
)


class BoxedNumber(NamedTuple):
    """One photograph, as ``digitStruct.mat`` describes it."""

    name: str
    """Name of its file."""
    boxes: Tensor
    """Left, top, width and height of each digit's box in pixels, n×4 float32; the photograph begins at (0, 0)."""
    labels: list[int]
    """The n digits, 0 to 9, in the order of the file, which is that of reading."""


class Photographs(NamedTuple):
    """One part of SVHN, cropped."""

    digits: Digits
    """Images N×3×size×size uint8, as these are many; labels N×5 int64, `BLANK` behind the last digit."""
    skipped: int
    """Photographs left out, as their number has more than five digits (as published, one of train, none of test)."""


def read_photographs(folder: str | Path, size: int = 64, progress: bool = True) -> Photographs:
    """Read one part of SVHN, every number cropped out as `crop_box` says and resized to a square.

    A crop takes 3·size² bytes: train/ 0.4 GB at 64 pixels, 1.6 GB at 128.

    Args:
        folder: holds ``digitStruct.mat`` and the photographs that it names.
        size: pixels of the crops' side.
        progress: whether to show a progress bar, on stderr.

    Raises:
        DataError: h5py is not installed; a file is missing, truncated, damaged or not of this format; a label is no
            digit; a number lies outside its photograph. The message names the file.
        ValueError: ``size`` is below 1.
    """
    folder = Path(folder)
    if size < 1:
        raise ValueError(f"size: wanted at least 1 pixel, got {size}")
    every = read_boxes(folder / "digitStruct.mat")
    short = [number for number in every if len(number.labels) <= DIGITS]
    if not short:
        raise DataError(f"{folder / 'digitStruct.mat'} names no photograph of a number that can be read. {WAY_OUT}")
    images = np.empty((len(short), size, size, 3), dtype=np.uint8)
    labels = torch.full((len(short), DIGITS), BLANK)
    for index, number in enumerate(tqdm(short, desc=folder.name, disable=not progress, leave=False, unit="image")):
        images[index] = _crop(folder / number.name, number, size)
        labels[index, : len(number.labels)] = torch.tensor(number.labels)
    return Photographs(Digits(torch.from_numpy(images).permute(0, 3, 1, 2), labels), len(every) - len(short))


def crop_box(boxes: Tensor, photograph: tuple[int, int], size: int = 64) -> tuple[float, float, float, float]:
    """The part of a photograph that shows its number.

    The smallest box around the boxes of all digits, made 30 % wider and higher about its centre, is the crop of 64
    pixels (Goodfellow et al. 2014). The crop of 128 pixels is twice as wide and high, so that a digit is as large in
    it, and the background all around it: the paper says that these crops are looser, not by how much. What would lie
    outside the photograph is cut off, and what is left comes out larger. The crop is resized to a square whatever its
    shape.

    Args:
        boxes: n×4, left, top, width, height.
        photograph: (width, height) of the photograph in pixels.
        size: pixels of the crop's side once it is resized.

    Returns:
        (left, top, right, bottom) in pixels; empty, left ≥ right or top ≥ bottom, where the number lies outside.
    """
    first, last = boxes[:, :2].amin(0), (boxes[:, :2] + boxes[:, 2:]).amax(0)
    half = (last - first) / 2 * (1 + MARGIN) * size / 64
    limit = torch.tensor(photograph)
    left, top = ((first + last) / 2 - half).clamp(min=0).tolist()
    right, bottom = torch.minimum((first + last) / 2 + half, limit).tolist()
    return left, top, right, bottom


def read_boxes(path: str | Path) -> list[BoxedNumber]:
    """What a ``digitStruct.mat`` says of its photographs, in its order.

    Raises:
        DataError: h5py is not installed; the file is missing, truncated or of another format; a label is no digit;
            a box is no number; a photograph is not named as a file beside it.
    """
    path = Path(path)
    try:
        import h5py
    except ImportError:
        raise DataError(f'{path} is a file of HDF5, which h5py reads: pip install "stn_helpers[svhn]"') from None
    if not path.is_file():
        raise DataError(f"{path} is missing. {WAY_OUT}")
    try:
        with h5py.File(path, "r") as file:
            names, boxes = file["digitStruct/name"][:, 0], file["digitStruct/bbox"][:, 0]
            return [_boxed_number(file, *item) for item in zip(names, boxes, strict=True)]
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # noqa: BLE001 - a truncated file makes h5py raise whatever it meets first
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is truncated, damaged or no digitStruct.mat of SVHN ({reason}). {WAY_OUT}") from None


def _boxed_number(file: h5py.File, name: h5py.Reference, boxes: h5py.Reference) -> BoxedNumber:
    name = "".join(map(chr, file[name][:, 0]))
    group = file[boxes]
    sides = torch.tensor([_values(file, group[side]) for side in ("left", "top", "width", "height")]).T
    if not name or Path(name).name != name:
        raise DataError(f"it names the photograph {name!r}; wanted a file beside it. {WAY_OUT}")
    if not sides.isfinite().all():
        raise DataError(f"{name} has a box {sides.tolist()}; wanted finite numbers. {WAY_OUT}")
    labels = [int(label) for label in _values(file, group["label"])]
    if not all(1 <= label <= 10 for label in labels):
        raise DataError(f"{name} has labels {labels}; wanted 1 to 10, where 10 stands for the digit 0")
    return BoxedNumber(name, sides, [label % 10 for label in labels])


def _values(file: h5py.File, column: h5py.Dataset) -> list[float]:
    """One number a digit: MATLAB writes a lone number itself, several as references to one each."""
    return [float(file[item][0, 0]) if column.dtype == object else float(item) for item in column[:, 0]]


def _crop(path: Path, number: BoxedNumber, size: int) -> np.ndarray:
    """size×size×3 uint8."""
    try:
        with Image.open(path) as photograph:
            box = crop_box(number.boxes, photograph.size, size)
            if box[0] >= box[2] or box[1] >= box[3]:
                raise DataError(f"{path}: the boxes of its digits are empty or lie outside the photograph. {WAY_OUT}")
            # Pillow averages over the pixels that fall into one; a sampler would pick some of them.
            return np.asarray(photograph.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=box))
    except FileNotFoundError:
        raise DataError(f"{path} is missing, though digitStruct.mat names it. {WAY_OUT}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # cut off, altered, no image
        raise DataError(f"{path} is truncated or no image ({error}). {WAY_OUT}") from None
