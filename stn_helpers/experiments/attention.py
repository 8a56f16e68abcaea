"""The attention benchmark: 3 contrasts × 9 eccentricities, ours beside the published tables.

Images and tables: "Getting the attention of your spatial transformer" and its author's notebooks.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import partial
from statistics import mean

import torch
from torch import Tensor, nn

from stn_helpers.data import Digits, load_digits
from stn_helpers.experiments.jobs import Experiment, Job, checkpoint_path, stored_seeds
from stn_helpers.experiments.tables import columns, spread
from stn_helpers.networks import FIELD_MEAN, FIELD_STD, SearchingSTN, Standardize, field_stn, lenet
from stn_helpers.noisy_field import (
    Field,
    field_theta,
    motion_clouds,
    noisy_field,
    polar_shift,
    random_field,
)
from stn_helpers.results import load_result, save_weights
from stn_helpers.sampling import sample
from stn_helpers.training import Recipe, fit, predict
from stn_helpers.transforms import Affine, Attention

__all__ = ["CEILINGS", "CONTRASTS", "ECCENTRICITIES", "MODELS", "PUBLISHED", "RECIPES", "field_cell", "look", "off_target", "true_crop"]

CONTRASTS = (0.7, 0.5, 0.3)
"""Contrasts of the digits in the test images."""
ECCENTRICITIES = tuple(40 * k / 9 for k in range(1, 10))
"""Pixels from the middle of the field, 4.4, 8.9, … 40."""

PUBLISHED = {
    "affine": {
        0.7: (0.9715, 0.9657, 0.9628, 0.9650, 0.9623, 0.9621, 0.9572, 0.9548, 0.9558),
        0.5: (0.9548, 0.9553, 0.9539, 0.9533, 0.9509, 0.9433, 0.9483, 0.9424, 0.9433),
        0.3: (0.7656, 0.7598, 0.7455, 0.7433, 0.7367, 0.7242, 0.7422, 0.7437, 0.6892),
    },
    "attention": {
        0.7: (0.9606, 0.9509, 0.9417, 0.9324, 0.9224, 0.9218, 0.9147, 0.9335, 0.9456),
        0.5: (0.9314, 0.9316, 0.9248, 0.9334, 0.9258, 0.9152, 0.9177, 0.9179, 0.9264),
        0.3: (0.7122, 0.6868, 0.6760, 0.6779, 0.6871, 0.6744, 0.6549, 0.6768, 0.6111),
    },
}
"""Test accuracy of the author's two nets, by contrast, in the order of `ECCENTRICITIES`."""

CEILINGS = {"ceiling": 0.0, "ceiling_half_pixel": 0.5, "ceiling_one_pixel": 1.0}
"""Classifiers that are told where to look. The windows of all but the first waver about the true place, in training and in
test: normally distributed, with this standard deviation in pixels across, and the same down."""
MODELS = ("attention", "affine", *CEILINGS)
"""The two nets, and what is told the place and only reads."""
RECIPES = dict.fromkeys(MODELS, Recipe(epochs=12, lr=0.004, clip=1.0))
MISSED = 5.0
"""A window whose centre is further than this from the digit's, in pixels, has missed it."""


def build(model: str, seed: int) -> nn.Module:
    """The net of a job, with its first weights."""
    if model not in CEILINGS:
        return field_stn({"attention": Attention(), "affine": Affine()}[model], seed)
    torch.manual_seed(seed)
    return nn.Sequential(Standardize(FIELD_MEAN, FIELD_STD), lenet())


def true_crop(field: Field, digit: int = 28, waver: float = 0.0) -> Tensor:
    """What a window that is told the place sees.

    Args:
        field: B×1×S×S images, and where the digits are.
        digit: side of the digits and of the window in pixels.
        waver: standard deviation of the window about the true place, in pixels, across and down. Drawn from torch's random
            numbers.

    Returns:
        B×1×digit×digit. Without ``waver`` every pixel of it is a pixel of the field.
    """
    side = field.images.shape[-1]
    theta = field_theta(field.shift, digit, side)
    if waver:
        theta[:, 1:] += waver * 2 / side * torch.randn_like(theta[:, 1:])
    return sample(field.images, Attention().grid(theta, (digit, digit)))


