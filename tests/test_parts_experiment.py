"""The experiment with parts, small: creatures and a made tree of birds, what windows hold, the table."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stn_helpers.birds import FOLDER
from stn_helpers.data import DigitData, Digits
from stn_helpers.experiments import parts as experiment
from stn_helpers.experiments.jobs import Job
from stn_helpers.parts import MODELS, PART, SIDE, part_digits, parts_net
from stn_helpers.results import load_weights, save_result
from stn_helpers.training import Recipe


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("STN_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


def blots(count: int, seed: int) -> Digits:
    generator = torch.Generator().manual_seed(seed)
    return Digits(torch.rand(count, 1, 28, 28, generator=generator).round(), torch.arange(count) % 10)


def test_a_fixed_set_of_creatures_is_always_the_same():
    parts = part_digits(blots(40, seed=0))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again = (list(experiment.fixed_creatures(parts, count=150)) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert [len(batch.labels) for batch in first] == [100, 50]
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(first[0].images[:50], first[1].images)


def test_a_part_counts_where_all_its_pixels_lie_within_the_window():
    generator = torch.Generator().manual_seed(0)
    theta = 2 * torch.rand(200, 3, 2, generator=generator) - 1
    places = 1.6 * torch.rand(200, 2, 2, generator=generator) - 0.8
    held = torch.zeros(3, 2)
    for windows, parts in zip(SIDE / 2 * theta, SIDE / 2 * places, strict=True):  # pixels from the image's middle
        for n, window in enumerate(windows):
            for p, part in enumerate(parts):
                low, high = window - SIDE / 4, window + SIDE / 4
                held[n, p] += bool((part - PART / 2 >= low).all() and (part + PART / 2 <= high).all())
    assert held.min() > 10
    torch.testing.assert_close(experiment.whole_parts(theta, places), held.double() / 200)


def test_a_job_on_creatures_says_what_its_windows_watch(results, monkeypatch):
    data = DigitData(blots(60, seed=0), blots(40, seed=1), "mnist")
    monkeypatch.setattr(experiment, "load_digits", lambda source: data)
    for name, value in {"CREATURES": 16, "HELD_BACK": 10, "TESTED": 50}.items():
        monkeypatch.setattr(experiment, name, value)
    monkeypatch.setitem(experiment.RECIPES, "synthetic", Recipe(batch_size=8))
    figures = experiment.measure(Job("parts", "2x", "synthetic", 0, experiment.measure), "cpu")
    json.dumps(figures)
    assert figures["steps"] == 2 and figures["test images"] == 50 and figures["backbone"] == "small"
    assert len(json.dumps(figures)) < 4000
    theta = torch.tensor(figures["theta mean"])
    torch.testing.assert_close(theta, torch.tensor([[-0.5, 0.0], [0.5, 0.0]]), rtol=0, atol=0.1)  # hardly moved
    assert np.shape(figures["theta of probes"]) == (4, 2, 2) == np.shape(figures["places of probes"])
    assert np.shape(figures["whole parts"]) == (2, 2)

    net = parts_net("2x", seed=7)
    load_weights("parts/2x_synthetic_0", net)  # in half precision
    again = experiment.look(net, experiment.fixed_creatures(part_digits(data.test), 50))
    torch.testing.assert_close(again.theta.mean(0), theta, rtol=0, atol=0.01)
    assert abs(float(again.right.float().mean()) - figures["accuracy"]) <= 0.04


@pytest.fixture
def birds(tmp_path, monkeypatch) -> Path:
    """Sixteen photographs of two classes in the format of the data set."""
    monkeypatch.setenv("STN_DATA", str(tmp_path))
    folder = tmp_path / FOLDER
    (folder / "images").mkdir(parents=True)
    for number in range(1, 17):
        pixels = np.full((40, 50, 3), 100 + 10 * (number % 2), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.jpg")
    lines = {
        "images.txt": "{0} {0}.jpg",
        "image_class_labels.txt": "{0} {1}",
        "train_test_split.txt": "{0} {2}",
    }
    for name, line in lines.items():
        text = "\n".join(line.format(number, 1 + number % 2, int(number <= 12)) for number in range(1, 17))
        (folder / name).write_text(text)
    (folder / "classes.txt").write_text("1 even\n2 odd")
    return folder


def test_a_job_on_birds_reads_their_folder(results, birds, monkeypatch):
    monkeypatch.setattr(experiment, "BIRD_SIDE", 64)
    monkeypatch.setitem(experiment.RECIPES, "cub", Recipe(batch_size=4))
    if experiment.pretrained_file() is not None:
        pytest.skip("the weights of the ResNet lie in data/")
    figures = experiment.measure(Job("parts", "4x", "cub", 0, experiment.measure), "cpu")
    assert (figures["training images"], figures["test images"], figures["backbone"]) == (11, 4, "small")
    assert np.shape(figures["theta of probes"]) == (4, 4, 2)
    assert "whole parts" not in figures
    assert not (results / "parts").exists()  # nets on birds are too large to keep


def test_birds_are_among_the_cells_where_their_folder_is(birds, tmp_path, monkeypatch):
    synthetic = tuple((model, "synthetic") for model in MODELS)
    assert experiment.cells() == synthetic + tuple((model, "cub") for model in MODELS)
    monkeypatch.setenv("STN_DATA", str(tmp_path / "elsewhere"))
    if experiment.birds_folder() is None:
        assert experiment.cells() == synthetic


def test_mirroring_is_of_half_the_photographs():
    class Asymmetric:
        def images(self, numbers, size):
            return torch.arange(2.0).expand(len(numbers), 3, 2, 2)

    torch.manual_seed(0)
    images = experiment.BirdImages(Asymmetric())(torch.zeros(400, 1, 1, 1).long())
    mirrored = images[:, 0, 0, 0] == 1
    assert torch.equal(images[:, 0, 0, 1] == 0, mirrored)
    assert 0.4 < mirrored.float().mean() < 0.6


def test_the_table_sets_published_figures_beside_those_on_birds_alone(results):
    assert experiment.table() == "parts: nothing measured yet"
    windows = {"backbone": "small", "whole parts": [[0.915, 0.03], [0.05, 0.9]]}
    save_result("parts/2x_synthetic_0", {"accuracy": 0.5, **windows}, seeds=[0], command="-")
    save_result("parts/2x_synthetic_1", {"accuracy": 0.6, **windows}, seeds=[1], command="-")
    save_result("parts/cnn_cub_0", {"accuracy": 0.8, "backbone": "resnet18"}, seeds=[0], command="-")
    save_result("parts/cnn_cub_1", {"accuracy": 0.2, "backbone": "small"}, seeds=[1], command="-")
    _, _, synthetic, cub, other = experiment.table().splitlines()
    assert synthetic.split() == ["2x", "synthetic", "small", "2", "55.00", "±", "7.07", "-", "92/3", "5/90"]
    assert cub.split() == ["cnn", "cub", "resnet18", "1", "80.00", "82.3", "-"]  # table 3
    assert other.split() == ["cnn", "cub", "small", "1", "20.00", "82.3", "-"]
