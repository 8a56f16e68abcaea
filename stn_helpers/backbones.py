"""The nets that look into each window: an image goes in, features come out. A small one, and one that knows ImageNet."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from stn_helpers.data import data_folders
from stn_helpers.localization import convolution
from stn_helpers.networks import Standardize

__all__ = ["PRETRAINED", "RESNET_FEATURES", "SMALL_FEATURES", "pretrained_file", "resnet_features", "small_features"]

SMALL_FEATURES = 64
"""Features of `small_features`."""
RESNET_FEATURES = 512
"""Features of `resnet_features`."""
PRETRAINED = "resnet18.safetensors"
"""Name of the file of torchvision's ResNet-18 trained on ImageNet, as `pretrained_file` looks for it."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def small_features(channels: int = 1) -> nn.Sequential:
    """Four convolutions with batch norm, then the highest value of each map: 64 features, 33 thousand parameters.

    Args:
        channels: of the images.

    Returns:
        A module from B×channels×H×W in [0, 1] to B×64.
    """
    return nn.Sequential(
        Standardize(0.5, 0.2),
        *convolution(channels, 16, 5, stride=2),
        *convolution(16, 32, 3, stride=2),
        *convolution(32, 32, 3),
        *convolution(32, SMALL_FEATURES, 3, stride=2),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
    )


def resnet_features(weights: Path | None) -> nn.Sequential:
    """torchvision's ResNet-18 (He et al. 2016) without its last layer: 512 features, 11 million parameters.

    Args:
        weights: a safetensors file with its weights, see `pretrained_file`; None: random ones.

    Returns:
        A module from B×3×H×W in [0, 1] to B×512; it standardises the images as ImageNet's are.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, damaged or holds another net; the message names it.
    """
    from torchvision.models import resnet18
    from torchvision.transforms import Normalize

    net = resnet18(weights=None)
    if weights is not None:
        _load(net, weights)
    net.fc = nn.Identity()
    return nn.Sequential(Normalize(IMAGENET_MEAN, IMAGENET_STD), net)


def pretrained_file() -> Path | None:
    """``resnet18.safetensors`` in ``$STN_DATA`` or in ``data/``; None where it is in neither. Nothing is downloaded.

    The file is published as ``model.safetensors`` of timm/resnet18.tv_in1k on Hugging Face: torchvision's own weights
    (IMAGENET1K_V1) in a format that holds numbers alone.
    """
    files = (folder / PRETRAINED for folder, _ in data_folders(None))
    return next((file for file in files if file.is_file()), None)


def _load(net: nn.Module, path: Path) -> None:
    """Copy the tensors of a file into a net that has the same."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated, or no safetensors file ({error}); fetch it again") from error

    def counted(state: dict[str, Tensor]) -> dict[str, torch.Size]:
        # How many batches a batch norm has seen changes nothing here, and some files leave it out.
        return {name: value.shape for name, value in state.items() if not name.endswith("num_batches_tracked")}

    wanted, found = counted(net.state_dict()), counted(tensors)
    if differ := sorted(name for name in wanted | found if wanted.get(name) != found.get(name)):
        raise ValueError(f"{path} holds another net than ResNet-18: see {', '.join(differ[:5])}; take {PRETRAINED} as published")
    net.load_state_dict(tensors, strict=False)