def training_fields(digits: Tensor) -> Field:
    """Noisy fields of contrast 0.3 to 0.7, the faint ones more often: they are the ones that a net finds last."""
    return random_field(digits, faint=3.0)


def searched_fields(digits: Tensor) -> Tensor:
    """A batch of training images for the nets that search."""
    return training_fields(digits).images


def true_crops(digits: Tensor, waver: float) -> Tensor:
    """A batch of training images for a ceiling: the same fields, cropped at the true place or, with ``waver``, about there."""
    return true_crop(training_fields(digits), digits.shape[-1], waver)


def field_cell(digits: Tensor, contrast: float, eccentricity: float, seed: int) -> Field:
    """Noisy fields of one contrast and one eccentricity: the images of one cell of the benchmark's table.

    Args:
        digits: B×1×h×w, floating, in [0, 1].
        contrast: of every digit, in (0, 1].
        eccentricity: of every digit, in pixels from the middle of the field.
        seed: the same one gives the same fields. Torch's random numbers are left as they were.

    Raises:
        ValueError: as for `stn_helpers.noisy_field.noisy_field`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        angle = 2 * math.pi * torch.rand(len(digits))
        shift = polar_shift(torch.full_like(angle, eccentricity), angle)
        images = noisy_field(digits, shift, contrast, motion_clouds(len(digits)))
    return Field(images, shift, torch.full_like(angle, contrast))


def off_target(transform: Attention | Affine, theta: Tensor, field: Field) -> Tensor:
    """How far the centre of each window lies from its digit's.

    Args:
        transform: the family of θ.
        theta: B×num_params.
        field: the images looked at.

    Returns:
        B distances in pixels.
    """
    centre = transform.matrix(theta)[:, :2, 2] * field.images.shape[-1] / 2
    return torch.linalg.vector_norm(centre - field.shift.to(centre), dim=1)


@torch.inference_mode()
def look(net: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Where a net looks and what it says, in evaluation, a hundred images at a time.

    Args:
        net: has the parts ``transformer`` and ``classifier``; in evaluation mode.
        images: B×1×S×S in [0, 1].

    Returns:
        θ B×num_params and logits B×K, on the CPU.
    """
    device = next(net.parameters()).device
    glimpses = [net.transformer.glimpse(part.to(device)) for part in images.split(100)]
    logits = [net.classifier(glimpse.output) for glimpse in glimpses]
    return torch.cat([glimpse.theta for glimpse in glimpses]).cpu(), torch.cat(logits).cpu()


def measure_cell(
    net: nn.Module, digits: Digits, contrast: float, eccentricity: float, seed: int, waver: float = 0.0
) -> dict:
    """Accuracy in one cell of the table and, for a net that searches, how far off its windows were.

    One that does not is given the window, which has ``waver``, see `true_crop`.
    """
    right, error = [], []
    for part, (images, labels) in enumerate(zip(digits.images.split(100), digits.labels.split(100), strict=True)):
        field = field_cell(images, contrast, eccentricity, seed=1000 * seed + part)
        if isinstance(net, SearchingSTN):
            theta, logits = look(net, field.images)
            error.append(off_target(net.transformer.transform, theta, field))
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1000 * seed + part)
                crop = true_crop(field, images.shape[-1], waver)
            logits = predict(net, crop)
        right.append(logits.argmax(1) == labels)
    cell = {"contrast": contrast, "eccentricity": eccentricity, "accuracy": float(torch.cat(right).double().mean())}
    if error:
        pixels = torch.cat(error)
        cell |= {"error_px": float(pixels.median()), "missed": float((pixels > MISSED).double().mean())}
    return cell


