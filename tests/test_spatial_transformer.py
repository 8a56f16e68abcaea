"""The module, and the tutorial's net rebuilt from it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stn_helpers.localization import theta_head, tutorial_localization
from stn_helpers.networks import Standardize, mnist_stn, tutorial_classifier
from stn_helpers.spatial_transformer import SpatialTransformer
from stn_helpers.transforms import Affine, Attention, Projective, Similarity, ThinPlateSpline

FAMILIES = [Affine(), Attention(), Similarity(), Projective(), ThinPlateSpline()]


def says(theta):
    """A localization network that says the same θ to every image."""

    class Constant(nn.Module):
        def forward(self, image):
            return torch.as_tensor(theta).expand(len(image), -1)

    return Constant()


@pytest.mark.parametrize("transform", FAMILIES, ids=lambda t: type(t).__name__)
def test_a_fresh_transformer_changes_nothing(transform):
    image = torch.rand(3, 1, 28, 28)
    transformer = SpatialTransformer(tutorial_localization(transform), transform)
    glimpse = transformer.glimpse(image)
    assert torch.equal(glimpse.theta, transform.identity().expand(3, -1))
    torch.testing.assert_close(glimpse.output, image, rtol=0, atol=1e-5)
    assert torch.equal(transformer(image), glimpse.output)


def test_a_window_crops_as_slicing_does():
    image = torch.rand(2, 3, 8, 8)
    window = SpatialTransformer(says([0.5, 0.25, -0.25]), Attention(), out_size=(4, 4))
    torch.testing.assert_close(window(image), image[:, :, 1:5, 3:7])  # half the width, moved by one pixel of four


def test_gradients_reach_the_localization_network():
    transformer = SpatialTransformer(tutorial_localization(Affine()), Affine())
    transformer(torch.rand(2, 1, 28, 28)).square().sum().backward()
    assert transformer.localization[-1].weight.grad.abs().sum() > 0


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="padding: wanted"):
        SpatialTransformer(says([1.0, 0, 0]), Attention(), padding="reflect")
    with pytest.raises(ValueError, match="out_size: wanted"):
        SpatialTransformer(says([1.0, 0, 0]), Attention(), out_size=(0, 4))
    with pytest.raises(ValueError, match="theta: wanted shape B×6"):
        SpatialTransformer(says([1.0, 0, 0]), Affine())(torch.rand(1, 1, 4, 4))
    with pytest.raises(ValueError, match="std: wanted"):
        Standardize(std=0.0)


def test_the_tutorials_parameters_one_by_one():
    # The published net: shapes of PyTorch's "Spatial Transformer Networks Tutorial", 27,360 parameters in all.
    published = {
        "localization": [(8, 1, 7, 7), (8,), (10, 8, 5, 5), (10,), (32, 90), (32,), (6, 32), (6,)],
        "classifier": [(10, 1, 5, 5), (10,), (20, 10, 5, 5), (20,), (50, 320), (50,), (10, 50), (10,)],
    }
    net = mnist_stn()
    assert [tuple(p.shape) for p in net.transformer.parameters()] == published["localization"]
    assert [tuple(p.shape) for p in net.classifier.parameters()] == published["classifier"]
    assert sum(p.numel() for p in net.parameters()) == 27_360


def test_the_seed_decides_the_weights():
    first, again, other = mnist_stn(0), mnist_stn(0), mnist_stn(1)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(first.classifier[0].weight, other.classifier[0].weight)


def test_the_net_warps_first_and_standardises_after():
    net = mnist_stn().eval()
    with torch.no_grad():
        net.transformer.localization[-1].bias.copy_(torch.tensor([1.5, 0.3, 0.2, -0.3, 1.4, 0.1]))
    image = torch.rand(4, 1, 28, 28)
    theta = net.transformer.localization(image).view(-1, 2, 3)
    warped = F.grid_sample(image, F.affine_grid(theta, image.shape, align_corners=False), align_corners=False)
    expected = net.classifier((warped - 0.1307) / 0.3081)
    torch.testing.assert_close(net(image), expected, rtol=1e-4, atol=1e-5)


def test_dropout_is_the_tutorials_where_asked_for():
    rates = [m.p for m in tutorial_classifier(0.5) if isinstance(m, nn.Dropout | nn.Dropout2d)]
    assert rates == [0.5, 0.5]


def test_theta_head_ignores_its_input_at_first():
    head = theta_head(7, Attention())
    assert torch.equal(head(torch.randn(5, 7)), Attention().identity().expand(5, -1))
