"""Birds in photographs: Caltech-UCSD Birds 200-2011 (CUB-200-2011), read as it is published.

Wah et al. (2011): 11,788 photographs of 200 species, half of them for training. The folder ``CUB_200_2011/`` holds
``images/``, with a folder for each species, and lists of plain text whose lines begin with the number of a photograph or of a
class, counted from 1:

- ``images.txt``: number, path under ``images/``;
- ``classes.txt``: number of a class, its name;
- ``image_class_labels.txt``: number, number of the class;
- ``train_test_split.txt``: number, 1 for training or 0 for test.

The data set has boxes around the birds too, in ``bounding_boxes.txt``; like the paper's nets, ours do without.

The photographs are decoded when they are asked for. Training takes their numbers in place of images, and `Birds.images` as
the ``augment`` that looks them up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stn_helpers.data import DataError, data_folders

__all__ = ["FOLDER", "Birds", "birds_folder", "load_birds"]

T = TypeVar("T")
FOLDER = "CUB_200_2011"
"""Name of the folder that the published archive unpacks to."""
WAY_OUT = (
    "To have CUB-200-2011, unpack CUB_200_2011.tgz (https://www.vision.caltech.edu/datasets/cub_200_2011/) into the folder "
    "that STN_DATA names."
)


@dataclass(frozen=True)
class Birds:
    """The lists of the data set; photographs are counted from 0, in the order of ``images.txt``.

    Attributes:
        paths: the N photographs.
        labels: N int64, the class of each, counted from 0.
        training: N bool, whether it is one for training.
        classes: names of the classes.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    training: Tensor
    classes: tuple[str, ...]

    def numbers(self, training: bool) -> Tensor:
        """The numbers of the photographs for training, or of those for test: M int64."""
        return (self.training == training).nonzero()[:, 0]

    def images(self, numbers: Tensor, size: int = 448) -> Tensor:
        """Decode photographs: the largest square in the middle of each, resized, in colour.

        Args:
            numbers: whole numbers of any shape: which photographs.
            size: pixels of the side of the images.

        Returns:
            B×3×size×size float32 in [0, 1], B numbers in order, on their device.

        Raises:
            DataError: a file is missing, truncated or no image; the message names it.
            ValueError: ``size`` is below 1.
        """
        if size < 1:
            raise ValueError(f"size: wanted at least 1 pixel, got {size}")
        squares = [_square(self.paths[number], size) for number in numbers.flatten().tolist()]
        return torch.from_numpy(np.stack(squares)).to(numbers.device).permute(0, 3, 1, 2).float() / 255


def birds_folder() -> Path | None:
    """The folder of the data set, ``CUB_200_2011`` in ``$STN_DATA`` or in ``data/``; None where there is none."""
    folders = (folder / FOLDER for folder, _ in data_folders(None))
    return next((folder for folder in folders if folder.is_dir()), None)


def load_birds(folder: str | os.PathLike[str] | None = None) -> Birds:
    """Read the lists of the data set and make sure that every photograph of theirs is there.

    Args:
        folder: the one that holds ``images.txt``; None: `birds_folder`.

    Raises:
        DataError: there is no such folder; a list is missing, cut off or does not fit the others; a photograph is missing.
            The message names file, line and way out.
    """
    folder = birds_folder() if folder is None else Path(folder)
    if folder is None:
        raise DataError(f"there is no folder {FOLDER}. {WAY_OUT}")
    names = _read(folder / "images.txt", _path_under)
    classes = _read(folder / "classes.txt", str)
    labels = _read(folder / "image_class_labels.txt", _among(classes), names)
    training = _read(folder / "train_test_split.txt", _flag, names)
    paths = tuple(folder / "images" / name for name in names.values())
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path} is missing, though images.txt names it. {WAY_OUT}")
    place = {number: index for index, number in enumerate(classes)}
    return Birds(
        paths,
        torch.tensor([place[labels[number]] for number in names]),
        torch.tensor([training[number] for number in names]),
        tuple(classes.values()),
    )


def _read(path: Path, parse: Callable[[str], T], wanted: dict[int, object] | None = None) -> dict[int, T]:
    """A list, line by line: a number and what ``parse`` makes of the rest. ``wanted`` has the numbers that must be there."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path} is missing. {WAY_OUT}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}). {WAY_OUT}") from None
    found: dict[int, T] = {}
    for count, line in enumerate(lines, start=1):
        number, _, rest = line.strip().partition(" ")
        try:
            value = parse(rest.strip())
            new = int(number) not in found
        except ValueError as error:
            raise DataError(f"{path}, line {count}: {line!r} is none of this list ({error}). {WAY_OUT}") from None
        if not new:
            raise DataError(f"{path}, line {count}: number {number} comes twice. {WAY_OUT}")
        found[int(number)] = value
    if not found:
        raise DataError(f"{path} is empty. {WAY_OUT}")
    if wanted is not None and found.keys() != wanted.keys():
        number = min(found.keys() ^ wanted.keys())
        lack = "images.txt lacks" if number in found else "it lacks, or is cut off before,"
        raise DataError(f"{path} does not fit images.txt: {lack} number {number}. {WAY_OUT}")
    return found


def _path_under(text: str) -> str:
    path = PurePosixPath(text)
    if not text or path.is_absolute() or ".." in path.parts:
        raise ValueError("wanted a path under images/")
    return text


def _among(classes: dict[int, str]) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if int(text) not in classes:
            raise ValueError(f"classes.txt has no class {text}")
        return int(text)

    return parse


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("wanted 0 or 1")
    return text == "1"


def _square(path: Path, size: int) -> np.ndarray:
    """The largest square in the middle of a photograph: size×size×3 bytes."""
    try:
        with Image.open(path) as photograph:
            colour = photograph.convert("RGB")  # a few are grey
    except FileNotFoundError:
        raise DataError(f"{path} is missing. {WAY_OUT}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is truncated or no image ({error}); unpack it again. {WAY_OUT}") from None
    width, height = colour.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = colour.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return np.asarray(square)