def measure(job: Job, device: str) -> dict:
    """Train the net of a job on the whole training set, then every cell of the table on the whole test set."""
    digits = load_digits("mnist")
    net, recipe, waver = build(job.model, job.seed), RECIPES[job.model], CEILINGS.get(job.model, 0.0)
    history = fit(
        net,
        digits.train,
        recipe,
        seed=job.seed,
        augment=partial(true_crops, waver=waver) if job.model in CEILINGS else searched_fields,
        checkpoint=checkpoint_path(job),
        save_every=30.0,
        device=device,
    )
    cells = [
        measure_cell(net, digits.test, contrast, eccentricity, seed=100 * row + column, waver=waver)
        for row, contrast in enumerate(CONTRASTS)
        for column, eccentricity in enumerate(ECCENTRICITIES)
    ]
    if job.seed == 0 and job.model not in CEILINGS:
        save_weights(f"attention/{job.model}_0", net.cpu(), torch.float16)
    return {
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in net.parameters()),
        "steps": history.steps,
        "seconds": history.seconds,
        "losses": history.curve(),
        "cells": cells,
    }


def grid_of(model: str, seeds: list[int], figure: str = "accuracy") -> Tensor:
    """A figure of the stored records, for each seed, contrast and eccentricity.

    Args:
        model: one of `MODELS`.
        seeds: those of the records to read.
        figure: "accuracy", "error_px" (median distance in pixels) or "missed" (share of windows more than 5 pixels off);
            ceilings have the first alone.

    Returns:
        len(seeds)×3×9, in the order of `CONTRASTS` and `ECCENTRICITIES`.

    Raises:
        FileNotFoundError: there is no record of a seed.
        ValueError: a record is damaged.
    """
    records = [load_result(f"attention/{model}_{seed}")["figures"]["cells"] for seed in seeds]
    return torch.tensor([[cell[figure] for cell in cells] for cells in records]).view(len(seeds), len(CONTRASTS), -1)


def table() -> str:
    """Ours beside the ceiling and the published figures, of the attention net and of the affine one.

    Raises:
        ValueError: a record is damaged.
    """
    return "\n\n".join(table_of(model) for model in ("attention", "affine"))


def table_of(model: str) -> str:
    """Ours beside the ceiling and the published figures in every cell of the benchmark, in percent.

    Args:
        model: "attention" or "affine".

    Returns:
        One line a cell: the mean over the seeds ± their standard deviation, the ceiling's mean, the published accuracy,
        and by how much ours is above it.

    Raises:
        ValueError: a record is damaged.
    """
    seeds, ceiling_seeds = stored_seeds("attention", model), stored_seeds("attention", "ceiling")
    if not seeds:
        return f"attention benchmark, {model}: nothing measured yet"
    ours = 100 * grid_of(model, seeds).double()
    ceiling = 100 * grid_of("ceiling", ceiling_seeds).double().mean(0) if ceiling_seeds else None
    rows = [("contrast", "pixels", "ours", "ceiling", "published", "difference")]
    above = 0
    for row, contrast in enumerate(CONTRASTS):
        for column, eccentricity in enumerate(ECCENTRICITIES):
            cell, published = ours[:, row, column].tolist(), 100 * PUBLISHED[model][contrast][column]
            best = "-" if ceiling is None else f"{ceiling[row, column]:.2f}"
            difference = mean(cell) - published
            above += difference > 0
            place = f"{contrast}", f"{eccentricity:.1f}"
            rows.append((*place, spread(cell), best, f"{published:.2f}", f"{difference:+.2f}"))
    measured, ceilings = (", ".join(map(str, some)) or "not measured" for some in (seeds, ceiling_seeds))
    title = f"attention benchmark, {model}, seeds {measured} (ceiling: {ceilings}); test accuracy in percent"
    return f"{title}\n{columns(rows)}\nabove the published figure in {above} of {len(rows) - 1} cells"


EXPERIMENT = Experiment(
    name="attention",
    words="one small digit in a large noisy field, 3 contrasts × 9 eccentricities",
    cells=tuple((model, "") for model in MODELS),
    seeds=(0, 1, 2),
    measure=measure,
    table=table,
)
