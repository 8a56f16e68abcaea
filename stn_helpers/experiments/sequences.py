"""Whole house numbers, read by one net: without a transformer, with one, with four in depth: the paper's table 2.

Jaderberg et al. 2015, section 4.2. Measured on SVHN where its photographs are at hand, else on numbers made of MNIST's
digits; every record says which. Figures of the latter cannot be compared with the published ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor, nn

from stn_helpers.distortions import distort_fixed
from stn_helpers.experiments.jobs import Experiment, Job, checkpoint_path, stored_seeds
from stn_helpers.experiments.tables import columns, spread
from stn_helpers.house_numbers import SIZES, load_house_numbers
from stn_helpers.number_readers import MODELS, number_reader, up_to_last_transformer
from stn_helpers.results import load_result, save_weights
from stn_helpers.svhn import BLANK, DIGITS
from stn_helpers.training import Recipe, fit, predict

__all__ = ["PUBLISHED", "RECIPES", "errors_by_length", "read", "sequence_error"]

DATA = tuple(map(str, SIZES))
"""Pixels of the images' side."""
PUBLISHED = {
    "maxout": {"64": 4.0},
    "cnn": {"64": 4.0, "128": 5.6},
    "dram": {"64": 3.9, "128": 4.5},
    "st_cnn_single": {"64": 3.7, "128": 3.9},
    "st_cnn_multi": {"64": 3.6, "128": 3.9},
}
"""Sequence error on SVHN in percent, by net and pixels of the crops. "maxout" is a net of Goodfellow et al. (2014),
"dram" one of Ba et al. (2015), whose figures are of an average of several nets and looks."""
RECIPES = {
    "64": Recipe(epochs=6, lr=0.003, localization_lr=0.1, clip=1.0),
    "128": Recipe(epochs=6, lr=0.003, localization_lr=0.1, clip=1.0, bfloat16=True),  # four times the pixels
}
SLICE = 500  # pictures drawn at a time: a test set of photographs at 128 pixels does not fit into every memory at once


def read(net: nn.Module, images: Tensor, picture: Callable[[Tensor], Tensor], seed: int = 0) -> Tensor:
    """What a net reads in a fixed set of house numbers.

    Args:
        net: from B×3×S×S to logits B×11×5.
        images: N images of `load_house_numbers`, on the CPU.
        picture: what makes pictures of them.
        seed: the same one gives the same pictures. Torch's random numbers are left as they were.

    Returns:
        N×5 int64, `stn_helpers.svhn.BLANK` where it sees no digit.
    """
    slices = enumerate(images.split(SLICE), start=SLICE * seed)
    return torch.cat([predict(net, distort_fixed(part, picture, number), 100).argmax(1) for number, part in slices])


def sequence_error(seen: Tensor, labels: Tensor) -> float:
    """Percent of the numbers in which any of the five places is misread. Both N×5 int64."""
    return 100 * float((seen != labels).any(1).double().mean())


def errors_by_length(seen: Tensor, labels: Tensor) -> dict[str, float]:
    """`sequence_error` of the numbers of one digit, of two, … as far as there are any."""
    length = (labels != BLANK).sum(1)
    return {
        str(digits): sequence_error(seen[length == digits], labels[length == digits])
        for digits in range(1, DIGITS + 1)
        if (length == digits).any()
    }


def measure(job: Job, device: str) -> dict:
    """Train a net; its error on numbers held back and on the test set."""
    numbers, recipe = load_house_numbers(int(job.data)), RECIPES[job.data].suited_to(device)
    net = number_reader(job.model, int(job.data), job.seed)
    history = fit(
        net,
        numbers.train,
        recipe,
        seed=job.seed,
        augment=numbers.picture,
        checkpoint=checkpoint_path(job),
        save_every=30.0,
        device=device,
    )
    validated = read(net, numbers.validation.images, numbers.picture)
    seen = read(net, numbers.test.images, numbers.picture)
    if job.seed == 0 and job.data == "64" and job.model != "cnn":
        save_weights(f"sequences/{job.model}_64_0", up_to_last_transformer(net).cpu(), torch.float16)
    return {
        "source": numbers.source,
        "error": sequence_error(seen, numbers.test.labels),
        "error by length": errors_by_length(seen, numbers.test.labels),
        "validation error": sequence_error(validated, numbers.validation.labels),
        "training numbers": len(numbers.train.labels),
        "test numbers": len(numbers.test.labels),
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in net.parameters()),
        "seconds": history.seconds,
        "losses": history.curve(),
    }


def table() -> str:
    """Sequence error in percent beside the published ones, one line for each net, size and source of the numbers.

    Raises:
        ValueError: a record is damaged.
    """
    rows = [("model", "pixels", "numbers", "parameters", "seeds", "ours", "published on svhn")]
    for data in DATA:
        for model, published in PUBLISHED.items():
            seeds = stored_seeds("sequences", model, data)
            figures = [load_result(f"sequences/{model}_{data}_{seed}")["figures"] for seed in seeds]
            for source in sorted({one["source"] for one in figures}):
                same = [one for one in figures if one["source"] == source]
                parameters, ours = f"{same[0]['parameters']:,}", spread([one["error"] for one in same])
                rows.append((model, data, source, parameters, str(len(same)), ours, f"{published[data]}"))
            if not figures and data in published:
                rows.append((model, data, "-", "-", "-", "-", f"{published[data]}"))
    measured = {row[2] for row in rows[1:]} - {"-"}
    if not measured:
        return "sequences: nothing measured yet"
    lines = ["sequences of digits on house numbers; sequence error in percent", columns(rows)]
    if any(source.startswith("synthetic") for source in measured):
        lines.append("synthetic numbers are made of single digits: their figures cannot be compared with those on SVHN")
    return "\n".join(lines)


EXPERIMENT = Experiment(
    name="sequences",
    words="whole house numbers of one to five digits: no transformer, one, four in depth",
    cells=tuple((model, data) for data in DATA for model in MODELS),
    seeds=(0, 1, 2),
    measure=measure,
    table=table,
)
