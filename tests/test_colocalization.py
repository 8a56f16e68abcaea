"""Co-localisation: scenes, boxes against torchvision, the loss against torch's and a plain sum, training on easy images."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import box_iou

from stn_helpers import colocalization
from stn_helpers.colocalization import (
    CANVAS,
    CODE_JITTER,
    LARGEST,
    MISSED,
    SMALLEST,
    DigitCode,
    InsideImage,
    KnownSize,
    Search,
    Tries,
    best_try,
    box_overlap,
    code_digits,
    colocalization_net,
    digit_scenes,
    find_common,
    missed,
    random_crops,
    triplet_hinge,
    window_boxes,
)
from stn_helpers.data import Digits
from stn_helpers.distortions import jitter
from stn_helpers.networks import tutorial_classifier
from stn_helpers.sampling import sample
from stn_helpers.spatial_transformer import ParallelSpatialTransformer
from stn_helpers.training import Recipe
from stn_helpers.transforms import Attention


def shades(each: int = 4) -> Digits:
    """Ten classes of flat grey images, class k of brightness (k + 1)/40: what lies on a canvas tells whence it came."""
    labels = torch.arange(10).repeat(each)
    return Digits(((labels + 1) / 40).view(-1, 1, 1, 1).expand(-1, 1, 28, 28).contiguous(), labels)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random vectors of length 1, float64."""
    vectors = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return vectors / vectors.norm(dim=-1, keepdim=True)


# Scenes -------------------------------------------------------------------------------------------------------


def test_translated_scenes_hold_one_digit_of_the_class_in_its_box():
    images, boxes = digit_scenes(shades(), 3, "T", seed=0, count=4)
    assert images.shape == (4, 1, CANVAS, CANVAS) and boxes.shape == (4, 4) and boxes.dtype == torch.float32
    for image, (left, top, right, bottom) in zip(images[:, 0], boxes.int().tolist(), strict=True):
        assert (right - left, bottom - top) == (28, 28)
        assert torch.all(image[top:bottom, left:right] == 4 / 40)
        assert image.sum() == pytest.approx(784 * 4 / 40, rel=1e-5)  # and nothing else is there


def test_clutter_is_of_other_classes_and_there_are_sixteen_scraps():
    digits = shades()
    digits.images[digits.labels == 3] = 0  # the digit itself is black: what is left are scraps
    images, _ = digit_scenes(digits, 3, "TC", seed=0, count=4)
    twentieths = images.double().sum((1, 2, 3)) / 36 * 40
    assert torch.allclose(twentieths, twentieths.round(), atol=1e-3)  # whole scraps, none over the edge
    assert twentieths.min() > 16 * 1 and twentieths.max() < 16 * 10
    ones = digits._replace(images=torch.ones_like(digits.images) * 2**-6)
    scraps = digit_scenes(ones, 3, "TC", seed=0, count=4).images.sum((1, 2, 3)) * 2**6
    assert scraps.tolist() == [784 + 16 * 36] * 4
    white = digits._replace(images=torch.ones_like(digits.images))
    assert digit_scenes(white, 3, "TC", seed=0, count=4).images.max() == 1


def test_every_image_is_of_another_digit_and_the_seed_decides():
    digits = shades(each=20)
    own = digits.labels == 7
    digits.images[own] *= torch.linspace(0.5, 1, 20).view(-1, 1, 1, 1)
    scenes = digit_scenes(digits, 7, "T", seed=1, count=20)
    assert len(scenes.images.amax((1, 2, 3)).unique()) == 20
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again, other = (digit_scenes(digits, 7, "T", seed, count=20) for seed in (1, 2))
    assert torch.equal(torch.rand(3), expected)  # torch's random numbers are left alone
    assert torch.equal(again.images, scenes.images) and not torch.equal(other.boxes, scenes.boxes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, "R", 0, 4), "data: wanted one of T, TC, got 'R'"),
        ((3, "T", 0, 5), "count: wanted 1 to 4 images, as many as there are of the digit 3, got 5"),
        ((3, "T", 0, 0), "count: wanted 1 to 4 images"),
    ],
)
def test_scenes_that_cannot_be_made_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        digit_scenes(shades(), *arguments)


