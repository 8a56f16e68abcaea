"""House numbers of one to five digits: photographs of SVHN where they are at hand, else pictures made of digits.

The pictures are drawn when they are needed, whole batches at a time, through the package's own grids and sampler:
digits of varied size, spacing, slant and place, in colours of their own on a textured wall. They stand in for the
photographs so that the experiment can be run anywhere. They are not photographs: figures measured on them say nothing
about SVHN.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from stn_helpers.data import DataError, Digits, data_folders, load_digits, say_once, split_validation
from stn_helpers.distortions import evenly
from stn_helpers.matrices import affine_theta, compose_affine, invert_affine
from stn_helpers.sampling import sample
from stn_helpers.svhn import BLANK, DIGITS, WAY_OUT, read_photographs
from stn_helpers.transforms import Affine, pixel_centers

__all__ = [
    "SIZES",
    "HouseNumbers",
    "NumberPictures",
    "draw_numbers",
    "load_house_numbers",
    "photographs",
    "random_numbers",
]

SIZES = (64, 128)
"""Pixels of the images' side; those of 128 show twice as wide a field."""
SOURCES = ("svhn", "synthetic")
HELD_BACK = 5000
"""Photographs held back from training, to make choices on, as in the paper."""
COUNTS = {"train": 100_000, "validation": 5000, "test": 10_000}
"""Synthetic numbers."""
CELL = (28, 20)
"""Each digit is first brought into a cell of so many rows and columns."""


class HouseNumbers(NamedTuple):
    """A training, a validation and a test set of house numbers, and where they come from.

    The images of the sets are what ``picture`` makes images of. Labels are N×5 int64: the digits from the left, then
    `stn_helpers.svhn.BLANK` (10) up to the fifth place.
    """

    train: Digits
    validation: Digits
    """For making choices; held back from the training digits or photographs."""
    test: Digits
    """For reporting only."""
    source: str
    """Either "svhn", photographs, or "synthetic (mnist)" or "synthetic (sklearn)", pictures made of these digits."""
    picture: Callable[[Tensor], Tensor]
    """Makes of B images of a set B×3×size×size float32 in [0, 1]; an ``augment`` for `stn_helpers.training.fit`."""


def load_house_numbers(
    size: int = 64, source: str | None = None, root: str | os.PathLike[str] | None = None
) -> HouseNumbers:
    """SVHN, or where it is not at hand, numbers made of the digits of `stn_helpers.data.load_digits`.

    SVHN is looked for in the folder ``SVHN``, which holds ``train/``, ``test/`` and perhaps ``extra/``, see
    `stn_helpers.svhn`; it is never downloaded. Where the numbers stand in, one line says so. SVHN that is there but
    damaged is an error.

    Args:
        size: pixels of the images' side, 64 or 128.
        source: "svhn" (nothing else will do), "synthetic" (do not look for SVHN), or None: SVHN if it is there.
        root: the one folder that may hold ``SVHN``. None: ``$STN_DATA``, then ``data/``, as for the digits.

    Raises:
        DataError: the data cannot be had; the message names the file and the way out.
        ValueError: ``size`` or ``source`` is none of those.
    """
    if size not in SIZES:
        raise ValueError(f"size: wanted 64 or 128, got {size!r}")
    if source not in (None, *SOURCES):
        raise ValueError(f"source: wanted 'svhn' or 'synthetic', got {source!r}")
    if source != "synthetic":
        folders = [folder / "SVHN" for folder, _ in data_folders(root)]
        for folder in folders:
            if folder.is_dir():
                return _svhn(folder, size)
        looked = f"SVHN is not in {' or '.join(map(str, folders))}"
        if source == "svhn":
            raise DataError(f"{looked}. {WAY_OUT}")
        say_once(f"Standing in for SVHN: house numbers made of single digits ({looked}). {WAY_OUT}")
    return _synthetic(size)


