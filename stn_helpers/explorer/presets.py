"""Where the explorer's buttons lead: for each family some θ worth seeing, and puzzles to solve.

All θ map target to source, (x, y) in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["PRESETS", "PUZZLES"]

LINE = (-1, -1 / 3, 1 / 3, 1)


def _similarity(degrees: float, scale: float, tx: float, ty: float) -> list[float]:
    angle = math.radians(degrees)
    return [scale * math.cos(angle), scale * math.sin(angle), tx, ty]


def _affine(degrees: float, scale: float, tx: float, ty: float) -> list[float]:
    a, b, tx, ty = _similarity(degrees, scale, tx, ty)
    return [a, -b, tx, b, a, ty]


def _spline(bend: Callable[[float, float], tuple[float, float]]) -> list[float]:
    """The 4×4 control points, moved."""
    return [coordinate for y in LINE for x in LINE for coordinate in bend(x, y)]


def _swirl(degrees: float, scale: float = 1.0) -> Callable[[float, float], tuple[float, float]]:
    """Turned by ``degrees`` in the middle, less and less towards the corners."""

    def bend(x: float, y: float) -> tuple[float, float]:
        a, b, _, _ = _similarity(degrees * (1 - (x * x + y * y) / 2), scale, 0, 0)
        return a * x - b * y, b * x + a * y

    return bend


PRESETS: dict[str, dict[str, list[float]]] = {
    "affine": {
        "Zoom in": [0.5, 0, 0, 0, 0.5, 0],
        "Zoom out": [1.4, 0, 0, 0, 1.4, 0],
        "Turn 45°": _affine(45, 1, 0, 0),
        "Shear": [1, 0.5, 0, 0, 1, 0],
        "Mirror": [-1, 0, 0, 0, 1, 0],
        "Look left": [1, 0, -0.5, 0, 1, 0],
    },
    "attention": {
        "Zoom in": [0.5, 0, 0],
        "Zoom out": [1.4, 0, 0],
        "Top left": [0.5, -0.5, -0.5],
        "Bottom right": [0.5, 0.5, 0.5],
        "Half turn": [-1, 0, 0],
    },
    "similarity": {
        "Turn 45°": _similarity(45, 1, 0, 0),
        "Turn back": _similarity(-45, 1, 0, 0),
        "Zoom in": [0.5, 0, 0, 0],
        "Zoom out": [1.4, 0, 0, 0],
        "Upside down": [-1, 0, 0, 0],
    },
    "projective": {
        "Lean back": [1, 0, 0, 0, 1, 0, 0, 0.4],
        "Lean forward": [1, 0, 0, 0, 1, 0, 0, -0.4],
        "From the left": [1, 0, 0, 0, 1, 0, 0.4, 0],
        "From a corner": [1, 0, 0, 0, 1, 0, 0.3, 0.3],
        "Horizon": [1, 0, 0, 0, 1, 0, 0, -1.4],
    },
    "tps": {
        "Wave": _spline(lambda x, y: (x + 0.25 * math.sin(math.pi * y), y)),
        "Bulge": _spline(lambda x, y: (x * (0.4 + 0.3 * (x * x + y * y)), y * (0.4 + 0.3 * (x * x + y * y)))),
        "Swirl": _spline(_swirl(60)),
        "Fold": _spline(lambda x, y: (x, 1.2 * y * y - 0.4)),
    },
}
"""θ worth seeing, by family and by the word on the button."""

PUZZLES: dict[str, dict[str, list[float]]] = {
    "affine": {
        "Tilted": _affine(20, 1.1, 0.1, -0.08),
        "Sheared": [1.1, 0.55, 0.1, 0.1, 1.2, -0.1],
        "Upside down": _affine(170, 1.15, 0, 0.05),
        "Out of reach": _affine(0, 2.8, 1.9, 1.9),
    },
    "attention": {"Near": [1.2, 0.12, -0.1], "Small": [2, -0.5, 0.5], "Out of reach": [2.8, 1.9, 1.9]},
    "similarity": {
        "Tilted": _similarity(20, 1.1, 0.1, -0.08),
        "Upside down": _similarity(170, 1.15, 0, 0.05),
        "Out of reach": _similarity(0, 2.8, 1.9, 1.9),
    },
    "projective": {
        "Leaning": [1.1, 0.1, 0, 0, 1.2, 0.1, 0.1, 0.3],
        "Turned and leaning": [1, -0.5, 0.1, 0.5, 1, 0, -0.2, 0.2],
        "Upside down": [*_affine(170, 1.15, 0, 0.05), 0, 0.1],
    },
    "tps": {
        "Bent": _spline(lambda x, y: (1.1 * x + 0.25 * math.sin(2 * y), 1.15 * y)),
        "Swirled": _spline(_swirl(50, 1.15)),
        "Upside down": _spline(lambda x, y: (-1.15 * x + 0.1 * y, -1.15 * y)),
    },
}
"""Hidden θ for "be the localization network". Gradient descent from the identity solves the first of each family; from
"Upside down" it ends in a bad local minimum, and "Out of reach" gives it hardly a pixel to go by."""
