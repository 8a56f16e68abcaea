"""What a noisy field costs: whole batches of ours against the package MotionClouds, used image by image.

Both make the attention chapter's training images: texture, contrast, place, maximum, min–max, mask. The reader of
MotionClouds asks it for grids, envelope, cloud and rectification, and does the rest in NumPy. A third side asks for
the envelope once and keeps it. The sides take turns within one run; the median of the rounds' ratios counts.

    python benchmarks/noisy_field.py            # prints
    python benchmarks/noisy_field.py --save     # and writes results/benchmark_noisy_field.json

Ends with status 1 if ours is less than 100 times as fast.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from statistics import median

with warnings.catch_warnings():
    warnings.simplefilter("ignore", SyntaxWarning)  # of its docstrings
    import MotionClouds as mc
import numpy as np
import torch

from stn_helpers.noisy_field import FARTHEST, FIELD, random_field
from stn_helpers.results import save_result

WANTED = 100.0  # times as fast
BATCH, ONE_BY_ONE = 256, 16  # images a round: of ours, of theirs


def envelope() -> np.ndarray:
    fx, fy, ft = mc.get_grids(FIELD, FIELD, 1)
    return mc.envelope_gabor(fx, fy, ft, V_X=0, V_Y=0, B_V=0, sf_0=0.1, B_sf=0.1, B_theta=np.inf)


def theirs(digit: np.ndarray, random: np.random.Generator, kept: np.ndarray | None = None) -> np.ndarray:
    """One 128×128 image; ``kept`` is the envelope of an earlier call."""
    angle, eccentricity = random.uniform(0, 2 * np.pi), min(abs(random.normal(0, FARTHEST)), FARTHEST)
    left, top = ((FIELD - 28) // 2 + int(eccentricity * f(angle)) for f in (np.cos, np.sin))
    field = np.zeros((FIELD, FIELD), dtype=np.float32)
    field[top : top + 28, left : left + 28] = digit
    field = (2 * field - 1) * random.uniform(0.3, 0.7) / 2 + 0.5
    field[field <= 0.5] = 0

    cloud = mc.rectif(mc.random_cloud(envelope() if kept is None else kept))[:, :, 0]
    field = np.clip(np.maximum(field, (2 * cloud - 1) * 0.75 / 2 + 0.5), 0, 1)
    field = (field - field.min()) / (field.max() - field.min())
    centre = (2 * np.arange(FIELD) + 1) / FIELD - 1
    field[np.hypot(centre[:, None], centre) > 1] = 0.5
    return field


def microseconds(run: Callable[[], object], images: int) -> float:
    start = time.perf_counter()
    run()
    return 1e6 * (time.perf_counter() - start) / images


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="write results/benchmark_noisy_field.json")
    parser.add_argument("--rounds", type=int, default=40, help="rounds that count")
    args = parser.parse_args()
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    threads, package = torch.get_num_threads(), version("MotionClouds")
    print(f"torch {torch.__version__}, MotionClouds {package}, {threads} thread(s), {args.rounds} rounds")

    digits = torch.rand(BATCH, 1, 28, 28)
    singles = [digit[0].numpy() for digit in digits[:ONE_BY_ONE]]
    kept = envelope()
    sides = {
        "ours": (partial(random_field, digits), BATCH),
        "theirs": (lambda: [theirs(digit, random) for digit in singles], ONE_BY_ONE),
        "envelope kept": (lambda: [theirs(digit, random, kept) for digit in singles], ONE_BY_ONE),
    }
    for run, _ in sides.values():  # warms up
        run()
    rounds = [{name: microseconds(*side) for name, side in sides.items()} for _ in range(args.rounds)]

    per_second = {name: 1e6 / median(taken[name] for taken in rounds) for name in sides}
    faster = {name: median(taken[name] / taken["ours"] for taken in rounds) for name in sides if name != "ours"}
    print("Images per second: " + ", ".join(f"{name} {rate:,.0f}" for name, rate in per_second.items()))
    print(
        f"Ours is {faster['theirs']:.0f} times as fast (wanted {WANTED:g}), {faster['envelope kept']:.0f} times "
        "where the envelope is kept"
    )
    if args.save:
        figures = {
            "images_per_second": per_second,
            "times_as_fast": faster,
            "batch": BATCH,
            "rounds": args.rounds,
            "threads": threads,
            "motion_clouds": package,
        }
        command = "python benchmarks/noisy_field.py --save"
        print(save_result("benchmark_noisy_field", figures, seeds=[0], command=command))
    return 0 if faster["theirs"] >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