def _svhn(folder: Path, size: int) -> HouseNumbers:
    parts = [folder / "train"] + [folder / "extra"] * (folder / "extra").is_dir()
    read, test = [read_photographs(part, size) for part in parts], read_photographs(folder / "test", size)
    if skipped := sum(part.skipped for part in read) + test.skipped:
        say_once(f"SVHN: {skipped} photographs left out, as their numbers have more than {DIGITS} digits.")
    own, *extra = (part.digits for part in read)
    train, validation = split_validation(own, min(HELD_BACK, len(own.labels) // 2))  # extra/ is easier than test/
    if extra:
        train = Digits(*map(torch.cat, zip(train, extra[0], strict=True)))
    return HouseNumbers(train, validation, test.digits, "svhn", photographs)


def photographs(images: Tensor) -> Tensor:
    """Photographs B×3×S×S uint8 as B×3×S×S float32 in [0, 1]."""
    return images.float() / 255


def _synthetic(size: int) -> HouseNumbers:
    digits = load_digits()
    train, validation = split_validation(digits.train, len(digits.train.labels) // 6)
    picture = NumberPictures(torch.cat([train.images, validation.images, digits.test.images]), size)
    sets, first = [], 0
    for seed, (part, count) in enumerate(zip((train, validation, digits.test), COUNTS.values(), strict=True)):
        numbers = random_numbers(part.labels, count, seed)
        sets.append(Digits(numbers.images + first * (numbers.images >= 0), numbers.labels))
        first += len(part.labels)
    return HouseNumbers(*sets, f"synthetic ({digits.source})", picture)


def random_numbers(labels: Tensor, count: int, seed: int) -> Digits:
    """Numbers of one to five digits, all lengths alike often, of digits drawn by chance.

    Args:
        labels: N int64: what each digit of a set shows.
        count: how many numbers.
        seed: the same one gives the same numbers. Torch's random numbers are left as they were.

    Returns:
        ``images`` count×5×1×1 int64: which digits of the set stand in the five places, -1 behind the last; ``labels``
        count×5 int64, what they show, `stn_helpers.svhn.BLANK` behind the last.

    Raises:
        ValueError: ``count`` is below 1, or there are no digits.
    """
    if min(count, len(labels)) < 1:
        raise ValueError(f"count and labels: wanted at least 1 number and 1 digit, got {count} and {len(labels)}")
    generator = torch.Generator().manual_seed(seed)
    length = torch.randint(1, DIGITS + 1, (count, 1), generator=generator)
    which = torch.randint(len(labels), (count, DIGITS), generator=generator)
    behind = torch.arange(DIGITS) >= length
    return Digits(which.masked_fill(behind, -1)[..., None, None], labels[which].masked_fill(behind, BLANK))


class NumberPictures:
    """Turns numbers into pictures: looks their digits up and draws them; an ``augment`` for `stn_helpers.training.fit`.

    Args:
        digits: N×1×28×28 in [0, 1], what the entries of a number count.
        size: pixels of the pictures' side, 64 or 128.
    """

    def __init__(self, digits: Tensor, size: int) -> None:
        self.digits, self.size = digits, size

    def __call__(self, which: Tensor) -> Tensor:
        """B×5×1×1 int64, of `random_numbers` → B×3×size×size in [0, 1]; draws from torch's random numbers."""
        self.digits = self.digits.to(which.device)  # once
        which = which[..., 0, 0]
        return draw_numbers(self.digits[which.clamp(min=0), 0] * (which >= 0)[..., None, None], self.size)


def draw_numbers(digits: Tensor, size: int) -> Tensor:
    """Draw each row of digits as a house number, every one in its own way.

    Drawn by chance for each number: spacing, size, height for its width, a turn of up to 12 degrees, a slant, a place
    that keeps it inside; two colours, light on dark or dark on light; a texture, and which side is lit. Each digit
    has a size and a slant of its own besides. A number never takes more than 64×64 pixels: a larger picture shows
    more wall around it.

    Args:
        digits: B×5×h×w, floating, in [0, 1], ink on 0; what stands behind a number's last digit is 0 all over.
        size: pixels of the pictures' side, at least 64.

    Returns:
        B×3×size×size in [0, 1]. Draws from torch's random numbers, on the device of ``digits``.

    Raises:
        ValueError: ``digits`` is no such batch, a row of it is empty or has a gap; ``size`` is below 64.
    """
    length = _lengths(digits)
    if size < 64:
        raise ValueError(f"size: wanted at least 64 pixels, got {size}")
    ink = sample(_tape(digits), Affine().grid(_look_at(length, size), (size, size)))
    wall, paint = _colours(ink)
    picture = torch.lerp(wall + _texture(ink), paint, ink) + _light(ink)
    grain = evenly(ink, 0, 0.06, 1, 1, 1) * torch.randn_like(picture)
    return (picture + grain).clamp(0, 1)


def _lengths(digits: Tensor) -> Tensor:
    """How many digits each number has: B int64."""
    if digits.dim() != 4 or digits.shape[1] != DIGITS or digits.numel() == 0 or not digits.is_floating_point():
        raise ValueError(f"digits: wanted floating B×{DIGITS}×h×w, got {digits.dtype} {tuple(digits.shape)}")
    there = digits.amax(dim=(2, 3)) > 0
    length = there.sum(1)
    if not torch.equal(there, torch.arange(DIGITS, device=digits.device) < length[:, None]) or not length.all():
        raise ValueError("digits: wanted one or more in each row, from the left, with no gap between them")
    return length


def _tape(digits: Tensor) -> Tensor:
    """The digits side by side, each in its cell: B×1×28×100."""
    batch, (rows, columns) = len(digits), CELL
    theta = affine_theta(  # how much of its image a cell shows: the less, the larger and the closer the digits
        scale_x=(evenly(digits, 0.7, 1.0, 1) * evenly(digits, 0.95, 1.05, DIGITS)).flatten(),
        scale_y=(evenly(digits, 0.75, 0.95, 1) * evenly(digits, 0.95, 1.1, DIGITS)).flatten(),
        shear=evenly(digits, -0.12, 0.12, DIGITS).flatten(),
        ty=evenly(digits, -0.05, 0.05, DIGITS).flatten(),
    )
    cells = sample(digits.reshape(-1, 1, *digits.shape[2:]), Affine().grid(theta, CELL))
    return cells.view(batch, DIGITS, rows, columns).transpose(1, 2).reshape(batch, 1, rows, DIGITS * columns)


def _look_at(length: Tensor, size: int) -> Tensor:
    """θ of `Affine`, B×6, from the picture to the tape."""
    count = length.float()
    column = evenly(count, 0.8, 1.0) * (62 / count).clamp(max=30)  # pixels for a digit; of five, 10 to 12
    row = evenly(count, 1.3, 2.1) * column
    turn, slant = evenly(count, -math.pi / 15, math.pi / 15), evenly(count, -0.3, 0.3)
    # From the number's own box to the picture, where it takes 64×64 pixels at most, and is put anywhere inside …
    forth = affine_theta(rotation=turn, scale_x=count * column / size, scale_y=row / size, shear=slant).view(-1, 2, 3)
    forth = forth / (forth.abs().sum(2).amax(1) * size / 64).clamp(min=1)[:, None, None]
    room = 1 - forth.abs().sum(2)
    forth[:, :, 2] = room * evenly(count, -1, 1, 2)
    # … and back, as θ maps target to source; then from the box to the cells of the tape that hold digits.
    cells = affine_theta(scale_x=count / DIGITS, tx=count / DIGITS - 1)
    return compose_affine(invert_affine(forth.flatten(1)), cells)


def _colours(ink: Tensor) -> tuple[Tensor, Tensor]:
    """Two colours B×3×1×1, of the wall and of the paint; in brightness they differ by 0.35 to 0.6."""
    bright, step = evenly(ink, 0.1, 0.9, 1, 1, 1), evenly(ink, 0.35, 0.6, 1, 1, 1)
    other = torch.where(bright > 0.5, bright - step, bright + step)
    tint = 0.08 * torch.randn(2, len(ink), 3, 1, 1, dtype=ink.dtype, device=ink.device)
    return bright + tint[0], other + tint[1]


def _texture(ink: Tensor) -> Tensor:
    """Blotches, streaks or tiles, B×1×S×S: coarse noise read at any scale and turn, mirrored at its edges."""
    noise = torch.randn(len(ink), 1, 8, 8, dtype=ink.dtype, device=ink.device)
    turn, across, down = evenly(ink, 0, math.pi), evenly(ink, 0.3, 3), evenly(ink, 0.3, 3)
    theta = affine_theta(rotation=turn, scale_x=across, scale_y=down)
    noise = sample(noise, Affine().grid(theta, tuple(ink.shape[-2:])), padding="reflection")
    return evenly(ink, 0, 0.12, 1, 1, 1) * noise


def _light(ink: Tensor) -> Tensor:
    """Brighter on one side than on the other: B×1×S×S."""
    across = pixel_centers(ink.shape[-1], dtype=ink.dtype, device=ink.device)
    return evenly(ink, -0.1, 0.1, 1, 1, 1) * across + evenly(ink, -0.1, 0.1, 1, 1, 1) * across[:, None]
