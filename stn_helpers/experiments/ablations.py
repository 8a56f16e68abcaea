"""What makes the attention transformer learn, and what keeps it from learning: one thing changed at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_helpers.data import Digits, load_digits, split_validation
from stn_helpers.experiments.attention import (
    CONTRASTS,
    ECCENTRICITIES,
    MISSED,
    field_cell,
    look,
    off_target,
    searched_fields,
)
from stn_helpers.experiments.jobs import Experiment, Job, stored_seeds
from stn_helpers.experiments.tables import columns
from stn_helpers.localization import PeakLocalization, atn_localization, theta_head
from stn_helpers.networks import FIELD_MEAN, FIELD_STD, SearchingSTN, Standardize, lenet
from stn_helpers.noisy_field import FARTHEST, FIELD, random_field
from stn_helpers.results import load_result
from stn_helpers.spatial_transformer import SpatialTransformer
from stn_helpers.training import History, Recipe, fit
from stn_helpers.transforms import Attention

__all__ = ["STEPS", "VARIANTS", "Variant", "build"]

STEPS = 200
CONTRAST = 0.7
NEAREST = ECCENTRICITIES[0]
RECIPE = Recipe(lr=0.004, clip=1.0)  # for STEPS steps
WATCH_EVERY = 20
LEARNT = 0.5
"""A net that reads a larger share of its digits than this has learnt; one in ten is chance."""


@dataclass(frozen=True)
class Variant:
    """One way to build and to train the net.

    Attributes:
        localization: makes the localization network.
        looks: windows that a `SearchingSTN` looks at while it trains; None: a plain transformer with one.
        mean: pixels are standardised with this mean, ...
        std: ... and this standard deviation, before the localization network and before the classifier.
        lr: learning rate.
        localization_lr: that of the localization network, as a share of ``lr``.
        curriculum: whether the digits start in the middle and move outwards during the first half of the training.
        faint: train four times as long on contrasts from 0.3 to 0.7, and read at 0.3.
        sgd: train for a whole epoch as the article's author begins to, on digits near the middle.
    """

    localization: Callable[[float, float], nn.Module]
    looks: int | None = 2
    mean: float = FIELD_MEAN
    std: float = FIELD_STD
    lr: float = RECIPE.lr
    localization_lr: float = RECIPE.localization_lr
    curriculum: bool = False
    faint: bool = False
    sgd: bool = False


def peaks(**kwargs: float | None) -> Callable[[float, float], nn.Module]:
    """Maker of a `PeakLocalization` with other settings."""
    return lambda mean, std: PeakLocalization(Attention(), mean=mean, std=std, **kwargs)


def linear_head(mean: float, std: float) -> nn.Module:
    """The features of a `PeakLocalization`, but θ by a fully connected layer on all of them at once."""
    head = theta_head(16 * (FIELD // 8) ** 2, Attention())
    with torch.no_grad():
        head.bias.mul_(28 / FIELD)
    features = PeakLocalization(Attention()).features
    return nn.Sequential(Standardize(mean, std), features, nn.MaxPool2d(2), nn.Flatten(), head)


def atn(mean: float, std: float) -> nn.Module:
    """The localization network of the article's author, behind standardised pixels."""
    return nn.Sequential(Standardize(mean, std), atn_localization())


OURS = Variant(peaks())
VARIANTS = {
    "ours": OURS,
    "one_look": replace(OURS, localization=peaks(reach=None), looks=1),
    "one_look_local": replace(OURS, looks=1),
    "no_saliency": replace(OURS, localization=peaks(saliency=0.0)),
    "no_saliency_one_look": replace(OURS, localization=peaks(saliency=0.0, reach=None), looks=1),
    "scale_1": replace(OURS, localization=peaks(scale=1.0)),
    "raw_inputs": replace(OURS, mean=0.0, std=1.0),
    "faint": replace(OURS, faint=True),
    "faint_one_look": replace(OURS, looks=1, faint=True),
    "half_lr": replace(OURS, localization_lr=0.5),
    "lr_times_4": replace(OURS, lr=4 * OURS.lr),
    "lr_over_4": replace(OURS, lr=OURS.lr / 4),
    "curriculum": replace(OURS, curriculum=True),
    "linear_head": Variant(linear_head, looks=None),
    "linear_head_curriculum": Variant(linear_head, looks=None, curriculum=True),
    "atn": Variant(atn, looks=None),
    "author": Variant(atn, looks=None, mean=0.0, std=1.0, sgd=True),
}
"""Name → variant; each differs from "ours" in what its name says. "one_look" and "no_saliency_one_look" also
take the soft-argmax of the whole map (``reach=None``)."""


def build(variant: Variant, seed: int) -> nn.Module:
    """The net of a variant, with its first weights; its `SpatialTransformer` is the part ``transformer``."""
    torch.manual_seed(seed)
    transformer = SpatialTransformer(variant.localization(variant.mean, variant.std), Attention(), out_size=(28, 28))
    classifier = nn.Sequential(Standardize(variant.mean, variant.std), lenet())
    if variant.looks is not None:
        return SearchingSTN(transformer, classifier, variant.looks)
    net = nn.Sequential()
    net.add_module("transformer", transformer)
    net.add_module("classifier", classifier)
    return net


