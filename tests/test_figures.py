"""Figures: what stands in them is what was given."""

import matplotlib
import pytest
import torch
from matplotlib import pyplot as plt

from stn_helpers.figures import show_curves, show_images, show_maps

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_maps_show_every_number_on_one_scale_of_colours():
    maps = {"first": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), "second": torch.tensor([[61.25] * 3] * 2)}
    figure = show_maps(maps, rows=["a", "b"], columns=["x", "y", "z"], xlabel="across", ylabel="down")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["first", "second"]
    for ax, numbers in zip(figure.axes, maps.values(), strict=True):
        assert ax.images[0].get_clim() == (1.0, 61.25)
        assert [text.get_text() for text in ax.texts] == [f"{number:.1f}" for number in numbers.flatten().tolist()]
        assert [text.get_position() for text in ax.texts] == [(x, y) for y in range(2) for x in range(3)]
        assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in figure.axes[-1].get_xticklabels()] == ["x", "y", "z"]


def test_numbers_can_be_read_on_every_colour():
    """Contrast of text and cell at least 4.5, by the formula of WCAG 2."""

    def luminance(color) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    figure = show_maps({"": torch.arange(101.0)[None]}, ["r"], [""] * 101, "", "")
    (image,) = figure.axes[0].images
    for number, text in enumerate(figure.axes[0].texts):
        levels = sorted((luminance(image.cmap(image.norm(number))), luminance(matplotlib.colors.to_rgb(text.get_color()))))
        assert (levels[1] + 0.05) / (levels[0] + 0.05) >= 4.5, number


def test_every_curve_is_drawn_and_named():
    curves = {f"curve {k}": ([1, 2], [k, k + 0.5]) for k in range(9)}
    figure = show_curves(curves, "x", "y")
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [y for _, y in curves.values()]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(curves)


@pytest.mark.parametrize("margin", [0.1, 0.45])
def test_images_with_grids_show_their_surroundings(margin):
    images, grid = torch.zeros(2, 1, 8, 8), torch.zeros(2, 4, 4, 2)
    figure = show_images({"a": images, "b": images}, grids={"a": grid}, cells=1, margin=margin)
    for ax in figure.axes:
        assert ax.get_xlim() == (-1 - margin, 1 + margin) and ax.get_ylim() == (1 + margin, -1 - margin)
    lines = [sum(len(part.get_segments()) for part in ax.collections) for ax in figure.axes]
    assert lines == [5, 5, 0, 0]  # a frame of four sides, and its upper edge once more
