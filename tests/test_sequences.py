"""The experiment on house numbers: its errors, one small run of it, its table."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_house_numbers import small_digits

from stn_helpers.experiments import sequences
from stn_helpers.experiments.sequences import EXPERIMENT, errors_by_length, read, sequence_error, table
from stn_helpers.house_numbers import HouseNumbers, NumberPictures, random_numbers
from stn_helpers.number_readers import number_reader, up_to_last_transformer
from stn_helpers.results import load_weights, save_result
from stn_helpers.svhn import BLANK
from stn_helpers.training import Recipe, fit, predict


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("STN_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


@given(count=st.integers(1, 40), wrong=st.floats(0, 0.5), seed=st.integers(0, 9))
def test_a_number_is_right_if_every_digit_and_its_end_are(count, wrong, seed):
    labels = random_numbers(torch.arange(10), count, seed).labels
    generator = torch.Generator().manual_seed(seed)
    mistaken = torch.rand(count, 5, generator=generator) < wrong
    seen = torch.where(mistaken, (labels + 1) % 11, labels)
    rows = [(ours == its).all() for ours, its in zip(seen.numpy(), labels.numpy(), strict=True)]
    assert sequence_error(seen, labels) == pytest.approx(100 * (1 - np.mean(rows)), abs=1e-9)
    by_length = errors_by_length(seen, labels)
    lengths = [len([label for label in row if label != BLANK]) for row in labels.tolist()]
    assert by_length.keys() == set(map(str, lengths))
    for length, error in by_length.items():
        of_it = [right for right, its in zip(rows, lengths, strict=True) if its == int(length)]
        assert error == pytest.approx(100 * (1 - np.mean(of_it)), abs=1e-9)


def test_what_is_read_depends_on_the_seed_alone(monkeypatch):
    digits = small_digits(10, 0)
    numbers = random_numbers(digits.labels, 7, 0)
    net, picture = number_reader("cnn", 64), NumberPictures(digits.images, 64)
    pictures, seen = [], []

    def keep(net, images, batch_size):
        pictures.append(images)
        return predict(net, images, batch_size)

    monkeypatch.setattr(sequences, "predict", keep)
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        state = torch.get_rng_state()
        seen.append(read(net, numbers.images, picture, seed))
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[0], pictures[2])
    assert torch.equal(seen[0], seen[1]) and seen[0].shape == (7, 5)
    monkeypatch.setattr(sequences, "SLICE", 3)
    del pictures[:]
    read(net, numbers.images, picture)
    assert [len(part) for part in pictures] == [3, 3, 1]
    assert not torch.equal(pictures[0][:1], pictures[1][:1])


def test_a_small_run_from_training_to_record(folder, monkeypatch):
    digits = small_digits(12, 0)
    train, validation, test = (random_numbers(digits.labels, count, seed) for seed, count in enumerate((40, 6, 8)))
    numbers = HouseNumbers(train, validation, test, "synthetic (mnist)", NumberPictures(digits.images, 64))
    asked = []
    monkeypatch.setattr(sequences, "load_house_numbers", lambda size: (asked.append(size), numbers)[1])
    monkeypatch.setitem(sequences.RECIPES, "64", Recipe(epochs=1, batch_size=10, lr=0.001, localization_lr=0.1))
    monkeypatch.setattr(sequences, "fit", lambda *given, **kwargs: fit(*given, **kwargs, progress=False))
    (job,) = [job for job in EXPERIMENT.jobs([0]) if job.name == "sequences/st_cnn_multi_64_0"]
    made = []
    monkeypatch.setattr(sequences, "number_reader", lambda *given: (made.append(number_reader(*given)), made[0])[1])
    figures = job.measure(job, "cpu")
    assert asked == [64] and figures["source"] == "synthetic (mnist)"
    assert 0 <= figures["error"] <= 100 and len(figures["losses"]) == 4 and figures["recipe"]["localization_lr"] == 0.1
    assert figures["validation error"] in [100 * wrong / 6 for wrong in range(7)]  # of six numbers held back
    assert len(json.dumps(figures)) < 5000
    front = up_to_last_transformer(number_reader("st_cnn_multi", 64, seed=5)).eval()
    assert [name for name, _ in front.named_children()][-1] == "transformer4"
    load_weights("sequences/st_cnn_multi_64_0", front)
    pictures = numbers.picture(test.images)
    before = made[0][: len(front)](pictures)
    torch.testing.assert_close(front(pictures), before, rtol=0.05, atol=0.02)  # the weights are kept in half precision


def record(model: str, data: str, seed: int, error: float, source: str) -> None:
    figures = {"error": error, "source": source, "parameters": 1_135_707}
    save_result(f"sequences/{model}_{data}_{seed}", figures, seeds=[seed], command="python c")


def test_the_table_names_the_source_and_never_mixes_two(folder):
    assert table() == "sequences: nothing measured yet"
    record("cnn", "64", 0, 5.0, "svhn")
    assert "compared" not in table()
    record("cnn", "64", 1, 2.0, "synthetic (mnist)")
    record("cnn", "64", 2, 3.0, "synthetic (mnist)")
    record("st_cnn_multi", "128", 0, 1.25, "synthetic (sklearn)")
    lines = [line.split() for line in table().splitlines()]
    assert ["cnn", "64", "svhn", "1,135,707", "1", "5.00", "4.0"] in lines
    assert ["cnn", "64", "synthetic", "(mnist)", "1,135,707", "2", "2.50", "±", "0.71", "4.0"] in lines
    assert ["st_cnn_multi", "128", "synthetic", "(sklearn)", "1,135,707", "1", "1.25", "3.9"] in lines
    assert ["dram", "128", "-", "-", "-", "-", "4.5"] in lines and ["maxout", "64", "-", "-", "-", "-", "4.0"] in lines
    assert not any(line[:2] == ["maxout", "128"] for line in lines)
    assert "cannot be compared" in table().splitlines()[-1]


def test_cells_are_three_nets_at_two_sizes():
    names = [job.name for job in EXPERIMENT.jobs([0])]
    assert names == [f"sequences/{model}_{data}_0" for data in ("64", "128")
                     for model in ("cnn", "st_cnn_single", "st_cnn_multi")]  # fmt: skip
    assert set(sequences.RECIPES) == {data for _, data in EXPERIMENT.cells}
    assert all(recipe.localization_lr == 0.1 for recipe in sequences.RECIPES.values())
