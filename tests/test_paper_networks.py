"""The nets of the paper's first table against plain torch: their layers, sizes, and how they start."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stn_helpers.networks import MNIST_MEAN, MNIST_STD
from stn_helpers.paper_networks import (
    FAMILIES,
    MODELS,
    RowsConv2d,
    cnn_localization,
    convolved,
    distorted_net,
)

SIDES = (28, 42, 60)
WITH = [model for model in MODELS if model.startswith("st_")]


def canvases(count: int, side: int) -> torch.Tensor:
    """Random images with a black rim."""
    images = torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(0))
    images[..., :2, :] = images[..., -2:, :] = images[..., :2] = images[..., -2:] = 0
    return images


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def weight_layers(net: nn.Module) -> list[nn.Module]:
    return [part for part in net.modules() if isinstance(part, nn.Conv2d | nn.Linear)]


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(5, 12), st.integers(5, 12), st.booleans())
def test_rows_as_channels_are_the_same_convolution(batch, filters, kernel, height, width, channels_last):
    torch.manual_seed(0)
    layer = RowsConv2d(filters, kernel)
    if channels_last:
        layer = layer.to(memory_format=torch.channels_last)
    image = torch.rand(batch, 1, height, width, requires_grad=True)
    ours, theirs = layer(image), F.conv2d(image, layer.weight)
    torch.testing.assert_close(ours, theirs)
    wanted = [image, layer.weight]
    weights = torch.rand_like(theirs)
    for mine, other in zip(
        torch.autograd.grad((ours * weights).sum(), wanted),
        torch.autograd.grad((theirs * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", SIDES)
def test_every_net_has_four_hundred_thousand_parameters(side):
    counts = {model: parameters(distorted_net(model, side)) for model in MODELS}
    assert all(abs(count - 400_000) < 4000 for count in counts.values()), counts


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("model", MODELS)
def test_from_images_to_logits_also_in_channels_last(model, side):
    net, images = distorted_net(model, side).eval(), canvases(3, side)
    with torch.no_grad():
        logits = net(images)
        assert logits.shape == (3, 10)
        torch.testing.assert_close(net.to(memory_format=torch.channels_last)(images), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("model", WITH)
def test_with_a_transformer_a_net_starts_with_the_whole_image(model, side):
    """Before the first step the classifier sees all of it, standardised; that is written out here."""
    net, images = distorted_net(model, side).eval(), canvases(2, side)
    whole = images
    if side != 28:
        whole = F.avg_pool2d(F.interpolate(images, size=(56, 56), mode="bilinear"), 2)
    with torch.no_grad():
        wanted = net.classifier((whole - MNIST_MEAN) / MNIST_STD)
        torch.testing.assert_close(net(images), wanted, rtol=1e-4, atol=1e-4)
        without = distorted_net("fcn" if "fcn" in model else "cnn", side).eval()
        if "fcn" in model or side != 42:  # the exception has a test of its own, below
            without.classifier = net.classifier
            torch.testing.assert_close(without(images), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("side", "maps"), [(42, 5), (50, 7)])
def test_without_a_transformer_convolutions_read_these_pixels_as_they_are(side, maps):
    net, images = distorted_net("cnn", side).eval(), canvases(2, side)
    assert abs(parameters(net) - 400_000) < 4000
    first, second, last = weight_layers(net)
    with torch.no_grad():
        x = F.relu(F.max_pool2d(F.conv2d((images - MNIST_MEAN) / MNIST_STD, first.weight), 2))
        x = F.relu(F.max_pool2d(F.conv2d(x, second.weight), 2))  # batch norm that has seen nothing yet leaves it as it is
        assert x.shape[2:] == (maps, maps)
        torch.testing.assert_close(net(images), F.linear(x.flatten(1), last.weight, last.bias), rtol=1e-4, atol=1e-4)


def test_the_classifiers_are_the_papers():
    fcn = [part for part in distorted_net("fcn").classifier if not isinstance(part, nn.Flatten)]
    assert [type(part) for part in fcn] == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]
    classifier, images = distorted_net("cnn").classifier, canvases(5, 28)
    first, second, last = weight_layers(classifier)
    assert (first.kernel_size, second.kernel_size) == ((9, 9), (7, 7)) and 32 <= first.out_channels <= 64
    with torch.no_grad():
        x = images
        for layer in (first, second):
            x = F.max_pool2d(F.conv2d(x, layer.weight), 2)
            x = F.relu(F.batch_norm(x, None, None, training=True))
        wanted = F.linear(x.flatten(1), last.weight, last.bias)
        torch.testing.assert_close(classifier.train()(images), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("model", MODELS)
def test_batch_norm_follows_every_hidden_layer(model, side):
    net = distorted_net(model, side)
    stacks = [net.classifier] + ([net.transformer.localization] if model in WITH else [])
    for stack in stacks:
        parts = [part for part in stack if not isinstance(part, nn.MaxPool2d)]
        places = [i for i, part in enumerate(parts) if isinstance(part, nn.Conv2d | nn.Linear)]
        for i in places[:-1]:
            layer, norm, rectifier = parts[i : i + 3]
            wanted = nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d
            assert type(norm) is wanted and norm.num_features == len(layer.weight) and layer.bias is None
            assert type(rectifier) is nn.ReLU
        assert places[-1] == len(parts) - 1 and parts[-1].bias is not None  # what comes out is not normed


@pytest.mark.parametrize("family", FAMILIES)
def test_the_localization_networks_are_the_papers(family):
    count = FAMILIES[family].num_params
    assert count == {"affine": 6, "projective": 8, "tps": 2 * 16}[family]
    shapes = [tuple(part.weight.shape) for part in weight_layers(distorted_net(f"st_fcn_{family}", 60).transformer)]
    assert shapes == [(32, 3600), (32, 32), (count, 32)]
    for side, maps in ((28, 1), (42, 4), (60, 9)):
        shapes = [
            tuple(part.weight.shape) for part in weight_layers(distorted_net(f"st_cnn_{family}", side).transformer)
        ]
        assert shapes == [(20, 1, 5, 5), (20, 20, 5, 5), (20, 20 * maps**2), (count, 20)]


def test_the_convolutional_localization_sees_half_the_resolution():
    torch.manual_seed(0)
    localization, images = cnn_localization(FAMILIES["affine"], 28), canvases(2, 28)
    nn.init.normal_(localization[-1].weight)
    board = torch.tensor([[1.0, -1], [-1, 1]]).repeat(14, 14)
    with torch.no_grad():
        theta = localization(images)
        torch.testing.assert_close(localization(images + board), theta, rtol=1e-3, atol=1e-4)
        assert (theta[0] - theta[1]).abs().max() > 1e-3
        assert (localization(images.roll(4, 3)) - theta).abs().max() > 1e-3


@pytest.mark.parametrize("side", SIDES)
def test_outside_of_the_image_there_is_black(side):
    net = distorted_net("st_fcn_affine", side).eval()
    with torch.no_grad():
        net.transformer.localization[-1].bias.mul_(3)  # looks at three times the image
        seen = []
        net.classifier.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        net(torch.ones(1, 1, side, side))
    black, white = -MNIST_MEAN / MNIST_STD, (1 - MNIST_MEAN) / MNIST_STD
    assert seen[0].shape == (1, 1, 28, 28)
    torch.testing.assert_close(seen[0][0, 0, 0, 0].item(), black, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen[0][0, 0, 14, 14].item(), white, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_gradients_reach_every_layer_once_the_head_has_learnt(model):
    net = distorted_net(model, 42)
    if "transformer" in dict(net.named_children()):
        nn.init.normal_(net.transformer.localization[-1].weight, std=0.01)
    F.cross_entropy(net(canvases(8, 42)), torch.arange(8)).backward()
    assert all(p.grad.abs().max() > 0 for p in net.parameters())


def test_a_projective_window_may_reach_past_its_horizon():
    net = distorted_net("st_cnn_projective")
    with torch.no_grad():
        net.transformer.localization[-1].bias[6:] = torch.tensor([2.0, -1.5])
    logits = net(canvases(4, 28))
    F.cross_entropy(logits, torch.arange(4)).backward()
    assert logits.isfinite().all() and all(p.grad.isfinite().all() for p in net.parameters())


def test_the_seed_rules_the_weights():
    one, same, other = (distorted_net("st_cnn_tps", 42, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["classifier.0.weight"], other["classifier.0.weight"])


def test_what_is_not_in_the_table_is_named():
    with pytest.raises(ValueError, match="model: wanted one of fcn, cnn, st_fcn_affine, .*, got 'st_cnn'"):
        distorted_net("st_cnn")
    with pytest.raises(ValueError, match="side: wanted one of 28, 42, 50, 60 pixels, got 32"):
        distorted_net("cnn", 32)


def test_a_hidden_layer_has_no_bias_beside_that_of_batch_norm():
    layer = nn.Sequential(*convolved(nn.Conv2d(1, 3, 5, bias=False), 2))
    assert layer(torch.rand(2, 1, 12, 12)).shape == (2, 3, 4, 4)
    with pytest.raises(ValueError, match="convolution: it has a bias"):
        convolved(nn.Conv2d(1, 3, 5), 2)
