"""Several windows in parallel, each for a part of what is to be told apart: the paper's table 3.

Jaderberg et al. 2015, section 4.3. Measured on CUB-200-2011 ("cub") where its folder is at hand, and on creatures with two
parts made of MNIST's digits ("synthetic"), whose figures cannot be compared with the published ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stn_helpers.backbones import RESNET_FEATURES, pretrained_file, resnet_features, small_features
from stn_helpers.birds import Birds, birds_folder, load_birds
from stn_helpers.data import Digits, load_digits, split_validation
from stn_helpers.experiments.jobs import Experiment, Job, checkpoint_path, stored_seeds
from stn_helpers.experiments.tables import columns, spread
from stn_helpers.parts import (
    MODELS,
    PART,
    SCALE,
    SIDE,
    CreatureImages,
    PartsNet,
    draw_creatures,
    part_digits,
    parts_net,
)
from stn_helpers.results import load_result, save_weights
from stn_helpers.training import Recipe, fit, predict

__all__ = ["PUBLISHED", "RECIPES", "held", "look", "fixed_creatures", "whole_parts"]

PUBLISHED = {"cnn": 82.3, "2x": 83.9, "4x": 84.1}
"""Accuracy on CUB-200-2011 in percent of nets trained on ImageNet before, the CNN at 224 pixels, the others at 448."""
CREATURES = 120_000
"""Training creatures, every one of them different."""
TESTED, HELD_BACK = 5000, 2500
"""Test creatures; digits of the training set that no net trains on, to make choices on."""
BIRD_SIDE = 448
RECIPES = {
    "synthetic": Recipe(batch_size=32, lr=0.004, localization_lr=0.25, clip=1.0),
    "cub": Recipe(epochs=30, batch_size=16, lr=0.0005, localization_lr=0.01, clip=1.0),
}
PROBES = 4
"""Of so many test images, θ of every window is kept."""
SLICE = 100  # test images made at a time


class Batch(NamedTuple):
    """A part of a test set."""

    images: Tensor
    """B×C×S×S in [0, 1]."""
    labels: Tensor
    """B int64."""
    places: Tensor | None
    """B×2×2, the middles of head and tail; None where it is no creature."""


class Task(NamedTuple):
    """What there is to learn."""

    train: Digits
    """Numbers in place of images, and labels."""
    augment: Callable[[Tensor], Tensor]
    """From numbers to images."""
    validation: Callable[[], Iterator[Batch]]
    """Goes through the images held back from training."""
    test: Callable[[], Iterator[Batch]]
    """Goes through the test set."""
    net: Callable[[str, int], nn.Module]
    """From a model's name and a seed to the net."""
    backbone: str
    """What looks into the windows."""


def creatures_task(seed: int) -> Task:
    """Creatures made of the digits of MNIST's training set; for the test, of those of its test set."""
    digits = load_digits("mnist")
    train, validation = split_validation(part_digits(digits.train), HELD_BACK)
    return Task(
        draw_creatures(train, CREATURES, seed),
        CreatureImages(train.images),
        partial(fixed_creatures, validation, TESTED),
        partial(fixed_creatures, part_digits(digits.test), TESTED),
        parts_net,
        "small",
    )


