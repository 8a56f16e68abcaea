"""The nets that the chapters train."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stn_helpers.localization import PeakLocalization, tutorial_localization
from stn_helpers.spatial_transformer import SpatialTransformer, sample_windows
from stn_helpers.transforms import Affine, Attention

__all__ = [
    "FIELD_MEAN",
    "FIELD_STD",
    "MNIST_MEAN",
    "MNIST_STD",
    "SearchingSTN",
    "Standardize",
    "field_stn",
    "lenet",
    "mnist_stn",
    "tutorial_classifier",
]

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
"""Mean and standard deviation of the pixels of MNIST's training images, scaled to [0, 1]."""
FIELD_MEAN, FIELD_STD = 0.5, 0.12
"""Mean and standard deviation, rounded, of the pixels of a noisy field."""


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


def tutorial_classifier(dropout: float = 0.0, classes: int = 10) -> nn.Sequential:
    """The classifier of PyTorch's STN tutorial, for 1×28×28 images: 21,840 parameters, logits of 10 classes.

    Args:
        dropout: the tutorial drops half (0.5), of whole channels behind the second convolution and of the hidden units;
            a net this small learns better without.
        classes: how many to tell apart; another number than the tutorial's changes the last layer alone.

    Returns:
        A module from B×1×28×28 to B×classes logits.
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
        nn.Linear(50, classes),
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


def lenet() -> nn.Sequential:
    """The classifier of the attention article, for 1×28×28 images: 431,080 parameters, logits of 10 classes.

    Returns:
        A module from B×1×28×28 to B×10 logits.
    """
    return nn.Sequential(
        nn.Conv2d(1, 20, kernel_size=5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(20, 50, kernel_size=5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(50 * 4 * 4, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


class SearchingSTN(nn.Module):
    """A spatial transformer that searches a large image for the window to classify.

    While it trains it looks at several places and mixes what the classifier says of each, weighed by the heat of the
    place: p(y) = Σₖ gₖ·p(y | window k). The gradient of the weights gₖ compares places that lie far apart, which the
    gradient of the sampler, a matter of neighbouring pixels, cannot do. In evaluation it looks once, at the highest
    peak.

    Args:
        transformer: its localization network is a `PeakLocalization`, its ``out_size`` is given.
        classifier: from the transformer's output to logits B×K.
        looks: places to look at while training.

    Raises:
        ValueError: another ``transformer``, or ``looks`` below 1.
    """

    def __init__(self, transformer: SpatialTransformer, classifier: nn.Module, looks: int = 2) -> None:
        super().__init__()
        if not isinstance(transformer.localization, PeakLocalization) or transformer.out_size is None:
            raise ValueError("transformer: wanted one with a PeakLocalization and an out_size")
        if looks < 1:
            raise ValueError(f"looks: wanted at least 1, got {looks}")
        self.transformer, self.classifier, self.looks = transformer, classifier, looks

    def forward(self, image: Tensor) -> Tensor:
        """B×1×H×W in [0, 1] → logits B×K; while training, the logarithm of the mixed probabilities."""
        if not self.training:
            return self.classifier(self.transformer(image))
        theta, score = self.transformer.localization.candidates(image, self.looks)
        grid = self.transformer.transform.grid(theta.flatten(0, 1), self.transformer.out_size)
        seen = sample_windows(image, grid.unflatten(0, score.shape), padding=self.transformer.padding)
        said = self.classifier(seen.flatten(0, 1)).log_softmax(1).unflatten(0, score.shape)
        return (said + score.log_softmax(1)[:, :, None]).logsumexp(1)


def field_stn(transform: Attention | Affine | None = None, seed: int = 0) -> SearchingSTN:
    """The net of the attention chapter: finds a digit in a 128×128 noisy field and reads it; 439 thousand parameters.

    Args:
        transform: `Attention` (the default), three numbers, or `Affine`, six.
        seed: of the initial weights.

    Returns:
        A module from B×1×128×128 in [0, 1] to B×10 logits, with the parts ``transformer`` and ``classifier``.
    """
    torch.manual_seed(seed)
    transform = transform or Attention()
    transformer = SpatialTransformer(PeakLocalization(transform), transform, out_size=(28, 28))
    return SearchingSTN(transformer, nn.Sequential(Standardize(FIELD_MEAN, FIELD_STD), lenet()))
