"""The nets that read house numbers: what they are made of, how they begin, that they learn."""

import pytest
import torch
from torch import nn

from stn_helpers import training
from stn_helpers.data import Digits
from stn_helpers.house_numbers import NumberPictures, random_numbers
from stn_helpers.number_readers import MODELS, number_reader, up_to_last_transformer
from stn_helpers.spatial_transformer import SpatialTransformer
from stn_helpers.training import Recipe, evaluate, fit


def parts_of(net: nn.Module, kind: type) -> list[str]:
    return [name for name, part in net.named_modules() if isinstance(part, kind)]


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_eleven_hidden_layers_and_five_answers_of_eleven_classes():
    for model in MODELS:
        net = number_reader(model, 64)
        weighty = [name for name in parts_of(net, nn.Conv2d | nn.Linear) if "localization" not in name]
        assert len(weighty) == 12  # eleven and the heads
        convolutions = [part for part in net.modules() if isinstance(part, nn.Conv2d)]
        assert all(part.kernel_size == (5, 5) and part.padding == (2, 2) for part in convolutions)
        assert net.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 11, 5)


@pytest.mark.parametrize(("size", "millions"), [(64, (0.61, 0.63, 0.75)), (128, (1.20, 1.22, 1.34))])
def test_parameters(size, millions):
    nets = [number_reader(model, size) for model in MODELS]
    assert tuple(round(parameters(net) / 1e6, 2) for net in nets) == millions
    with torch.inference_mode():
        assert all(net.eval()(torch.rand(1, 3, size, size)).shape == (1, 11, 5) for net in nets)


def test_where_the_transformers_stand_and_what_they_see():
    where = {model: parts_of(number_reader(model, 64), SpatialTransformer) for model in MODELS}
    four = [f"transformer{layer}" for layer in (1, 2, 3, 4)]
    assert where == {"cnn": [], "st_cnn_single": four[:1], "st_cnn_multi": four}
    net, seen = number_reader("st_cnn_multi", 64).eval(), {}
    for name, part in net.named_children():
        part.register_forward_hook(lambda _, given, __, name=name: seen.update({name: tuple(given[0].shape[1:])}))
    net(torch.rand(1, 3, 64, 64))
    names = list(seen)
    for layer, shape in enumerate([(3, 64, 64), (12, 32, 32), (16, 32, 32), (32, 16, 16)], start=1):
        assert seen[f"transformer{layer}"] == shape
        assert names.index(f"transformer{layer}") < names.index(f"convolution{layer}")
    assert names.index("transformer1") < names.index("standardize") < names.index("convolution1")
    assert seen["convolution8"] == (48, 4, 4) and seen["flatten"] == (48, 4, 4)


@pytest.mark.parametrize("model", MODELS[1:])
def test_before_training_the_transformers_change_nothing(model):
    cnn, net = number_reader("cnn", 64, seed=1), number_reader(model, 64, seed=2)  # batch norm makes signals strong
    missing, unexpected = net.load_state_dict(cnn.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("transformer") for name in missing)
    images = torch.rand(4, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(net(images), cnn(images), atol=1e-3, rtol=0)
        last = [name for name, _ in net.named_parameters() if "localization" in name][-1]
        net.get_parameter(last)[2] += 0.5  # the bias of t_x
        assert not torch.allclose(net(images), cnn(images), atol=1e-2)  # they are not just passed by


def test_every_localization_network_learns_at_the_smaller_rate():
    net = number_reader("st_cnn_multi", 64)
    rest, localization = (set(map(id, group["params"])) for group in training._groups(net))
    own = {id(p) for name, p in net.named_parameters() if ".localization." in name}
    assert localization == own and len(own) == 4 * 6 and not rest & own
    assert len(rest) + len(own) == len(list(net.parameters()))


def test_the_seed_fixes_the_weights():
    one, same, other = (number_reader("st_cnn_multi", 64, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["convolution1.0.weight"], other["convolution1.0.weight"])


@pytest.mark.parametrize("model", MODELS)
def test_each_net_can_learn_a_few_numbers_by_heart(model):
    digits = torch.nn.functional.pad(torch.eye(10)[:, None, :, None].repeat(1, 1, 2, 16), (6, 6, 4, 4))  # bars
    numbers = random_numbers(torch.arange(10), 16, seed=0)
    torch.manual_seed(0)
    pictures = NumberPictures(digits, 64)(numbers.images)
    net, train = number_reader(model, 64), Digits(pictures, numbers.labels)
    recipe = Recipe(epochs=90, batch_size=16, lr=0.003, localization_lr=0.1, label_smoothing=0.0)
    losses = fit(net, train, recipe, seed=0, device="cpu", progress=False).losses
    assert losses[0] > 2 and losses[-1] < 0.1 and evaluate(net, train) > 0.7
    moved = [name for name, p in net.named_parameters() if ".localization." in name and p.grad.abs().max() > 0]
    assert len({name.split(".")[0] for name in moved}) == len(parts_of(net, SpatialTransformer))


@pytest.mark.parametrize(("model", "size", "message"), [("fcn", 64, "model: wanted one of cnn, st_cnn_single"),
                                                        ("cnn", 72, "size: wanted a multiple of 16.*got 72"),
                                                        ("cnn", 0, "size: wanted a multiple of 16")])  # fmt: skip
def test_other_nets_are_refused(model, size, message):
    with pytest.raises(ValueError, match=message):
        number_reader(model, size)


def test_a_net_without_a_transformer_has_no_part_that_looks():
    with pytest.raises(ValueError, match="net: wanted a number reader with a transformer"):
        up_to_last_transformer(number_reader("cnn", 64))
