"""What a warp costs: every family against torch's own affine warp, the thin plate spline against kornia's.

A warp here is θ → grid → sampled image, forward, and backward as far as θ. The sides of a comparison take turns
within one run, round after round, and the fastest round of each counts: what else runs on the machine only ever
adds time.

    python benchmarks/families.py            # prints
    python benchmarks/families.py --save     # and writes results/benchmark_families.json

Ends with status 1 if the spline is less than 10 times as fast as kornia's, or takes more than 2.5 times torch's
affine warp.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

import torch
import torch.nn.functional as F
from kornia.geometry.transform import get_tps_transform, warp_image_tps
from torch import Tensor

from stn_helpers.results import save_result
from stn_helpers.sampling import sample
from stn_helpers.transforms import Affine, Attention, Projective, Similarity, ThinPlateSpline, Transform

FASTER_THAN_KORNIA, TIMES_THE_FLOOR = 10.0, 2.5  # what is asked of the spline
Run = Callable[[], None]


def warp_run(image: Tensor, theta: Tensor, warp: Callable[[Tensor, Tensor], Tensor]) -> Run:
    """One warp, forward and backward as far as θ."""
    theta = theta.clone().requires_grad_()
    weights = torch.rand_like(image)

    def run() -> None:
        torch.autograd.grad(warp(image, theta), theta, weights)

    return run


def nearly_identity(transform: Transform, batch: int) -> Tensor:
    return transform.identity() + 0.05 * torch.randn(batch, transform.num_params)


def ours(transform: Transform, image: Tensor) -> Run:
    def warp(image: Tensor, theta: Tensor) -> Tensor:
        return sample(image, transform.grid(theta, tuple(image.shape[-2:])))

    return warp_run(image, nearly_identity(transform, len(image)), warp)


def torch_affine(image: Tensor) -> Run:
    """The floor: `affine_grid` and `grid_sample`."""

    def warp(image: Tensor, theta: Tensor) -> Tensor:
        grid = F.affine_grid(theta.view(-1, 2, 3), image.shape, align_corners=False)
        return F.grid_sample(image, grid, align_corners=False)

    return warp_run(image, nearly_identity(Affine(), len(image)), warp)


def kornia_spline(spline: ThinPlateSpline, image: Tensor) -> Run:
    """kornia solves for every image, from the output's control points to where θ puts them, and warps."""
    control = spline.control.float().expand(len(image), -1, -1).contiguous()

    def warp(image: Tensor, theta: Tensor) -> Tensor:
        places = theta.view(len(image), -1, 2)
        kernel, affine = get_tps_transform(control, places)
        return warp_image_tps(image, places, kernel, affine)

    return warp_run(image, nearly_identity(spline, len(image)), warp)


def fastest(sides: dict[str, Run], rounds: int) -> dict[str, float]:
    """Milliseconds of every side's fastest round; the sides take turns, one round first to warm up."""
    times = {name: [] for name in sides}
    for round_ in range(rounds + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            if round_:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: min(taken) for name, taken in times.items()}


def digits(batch: int, size: int) -> Tensor:
    return torch.rand(batch, 1, size, size)


def against_kornia(rounds: int) -> dict:
    print("Thin plate spline, 16 points, 64 images: ours, kornia's solve-and-warp, torch's affine warp as the floor")
    figures = {}
    for size in (28, 128):
        image, spline = digits(64, size), ThinPlateSpline()
        kornia, floor = kornia_spline(spline, image), torch_affine(image)
        ms = fastest({"ours": ours(spline, image), "kornia": kornia, "floor": floor}, rounds)
        faster, floors = ms["kornia"] / ms["ours"], ms["ours"] / ms["floor"]
        print(
            f"  {size}×{size}: {ms['ours']:.2f} ms, kornia {ms['kornia']:.1f} ms, floor {ms['floor']:.2f} ms: "
            f"{faster:.1f} times as fast as kornia (wanted {FASTER_THAN_KORNIA:g}), "
            f"{floors:.2f} times the floor (allowed {TIMES_THE_FLOOR:g})"
        )
        figures[str(size)] = {"ms": ms, "times_as_fast_as_kornia": faster, "times_the_floor": floors}
    return figures


def against_the_floor(rounds: int) -> dict:
    families = [Affine(), Attention(), Similarity(), Projective(), ThinPlateSpline()]
    print("Every family, 64 images: times torch's affine warp")
    figures = {}
    for size in (28, 128):
        image = digits(64, size)
        sides = {"floor": torch_affine(image)} | {type(f).__name__: ours(f, image) for f in families}
        ms = fastest(sides, rounds)
        ratios = {name: taken / ms["floor"] for name, taken in ms.items() if name != "floor"}
        print(f"  {size}×{size}: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
        figures[str(size)] = {"ms": ms, "times_the_floor": ratios}
    return figures


def growth(rounds: int) -> dict:
    """Milliseconds of affine, projective and spline as size, batch and number of points grow."""
    families = {"Affine": Affine(), "Projective": Projective(), "ThinPlateSpline": ThinPlateSpline()}
    figures = {"size": {}, "batch": {}, "points": {}}
    print("Growth, milliseconds")
    for axis, values in {"size": (16, 32, 64, 128, 256), "batch": (1, 4, 16, 64, 256)}.items():
        for value in values:
            image = digits(16, value) if axis == "size" else digits(value, 32)
            ms = fastest({name: ours(family, image) for name, family in families.items()}, rounds)
            figures[axis][str(value)] = ms
            print(f"  {axis} {value}: " + ", ".join(f"{name} {taken:.2f}" for name, taken in ms.items()))
    for side in (2, 4, 8, 16):
        spline = ThinPlateSpline(side)
        ms = fastest({"ThinPlateSpline": ours(spline, digits(64, 32))}, rounds)
        figures["points"][str(side * side)] = ms
        print(f"  points {side * side}: {ms['ThinPlateSpline']:.2f}")
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="write results/benchmark_families.json")
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count")
    args = parser.parse_args()
    torch.manual_seed(0)
    threads, kornia = torch.get_num_threads(), version("kornia")
    print(f"torch {torch.__version__}, kornia {kornia}, {threads} thread(s), {args.rounds} rounds")
    figures = {
        "against_kornia": against_kornia(args.rounds),
        "against_the_floor": against_the_floor(args.rounds),
        "growth": growth(args.rounds),
        "rounds": args.rounds,
        "threads": threads,
        "kornia": kornia,
    }
    if args.save:
        command = "python benchmarks/families.py --save"
        print(save_result("benchmark_families", figures, seeds=[0], command=command))
    good = all(
        row["times_as_fast_as_kornia"] >= FASTER_THAN_KORNIA and row["times_the_floor"] <= TIMES_THE_FLOOR
        for row in figures["against_kornia"].values()
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
