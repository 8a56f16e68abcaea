"""The book's figures: rows of digits, sampling grids drawn over the input, accuracy curves.

The ``show_…`` functions return a matplotlib Figure, the ``draw_…`` functions draw into given axes. Images are drawn in the package's
own coordinates, x and y in [-1, 1] with y down, so a sampling grid can be drawn over the image without conversion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["COLORS", "draw_grid", "draw_image", "show_curves", "show_images", "show_maps", "use_style"]

# Of Okabe and Ito's palette seven of the eight colours, which readers with any form of colour blindness can tell apart.
COLORS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermillion": "#D55E00",
    "sky": "#56B4E9",
    "purple": "#CC79A7",
    "black": "#000000",
}


def use_style() -> None:
    """Set matplotlib's defaults for the book: readable sizes, the colour-blind-safe palette, sharp pictures."""
    plt.rcParams.update(
        {
            "axes.prop_cycle": plt.cycler(color=list(COLORS.values())),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": 11,
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "font.size": 11,
            "legend.frameon": False,
        }
    )


def draw_image(ax: Axes, image: Tensor) -> None:
    """Draw one image with black at 0 and white at 1, whatever its own range.

    Args:
        ax: where to draw.
        image: C×H×W or H×W; the first channel is drawn.
    """
    pixels = image.detach().cpu().flatten(0, -3)[0] if image.dim() > 2 else image.detach().cpu()
    ax.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1, extent=(-1, 1, 1, -1), interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def draw_grid(ax: Axes, grid: Tensor, cells: int = 4, color: str = COLORS["orange"]) -> None:
    """Draw a sampling grid as a mesh: where the pixels of the output look.

    The upper edge of the output is drawn thick, so that one sees which way up it is.

    Args:
        ax: axes with an image of `draw_image`.
        grid: H×W×2, (x, y) in [-1, 1].
        cells: cells of the mesh along each side.
        color: of the mesh.
    """
    points = grid.detach().cpu()
    rows, columns = (torch.linspace(0, n - 1, cells + 1).round().long() for n in points.shape[:2])
    lines = [*points[rows].numpy(), *points[:, columns].transpose(0, 1).numpy()]
    ax.add_collection(LineCollection(lines, colors=color, linewidths=1.0))
    ax.add_collection(LineCollection([points[0].numpy()], colors=color, linewidths=3.2))


def show_images(
    rows: Mapping[str, Tensor],
    titles: Sequence[str] | None = None,
    grids: Mapping[str, Tensor] | None = None,
    size: float = 0.95,
    cells: int = 4,
    margin: float = 0.45,
) -> Figure:
    """A table of pictures: one labelled row for each batch, one column for each image of it.

    Args:
        rows: label → N×C×H×W images; the same N in every row.
        titles: N titles over the first row.
        grids: label → N×H'×W'×2 sampling grids to draw over that row's images.
        size: width of one picture in inches.
        cells: of each grid's mesh along each side; 1 draws a frame.
        margin: where there are grids, so much is shown around every image, in units of its half side.
    """
    count = len(next(iter(rows.values())))
    label_width = 0.1 * max(len(line) for label in rows for line in label.splitlines())
    figure, axes = plt.subplots(
        len(rows), count, figsize=(size * count + label_width, size * len(rows) + 0.3), squeeze=False
    )
    for line, (label, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)
        for i, ax in enumerate(line):
            draw_image(ax, images[i])
            if grids and label in grids:
                draw_grid(ax, grids[label][i], cells)
    for ax, title in zip(axes[0], titles or [], strict=False):
        ax.set_title(title)
    # Every picture shows a little of what lies around the image, so that a grid that leaves it is seen to leave.
    if grids:
        for ax in axes.flat:
            ax.set(xlim=(-1 - margin, 1 + margin), ylim=(1 + margin, -1 - margin))
    return figure


def show_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str, log_x: bool = False
) -> Figure:
    """Lines with markers, each named in the legend; the markers differ too, for print without colour.

    Args:
        curves: name → (x values, y values).
        xlabel: what x is, with its unit.
        ylabel: what y is, with its unit.
        log_x: draw x on a logarithmic axis.
    """
    figure, ax = plt.subplots(figsize=(7.0, 3.6))
    for marker, (name, (x, y)) in zip(cycle("osD^vPX"), curves.items(), strict=False):
        ax.plot(x, y, marker=marker, markersize=5, markevery=max(1, len(x) // 20), label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if log_x:
        ax.set_xscale("log")
    ax.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    return figure


def show_maps(
    maps: Mapping[str, Tensor], rows: Sequence[str], columns: Sequence[str], xlabel: str, ylabel: str
) -> Figure:
    """Tables as maps, one above the other: each number in its cell, on a colour of a scale that all share.

    The colours (cividis) go from dark blue to yellow and keep their order for readers with any form of colour blindness.

    Args:
        maps: title → R×C numbers.
        rows: R labels, from the top.
        columns: C labels, from the left.
        xlabel: what the columns are, with the unit.
        ylabel: what the rows are, with the unit.
    """
    figure, axes = plt.subplots(
        len(maps), 1, figsize=(0.72 * len(columns) + 1.1, (0.3 * len(rows) + 0.36) * len(maps) + 0.5), squeeze=False
    )
    low = min(float(numbers.min()) for numbers in maps.values())
    high = max(float(numbers.max()) for numbers in maps.values())
    for ax, (title, numbers) in zip(axes[:, 0], maps.items(), strict=True):
        ax.imshow(numbers.detach().cpu().numpy(), cmap="cividis", vmin=low, vmax=high, aspect="auto")
        for row, line in enumerate(numbers.tolist()):
            for column, number in enumerate(line):
                color = "white" if number < low + 0.47 * (high - low) else "black"  # either is legible there
                ax.text(column, row, f"{number:.1f}", ha="center", va="center", color=color, fontsize=10)
        ax.set_title(title, loc="left", fontsize=10)
        ax.set_yticks(range(len(rows)), rows)
        ax.set_xticks([])
        ax.set_ylabel(ylabel)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    axes[-1, 0].set_xticks(range(len(columns)), columns)
    axes[-1, 0].set_xlabel(xlabel)
    return figure
