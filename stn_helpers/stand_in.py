"""scikit-learn's handwritten digits in MNIST's format, for where MNIST cannot be had.

Look where the digit is: this is `stn_helpers.Attention`, with a θ that is computed instead of learnt.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stn_helpers.sampling import sample
from stn_helpers.transforms import Attention, pixel_centers

__all__ = ["like_mnist", "stand_in_digits"]

TEST_SIZE = 360  # the last 360 of the 1,797 images
BOX = 20  # MNIST's digits fill a box of 20×20 pixels …
MIDDLE = 14.5  # … and have their centre of mass near the centre of pixel 14, not of the image
BLACK, WHITE = 0.35, 0.75  # the 8×8 strokes are grey: this ramp gives them nearly the contrast of MNIST's


def stand_in_digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The digits that ship inside scikit-learn: 1,797 of the UCI set (Alpaydin and Kaynak 1998), 8×8 pixels.

    They have no official split; here the first 1,437 are for training and the last 360 for testing.

    Returns:
        (images, labels) for training, the same for testing: images N×1×28×28 float32 in [0, 1], labels N int64.
    """
    from sklearn.datasets import load_digits  # a second that those who have MNIST need not wait

    digits = load_digits()
    images = like_mnist(torch.from_numpy(digits.images).float()[:, None] / 16)
    labels = torch.from_numpy(digits.target).long()
    split = len(labels) - TEST_SIZE
    return (images[:split], labels[:split]), (images[split:], labels[split:])


def like_mnist(images: Tensor) -> Tensor:
    """Bring small grey digits to MNIST's format.

    As MNIST was made: the ink is scaled to a 20×20 box, aspect kept, and the box is moved by whole pixels until the
    centre of mass lies within half a pixel of the centre of pixel (14, 14).

    Args:
        images: N×1×h×w float32 in [0, 1], each with some ink brighter than 0.35.

    Returns:
        N×1×28×28 float32 in [0, 1].
    """
    large = F.interpolate(F.pad(images, (2, 2, 2, 2)), scale_factor=8, mode="bicubic", align_corners=False)
    large = ((large - BLACK) / (WHITE - BLACK)).clamp(0, 1)
    across, down = large[:, 0].sum(1), large[:, 0].sum(2)
    (left, right), (top, bottom) = _ink_edges(across), _ink_edges(down)
    pixel = torch.maximum(right - left, bottom - top) / BOX  # a target pixel's side, in source coordinates
    theta = [14 * pixel, _window_centre(across, left, pixel), _window_centre(down, top, pixel)]
    grid = Attention().grid(torch.stack(theta, dim=1), (56, 56))  # twice too fine, then averaged: no aliasing
    return F.avg_pool2d(sample(large, grid), 2)


def _ink_edges(profile: Tensor) -> tuple[Tensor, Tensor]:
    """First and last edge of the ink along one axis, in [-1, 1]; profile N×n is the ink summed over the other axis."""
    n = profile.shape[1]
    ink = (profile > 0).float()
    first, end = ink.argmax(1), n - ink.flip(1).argmax(1)
    return 2 * first / n - 1, 2 * end / n - 1


def _window_centre(profile: Tensor, edge: Tensor, pixel: Tensor) -> Tensor:
    """Where the window looks along one axis, so that the ink begins on a whole pixel and its mass comes to the middle."""
    mass = (profile * pixel_centers(profile.shape[1])).sum(1) / profile.sum(1)
    pixels_before_ink = (MIDDLE + (edge - mass) / pixel).round()
    return edge + (14 - pixels_before_ink) * pixel
