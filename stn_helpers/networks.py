"""The nets that the chapters train."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stn_helpers.localization import tutorial_localization
from stn_helpers.spatial_transformer import SpatialTransformer
from stn_helpers.transforms import Affine

__all__ = ["MNIST_MEAN", "MNIST_STD", "Standardize", "mnist_stn", "tutorial_classifier"]

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
"""Mean and standard deviation of the pixels of MNIST's training images, scaled to [0, 1]."""


class Standardize(nn.Module):
    """Subtract a mean and divide by a standard deviation: a layer, so that it can stand *behind* the transformer.

    Outside the image the sampler reads 0. That is black as long as images are in [0, 1]; in a standardised image 0 is
    the grey of the mean.

    Args:
        mean: subtracted from every pixel.
        std: divides every pixel; above 0.

    Raises:
        ValueError: ``std`` is not above 0.
    """

    def __init__(self, mean: float = MNIST_MEAN, std: float = MNIST_STD) -> None:
        super().__init__()
        if not std > 0:
            raise ValueError(f"std: wanted a number above 0, got {std}")
        self.mean, self.std = mean, std

    def forward(self, image: Tensor) -> Tensor:
        """Any shape, floating → the same shape."""
        return (image - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"mean={self.mean}, std={self.std}"


def tutorial_classifier(dropout: float = 0.0) -> nn.Sequential:
    """The classifier of PyTorch's STN tutorial, for 1×28×28 images: 21,840 parameters, logits of 10 classes.

    Args:
        dropout: the tutorial drops half (0.5), of whole channels behind the second convolution and of the hidden units;
            a net this small learns better without.

    Returns:
        A module from B×1×28×28 to B×10 logits.
    """
    return nn.Sequential(
        nn.Conv2d(1, 10, kernel_size=5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(10, 20, kernel_size=5),
        nn.Dropout2d(dropout),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20 * 4 * 4, 50),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(50, 10),
    )


def mnist_stn(seed: int = 0) -> nn.Sequential:
    """The chapter's net: an affine spatial transformer, then standardising, then the classifier; 27,360 parameters.

    Args:
        seed: of the initial weights.

    Returns:
        A module from B×1×28×28 in [0, 1] to B×10 logits; the `SpatialTransformer` is its part ``transformer``.
    """
    torch.manual_seed(seed)
    net = nn.Sequential()
    net.add_module("transformer", SpatialTransformer(tutorial_localization(Affine()), Affine()))
    net.add_module("standardize", Standardize())
    net.add_module("classifier", tutorial_classifier())
    return net
