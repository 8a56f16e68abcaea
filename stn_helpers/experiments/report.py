"""What the stored records say, as plain text."""

from __future__ import annotations

from statistics import median

from torch import Tensor

from stn_helpers.experiments import ablations, attention
from stn_helpers.experiments.jobs import stored_seeds
from stn_helpers.results import load_result

__all__ = ["ablations_table", "attention_table", "report"]

LEARNT = 0.5
"""A net that reads a larger share of its digits than this has learnt; one in ten is chance."""


def report() -> str:
    """The tables of every experiment, from the records that are there.

    Raises:
        ValueError: a record is damaged.
    """
    return "\n\n".join([attention_table("attention"), attention_table("affine"), ablations_table()])


def attention_table(model: str) -> str:
    """Ours beside the ceiling and the published figures in every cell of the attention benchmark, in percent.

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
    ours = 100 * attention.grid_of(model, seeds).double()
    ceiling = 100 * attention.grid_of("ceiling", ceiling_seeds).double().mean(0) if ceiling_seeds else None
    lines = [
        f"attention benchmark, {model}, seeds {_list(seeds)} (ceiling: {_list(ceiling_seeds) or 'not measured'}); "
        "test accuracy in percent",
        "contrast  pixels           ours  ceiling  published  difference",
    ]
    above = 0
    for row, contrast in enumerate(attention.CONTRASTS):
        for column, eccentricity in enumerate(attention.ECCENTRICITIES):
            cell, published = ours[:, row, column], 100 * attention.PUBLISHED[model][contrast][column]
            best = f"{ceiling[row, column]:.2f}" if ceiling is not None else "-"
            difference = float(cell.mean()) - published
            above += difference > 0
            place = f"{contrast:8}  {eccentricity:6.1f}"
            lines.append(f"{place}  {_spread(cell):>13}  {best:>7}  {published:9.2f}  {difference:+10.2f}")
    lines.append(f"above the published figure in {above} of {len(lines) - 2} cells")
    return "\n".join(lines)


def ablations_table() -> str:
    """One line a variant: how many of its seeds learnt, their median accuracy in percent and seconds of training.

    Raises:
        ValueError: a record is damaged.
    """
    lines = []
    for variant in ablations.VARIANTS:
        figures = [load_result(f"ablations/{variant}_{seed}")["figures"] for seed in stored_seeds("ablations", variant)]
        if figures:
            accuracy = [one["accuracy"] for one in figures]
            learnt = f"{sum(a > LEARNT for a in accuracy)} of {len(accuracy)}"
            seconds = median(one["seconds"] for one in figures)
            lines.append(f"{variant:24}{learnt:>8}  {100 * median(accuracy):8.2f}  {seconds:7.0f}")
    if not lines:
        return "ablations: nothing measured yet"
    title = f"ablations; a net has learnt that reads more than {LEARNT:.0%} of the digits held back"
    return "\n".join([title, f"{'variant':24}  learnt  accuracy  seconds", *lines])


def _spread(values: Tensor) -> str:
    """Mean ± standard deviation, the latter where there are several values."""
    return f"{values.mean():.2f}" + (f" ± {values.std():.2f}" if len(values) > 1 else "")


def _list(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))
