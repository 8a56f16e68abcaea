"""The spatial transformer: localization network, grid generator and sampler in one module."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from stn_helpers.sampling import PADDINGS, sample
from stn_helpers.transforms import Transform

__all__ = ["Glimpse", "SpatialTransformer"]


class Glimpse(NamedTuple):
    """All that a spatial transformer worked out for a batch."""

    theta: Tensor
    """B×num_params: what the localization network said."""
    grid: Tensor
    """B×H'×W'×2: where each output pixel looked, (x, y) in [-1, 1], ``align_corners=False``."""
    output: Tensor
    """B×C×H'×W': what it saw."""


class SpatialTransformer(nn.Module):
    """Warps every image of a batch by a θ that it works out from the image itself (Jaderberg et al. 2015, section 3).

    Put it in front of a net or between two of its layers: it takes and gives a batch of images or feature maps, and
    everything in it can be differentiated, so it needs no loss and no labels of its own.

    Args:
        localization: a module from B×C×H×W to B×num_params; end it with `theta_head`.
        transform: the family that turns θ into a sampling grid, such as ``Affine()``.
        out_size: (H', W') of the output in pixels; None keeps the size of the input.
        padding: what lies outside the image: "zeros" (black), "border" (the nearest edge pixel) or "reflection".

    Raises:
        ValueError: ``padding`` or ``out_size`` is not one of those.
    """

    def __init__(
        self,
        localization: nn.Module,
        transform: Transform,
        out_size: tuple[int, int] | None = None,
        padding: str = "zeros",
    ) -> None:
        super().__init__()
        if padding not in PADDINGS:
            raise ValueError(f"padding: wanted one of {', '.join(PADDINGS)}, got {padding!r}")
        if out_size is not None and (len(out_size) != 2 or min(out_size) < 1):
            raise ValueError(f"out_size: wanted (H, W), both at least 1, got {out_size}")
        self.localization = localization
        self.transform = transform
        self.out_size = out_size
        self.padding = padding

    def glimpse(self, image: Tensor) -> Glimpse:
        """Warp ``image`` (B×C×H×W, floating) and hand back θ and the grid beside the output.

        Raises:
            ValueError: ``image`` is not B×C×H×W floating, or the localization network's θ does not fit the transform.
        """
        theta = self.localization(image)
        grid = self.transform.grid(theta, self.out_size or tuple(image.shape[-2:]))
        return Glimpse(theta, grid, sample(image, grid, padding=self.padding))

    def forward(self, image: Tensor) -> Tensor:
        """B×C×H×W → B×C×H'×W', warped."""
        return self.glimpse(image).output