class Fields:
    """Makes training images; with a curriculum it counts its calls, the trial one of `fit` too, and moves the digits outwards."""

    def __init__(self, curriculum: bool) -> None:
        self.curriculum, self.calls = curriculum, 0

    def __call__(self, digits: Tensor) -> Tensor:
        self.calls += 1
        share = min(1.0, self.calls / (STEPS / 2)) if self.curriculum else 1.0
        return random_field(digits, (CONTRAST, CONTRAST), spread=share * FARTHEST).images


def sgd_epoch(
    net: nn.Module, train: Digits, seed: int, device: str, watch: Callable[[int, nn.Module], None]
) -> History:
    """One epoch by the recipe with which the article's author begins: SGD at 0.01, batches of 100, digits near the middle.

    Args:
        net: from 1×128×128 to logits.
        train: the digits.
        seed: of their order, places and textures.
        device: where to train.
        watch: called with (steps done, net) before the first step and after every `WATCH_EVERY` steps.

    Returns:
        The loss of every step, and the time, that of ``watch`` included.
    """
    optimizer = torch.optim.SGD(net.to(device).parameters(), lr=0.01)
    torch.manual_seed(seed)
    watch(0, net)
    losses, clock, before = [], [], time.perf_counter()
    for step, chosen in enumerate(torch.randperm(len(train.labels)).split(100), start=1):
        field = random_field(train.images[chosen].to(device), (CONTRAST, CONTRAST), spread=NEAREST)
        loss = F.cross_entropy(net.train()(field.images), train.labels[chosen].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        clock.append(time.perf_counter() - before)
        if step % WATCH_EVERY == 0:
            watch(step, net)
    return History(torch.tensor(losses), torch.tensor(clock, dtype=torch.float64))


def measure(job: Job, device: str) -> dict:
    """Train one variant with one seed; what it sees and reads on digits held back from training, as it goes."""
    train, validation = split_validation(load_digits("mnist").train, 10_000)
    few = validation._replace(images=validation.images[:2000], labels=validation.labels[:2000])
    variant = VARIANTS[job.model]
    contrast, eccentricity = min(CONTRASTS) if variant.faint else CONTRAST, NEAREST if variant.sgd else FARTHEST
    held_back = field_cell(few.images, contrast, eccentricity, seed=0)
    net = build(variant, job.seed)
    length = 4 * STEPS if variant.faint else STEPS
    epochs = length / RECIPE.steps_per_epoch(len(train.labels))
    recipe = replace(RECIPE, epochs=epochs, lr=variant.lr, localization_lr=variant.localization_lr)
    steps, window, accuracy = [], [], []

    def watch(step: int, model: nn.Module) -> None:
        theta, logits = look(model.eval(), held_back.images[:500])
        steps.append(step)
        window.append(theta[:2].tolist())
        accuracy.append(float((logits.argmax(1) == few.labels[:500]).double().mean()))

    if variant.sgd:
        history = sgd_epoch(net, train, job.seed, device, watch)
    else:
        history = fit(
            net,
            train,
            recipe,
            seed=job.seed,
            augment=searched_fields if variant.faint else Fields(variant.curriculum),
            device=device,
            watch=watch,
            watch_every=WATCH_EVERY,
        )
    theta, logits = look(net.eval(), held_back.images)
    right, pixels = logits.argmax(1) == few.labels, off_target(Attention(), theta, held_back)
    return {
        "accuracy": float(right.double().mean()),
        "error_px": float(pixels.median()),
        "missed": float((pixels > MISSED).double().mean()),
        "parameters": sum(p.numel() for p in net.parameters()),
        "seconds": history.seconds,
        "losses": [round(float(loss), 4) for loss in history.losses],
        "steps": steps,
        "accuracy_by_step": accuracy,
        "probes": held_back.shift[:2].tolist(),
        "window": window,
    }


def table() -> str:
    """One line a variant: how many of its seeds learnt, their median accuracy in percent and seconds of training.

    Raises:
        ValueError: a record is damaged.
    """
    rows = [("variant", "learnt", "accuracy", "seconds")]
    for variant in VARIANTS:
        figures = [load_result(f"ablations/{variant}_{seed}")["figures"] for seed in stored_seeds("ablations", variant)]
        if figures:
            accuracy = [one["accuracy"] for one in figures]
            learnt = f"{sum(a > LEARNT for a in accuracy)} of {len(accuracy)}"
            seconds = median(one["seconds"] for one in figures)
            rows.append((variant, learnt, f"{100 * median(accuracy):.2f}", f"{seconds:.0f}"))
    if len(rows) == 1:
        return "ablations: nothing measured yet"
    return f"ablations; a net has learnt that reads more than {LEARNT:.0%} of the digits held back\n{columns(rows)}"


EXPERIMENT = Experiment(
    name="ablations",
    words="what makes the attention transformer learn: one thing changed at a time (minutes each; a killed job begins anew)",
    cells=tuple((variant, "") for variant in VARIANTS),
    seeds=(0, 1, 2, 3, 4),
    measure=measure,
    table=table,
)
