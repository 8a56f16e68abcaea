"""Co-localisation, one training for each digit class: the paper's table 5.

Jaderberg et al. 2015, appendix A.2.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from statistics import mean

import torch
from torch import Tensor, nn

from stn_helpers.colocalization import (
    JUDGING_CROPS,
    PATCHES,
    SEARCHES,
    Scenes,
    best_try,
    box_overlap,
    code_digits,
    colocalization_net,
    digit_scenes,
    find_common,
    window_boxes,
)
from stn_helpers.data import load_digits
from stn_helpers.experiments.jobs import Experiment, Job, checkpoint_path, stored_seeds
from stn_helpers.experiments.tables import columns, spread
from stn_helpers.results import load_result

__all__ = ["MODELS", "PUBLISHED", "RIGHT", "found", "rates"]

MODELS = tuple(f"{net}_{digit}" for net in SEARCHES for digit in range(10))
"""A net and the digit that it is to find."""
PUBLISHED = {"T": (100.0, 100.0), "TC": (75.0, 94.0)}
"""The percentage of images in which the paper's windows were right, lowest and highest of the ten digits."""
RIGHT = 0.5
"""A window is right whose overlap with the true box, intersection over union, is above this."""


@torch.inference_mode()
def found(net: nn.Module, scenes: Scenes, number: int) -> Tensor:
    """How well the windows of one try lie over the digits.

    Args:
        net: a transformer of `stn_helpers.colocalization.colocalization_net`, in evaluation mode.
        scenes: N images with the true boxes.
        number: of the try.

    Returns:
        N overlaps (intersection over union), on the CPU.
    """
    images = scenes.images.to(next(net.parameters()).device)
    return box_overlap(window_boxes(net.localization(images)[:, number].cpu()), scenes.boxes)


def measure(job: Job, device: str) -> dict:
    """Learn a code on the training digits, find one class among a hundred images of test digits, count what is right."""
    digits = load_digits("mnist")
    model, digit = job.model.rsplit("_", 1)
    code = code_digits(digits.train, job.seed, device)
    scenes = digit_scenes(digits.test, int(digit), job.data, seed=100 * job.seed + int(digit))
    net = colocalization_net(scenes.images, model, job.seed).to(device).eval()
    history = find_common(
        net,
        code,
        scenes.images,
        SEARCHES[model],
        seed=job.seed,
        checkpoint=checkpoint_path(job),
        save_every=30.0,
        device=device,
    )
    best, judged = best_try(net, code, scenes.images, job.seed)
    overlaps = torch.stack([found(net, scenes, number) for number in range(SEARCHES[model].tries)])
    right = (100 * (overlaps > RIGHT).double().mean(1)).tolist()
    with torch.inference_mode():
        theta = net.localization(scenes.images.to(device))[:, best].cpu()
    return {
        "right": right[best],
        "overlap": float(overlaps[best].mean()),
        "scale": float(theta[:, 0].mean()),
        "best try": best,
        "right of each try": right,
        "loss of each try": [round(loss, 4) for loss in judged.tolist()],
        "judging crops": JUDGING_CROPS,
        "search": asdict(SEARCHES[model]),
        "parameters": sum(p.numel() for p in net.localization.each[0].parameters()),
        "seconds": history.seconds,
        "losses": replace(history, losses=history.losses[:, best]).curve(100),
        "windows": [[round(number, 3) for number in one] for one in theta[:8].tolist()],
    }


def rates(net: str, digit: int, data: str) -> list[float]:
    """Percent of the images in which the window was right, for every seed of which there is a record, in order.

    Args:
        net: "attention" or "blind".
        digit: 0 to 9.
        data: "T" or "TC".

    Raises:
        ValueError: a record is damaged.
    """
    seeds = stored_seeds("colocalization", f"{net}_{digit}", data)
    names = (f"colocalization/{net}_{digit}_{data}_{seed}" for seed in seeds)
    return [load_result(name)["figures"]["right"] for name in names]


def table() -> str:
    """Percent right for every digit, mean ± standard deviation over the seeds; below, all digits beside the paper's range.

    Raises:
        ValueError: a record is damaged.
    """
    cells = [(net, data) for data in PATCHES for net in SEARCHES]
    measured = {cell: [rates(cell[0], digit, cell[1]) for digit in range(10)] for cell in cells}
    if not any(map(any, measured.values())):
        return "colocalization: nothing measured yet"
    rows = [("digit", *(f"{net} {data}" for net, data in cells))]
    for digit in range(10):
        rows.append((f"{digit}", *(spread(measured[cell][digit]) if measured[cell][digit] else "-" for cell in cells)))
    means = {cell: [mean(one) for one in measured[cell] if one] for cell in cells}
    rows.append(("lowest", *(f"{min(means[cell]):.2f}" if means[cell] else "-" for cell in cells)))
    rows.append(("published, lowest", *(f"{PUBLISHED[data][0]:g}" for _, data in cells)))
    rows.append(("highest", *(f"{max(means[cell]):.2f}" if means[cell] else "-" for cell in cells)))
    rows.append(("published, highest", *(f"{PUBLISHED[data][1]:g}" for _, data in cells)))
    title = (
        "co-localisation; percent of 100 images in which window and digit overlap by more than half\n"
        "published: the range over the digits; the paper's figure of each digit is not at hand"
    )
    return f"{title}\n{columns(rows)}"


EXPERIMENT = Experiment(
    name="colocalization",
    words="find the digit that a hundred images have in common, without boxes",
    cells=tuple((model, data) for data in PATCHES for model in MODELS),
    seeds=(0, 1, 2),
    measure=measure,
    table=table,
)
