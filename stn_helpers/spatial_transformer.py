"""The spatial transformer: localization network, grid generator and sampler in one module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stn_helpers.sampling import PADDINGS, sample
from stn_helpers.transforms import Transform

__all__ = ["Glimpse", "ParallelSpatialTransformer", "SpatialTransformer", "parallel_head", "sample_windows"]


class Glimpse(NamedTuple):
    """All that a spatial transformer worked out for a batch; N in parallel put N behind each B."""

    theta: Tensor
    """B×num_params: what the localization network said, at least float32."""
    grid: Tensor
    """B×H'×W'×2: where each output pixel looked, (x, y) in [-1, 1], ``align_corners=False``."""
    output: Tensor
    """B×C×H'×W': what it saw."""


class SpatialTransformer(nn.Module):
    """Warps every image of a batch by a θ that it works out from the image itself (Jaderberg et al. 2015, section 3).

    Put it in front of a net or between two of its layers: it takes and gives a batch of images or feature maps, and
    everything in it can be differentiated, so it needs no loss and no labels of its own.

    Under ``torch.autocast`` the localization network works in half precision; θ and the grid are float32, and the output
    has the dtype of ``image``. It can be compiled (``torch.compile``) and exported (``torch.export``); a net that is
    compiled does not look whether θ is finite.

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
        if out_size is not None and not _is_size(out_size):
            raise ValueError(f"out_size: wanted (H, W), two whole numbers of at least 1, got {out_size}")
        self.localization = localization
        self.transform = transform
        self.out_size = out_size
        self.padding = padding

    def _locate(self, image: Tensor) -> Tensor:
        if image.dim() != 4 or not image.is_floating_point():
            raise ValueError(f"image: wanted B×C×H×W, floating, got {image.dtype} of shape {tuple(image.shape)}")
        return _precise(self.localization(image))

    def glimpse(self, image: Tensor) -> Glimpse:
        """Warp ``image`` (B×C×H×W, floating) and hand back θ and the grid beside the output.

        Raises:
            ValueError: ``image`` is not B×C×H×W floating, or the localization network's θ does not fit the transform.
        """
        theta = self._locate(image)
        with torch.autocast(image.device.type, enabled=False):
            grid = self.transform.grid(theta, self.out_size or tuple(image.shape[-2:]))
            return Glimpse(theta, grid, sample(_precise(image), grid, padding=self.padding).to(image.dtype))

    def forward(self, image: Tensor) -> Tensor:
        """B×C×H×W → B×C×H'×W', warped."""
        return self.glimpse(image).output


class ParallelSpatialTransformer(SpatialTransformer):
    """Warps every image of a batch N times at once, by N θs that one localization network works out from it.

    One window for each object or part, where a single warp would serve none of them well (Jaderberg et al. 2015,
    section 3.4; two digits to be added in appendix A.1, the parts of a bird in section 4.3). The windows start alike
    or at places of their own, see `parallel_head`; which of them watches what, training decides.

    A `SpatialTransformer` in all else: one family, one size and one padding for all N.

    Args:
        localization: a module from B×C×H×W to B×(N·num_params) or B×N×num_params, the θ of the first window first.
        transform: the family that turns each θ into a sampling grid.
        count: N, at least 1.
        out_size: (H', W') of each output in pixels; None keeps the size of the input.
        padding: what lies outside the image: "zeros" (black), "border" (the nearest edge pixel) or "reflection".

    Raises:
        ValueError: ``count`` is below 1, or ``padding`` or ``out_size`` is not one of those.
    """

    def __init__(
        self,
        localization: nn.Module,
        transform: Transform,
        count: int,
        out_size: tuple[int, int] | None = None,
        padding: str = "zeros",
    ) -> None:
        super().__init__(localization, transform, out_size, padding)
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"count: wanted a whole number of windows, at least 1, got {count!r}")
        self.count = count

    def glimpse(self, image: Tensor) -> Glimpse:
        """Warp ``image`` (B×C×H×W, floating) N times and hand back the θs and the grids beside the outputs.

        Returns:
            θ B×N×num_params, grid B×N×H'×W'×2, output B×N×C×H'×W'.

        Raises:
            ValueError: ``image`` is not B×C×H×W floating, or the localization network's θ does not fit N transforms.
        """
        theta = self._locate(image)
        wanted = (self.count, self.transform.num_params)
        if theta.shape[1:] not in (wanted, (wanted[0] * wanted[1],)):
            shapes = f"B×{wanted[0] * wanted[1]} or B×{wanted[0]}×{wanted[1]}"
            raise ValueError(f"theta: wanted {shapes} for {self.count} transforms, got {tuple(theta.shape)}")
        theta = theta.reshape(-1, *wanted)
        # One grid computation for all B·N windows.
        with torch.autocast(image.device.type, enabled=False):
            grid = self.transform.grid(theta.flatten(0, 1), self.out_size or tuple(image.shape[-2:]))
            grid = grid.unflatten(0, theta.shape[:2])
            return Glimpse(theta, grid, sample_windows(_precise(image), grid, padding=self.padding).to(image.dtype))

    def forward(self, image: Tensor) -> Tensor:
        """B×C×H×W → B×N×C×H'×W': every image, warped N times."""
        return self.glimpse(image).output


def _is_size(size: object) -> bool:
    return isinstance(size, Sequence) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)


def _precise(values: Tensor) -> Tensor:
    """Half precision made float32: a place that is kept in 8 or 11 bits is a noticeable part of a pixel off."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def sample_windows(image: Tensor, grid: Tensor, padding: str = "zeros") -> Tensor:
    """Read every image at N grids. The image is not repeated: its grids lie above each other in one tall grid.

    Args:
        image: B×C×H×W, floating.
        grid: B×N×H'×W'×2, same dtype; (x, y) in [-1, 1], ``align_corners=False``.
        padding: as for `stn_helpers.sampling.sample`.

    Returns:
        B×N×C×H'×W'.

    Raises:
        ValueError: ``grid`` is not B×N×H'×W'×2, or as for `stn_helpers.sampling.sample`.
    """
    if grid.dim() != 5:
        raise ValueError(f"grid: wanted B×N×H'×W'×2, got {tuple(grid.shape)}")
    tall = sample(image, grid.flatten(1, 2), padding=padding)  # B×C×(N·H')×W'
    return tall.unflatten(2, grid.shape[1:3]).transpose(1, 2)


def parallel_head(in_features: int, start: Tensor) -> nn.Linear:
    """The regression layer that ends the localization network of a `ParallelSpatialTransformer`.

    It starts with zero weights, so that before the first step the windows lie where ``start`` says, whatever the image.

    Args:
        in_features: length of the feature vector.
        start: N×num_params, the θ of each window before the first step; for N identities
            ``transform.identity().expand(N, -1)``.

    Returns:
        ``nn.Linear`` from B×in_features to B×(N·num_params).

    Raises:
        ValueError: ``start`` is not N×num_params.
    """
    if start.dim() != 2 or start.numel() == 0:
        raise ValueError(f"start: wanted N×num_params, one θ a window, got {tuple(start.shape)}")
    head = nn.Linear(in_features, start.numel())
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(start.flatten())
    return head
