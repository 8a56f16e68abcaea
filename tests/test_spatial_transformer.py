"""The module, and the tutorial's net rebuilt from it."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stn_helpers.data import Digits
from stn_helpers.localization import theta_head, tutorial_localization
from stn_helpers.networks import Standardize, mnist_stn, tutorial_classifier
from stn_helpers.sampling import sample
from stn_helpers.spatial_transformer import (
    ParallelSpatialTransformer,
    SpatialTransformer,
    parallel_head,
    sample_windows,
)
from stn_helpers.training import Recipe, fit
from stn_helpers.transforms import Affine, Attention, Projective, Similarity, ThinPlateSpline

FAMILIES = [Affine(), Attention(), Similarity(), Projective(), ThinPlateSpline()]


def says(theta):
    """A localization network that says the same θ to every image."""

    class Constant(nn.Module):
        def forward(self, image):
            return torch.as_tensor(theta).expand(len(image), *torch.as_tensor(theta).shape)

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
    for size in ((0, 4), 28, (14.0, 14.0), (3, 4, 5)):
        with pytest.raises(ValueError, match="out_size: wanted"):
            SpatialTransformer(says([1.0, 0, 0]), Attention(), out_size=size)
    for image in (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(1, 8, 8)):
        with pytest.raises(ValueError, match="image: wanted B×C×H×W, floating, got torch"):
            SpatialTransformer(says([1.0, 0, 0]), Attention())(image)
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


# N in parallel ------------------------------------------------------------------------------------------------

sides = st.integers(1, 6)


@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 3),
    count=st.integers(1, 4),
    size=st.tuples(sides, sides),
    out_size=st.none() | st.tuples(sides, sides),
    padding=st.sampled_from(["zeros", "border", "reflection"]),
    seed=st.integers(0, 99),
)
def test_each_window_is_what_torch_makes_of_its_theta(batch, channels, count, size, out_size, padding, seed):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, channels, *size, generator=generator)
    theta = Affine().identity() + torch.randn(batch, count, 6, generator=generator)

    class Given(nn.Module):
        def forward(self, image):
            return theta

    glimpse = ParallelSpatialTransformer(Given(), Affine(), count, out_size, padding).glimpse(image)
    assert torch.equal(glimpse.theta, theta)
    for n in range(count):
        grid = F.affine_grid(theta[:, n].view(-1, 2, 3), (batch, 1, *(out_size or size)), align_corners=False)
        torch.testing.assert_close(glimpse.grid[:, n], grid, rtol=1e-5, atol=1e-5)
        window = F.grid_sample(image, grid, padding_mode=padding, align_corners=False)
        torch.testing.assert_close(glimpse.output[:, n], window, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transform", FAMILIES, ids=lambda t: type(t).__name__)
def test_fresh_windows_in_parallel_change_nothing(transform):
    image = torch.rand(2, 3, 5, 4)
    localization = nn.Sequential(nn.Flatten(), parallel_head(60, transform.identity().expand(3, -1)))
    output = ParallelSpatialTransformer(localization, transform, count=3)(image)
    assert output.shape == (2, 3, 3, 5, 4)
    torch.testing.assert_close(output, image[:, None].expand(-1, 3, -1, -1, -1), rtol=0, atol=1e-5)


def test_windows_start_where_the_head_says_the_first_window_first():
    image = torch.rand(1, 1, 8, 8)
    start = torch.tensor([[0.5, -0.5, -0.5], [0.5, 0.5, -0.5], [0.5, -0.5, 0.5], [0.5, 0.5, 0.5]])
    localization = nn.Sequential(nn.Flatten(), parallel_head(64, start))
    output = ParallelSpatialTransformer(localization, Attention(), count=4, out_size=(4, 4))(image)[0, :, 0]
    quarters = [image[0, 0, :4, :4], image[0, 0, :4, 4:], image[0, 0, 4:, :4], image[0, 0, 4:, 4:]]
    torch.testing.assert_close(output, torch.stack(quarters))


def test_every_window_sends_its_own_gradient_to_theta_and_all_to_the_image():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 2, 5, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    theta = torch.randn(2, 3 * 3, dtype=torch.float64, generator=generator, requires_grad=True)

    def look(image, theta):
        grid = Attention().grid(theta.view(6, 3), (3, 2)).view(2, 3, 3, 2, 2)
        return sample_windows(image, grid)

    assert torch.autograd.gradcheck(look, (image, theta))


def test_training_gives_the_parallel_localization_network_its_own_learning_rate():
    localization = nn.Sequential(nn.Flatten(), parallel_head(16, torch.tensor([[0.5, -0.3, 0.0], [0.5, 0.3, 0.0]])))
    net = nn.Sequential(
        ParallelSpatialTransformer(localization, Attention(), count=2, out_size=(2, 2)), nn.Flatten(), nn.Linear(8, 2)
    )
    before = [parameter.detach().clone() for parameter in net.parameters()]
    digits = Digits(torch.rand(8, 1, 4, 4), torch.arange(8) % 2)
    fit(net, digits, Recipe(epochs=5, batch_size=8, localization_lr=1e-9), seed=0, device="cpu", progress=False)
    moved = [float((now.detach() - then).abs().max()) for now, then in zip(net.parameters(), before, strict=True)]
    assert max(moved[:2]) < 1e-7 < 1e-4 < min(moved[2:])


def test_bad_arguments_in_parallel_are_named():
    for count in (0, 1.5):
        with pytest.raises(ValueError, match="count: wanted a whole number of windows, at least 1"):
            ParallelSpatialTransformer(says([1.0, 0, 0]), Attention(), count=count)
    with pytest.raises(ValueError, match="padding: wanted"):
        ParallelSpatialTransformer(says([1.0, 0, 0]), Attention(), count=1, padding="reflect")
    for theta in ([1.0, 0, 0], [[1.0, 0, 0, 0], [1.0, 0, 0, 0]]):
        with pytest.raises(ValueError, match="theta: wanted B×6 or B×2×3 for 2 transforms, got"):
            ParallelSpatialTransformer(says(theta), Attention(), count=2)(torch.rand(1, 1, 4, 4))
    with pytest.raises(ValueError, match="grid: wanted B×N×H'×W'×2, got"):
        sample_windows(torch.rand(1, 1, 4, 4), torch.zeros(1, 4, 4, 2))
    with pytest.raises(ValueError, match="start: wanted N×num_params"):
        parallel_head(4, torch.zeros(3))


# In other people's nets -----------------------------------------------------------------------------------------


def searching(transform, count=None):
    """A transformer whose localization network has an opinion on every image."""
    torch.manual_seed(0)
    localization = tutorial_localization(transform)
    if count:
        localization[-1] = parallel_head(32, transform.identity().expand(count, -1))
    nn.init.normal_(localization[-1].weight, std=0.05)
    if count:
        return ParallelSpatialTransformer(localization, transform, count, out_size=(20, 24))
    return SpatialTransformer(localization, transform, out_size=(20, 24))


@pytest.mark.parametrize("count", [None, 2])
@pytest.mark.parametrize("transform", FAMILIES, ids=lambda t: type(t).__name__)
def test_under_autocast_only_the_localization_network_is_less_precise(transform, count):
    transformer, image = searching(transform, count), torch.rand(3, 1, 28, 28)
    with torch.autocast("cpu", torch.bfloat16):
        spoken = transformer.localization(image)
        glimpse = transformer.glimpse(image)
        glimpse.output.square().sum().backward()
    assert spoken.dtype == torch.bfloat16 and glimpse.grid.dtype == glimpse.output.dtype == torch.float32
    assert torch.equal(glimpse.theta.flatten(), spoken.float().flatten())
    theta = spoken.float().view(-1, transform.num_params)
    grid = transform.grid(theta, (20, 24))  # outside autocast
    assert torch.equal(glimpse.grid.flatten(), grid.flatten())
    windows = F.grid_sample(image.repeat_interleave(count or 1, 0), grid, align_corners=False)
    torch.testing.assert_close(glimpse.output.view_as(windows), windows)
    assert transformer.localization[-1].weight.grad.abs().sum() > 0


def test_under_autocast_the_affine_net_reads_where_torch_would_without():
    transformer, image = searching(Affine()), torch.rand(3, 1, 28, 28)
    with torch.autocast("cpu", torch.bfloat16):
        glimpse = transformer.glimpse(image)
    grid = F.affine_grid(glimpse.theta.view(-1, 2, 3), (3, 1, 20, 24), align_corners=False)
    torch.testing.assert_close(glimpse.output, F.grid_sample(image, grid, align_corners=False), rtol=0, atol=1e-5)
    # torch's own affine_grid rounds the places themselves there, by hundredths of a pixel of 28
    with torch.autocast("cpu", torch.bfloat16):
        rounded = F.affine_grid(glimpse.theta.view(-1, 2, 3), (3, 1, 20, 24), align_corners=False).float()
    assert 14 * (rounded - grid).abs().max() > 0.02 > 14 * (glimpse.grid - grid).abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_feature_maps_in_half_precision_come_back_so_from_precise_places(dtype):
    transformer, image = searching(Affine()).to(dtype), torch.rand(3, 1, 28, 28)
    glimpse = transformer.glimpse(image.to(dtype))
    assert glimpse.output.dtype == dtype and glimpse.grid.dtype == torch.float32
    expected = sample(image.to(dtype).float(), Affine().grid(glimpse.theta, (20, 24)))
    assert torch.equal(glimpse.output, expected.to(dtype))


@pytest.mark.parametrize("count", [None, 2])
@pytest.mark.parametrize("transform", FAMILIES, ids=lambda t: type(t).__name__)
def test_a_transformer_can_be_compiled_whole_and_exported_for_any_batch(transform, count):
    transformer, image = searching(transform, count).eval(), torch.rand(3, 1, 28, 28)
    expected = transformer(image)
    torch.compiler.reset()  # each family and count is a net of its own
    compiled = torch.compile(transformer, fullgraph=True, backend="eager")  # traced, not handed to a C++ compiler
    torch.testing.assert_close(compiled(image), expected)
    batch = {0: torch.export.Dim("batch")}
    exported = torch.export.export(transformer, (image[:2],), dynamic_shapes={"image": batch}).module()
    torch.testing.assert_close(exported(image), expected)
