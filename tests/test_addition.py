"""The addition of digits: sums and pairs by counting, images against one distortion at a time, nets by their sizes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from stn_helpers.addition import MODELS, PairImages, addition_net, draw_pairs, draw_sums
from stn_helpers.data import DigitData, Digits
from stn_helpers.distortions import distort_fixed, rotated_scaled_translated
from stn_helpers.experiments import addition
from stn_helpers.experiments.jobs import Job
from stn_helpers.results import load_weights, save_result
from stn_helpers.training import Recipe, fit


def blots(count: int) -> Digits:
    """A bright patch in the middle of every image, of a brightness of its own."""
    images = torch.zeros(count, 1, 28, 28)
    images[:, :, 8:20, 10:18] = torch.linspace(0.5, 1, count).view(-1, 1, 1, 1)
    return Digits(images, torch.arange(count) % 10)


@given(digits=st.integers(1, 30), count=st.integers(1, 80), seed=st.integers(0, 9))
def test_every_digit_is_drawn_as_often_as_any_other_or_once_more(digits, count, seed):
    pairs = draw_pairs(digits, count, seed)
    assert pairs.shape == (count, 2, 1, 1) and pairs.dtype == torch.int64
    for side in range(2):
        times = torch.bincount(pairs[:, side].flatten(), minlength=digits)
        assert len(times) == digits and times.max() - times.min() <= 1
    assert torch.equal(pairs, draw_pairs(digits, count, seed))


def test_pairs_follow_the_seed_and_no_epoch_is_like_another():
    pairs = draw_pairs(1000, 3000, seed=0).flatten(1)
    assert not torch.equal(pairs, draw_pairs(1000, 3000, seed=1).flatten(1))
    met = {tuple(pair) for pair in pairs.tolist()}
    assert len(met) > 2980  # chance: 3 pairs in a thousand come twice
    assert (pairs[:, 0] == pairs[:, 1]).sum() < 20  # ... and the two sides go their own ways


def test_drawing_leaves_torchs_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    draw_pairs(10, 10, seed=0)
    assert torch.equal(torch.rand(4), expected)


def test_labels_are_the_sums_of_what_the_two_digits_show():
    digits = blots(40)
    pairs, sums = draw_sums(digits, 100, seed=0)
    for (first, second), total in zip(pairs.flatten(1).tolist(), sums.tolist(), strict=True):
        assert total == first % 10 + second % 10


def test_each_digit_is_looked_up_and_distorted_on_its_own():
    digits = blots(8)
    pairs = torch.tensor([[0, 7], [3, 3]])[..., None, None]
    torch.manual_seed(0)
    images = PairImages(digits.images)(pairs)
    assert images.shape == (2, 2, 42, 42)
    torch.manual_seed(0)
    one_by_one = rotated_scaled_translated(digits.images[[0, 7, 3, 3]], 42)
    torch.testing.assert_close(images.flatten(0, 1), one_by_one[:, 0])
    torch.testing.assert_close(images.amax((2, 3)), digits.images[:, 0, 9, 12][pairs[..., 0, 0]])  # and in its place
    assert (images[1, 0] - images[1, 1]).abs().max() > 0.1  # the same digit twice, distorted differently


def test_a_test_set_can_be_made_again():
    make = PairImages(blots(8).images)
    pairs = draw_pairs(8, 12, seed=1)
    first = distort_fixed(pairs, make, seed=2)
    assert first.shape == (12, 2, 42, 42)
    assert torch.equal(first, distort_fixed(pairs, make, seed=2))


@pytest.mark.parametrize("model", MODELS)
def test_the_nets_have_as_many_parameters_and_every_one_of_them_learns(model):
    net = addition_net(model)
    assert 390_000 < sum(p.numel() for p in net.parameters()) < 410_000
    net(torch.rand(3, 2, 42, 42)).logsumexp(1).sum().backward()
    still = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    # Below the head, whose weights start at zero, nothing moves in the first step.
    assert all(name.startswith("transformer.localization") for name in still)
    head = [p for name, p in net.named_parameters() if name.startswith("transformer.localization")][-1:]
    assert all(p.grad.any() for p in head)


@pytest.mark.parametrize("model", ["st_fcn_affine", "2xst_fcn_projective", "2xst_fcn_tps"])
def test_a_fresh_net_with_transformers_sees_what_one_without_sees(model):
    images = torch.rand(2, 2, 42, 42)
    whole = F.avg_pool2d(F.interpolate(images, (56, 56), mode="bilinear"), 2)
    net = addition_net(model)
    seen = net.shrink(net.channels(net.transformer(images)))
    assert seen.shape == (2, 4 if model.startswith("2x") else 2, 28, 28)
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # at the very edge the sampler sees the black outside
    for window in seen.split(2, dim=1):
        torch.testing.assert_close(window[inside], whole[inside], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("row", "column", "places"), [(0, 0, 25), (0, 14, 45), (14, 14, 81)])
def test_the_cnns_black_frame_shows_the_edge_to_its_filters_at_more_places(row, column, places):
    net = addition_net("cnn").eval()
    seen = torch.zeros(1, 2, 28, 28)
    framed = net.frame(seen)
    assert framed.shape == (1, 2, 36, 36) and not framed.any()
    seen[..., row, column] = 1.0
    before, after = (net.classifier[0](net.standardize(image)) for image in (framed, net.frame(seen)))
    assert ((after - before).abs().amax(1) > 0).sum() == places


def test_the_seed_decides_the_weights():
    first, again, other = (addition_net("fcn", seed) for seed in (0, 0, 1))
    assert torch.equal(first.classifier[1].weight, again.classifier[1].weight)
    assert not torch.equal(first.classifier[1].weight, other.classifier[1].weight)


def test_a_training_takes_pairs_by_number():
    digits = blots(20)
    train = draw_sums(digits, 64, seed=0)
    net = addition_net("2xst_fcn_affine")
    history = fit(
        net, train, Recipe(batch_size=8), seed=0, augment=PairImages(digits.images), device="cpu", progress=False
    )
    assert history.steps == 8 and history.losses.isfinite().all()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="model: wanted one of fcn, cnn, st_fcn_affine"):
        addition_net("st_cnn_affine")
    with pytest.raises(ValueError, match="digits and count: wanted at least 1 of each, got 5 and 0"):
        draw_pairs(5, 0, seed=0)


# The experiment -----------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("STN_RESULTS", str(tmp_path))
    return tmp_path


def test_a_fixed_test_set_holds_every_digit_once_on_either_side():
    digits = blots(30)
    test = addition.fixed_sums(digits)
    assert torch.equal(test.images, addition.fixed_sums(digits).images)
    brightness = test.images.amax((2, 3)).sort(dim=0).values
    torch.testing.assert_close(brightness, torch.linspace(0.5, 1, 30)[:, None].expand(-1, 2))
    assert test.labels.sum() == 2 * digits.labels.sum()


def test_the_published_figures_are_those_of_the_paper():
    assert {"fcn": 47.7, "cnn": 14.7, "st_fcn": 18.5, "2xst_fcn": 5.8} == addition.PUBLISHED  # table 4
    assert {addition.kind_of(model) for model in MODELS} == set(addition.PUBLISHED)


def test_a_job_measures_the_error_on_the_test_set_and_keeps_a_net(results, monkeypatch):
    data = DigitData(blots(50), blots(20), "mnist")
    monkeypatch.setattr(addition, "HELD_BACK", 10)
    monkeypatch.setattr(addition, "load_digits", lambda source: data)
    monkeypatch.setitem(addition.EPOCHS, "2xst_fcn", 7)
    job = Job("addition", addition.STORED, "", 0, addition.measure)
    figures = addition.measure(job, "cpu")
    assert figures["steps"] == 7 * 40 // 128 and len(figures["losses"]) == figures["steps"]
    net = addition_net(addition.STORED, seed=5)
    load_weights(f"addition/{addition.STORED}_0", net)
    test = addition.fixed_sums(data.test)
    wrong = (net.eval()(test.images).argmax(1) != test.labels).float().mean()
    assert figures["error"] == pytest.approx(100 * float(wrong), abs=5.01)  # stored in half precision: a tie may tip


def test_the_table_sets_ours_beside_theirs(results):
    assert addition.table() == "addition: nothing measured yet"
    for seed, error in enumerate((5.0, 6.0)):
        save_result(f"addition/2xst_fcn_tps_{seed}", {"error": error}, seeds=[seed], command="-")
    assert addition.errors("2xst_fcn_tps") == [5.0, 6.0]
    line = addition.table().splitlines()[-1].split()
    assert line == ["2xst_fcn_tps", "2", "5.50", "±", "0.71", "5.8", "-0.30"]