def test_scraps_need_other_classes():
    digits = shades()
    with pytest.raises(ValueError, match="digits: wanted some of other classes"):
        digit_scenes(Digits(digits.images, torch.zeros_like(digits.labels)), 0, "TC", 0, 4)


# Boxes --------------------------------------------------------------------------------------------------------

edge = st.floats(0, 84, width=32)


@given(st.lists(st.tuples(*8 * [edge]), min_size=1, max_size=5))
def test_overlap_is_torchvisions(numbers):
    corners = torch.tensor(numbers).view(-1, 2, 2, 2)
    corners = torch.cat([corners.amin(2), corners.amax(2) + 0.01], dim=2)  # two boxes with an area each
    boxes, others = corners.unbind(1)
    torch.testing.assert_close(box_overlap(boxes, others), box_iou(boxes, others).diagonal(), rtol=1e-4, atol=1e-5)


def test_the_true_window_has_the_true_box_and_sees_the_digit():
    digits = shades()
    digits = digits._replace(images=torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    scenes = digit_scenes(digits, 5, "T", seed=0, count=4)
    middle = (scenes.boxes[:, :2] + scenes.boxes[:, 2:]) / CANVAS - 1
    theta = torch.cat([torch.full((4, 1), 28 / 84), middle], dim=1)
    torch.testing.assert_close(window_boxes(theta), scenes.boxes, rtol=0, atol=1e-4)
    seen = sample(scenes.images, Attention().grid(theta, (28, 28)))
    own = digits.images[digits.labels == 5]
    assert all((seen[image] - own).abs().amax((1, 2, 3)).min() < 1e-4 for image in range(4))
    assert torch.equal(window_boxes(torch.tensor([[1.0, 0, 0]]), side=10), torch.tensor([[0.0, 0, 10, 10]]))


# The loss -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 3), st.integers(2, 5), st.integers(1, 3), st.integers(1, 4), st.sampled_from([0.0, 0.5, 1.0]))
def test_the_loss_is_the_papers_sum_over_pairs_and_crops(tries, images, crops, length, weight):
    windows, chance = unit(tries, images, length), unit(tries, images, crops, length, seed=1)
    expected = []
    for e, r in zip(windows, chance, strict=True):
        terms = [
            max(0.0, float(weight * (e[n] - e[m]).square().sum() - (e[n] - r[n, c]).square().sum() + 0.75))
            for n in range(images)
            for m in range(images)
            for c in range(crops)
            if n != m
        ]
        expected.append(sum(terms) / len(terms))
    loss = triplet_hinge(windows, chance, weight, margin=0.75)
    assert loss.shape == (tries,)
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_the_loss_and_its_gradient_are_torchs_with_squared_distances():
    windows, chance = unit(1, 6, 5).requires_grad_(), unit(1, 6, 3, 5, seed=1)

    def squared(one, other):
        return (one - other).square().sum(1)

    n, m, c = torch.tensor([(n, m, c) for n in range(6) for m in range(6) for c in range(3) if n != m]).T
    theirs = nn.TripletMarginWithDistanceLoss(distance_function=squared, margin=1.0)
    expected = theirs(windows[0, n], windows[0, m], chance[0, n, c])
    loss = triplet_hinge(windows, chance)[0]
    torch.testing.assert_close(loss, expected)
    # On the sphere: ours writes ‖a − b‖² as 2 − 2ab, so only what lies along the sphere is the same.
    ours, other = (torch.autograd.grad(value, windows, retain_graph=True)[0][0] for value in (loss, expected))
    along = [g - (g * windows[0]).sum(1, keepdim=True) * windows[0] for g in (ours, other)]
    torch.testing.assert_close(along[0], along[1])


def test_likeness_counts_nothing_at_first_and_all_in_the_end():
    search = Search(Recipe(epochs=100), alone=0.3, rise=0.2)
    weights = [search.together(step) for step in range(search.steps)]
    assert weights[0] == weights[30] == 0 and weights[40] == pytest.approx(0.5) and weights[50] == weights[99] == 1
    assert weights == sorted(weights)
    at_once = Search(Recipe(epochs=100), alone=0.0, rise=0.0)  # without such a start: the paper's loss from the first step
    assert at_once.together(0) == 1 and at_once.shaken(0) == 0


def test_windows_are_shaken_less_and_less_until_likeness_counts_all():
    search = Search(Recipe(epochs=100), alone=0.3, rise=0.2, shake=0.4)
    shaken = [search.shaken(step) for step in range(search.steps)]
    assert shaken[0] == 0.4 and shaken[25] == pytest.approx(0.2) and shaken[49] == pytest.approx(0.008)
    assert not any(shaken[50:]) and search.together(50) == 1


# The code and the windows -------------------------------------------------------------------------------------


def test_a_code_is_the_maps_and_the_hidden_layer_of_the_classifier_each_half_of_it():
    torch.manual_seed(0)
    classifier, images = tutorial_classifier().eval(), torch.rand(3, 1, 28, 28)
    code = DigitCode(classifier).eval()(images)
    assert code.shape == (3, 370)
    torch.testing.assert_close(code.norm(dim=1), torch.ones(3))
    maps, hidden = code.split([320, 50], dim=1)
    torch.testing.assert_close(maps.norm(dim=1), hidden.norm(dim=1))
    # The layer behind a part says the same of it as of the part before it was shortened, but for the length.
    seen = []
    for layer in (classifier[-4], classifier[-1]):  # from the maps to the hidden layer, and from there to the classes
        layer.register_forward_hook(lambda layer, given, made: seen.append(made - layer.bias))
    classifier((images - 0.1307) / 0.3081)
    for part, layer, made in zip((maps, hidden), (classifier[-4], classifier[-1]), seen, strict=True):
        normal = nn.functional.normalize
        torch.testing.assert_close(normal(part @ layer.weight.T), normal(made), rtol=1e-4, atol=1e-5)


@given(st.lists(st.tuples(*3 * [st.floats(-50, 50, width=32)]), min_size=1, max_size=4))
def test_a_window_never_leaves_the_image(raw):
    theta = InsideImage()(torch.tensor(raw))
    assert SMALLEST - 1e-6 <= theta[:, 0].min() and theta[:, 0].max() <= LARGEST + 1e-6
    boxes = window_boxes(theta)
    assert boxes.min() >= -1e-3 and boxes.max() <= CANVAS + 1e-3
    middle = torch.tensor([[(SMALLEST + LARGEST) / 2, 0, 0]])
    torch.testing.assert_close(InsideImage()(torch.zeros(1, 3)), middle)


@given(st.floats(-5, 5, width=32))
def test_a_size_is_kept_within_its_limits_and_the_place_as_it_is(scale):
    theta = torch.tensor([[scale, 0.7, -0.2], [(SMALLEST + LARGEST) / 2, 0.1, 0.3]])
    kept = KnownSize()(theta)
    assert SMALLEST - 1e-6 <= kept[0, 0] <= LARGEST + 1e-6
    assert torch.equal(kept[:, 1:], theta[:, 1:])
    torch.testing.assert_close(kept[1], theta[1])  # halfway between the limits nothing happens ...
    middle = theta[1:].double().requires_grad_()
    slope = torch.autograd.grad(KnownSize()(middle)[0, 0], middle)[0]
    torch.testing.assert_close(slope, torch.tensor([[1.0, 0, 0]], dtype=torch.float64))  # ... and around it nearly so


def test_no_heat_map_gives_a_window_another_size():
    images = torch.rand(3, 1, CANVAS, CANVAS)
    net = colocalization_net(images, "blind", seed=0).eval()
    with torch.no_grad():
        net.localization.each[0][0].head.bias[0] = -9.0  # it wants to shrink
    assert torch.allclose(net.localization(images)[:, 0, 0], torch.tensor(SMALLEST), atol=1e-4)


def test_tries_start_in_the_middle_and_differ_in_their_weights():
    images = torch.rand(2, 1, CANVAS, CANVAS)
    net = colocalization_net(images, "attention", seed=0)
    tries = net.count
    glimpse = net.glimpse(images)
    assert glimpse.theta.shape == (2, tries, 3) and glimpse.output.shape == (2, tries, 1, 28, 28)
    middle = torch.tensor([(SMALLEST + LARGEST) / 2, 0, 0]).expand_as(glimpse.theta)
    torch.testing.assert_close(glimpse.theta, middle)
    first = [one[1].weight for one in net.localization.each]
    assert not torch.equal(first[0], first[1])
    again = colocalization_net(images, "attention", seed=0).localization.each
    assert all(torch.equal(one, other[1].weight) for one, other in zip(first, again, strict=True))
    # conv 9×9 with 8 filters, 8 maps of 9×9 to 8 units, to 8, to 3
    assert sum(p.numel() for p in again[0].parameters()) == 8 * 82 + 8 * (648 + 1) + 8 * 9 + 3 * 9


def test_random_crops_lie_inside_have_the_size_asked_for_and_go_everywhere():
    x, y = torch.meshgrid(torch.arange(84.0), torch.arange(84.0), indexing="xy")
    places = torch.stack([x, y])[None].expand(2, -1, -1, -1)  # an image whose pixels say where they are
    torch.manual_seed(0)
    crops = random_crops(places, torch.tensor([[1 / 3, 1.0], [0.5, 0.8]]), 400)
    assert crops.shape == (2, 2, 400, 2, 28, 28)
    span = crops[..., -1, -1] - crops[..., 0, 0]  # between the outer two of 28 points, 3·s pixels apart
    expected = torch.tensor([[27.0, 81.0], [40.5, 64.8]])[..., None, None].expand_as(span)
    torch.testing.assert_close(span, expected, rtol=0, atol=1e-2)
    left = crops[0, 0, ..., 0, 0]
    assert left.min() >= 0 and left.max() <= 56 and left.min() < 1 and left.max() > 55
    assert left.mean(0).tolist() == pytest.approx([27.5, 27.5], abs=2)


def test_an_unknown_net_is_named():
    with pytest.raises(ValueError, match="model: wanted one of attention, blind, got 'peak'"):
        colocalization_net(torch.rand(2, 1, CANVAS, CANVAS), "peak", seed=0)


# Training -----------------------------------------------------------------------------------------------------


class Blocks(nn.Module):
    """A code that needs no training: 7×7 means and a little grey beside them, at length 1."""

    def forward(self, image):
        means = nn.functional.avg_pool2d(image, 4).flatten(1)
        return nn.functional.normalize(torch.cat([means, torch.full_like(means[:, :1], 0.5)], dim=1), dim=1)


class Still(nn.Module):
    """A localization network that knows what to say."""

    def __init__(self, theta):
        super().__init__()
        self.theta = nn.Parameter(theta)

    def forward(self, image):
        return self.theta


def rings(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same ring, 28 pixels wide, anywhere on black; and θ of the windows that show it."""
    axis = torch.linspace(-1, 1, 28)
    ring = torch.exp(-((torch.hypot(axis[:, None], axis) - 0.6) ** 2) / 0.02).expand(count, 1, -1, -1)
    digits = Digits(torch.cat([ring, torch.zeros(1, 1, 28, 28)]), torch.tensor([0] * count + [1]))
    images, boxes = digit_scenes(digits, 0, "T", seed=0, count=count)
    middle = (boxes[:, :2] + boxes[:, 2:]) / CANVAS - 1
    return images, torch.cat([torch.full((count, 1), 28 / 84), middle], dim=1)


def test_the_try_that_shows_the_same_thing_everywhere_is_taken():
    images, truth = rings(8)
    aside = truth + torch.tensor([0.0, 0.15, 0.0]) * torch.tensor([1.0, -1.0] * 4)[:, None]
    tries = Tries([Still(aside), Still(truth), Still(torch.tensor([[0.4, 0, 0]]).expand(8, 3).clone())])
    net = ParallelSpatialTransformer(tries, Attention(), 3, out_size=(28, 28)).eval()
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    best, loss = best_try(net, Blocks(), images, seed=0)
    assert torch.equal(torch.rand(2), expected)  # torch's random numbers are left alone
    assert best == 1 and loss[1] < loss[0] < loss[2] and loss.shape == (3,)


def test_training_finds_what_the_images_have_in_common():
    images, truth = rings(12)
    net = colocalization_net(images, "attention", seed=0)

    def overlap():
        with torch.inference_mode():
            theta = net.eval().localization(images)
        return box_overlap(window_boxes(theta), window_boxes(truth)[:, None]).mean(0)

    before = overlap()
    search = Search(Recipe(epochs=60, lr=0.01, clip=1.0), alone=0.3, rise=0.3)
    history = find_common(net, Blocks(), images, search, seed=0, device="cpu", progress=False)
    assert history.losses.shape == (60, net.count) and not net.training
    assert (history.clock.diff() > 0).all() and history.clock[0] > 0
    best, _ = best_try(net, Blocks(), images, seed=0)
    assert overlap()[best] > before[best] + 0.1


def test_the_first_step_has_the_loss_of_shaken_windows_with_a_margin_that_no_distance_exceeds():
    images, _ = rings(4)
    net = colocalization_net(images, "blind", seed=0)
    tries = net.count
    with torch.no_grad():
        theta = net.localization(images)
    torch.manual_seed(5)
    moved = theta + 0.3 * nn.functional.pad(torch.randn(4, tries, 2), (1, 0))
    crops = random_crops(images, theta[..., 0], 2)
    expected = []
    for number in range(tries):
        e = Blocks()(sample(images, Attention().grid(moved[:, number], (28, 28))))
        r = Blocks()(crops[:, number].flatten(0, 1)).unflatten(0, (4, 2))
        assert (torch.cdist(e[:, None], r).square() <= 2 + 1e-5).all()
        expected.append(2 - torch.cdist(e[:, None], r).square().mean())  # a hinge that never closes
    search = Search(Recipe(epochs=2, lr=0.01, clip=1.0), alone=0.5, rise=0.5, shake=0.3)
    history = find_common(net, Blocks(), images, search, seed=5, device="cpu", progress=False)
    torch.testing.assert_close(history.losses[0], torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_the_heat_map_has_no_saliency_and_looks_at_every_place_alike():
    images, _ = rings(6)
    net = colocalization_net(images, "blind", seed=0).eval()
    assert all(one[0].saliency == 0 for one in net.localization.each)
    here = net.localization(images)[..., 1:]
    there = net.localization(images.roll(4, dims=3))[..., 1:]  # one cell of the heat map to the right
    whole = images[..., -4:].sum((1, 2, 3)) == 0  # nothing came back in on the left
    near_edge = (here.abs().amax((1, 2)) > 0.6) | (there.abs().amax((1, 2)) > 0.6)
    kept = whole & ~near_edge
    assert kept.any()
    moved = torch.tensor([8 / 84, 0.0]).expand_as(here[kept])
    torch.testing.assert_close(there[kept] - here[kept], moved, rtol=0, atol=1e-3)  # the image's edge is felt a little


class Killed(Exception):
    pass


def test_a_killed_training_goes_on_and_ends_as_one_that_was_left_alone(tmp_path):
    images, _ = rings(4)
    search = Search(Recipe(epochs=6, lr=0.01, clip=1.0), alone=0.2, rise=0.5)

    class Dying(Blocks):
        calls = 0

        def forward(self, image):
            self.calls += 1
            if self.calls == 8:  # two a step
                raise Killed
            return super().forward(image)

    def train(code, checkpoint):
        net = colocalization_net(images, "attention", seed=3)
        options = {"checkpoint": checkpoint, "save_every": 0.0, "device": "cpu", "progress": False}
        return net, find_common(net, code, images, search, seed=3, **options)

    with pytest.raises(Killed):
        train(Dying(), tmp_path / "one")
    counting = Dying()
    counting.calls = 100  # so that it lives
    net, history = train(counting, tmp_path / "one")
    assert counting.calls == 100 + 2 * 3  # three steps were done already
    alone, expected = train(Blocks(), None)
    assert torch.equal(history.losses, expected.losses) and history.losses.isfinite().all()
    assert (history.clock.diff() > 0).all()
    assert all(torch.equal(one, other) for one, other in zip(net.parameters(), alone.parameters(), strict=True))
    where = {"checkpoint": tmp_path / "one", "device": "cpu", "progress": False}
    with pytest.raises(ValueError, match="of another training, with other seed"):
        find_common(net, Blocks(), images, search, seed=4, **where)
    torch.manual_seed(0)
    another = nn.Sequential(nn.Flatten(), nn.Linear(784, 8))
    with pytest.raises(ValueError, match="of another training, with other code"):
        find_common(net, another, images.mT.contiguous().mT, search, seed=3, **where)  # the same, in other order


def test_a_loss_that_is_not_finite_is_named_with_its_step():
    class Broken(Blocks):
        calls = 0

        def forward(self, image):
            self.calls += 1
            return super().forward(image) * (float("nan") if self.calls > 4 else 1)  # two a step

    images, _ = rings(4)
    net = colocalization_net(images, "blind", seed=0)
    with pytest.raises(FloatingPointError, match="a loss is not finite in step 2 of 5; try a smaller lr than 0.01"):
        find_common(net, Broken(), images, Search(Recipe(epochs=5, lr=0.01)), seed=0, device="cpu", progress=False)


@pytest.mark.parametrize("name, value", [("tries", 0), ("alone", -0.1), ("rise", float("nan")), ("shake", -1.0)])
def test_a_search_names_the_value_that_is_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"Search: {name} must be [01] or more, got"):
        Search(Recipe(), **{name: value})
    with pytest.raises(ValueError, match="Search: steps must be 1 or more, got 0"):
        Search(Recipe(epochs=0.3))


def test_while_likeness_counts_nothing_no_window_changes_its_size():
    images, _ = rings(4)
    net = colocalization_net(images, "attention", seed=0)
    search = Search(Recipe(epochs=4, lr=0.01, clip=1.0, weight_decay=0.0), alone=1.0)
    find_common(net, Blocks(), images, search, seed=0, device="cpu", progress=False)
    theta = net.localization(images)
    torch.testing.assert_close(theta[..., 0], torch.full_like(theta[..., 0], (SMALLEST + LARGEST) / 2))
    assert theta[..., 1:].abs().max() > 1e-4  # but they move


def test_one_image_has_nothing_in_common():
    images, _ = rings(2)
    net = colocalization_net(images, "attention", seed=0)
    with pytest.raises(ValueError, match="images: wanted at least 2, to find what they have in common, got 1"):
        find_common(net, Blocks(), images[:1], Search(Recipe()), seed=0)


def test_a_miss_is_a_digit_moved_so_far_that_its_window_is_wrong():
    x, y = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="xy")
    places = torch.stack([x, y, torch.ones_like(x)])  # an image whose pixels say where they are; 0 is outside
    torch.manual_seed(0)
    seen = missed(places.expand(4000, -1, -1, -1))
    whole = seen[:, 2] > 0.999  # no black mixed in
    shift = torch.stack([(seen[:, axis] - places[axis]) for axis in (0, 1)], dim=1)
    shift[~whole[:, None].expand_as(shift)] = float("nan")
    shift = shift.flatten(2).nanmean(2)[whole.flatten(1).any(1)]  # some see nothing at all
    assert 500 < len(shift) < 4000
    assert shift.abs().amax(1).min() > MISSED - 1e-3 and shift.abs().max() < 28
    assert shift.abs().amin(1).min() < 1  # the other way is any
    for axis in (0, 1):
        assert shift[:, axis].min() < -20 and shift[:, axis].max() > 20
    moved = torch.cat([shift, shift + 28], dim=1)
    assert box_iou(torch.tensor([[0.0, 0, 28, 28]]), moved).max() < 0.5


def test_the_code_is_taught_a_miss_of_every_digit_as_an_eleventh_class(monkeypatch):
    taught = []
    monkeypatch.setattr(colocalization, "fit", lambda net, train, *_, **options: taught.append((net, train, options)))
    digits = shades(each=3)
    code_digits(digits, seed=0, device="cpu", progress=False)
    ((net, train, options),) = taught
    assert options["augment"].func is jitter and options["augment"].keywords == {"strength": CODE_JITTER}
    assert torch.equal(train.images[:30], digits.images) and torch.equal(train.labels[:30], digits.labels)
    assert train.images.shape == (60, 1, 28, 28) and (train.labels[30:] == 10).all()
    assert net(train.images[:2]).shape == (2, 11)


def test_a_code_is_learnt_and_then_stays_as_it_is():
    digits = shades(each=30)
    code = code_digits(digits, seed=0, device="cpu", progress=False)
    assert not code.training and not any(p.requires_grad for p in code.parameters())
    again = code_digits(digits, seed=0, device="cpu", progress=False)
    assert torch.equal(code(digits.images[:10]), again(digits.images[:10]))
