"""The localization network: an image goes in, θ comes out.

Any ``nn.Module`` from B×C×H×W to B×num_params will do. What matters is how its last layer starts: see `theta_head`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_helpers.transforms import Affine, Attention, Transform, pixel_centers

__all__ = ["PeakLocalization", "SoftArgmax", "atn_localization", "convolution", "theta_head", "tutorial_localization"]


def theta_head(in_features: int, transform: Transform) -> nn.Linear:
    """The regression layer that ends a localization network.

    It starts with zero weights and the identity as bias (Jaderberg et al. 2015, section 4), so that before the first step
    every image passes unchanged, whatever the layers below say.

    Args:
        in_features: length of the feature vector.
        transform: the family whose θ is regressed.

    Returns:
        ``nn.Linear`` from B×in_features to B×num_params.
    """
    head = nn.Linear(in_features, transform.num_params)
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(transform.identity())
    return head


class SoftArgmax(nn.Module):
    """The spatial soft-argmax: where each map peaks, as a point that can be differentiated (Levine et al. 2016).

    A softmax over all pixels makes every map a distribution; its mean position is the answer. A sharp peak is
    found to a fraction of a pixel; a flat map says the centre, (0, 0), which is the identity of a
    translation. Scaling the maps up sharpens the answer.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """B×K×H×W maps, floating → B×K×2 points, (x, y) in [-1, 1], ``align_corners=False``.

        Raises:
            ValueError: ``maps`` is not a non-empty B×K×H×W floating tensor.
        """
        if maps.dim() != 4 or maps.numel() == 0 or not maps.is_floating_point():
            raise ValueError(f"maps: wanted a non-empty floating B×K×H×W, got {maps.dtype} {tuple(maps.shape)}")
        height, width = maps.shape[-2:]
        share = maps.flatten(2).softmax(2).view_as(maps)
        x = share.sum(2) @ pixel_centers(width, dtype=maps.dtype, device=maps.device)
        y = share.sum(3) @ pixel_centers(height, dtype=maps.dtype, device=maps.device)
        return torch.stack([x, y], dim=2)


