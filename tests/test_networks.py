"""The nets of the attention chapter: the mixture of looks written out plainly, one look in evaluation, the sizes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stn_helpers.localization import PeakLocalization, atn_localization
from stn_helpers.networks import SearchingSTN, field_stn, lenet
from stn_helpers.spatial_transformer import SpatialTransformer
from stn_helpers.transforms import Affine, Attention


def images(count: int = 3, side: int = 80) -> torch.Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(0))


def small_net(transform: Attention | Affine, looks: int, padding: str = "zeros") -> SearchingSTN:
    """Windows of 8×6 pixels, five classes; every weight has learnt something."""
    torch.manual_seed(1)
    localization = PeakLocalization(transform, channels=4, scale=0.4)
    nn.init.normal_(localization.head.weight, std=0.1)
    transformer = SpatialTransformer(localization, transform, out_size=(8, 6), padding=padding)
    return SearchingSTN(transformer, nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), looks)


def matrix(theta: torch.Tensor) -> torch.Tensor:
    """The 2×3 matrix of θ, as torch's `affine_grid` takes it."""
    if theta.numel() == 6:
        return theta.view(2, 3)
    s, tx, ty = theta
    zero = torch.zeros(())
    return torch.stack([torch.stack([s, zero, tx]), torch.stack([zero, s, ty])])


@pytest.mark.parametrize("looks", [1, 2, 3])
@pytest.mark.parametrize(("transform", "padding"), [(Attention(), "zeros"), (Affine(), "border")])
def test_in_training_it_mixes_what_the_classifier_says_of_every_window(looks, transform, padding):
    net, image = small_net(transform, looks, padding), images()
    theta, score = net.transformer.localization.candidates(image, looks)
    output = net(image)
    assert output.shape == (3, 5)
    torch.testing.assert_close(output.exp().sum(1), torch.ones(3))
    for b in range(3):
        mixed = torch.zeros(5)
        for k in range(looks):
            grid = F.affine_grid(matrix(theta[b, k])[None], (1, 1, 8, 6), align_corners=False)
            window = F.grid_sample(image[b : b + 1], grid, padding_mode=padding, align_corners=False)
            mixed = mixed + score[b].softmax(0)[k] * net.classifier(window)[0].softmax(0)
        torch.testing.assert_close(output[b], mixed.log(), rtol=1e-4, atol=1e-5)


def test_the_gate_learns_posterior_minus_prior():
    """Down the loss −log p(y), each score moves by its posterior weight minus its prior one."""
    net, image = small_net(Attention(), looks=3), images()
    label = torch.tensor([4, 0, 2])
    theta, score = (value.detach() for value in net.transformer.localization.candidates(image, 3))
    score.requires_grad_()
    net.transformer.localization.candidates = lambda image, count: (theta, score)
    F.cross_entropy(net(image), label, reduction="sum").backward()

    seen = [net.transformer.transform.grid(theta[:, k], (8, 6)) for k in range(3)]
    windows = [F.grid_sample(image, grid, align_corners=False) for grid in seen]
    says = torch.stack([net.classifier(window).softmax(1).gather(1, label[:, None])[:, 0] for window in windows], dim=1)
    prior = score.detach().softmax(1)
    posterior = prior * says / (prior * says).sum(1, keepdim=True)
    assert (posterior - prior).abs().max() > 0.01
    torch.testing.assert_close(score.grad, prior - posterior, rtol=1e-4, atol=1e-6)


def test_every_parameter_gets_a_gradient():
    net = small_net(Attention(), looks=2)
    F.cross_entropy(net(images()), torch.tensor([0, 1, 2])).backward()
    assert all(p.grad.abs().max() > 0 for p in net.parameters())


def test_in_evaluation_it_looks_once_and_classifies_what_it_sees():
    net, image = small_net(Attention(), looks=3), images()
    seen = []
    net.classifier.register_forward_hook(lambda module, given, said: seen.append(len(said)))
    net.train()(image)
    net.eval()
    with torch.no_grad():
        logits = net(image)
        assert seen == [3 * 3, 3]
        assert torch.equal(logits, net.classifier(net.transformer(image)))
        best = net.transformer.localization.candidates(image, 3)[0][:, 0]
        assert torch.equal(net.transformer.glimpse(image).theta, best)


@pytest.mark.parametrize("transform", [None, Attention(), Affine()])
def test_the_net_of_the_chapter(transform):
    net = field_stn(transform, seed=3)
    family = transform or Attention()
    assert type(net.transformer.transform) is type(family)
    first = {name: value.clone() for name, value in net.state_dict().items()}
    again, other = field_stn(transform, seed=3).state_dict(), field_stn(transform, seed=4).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["classifier.1.0.weight"], other["classifier.1.0.weight"])
    with torch.no_grad():
        seen = net.eval().transformer.glimpse(images(2, side=128))
        assert seen.output.shape == (2, 1, 28, 28) and seen.theta.shape == (2, family.num_params)
        assert net(images(2, side=128)).shape == (2, 10)
    window = seen.theta.clone()
    window[:, [1, 2] if family.num_params == 3 else [2, 5]] = 0
    torch.testing.assert_close(window, (28 / 128 * family.identity()).expand(2, -1))


def test_the_sizes_of_the_nets():
    def parameters(net: nn.Module) -> int:
        return sum(p.numel() for p in net.parameters())

    assert parameters(lenet()) == 431_080
    assert lenet()[:7](images(1, side=28)).shape == (1, 800)
    assert lenet()(images(2, side=28)).shape == (2, 10)
    assert 438_500 <= parameters(field_stn()) < 439_500  # "439 thousand"
    # The localization network is a fortieth of the author's.
    assert 40 * parameters(field_stn().transformer.localization) < parameters(atn_localization())


def test_what_cannot_search_is_refused():
    localization = PeakLocalization(Attention())
    without_size = SpatialTransformer(localization, Attention())
    other = SpatialTransformer(atn_localization(), Attention(), out_size=(28, 28))
    for transformer in (without_size, other):
        with pytest.raises(ValueError, match="transformer: wanted one with a PeakLocalization and an out_size"):
            SearchingSTN(transformer, lenet())
    good = SpatialTransformer(localization, Attention(), out_size=(28, 28))
    for looks in (0, -1):
        with pytest.raises(ValueError, match=f"looks: wanted at least 1, got {looks}"):
            SearchingSTN(good, lenet(), looks=looks)
    with pytest.raises(ValueError, match="count: wanted 1 to 1 peaks in images of 32×32 pixels, got 2"):
        SearchingSTN(good, lenet(), looks=2)(images(1, side=32))
    with pytest.raises(ValueError, match="image: wanted B×1×H×W with sides divisible by 4"):
        field_stn()(images(1, side=126))
