"""The addition of two distorted digits, one transformer against two in parallel: the paper's table 4.

Jaderberg et al. 2015, appendix A.1.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from statistics import mean

import torch

from stn_helpers.addition import MODELS, PairImages, addition_net, draw_sums
from stn_helpers.data import Digits, load_digits, split_validation
from stn_helpers.distortions import distort_fixed
from stn_helpers.experiments.jobs import Experiment, Job, checkpoint_path, stored_seeds
from stn_helpers.experiments.tables import columns, spread
from stn_helpers.results import load_result, save_weights
from stn_helpers.training import Recipe, evaluate, fit

__all__ = ["EPOCHS", "PUBLISHED", "RECIPES", "errors", "fixed_sums"]

PUBLISHED = {"fcn": 47.7, "cnn": 14.7, "st_fcn": 18.5, "2xst_fcn": 5.8}
"""Test error in percent; with transformers, that of the best of the three families."""
EPOCHS = {"fcn": 120, "cnn": 260, "st_fcn": 120, "2xst_fcn": 260}
"""The training draws so many pairs for every digit of the training set, each pair for one look.

Sums are learnt late: after 30 pairs for each digit two spline transformers still had half of those held back wrong."""
RECIPE = Recipe(batch_size=128, lr=0.004, localization_lr=0.5, clip=1.0)
"""One epoch, as fit counts them, of pairs that are all different draws."""
RECIPES = {kind: replace(RECIPE, bfloat16=kind == "cnn") for kind in EPOCHS}
"""By kind of net; convolutions, which take by far the most multiplications, are trained in bfloat16."""
HELD_BACK = 5000
"""Digits of the training set that no net trains on, to make choices on."""
STORED = "2xst_fcn_affine"
"""The net whose weights of seed 0 are kept: a chapter shows what its two windows do."""


def kind_of(model: str) -> str:
    """A model's name without its family of transforms: a key of `PUBLISHED`."""
    return model if model in PUBLISHED else model.rpartition("_")[0]


def fixed_sums(digits: Digits, seed: int = 0) -> Digits:
    """A fixed test set: as many pairs as there are digits, each digit once on either side.

    Args:
        digits: N×1×28×28 in [0, 1], with their labels.
        seed: the same one gives the same images. Torch's random numbers are left as they were.

    Returns:
        Images N×2×42×42 and sums N.
    """
    pairs, sums = draw_sums(digits, len(digits.labels), seed)
    return Digits(distort_fixed(pairs, PairImages(digits.images), seed), sums)


def measure(job: Job, device: str) -> dict:
    """Train the net of a job; its error on pairs of digits held back from training, and on those of the test set."""
    digits, kind = load_digits("mnist"), kind_of(job.model)
    train, validation = split_validation(digits.train, HELD_BACK)
    net, recipe = addition_net(job.model, job.seed), RECIPES[kind].suited_to(device)
    history = fit(
        net,
        draw_sums(train, EPOCHS[kind] * len(train.labels), job.seed),
        recipe,
        seed=job.seed,
        augment=PairImages(train.images),
        checkpoint=checkpoint_path(job),
        save_every=30.0,
        device=device,
    )
    error, validation_error = (100 * (1 - evaluate(net, fixed_sums(part))) for part in (digits.test, validation))
    if job.model == STORED and job.seed == 0:
        save_weights(f"addition/{STORED}_0", net.cpu(), torch.float16)
    return {
        "error": round(error, 4),
        "validation error": round(validation_error, 4),
        "recipe": asdict(recipe),
        "pairs per digit": EPOCHS[kind],
        "parameters": sum(p.numel() for p in net.parameters()),
        "steps": history.steps,
        "seconds": history.seconds,
        "losses": history.curve(),
    }


def errors(model: str) -> list[float]:
    """Test error in percent of every seed of which there is a record, in order.

    Raises:
        ValueError: a record is damaged.
    """
    return [load_result(f"addition/{model}_{seed}")["figures"]["error"] for seed in stored_seeds("addition", model)]


def table() -> str:
    """Test error in percent of every net, mean ± standard deviation over the seeds, beside the published one.

    Raises:
        ValueError: a record is damaged.
    """
    rows = [("model", "seeds", "ours", "published", "difference")]
    for model in MODELS:
        if ours := errors(model):
            published = PUBLISHED[kind_of(model)]
            rows.append((model, f"{len(ours)}", spread(ours), f"{published}", f"{mean(ours) - published:+.2f}"))
    if len(rows) == 1:
        return "addition: nothing measured yet"
    title = "addition of two distorted digits; test error in percent (published: the paper's best family)"
    return f"{title}\n{columns(rows)}"


EXPERIMENT = Experiment(
    name="addition",
    words="the sum of two distorted digits, by one transformer or by two in parallel",
    cells=tuple((model, "") for model in MODELS),
    seeds=(0, 1, 2),
    measure=measure,
    table=table,
)