def tutorial_localization(transform: Transform) -> nn.Sequential:
    """The localization network of PyTorch's STN tutorial, for 1×28×28 images: 5,520 parameters with `Affine`.

    Two convolutions, each followed by max pooling and ReLU, take 28×28 to 10 maps of 3×3; two linear layers take
    these 90 numbers to θ.

    Args:
        transform: the family whose θ is regressed.

    Returns:
        A module from B×1×28×28 to B×num_params.
    """
    return nn.Sequential(
        nn.Conv2d(1, 8, kernel_size=7),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(8, 10, kernel_size=5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(10 * 3 * 3, 32),
        nn.ReLU(),
        theta_head(32, transform),
    )


SHARPNESS = 3.0
"""What the convolutions of `PeakLocalization` say counts so many times: the heat map has to come to a peak."""
GENTLY = 0.4
"""What its last layer says counts so much: the shape of the window should change more slowly than its place."""
APART = 4
"""Two of its peaks lie more than so many rows or columns of the heat map apart; a cell of it has 4×4 pixels."""


class PeakLocalization(nn.Module):
    """Finds the one place worth looking at in a large image: a heat map says where, what lies under its peak says how.

    Convolutions see every pixel of the image and end in feature maps of a quarter of its side. From these comes one
    heat map. A soft-argmax around its highest peak is the translation of θ; the features there, averaged with the
    same shares, give what else θ holds.

    The heat map starts as saliency: to what the convolutions say, the brightness of the neighbourhood is added. So
    the window looks at the brightest blob before anything is learnt (in training less surely, as batch norm makes the
    untrained convolutions as loud), and the first gradients come from what is to be found.

    Args:
        transform: `Attention` or `Affine`.
        channels: feature maps of each layer.
        saliency: weight of the brightness at the start; it is a parameter and learns like the others. 0 starts blind.
        scale: side of the window at the start, as a share of the image's.
        reach: the soft-argmax sees so many cells of the heat map to each side of the peak; None: the whole map.
        mean: subtracted from every pixel, and ...
        std: ... divides what is left, so that the convolutions see standardised images.

    Raises:
        ValueError: another ``transform``.
    """

    def __init__(
        self,
        transform: Attention | Affine,
        channels: int = 16,
        saliency: float = 2.0,
        scale: float = 28 / 128,
        reach: int | None = 2,
        mean: float = 0.5,
        std: float = 0.12,
    ) -> None:
        super().__init__()
        if not isinstance(transform, Attention | Affine):
            raise ValueError(f"transform: wanted an Attention or an Affine, got {type(transform).__name__}")
        self.features = nn.Sequential(
            *convolution(1, channels, 5, stride=2),
            *convolution(channels, channels, 3, stride=2),
            *convolution(channels, channels, 3),
            *convolution(channels, channels, 3, dilation=2),
        )
        self.heat = nn.Conv2d(channels, 1, kernel_size=5, padding=2)
        self.saliency = nn.Parameter(torch.tensor(float(saliency)))
        self.peak = SoftArgmax()
        self.head = nn.Linear(channels, transform.num_params)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("start", scale * transform.identity(), persistent=False)
        # 2×num_params: which entries of θ are (t_x, t_y). The matrix is linear in θ: its third column says so.
        translation = transform.matrix(torch.eye(transform.num_params))[:, :2, 2].T
        self.register_buffer("translation", translation, persistent=False)
        self.reach, self.mean, self.std = reach, mean, std

    def maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """B×1×H×W images in [0, 1] → features B×channels×H/4×W/4 and the heat map B×1×H/4×W/4.

        Raises:
            ValueError: ``image`` is not B×1×H×W with sides divisible by 4.
        """
        if image.dim() != 4 or image.shape[1] != 1 or image.numel() == 0 or image.shape[2] % 4 or image.shape[3] % 4:
            raise ValueError(f"image: wanted B×1×H×W with sides divisible by 4, got {tuple(image.shape)}")
        image = (image - self.mean) / self.std
        features = self.features(image)
        brightness = F.avg_pool2d(F.max_pool2d(image, 4), 5, stride=1, padding=2, count_include_pad=False)
        return features, SHARPNESS * self.heat(features) + self.saliency * brightness

    def candidates(self, image: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """θ of the ``count`` highest peaks, and how high each is.

        Args:
            image: B×1×H×W in [0, 1], sides divisible by 4.
            count: peaks wanted; two of them lie more than ``APART`` cells from each other.

        Returns:
            θ B×count×num_params and the scores B×count, the highest peak first: the logarithm of the heat around each.

        Raises:
            ValueError: ``count`` is below 1, or so many peaks may not find room; ``image`` is not as above.
        """
        features, heat = self.maps(image)
        side = 2 * APART + 1  # each peak keeps the others out of a square of so many cells
        room = math.ceil(heat.shape[2] / side) * math.ceil(heat.shape[3] / side)
        if not 1 <= count <= room:
            size = "×".join(map(str, image.shape[2:]))
            raise ValueError(f"count: wanted 1 to {room} peaks in images of {size} pixels, got {count}")
        theta, score, rest = [], [], heat
        for _ in range(count):
            highest = rest.flatten(1).argmax(1, keepdim=True)  # of several that are the same, one
            top = torch.zeros_like(rest, dtype=torch.bool).flatten(1).scatter(1, highest, True).view_as(rest)
            around = heat if self.reach is None else heat.masked_fill(~_widen(top, self.reach), -torch.inf)
            share = around.flatten(1).softmax(1)
            attended = torch.einsum("bcn,bn->bc", features.flatten(2), share)
            theta.append(self.start + GENTLY * self.head(attended) + self.peak(around)[:, 0] @ self.translation)
            score.append(around.flatten(1).logsumexp(1))
            rest = rest.masked_fill(_widen(top, APART), -torch.inf)
        return torch.stack(theta, dim=1), torch.stack(score, dim=1)

    def forward(self, image: Tensor) -> Tensor:
        """B×1×H×W images in [0, 1], sides divisible by 4 → θ of the highest peak, B×num_params."""
        return self.candidates(image, 1)[0][:, 0]


def _widen(mask: Tensor, reach: int) -> Tensor:
    """B×1×H×W bool: every place at most ``reach`` rows and columns from one that is true."""
    return F.max_pool2d(mask.float(), 2 * reach + 1, stride=1, padding=reach) > 0


def convolution(channels_in: int, channels_out: int, size: int, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    """Convolution, batch norm, ReLU: three layers, for ``nn.Sequential``.

    Args:
        channels_in: of the input.
        channels_out: of the output.
        size: side of the kernels, odd.
        stride: the output has 1/stride of the input's sides.
        dilation: pixels from one entry of a kernel to the next.
    """
    layer = nn.Conv2d(channels_in, channels_out, size, stride, dilation * (size // 2), dilation, bias=False)
    return [layer, nn.BatchNorm2d(channels_out), nn.ReLU()]


def atn_localization() -> nn.Sequential:
    """The localization network of the attention article's author, for 1×128×128 images: 335 thousand parameters.

    Four stages of convolution, max pooling and ReLU take 128×128 to 128 maps of 4×4; two linear layers take these to
    θ of `Attention`, which starts in the middle with a fifth of the field's side.

    Returns:
        A module from B×1×128×128 to B×3 (s, tx, ty).
    """
    layers = []
    for channels_in, channels_out, size in ((1, 16, 7), (16, 32, 5), (32, 64, 5), (64, 128, 5)):
        layers += [nn.Conv2d(channels_in, channels_out, size), nn.MaxPool2d(2), nn.ReLU()]
    head = theta_head(32, Attention())
    with torch.no_grad():
        head.bias.mul_(0.2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 4 * 4, 32), nn.ReLU(), head)
