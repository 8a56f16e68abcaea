"""The θ explorer: a picture, its sampling grid and what the grid sees, under the reader's hand.

`ThetaExplorer` is an ipywidget. Everything it shows is computed in the browser by one plain ES module, ``explorer.js``,
which has the formulas and the names of `stn_helpers.transforms` and `stn_helpers.sampling`; so it moves without a kernel too, in the built
page of the book.
"""

from __future__ import annotations

import base64
import html
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import anywidget
import numpy as np
import traitlets
from torch import Tensor

from stn_helpers.explorer.presets import PRESETS, PUZZLES
from stn_helpers.transforms import Affine, Attention, Projective, Similarity, ThinPlateSpline, Transform

__all__ = ["FAMILIES", "MODES", "PADDINGS", "ThetaExplorer", "static_script", "static_style"]

FAMILIES: dict[str, Transform] = {
    "affine": Affine(),
    "attention": Attention(),
    "similarity": Similarity(),
    "projective": Projective(),
    "tps": ThinPlateSpline(),
}
"""The families the explorer knows, by the name it calls them; "tps" is the thin plate spline with 4×4 control points."""

PADDINGS = ("zeros", "border")
MODES = ("bilinear", "nearest")
"""What the page can do of what `stn_helpers.sampling.sample` can."""

HERE = Path(__file__).parent
STATE = ("family", "theta", "index", "out_size", "padding", "mode", "hidden", "pixels", "shape", "presets")


class ThetaExplorer(anywidget.AnyWidget):
    """Sliders and handles for θ, with the source, the sampling grid on it, and the output beside it.

    The traits ``family``, ``theta``, ``index``, ``out_size``, ``padding``, ``mode`` and ``hidden`` are in step with
    the page both ways: assign to them, or ``observe`` them. A new ``family`` sets ``theta`` to its identity and ends a puzzle.

    With ``hidden`` the reader becomes the localization network: the picture is warped by that θ, and another θ has to
    bring it home. The page then shows the loss against the upright picture (mean squared difference), its gradient
    (Jaderberg et al. 2015, equation 7, through the grid generator to θ), and takes steps of gradient descent.

    Args:
        image: one picture, H×W, or several to choose from, B×1×H×W; floating, in [0, 1]. The page shows them in 8 bits.
        family: one of `FAMILIES`.
        theta: the parameters at the start, as many as the family has; None for its identity. θ maps target to source,
            (x, y) in [-1, 1], ``align_corners=False``.
        out_size: (H', W') of the output in pixels; None for the size of the image.
        padding: what lies outside the image: "zeros" (black) or "border" (the nearest edge pixel).
        mode: "bilinear" or "nearest".
        hidden: the θ behind which the picture is hidden, of the same family; None for no puzzle.
        index: which of several pictures to show, from 0.

    Raises:
        ValueError: an argument, or later a value assigned to a trait, that does not fit; the message names it. (A value of
            another type, assigned later to a trait of a fixed one, is refused by traitlets with its own TraitError.)
    """

    _esm = HERE / "explorer.js"
    _css = HERE / "explorer.css"

    family = traitlets.Unicode().tag(sync=True)
    theta = traitlets.Any().tag(sync=True)
    index = traitlets.Int().tag(sync=True)
    out_size = traitlets.Any().tag(sync=True)
    padding = traitlets.Unicode().tag(sync=True)
    mode = traitlets.Unicode().tag(sync=True)
    hidden = traitlets.Any().tag(sync=True)
    pixels = traitlets.Unicode(read_only=True).tag(sync=True)
    shape = traitlets.Any(read_only=True).tag(sync=True)
    presets = traitlets.Any(read_only=True).tag(sync=True)

    def __init__(
        self,
        image: Tensor | np.ndarray,
        family: str = "affine",
        theta: Sequence[float] | Tensor | None = None,
        out_size: tuple[int, int] | None = None,
        padding: str = "zeros",
        mode: str = "bilinear",
        hidden: Sequence[float] | Tensor | None = None,
        index: int = 0,
    ) -> None:
        images = _check_image(image)
        family = _check_choice("family", family, FAMILIES)
        identity = FAMILIES[family].identity()
        self.set_trait("pixels", base64.b64encode(np.rint(images * 255).astype(np.uint8).tobytes()).decode())
        self.set_trait("shape", list(images.shape))
        self.set_trait("presets", _presets(family))
        super().__init__(
            family=family,
            theta=_check_theta("theta", identity if theta is None else theta, family),
            index=_check_index(index, len(images)),
            out_size=_check_size(images.shape[1:] if out_size is None else out_size),
            padding=_check_choice("padding", padding, PADDINGS),
            mode=_check_choice("mode", mode, MODES),
            hidden=[] if hidden is None else _check_theta("hidden", hidden, family),
        )

    @traitlets.validate("family")
    def _valid_family(self, proposal: dict) -> str:
        return _check_choice("family", proposal["value"], FAMILIES)

    @traitlets.validate("theta")
    def _valid_theta(self, proposal: dict) -> list[float]:
        return _check_theta("theta", proposal["value"], self.family)

    @traitlets.validate("hidden")
    def _valid_hidden(self, proposal: dict) -> list[float]:
        value = proposal["value"]
        none = value is None or (isinstance(value, Sequence) and not value)
        return [] if none else _check_theta("hidden", value, self.family)

    @traitlets.validate("index")
    def _valid_index(self, proposal: dict) -> int:
        return _check_index(proposal["value"], self.shape[0])

    @traitlets.validate("out_size")
    def _valid_size(self, proposal: dict) -> list[int]:
        return _check_size(proposal["value"])

    @traitlets.validate("padding")
    def _valid_padding(self, proposal: dict) -> str:
        return _check_choice("padding", proposal["value"], PADDINGS)

    @traitlets.validate("mode")
    def _valid_mode(self, proposal: dict) -> str:
        return _check_choice("mode", proposal["value"], MODES)

    @traitlets.observe("family")
    def _start_family(self, change: dict) -> None:
        if change["old"]:  # not while the explorer is being made
            self.hidden = []
            self.theta = FAMILIES[self.family].identity()
            self.set_trait("presets", _presets(self.family))

    def static_html(self) -> str:
        """The explorer as it stands, for a page without a kernel: one element that holds its state as JSON.

        The page must load, at its end or deferred, `static_script`, and `static_style`. Notebooks show this element only while
        the environment variable ``STN_STATIC_PAGE`` is 1, as it is when the book is built.
        """
        state = html.escape(json.dumps({name: getattr(self, name) for name in STATE}))
        return (
            f'<div class="theta-explorer-place" data-theta-explorer="{state}">'
            "<p>Here stands an explorer that needs JavaScript.</p></div>"
        )

    def _repr_mimebundle_(self, **kwargs: object) -> tuple[dict, dict] | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle and os.environ.get("STN_STATIC_PAGE") == "1":
            bundle[0]["text/html"] = self.static_html()
        return bundle