def fixed_creatures(parts: Digits, count: int) -> Iterator[Batch]:
    """A fixed set of creatures, a hundred at a time. Torch's random numbers are left as they were.

    Args:
        parts: what `stn_helpers.parts.part_digits` makes.
        count: how many creatures.
    """
    drawn, make = draw_creatures(parts, count, seed=0), CreatureImages(parts.images)
    for number, (pairs, labels) in enumerate(zip(drawn.images.split(SLICE), drawn.labels.split(SLICE), strict=True)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            images, places = make.creatures(pairs)
        yield Batch(images, labels, places)


class BirdImages:
    """Decodes photographs by number and mirrors half of them: an ``augment`` for `fit`."""

    def __init__(self, birds: Birds) -> None:
        self.birds = birds

    def __call__(self, numbers: Tensor) -> Tensor:
        """B×1×1×1 numbers → B×3×448×448 in [0, 1]."""
        images = self.birds.images(numbers, BIRD_SIDE)
        mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        return torch.where(mirrored, images.flip(3), images)


def birds_task(seed: int) -> Task:
    """The photographs of CUB-200-2011, seen by ResNets that know ImageNet where their weights are at hand."""
    birds, weights = load_birds(), pretrained_file()
    numbers = birds.numbers(training=True)
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))
    held, kept = numbers[order[: len(order) // 10]], numbers[order[len(order) // 10 :]]
    if weights is None:
        backbone, features = partial(small_features, 3), {}
    else:
        backbone, features = partial(resnet_features, weights), {"features": RESNET_FEATURES}
    return Task(
        Digits(kept.view(-1, 1, 1, 1), birds.labels[kept]),
        BirdImages(birds),
        partial(photographs, birds, held),
        partial(photographs, birds, birds.numbers(training=False)),
        partial(parts_net, side=BIRD_SIDE, channels=3, classes=len(birds.classes), backbone=backbone, **features),
        "small" if weights is None else "resnet18",
    )


def photographs(birds: Birds, numbers: Tensor) -> Iterator[Batch]:
    """Photographs and their classes, a few at a time."""
    for part in numbers.split(20):
        yield Batch(birds.images(part, BIRD_SIDE), birds.labels[part], None)


TASKS = {"synthetic": creatures_task, "cub": birds_task}


class Looked(NamedTuple):
    """What a net made of a test set of N images."""

    right: Tensor
    """Whether it named the class, N bool."""
    theta: Tensor | None
    """N×windows×2, the middle of each; None of a net without windows."""
    places: Tensor | None
    """N×2×2, the middles of head and tail; None where it is no creature."""


def look(net: nn.Module, batches: Iterator[Batch]) -> Looked:
    """Where a net looks and what it says, in evaluation."""
    device, seen = next(net.parameters()).device, []
    for images, labels, places in batches:
        theta = None
        if isinstance(net, PartsNet):
            theta = predict(net.transformer.localization, images.to(device)).cpu()
        right = predict(net, images.to(device)).argmax(1).cpu() == labels
        seen.append((right, theta, places))
    return Looked(*(None if part[0] is None else torch.cat(part) for part in zip(*seen, strict=True)))


def whole_parts(theta: Tensor, places: Tensor) -> Tensor:
    """How often each window has the whole of each part within it.

    Args:
        theta: N×windows×2, middles of windows, (x, y) in [-1, 1].
        places: N×2×2, middles of head and of tail.

    Returns:
        windows×2, shares in [0, 1]: of the images in which the head lies within the window; the tail.
    """
    off = (theta[:, :, None] - places[:, None]).abs().amax(3)  # across or down, whichever is more
    return (off <= SCALE - PART / SIDE).double().mean(0)


def watched(looked: Looked) -> dict:
    """What the windows watch: θ of a few images, its mean and standard deviation, and how often each has which part."""
    if looked.theta is None:
        return {}
    figures = {
        "theta of probes": looked.theta[:PROBES].tolist(),
        "theta mean": looked.theta.mean(0).tolist(),
        "theta deviation": looked.theta.std(0).tolist(),
    }
    if looked.places is not None:
        figures["places of probes"] = looked.places[:PROBES].tolist()
        figures["whole parts"] = whole_parts(looked.theta, looked.places).tolist()
    return figures


def measure(job: Job, device: str) -> dict:
    """Train the net of a job; its accuracy on images held back from training and on the test set; what its windows watch."""
    task, recipe = TASKS[job.data](job.seed), RECIPES[job.data]
    net = task.net(job.model, job.seed)
    history = fit(
        net,
        task.train,
        recipe,
        seed=job.seed,
        augment=task.augment,
        checkpoint=checkpoint_path(job),
        save_every=30.0,
        device=device,
    )
    validated, tested = look(net, task.validation()), look(net, task.test())
    if job.data == "synthetic" and job.seed == 0 and isinstance(net, PartsNet):
        save_weights(f"parts/{job.model}_{job.data}_0", net.cpu(), torch.float16)
    return {
        "accuracy": float(tested.right.double().mean()),
        "validation accuracy": float(validated.right.double().mean()),
        "training images": len(task.train.labels),
        "test images": len(tested.right),
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in net.parameters()),
        "steps": history.steps,
        "seconds": history.seconds,
        "losses": history.curve(),
        "backbone": task.backbone,
        **watched(tested),
    }


def held(figures: dict) -> str:
    """For each window how often it has head and tail within it, in percent: "92/3 5/90"."""
    return " ".join("/".join(f"{100 * share:.0f}" for share in window) for window in figures.get("whole parts", ())) or "-"


def table() -> str:
    """Test accuracy in percent, mean ± standard deviation over the seeds, one line for each net, kind of images and backbone.

    Raises:
        ValueError: a record is damaged.
    """
    rows = [("model", "data", "backbone", "seeds", "ours", "published", "head/tail within each window, first seed")]
    for data in TASKS:
        for model in MODELS:
            seeds = stored_seeds("parts", model, data)
            figures = [load_result(f"parts/{model}_{data}_{seed}")["figures"] for seed in seeds]
            published = f"{PUBLISHED[model]}" if data == "cub" and model in PUBLISHED else "-"
            for backbone in sorted({one["backbone"] for one in figures}):
                same = [one for one in figures if one["backbone"] == backbone]
                ours = spread([100 * one["accuracy"] for one in same])
                rows.append((model, data, backbone, f"{len(same)}", ours, published, held(same[0])))
    if len(rows) == 1:
        return "parts: nothing measured yet"
    return f"windows in parallel, one for each part; test accuracy in percent\n{columns(rows)}"


def cells() -> tuple[tuple[str, str], ...]:
    """Every model on every kind of data; birds where their folder is at hand."""
    return tuple((model, data) for data in TASKS if data == "synthetic" or birds_folder() for model in MODELS)


EXPERIMENT = Experiment(
    name="parts",
    words="two small parts decide the class: 1, 2 and 4 windows in parallel",
    cells=cells(),
    seeds=(0, 1, 2),
    measure=measure,
    table=table,
)
