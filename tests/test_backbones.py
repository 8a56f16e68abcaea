"""The nets behind the windows: torchvision's ResNet with weights from a file, whole and damaged."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18

from stn_helpers.backbones import (
    PRETRAINED,
    RESNET_FEATURES,
    SMALL_FEATURES,
    pretrained_file,
    resnet_features,
    small_features,
)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """Stands for the trained one: batch norms that have seen something."""
    torch.manual_seed(0)
    net = resnet18(weights=None)
    net(torch.rand(4, 3, 64, 64))
    return net.eval()


@pytest.fixture
def weights(net, tmp_path, monkeypatch):
    monkeypatch.setenv("STN_DATA", str(tmp_path))
    path = tmp_path / PRETRAINED
    save_file({name: value for name, value in net.state_dict().items() if "num_batches" not in name}, path)
    return path


def test_small_features_of_images_of_any_size():
    for channels, size in ((1, (64, 64)), (3, (40, 24))):
        assert small_features(channels)(torch.rand(2, channels, *size)).shape == (2, SMALL_FEATURES)


def test_the_resnet_is_torchvisions_on_standardised_images(net, weights):
    assert pretrained_file() == weights
    image = torch.rand(2, 3, 64, 64)
    features = resnet_features(pretrained_file()).eval()(image)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # as its documentation says
    theirs = net((image - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    assert features.shape == (2, RESNET_FEATURES)
    torch.testing.assert_close(net.fc(features), theirs, rtol=1e-4, atol=1e-4)


def test_where_the_file_is_not_there_nothing_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("STN_DATA", str(tmp_path))
    if pretrained_file() is not None:
        pytest.skip("the weights lie in data/")
    assert pretrained_file() is None
    with pytest.raises(FileNotFoundError, match=r"there is no file .*resnet18\.safetensors"):
        resnet_features(tmp_path / PRETRAINED)


def test_damaged_weights_are_named(weights):
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    with pytest.raises(ValueError, match=r"resnet18\.safetensors is truncated, or no safetensors file"):
        resnet_features(weights)
    save_file({"conv1.weight": torch.zeros(2)}, weights)
    with pytest.raises(ValueError, match=r"resnet18\.safetensors holds another net than ResNet-18: see bn1\.bias"):
        resnet_features(weights)