def static_script() -> str:
    """The classic script that brings every `ThetaExplorer.static_html` of a page to life; works from ``file://`` too.

    It is ``explorer.js`` without its exports, and ``static_page.js``, which stands in for the kernel.
    """
    module = (HERE / "explorer.js").read_text(encoding="utf-8").replace("export default ", "const widget = ")
    host = (HERE / "static_page.js").read_text(encoding="utf-8")
    return "(() => {\n" + re.sub(r"^export ", "", module, flags=re.MULTILINE) + host + "})();\n"


def static_style() -> str:
    """The style of `static_script`'s explorers."""
    return (HERE / "explorer.css").read_text(encoding="utf-8")


def _presets(family: str) -> dict[str, dict[str, list[float]]]:
    return {"presets": PRESETS[family], "puzzles": PUZZLES[family]}


def _check_image(image: Tensor | np.ndarray) -> np.ndarray:
    """N×H×W float64 in [0, 1]."""
    if not isinstance(image, Tensor | np.ndarray):
        raise ValueError(f"image: wanted a tensor or an array, H×W or B×1×H×W, got {type(image).__name__}")
    values = image
    if isinstance(image, Tensor):
        values = (image.double() if image.is_floating_point() else image).detach().cpu().numpy()
    shape = tuple(values.shape)
    if values.ndim == 2:
        values = values[None, None]
    if values.ndim != 4 or values.shape[1] != 1 or values.size == 0:
        raise ValueError(f"image: wanted shape H×W or B×1×H×W, not empty, got {shape}")
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"image: wanted floating values in [0, 1], got {values.dtype}; divide 8-bit values by 255")
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"image: wanted values in [0, 1], got {values.min():.3g} to {values.max():.3g}")
    return values[:, 0].astype(np.float64)


def _check_choice(name: str, value: str, choices: Iterable[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: wanted one of {', '.join(choices)}, got {value!r}")
    return value


def _check_theta(name: str, theta: Sequence[float] | Tensor, family: str) -> list[float]:
    wanted = FAMILIES[family].num_params
    try:
        values = [float(value) for value in theta]
    except (TypeError, ValueError):
        raise ValueError(f"{name}: wanted {wanted} numbers for the family {family}, got {theta!r}") from None
    if len(values) != wanted:
        raise ValueError(f"{name}: wanted {wanted} numbers for the family {family}, got {len(values)}")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{name}: holds NaN or infinity")
    return values


def _check_size(size: tuple[int, int]) -> list[int]:
    try:
        height, width = (int(side) for side in size if int(side) == side)
    except (OverflowError, TypeError, ValueError):
        raise ValueError(f"out_size: wanted (H, W) in pixels, got {size!r}") from None
    if min(height, width) < 1:
        raise ValueError(f"out_size: wanted (H, W), both at least 1, got {size!r}")
    return [height, width]


def _check_index(index: int, count: int) -> int:
    if not isinstance(index, int) or not 0 <= index < count:
        raise ValueError(f"index: wanted 0 to {count - 1} for {count} image(s), got {index!r}")
    return index
