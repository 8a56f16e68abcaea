"""The nets of the paper's first table: digits, distorted, read with and without a spatial transformer.

Jaderberg et al. 2015, section 4.1 and appendix A.4. Each net has about 400 thousand parameters. The paper gives 128 to 256
units a layer and 32 to 64 filters; with 64 and 64 filters its convolutional net has 209 thousand, with twice 256 units the
other one 270 thousand. So we keep the 400 thousand, the same for every net, and let the widths follow.

Batch norm (Ioffe and Szegedy 2015), of which the paper does not speak, follows every hidden layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_helpers.localization import theta_head
from stn_helpers.networks import Standardize
from stn_helpers.spatial_transformer import SpatialTransformer
from stn_helpers.transforms import Affine, Projective, ThinPlateSpline, Transform

__all__ = [
    "FAMILIES",
    "MODELS",
    "RowsConv2d",
    "cnn_classifier",
    "cnn_localization",
    "connected",
    "convolved",
    "distorted_net",
    "fcn_classifier",
    "fcn_localization",
]

FAMILIES: dict[str, Transform] = {"affine": Affine(), "projective": Projective(), "tps": ThinPlateSpline(4)}
"""The transforms of the table; the thin plate spline has 16 control points."""
MODELS = ("fcn", "cnn", *(f"st_{kind}_{family}" for kind in ("fcn", "cnn") for family in FAMILIES))
"""The eight nets of the table."""
WIDTH = {
    "fcn": {28: 350, 42: 350, 60: 350},
    "cnn": {28: 165, 42: 152, 50: 139, 60: 165},
    "st_fcn": {28: 331, 42: 309, 60: 266},
    "st_cnn": {28: 160, 42: 158, 60: 147},
}
"""Units, or filters of the second convolution, by net and side of the images: what makes 400 thousand parameters with the
localization network."""
SEEN = 28
"""Side of what the classifiers see."""


class RowsConv2d(nn.Conv2d):
    """A convolution of images with one channel, whose backward pass to the image is cheap on the CPU.

    Behind a transformer the first convolution has to give a gradient to its input, which torch's kernel does slowly where
    the input has one channel. Here the k rows that a kernel covers become k channels, and the kernel 1×k: the same sums.

    Args:
        filters: channels of the output.
        kernel_size: k; the kernels are k×k, stride 1, no padding, no bias.
    """

    def __init__(self, filters: int, kernel_size: int) -> None:
        super().__init__(1, filters, kernel_size, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """B×1×H×W → B×filters×(H − k + 1)×(W − k + 1), as ``nn.Conv2d`` with the same weights."""
        rows = image[:, 0].unfold(1, self.kernel_size[0], 1).permute(0, 3, 1, 2)  # B×k×(H − k + 1)×W
        rows = rows.contiguous(memory_format=torch.channels_last)  # then so is the output, which max pooling likes
        return F.conv2d(rows, self.weight[:, 0, :, None])


def connected(inputs: int, units: int) -> list[nn.Module]:
    """A fully connected hidden layer: linear map, batch norm, ReLU; modules for ``nn.Sequential``."""
    return [nn.Linear(inputs, units, bias=False), nn.BatchNorm1d(units), nn.ReLU()]  # batch norm takes any bias out again


def convolved(convolution: nn.Conv2d, pool: int) -> list[nn.Module]:
    """A convolutional hidden layer: convolution, max pooling, batch norm, ReLU; modules for ``nn.Sequential``.

    Args:
        convolution: without a bias, since batch norm takes it out again.
        pool: side of the squares of which the maximum is kept; 1: no pooling.

    Raises:
        ValueError: the convolution has a bias.
    """
    if convolution.bias is not None:
        raise ValueError("convolution: it has a bias, which batch norm would take out again; make it with bias=False")
    pooling = [nn.MaxPool2d(pool)] if pool > 1 else []
    return [convolution, *pooling, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]


def fcn_classifier(units: int) -> nn.Sequential:
    """Fully connected: two hidden layers of so many units, on 1×28×28 images; logits of 10 classes."""
    return nn.Sequential(
        nn.Flatten(),
        *connected(SEEN * SEEN, units),
        *connected(units, units),
        nn.Linear(units, 10),
    )


def cnn_classifier(filters: int, side: int = SEEN) -> nn.Sequential:
    """Convolutional: 48 filters of 9×9, ``filters`` of 7×7, each max-pooled by 2, on 1×side×side; logits of 10 classes."""
    maps = ((side - 8) // 2 - 6) // 2  # side of what the second pooling puts out
    return nn.Sequential(
        *convolved(RowsConv2d(48, 9), 2),
        *convolved(nn.Conv2d(48, filters, kernel_size=7, bias=False), 2),
        nn.Flatten(),
        nn.Linear(filters * maps * maps, 10),
    )


def fcn_localization(transform: Transform, side: int) -> nn.Sequential:
    """The fully connected localization network: two layers of 32 units, then θ.

    Args:
        transform: the family whose θ is regressed.
        side: pixels of the images' side.

    Returns:
        A module from B×1×side×side to B×num_params.
    """
    return nn.Sequential(
        Standardize(),
        nn.Flatten(),
        *connected(side * side, 32),
        *connected(32, 32),
        theta_head(32, transform),
    )


def cnn_localization(transform: Transform, side: int) -> nn.Sequential:
    """The convolutional localization network: at half the resolution, twice 20 filters of 5×5, 20 units, then θ.

    Args:
        transform: the family whose θ is regressed.
        side: pixels of the images' side, at least 28.

    Returns:
        A module from B×1×side×side to B×num_params.
    """
    maps = (side // 2 - 4) // 2 - 4  # side of what the second convolution puts out
    return nn.Sequential(
        Standardize(),
        nn.AvgPool2d(2),
        *convolved(nn.Conv2d(1, 20, kernel_size=5, bias=False), 2),
        *convolved(nn.Conv2d(20, 20, kernel_size=5, bias=False), 1),
        nn.Flatten(),
        *connected(20 * maps * maps, 20),
        theta_head(20, transform),
    )


def distorted_net(model: str, side: int = SEEN, seed: int = 0) -> nn.Sequential:
    """A net of the table: what it looks at, then standardising, then the classifier; about 400 thousand parameters.

    The classifiers see 28×28 pixels. Images of 28×28 go through the transformer, or straight to the classifier. Larger
    ones (42×42, 60×60) the transformer reads at 56×56 points, which average pooling by 2, the paper's, makes 28×28: a
    window that covers the whole image is then read without gaps. A net without a transformer sees them as one with a
    transformer does before the first step: the whole image at 56×56 points, pooled. With one exception: the convolutional
    one reads 42×42 pixels as they are, and 50×50, with six times as many multiplications or more. Shrunk, the smallest digit
    would be nine pixels high.

    Args:
        model: one of `MODELS`.
        side: pixels of the images' side: 28 (R, P, E), 42 (RTS) or 60 (TC); for "cnn" also 50.
        seed: of the initial weights.

    Returns:
        A module from B×1×side×side in [0, 1] to B×10 logits. Its parts are ``transformer`` (where there is one),
        ``shrink`` (where the images are larger than 28×28), ``standardize`` and ``classifier``.

    Raises:
        ValueError: ``model`` or ``side`` is none of those.
    """
    if model not in MODELS:
        raise ValueError(f"model: wanted one of {', '.join(MODELS)}, got {model!r}")
    kind, _, family = model.rpartition("_") if model.startswith("st_") else (model, "", "")
    if side not in WIDTH[kind]:
        raise ValueError(f"side: wanted one of {', '.join(map(str, WIDTH[kind]))} pixels, got {side}")
    torch.manual_seed(seed)
    as_it_is = side == SEEN or (kind == "cnn" and side in (42, 50))
    seen = (SEEN, SEEN) if as_it_is else (2 * SEEN, 2 * SEEN)
    net = nn.Sequential()
    if family:
        transform, localization = FAMILIES[family], fcn_localization if kind == "st_fcn" else cnn_localization
        looks = SpatialTransformer(localization(transform, side), transform, out_size=seen)
        net.add_module("transformer", looks)
    elif not as_it_is:
        net.add_module("whole", nn.Upsample(size=seen, mode="bilinear"))
    if not as_it_is:
        net.add_module("shrink", nn.AvgPool2d(2))
    net.add_module("standardize", Standardize())
    width = WIDTH[kind][side]
    if kind.endswith("fcn"):
        net.add_module("classifier", fcn_classifier(width))
    else:
        net.add_module("classifier", cnn_classifier(width, side if as_it_is else SEEN))
    return net
