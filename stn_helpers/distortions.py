"""Whole batches of images warped by chance, through the package's own grids and sampler.

`rotated`, `rotated_scaled_translated`, `projective`, `elastic` and `cluttered` are the distorted MNIST of the paper
(Jaderberg et al. 2015, appendix A.4): each draws what it needs from torch's random numbers, on the device of the images,
and reads every image once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from stn_helpers.matrices import OUTPUT_CORNERS, affine_theta, corners_to_theta
from stn_helpers.sampling import sample
from stn_helpers.transforms import Affine, Projective, ThinPlateSpline, projective_grid, target_points

__all__ = [
    "cluttered",
    "cut_scraps",
    "distort_fixed",
    "elastic",
    "evenly",
    "jitter",
    "place_among",
    "projective",
    "rotate",
    "rotate_at_random",
    "rotated",
    "rotated_scaled_translated",
]

FLATTENED = 0.05
"""A quadrilateral one of whose corners spans, with its neighbours, less than this share of the area that it spans in the
square is drawn anew: beyond lie those that are folded or crossed."""
SCRAP = 6
"""Pixels of the side of a scrap."""
SPLINE = ThinPlateSpline(4)


def jitter(images: Tensor, strength: float = 0.05) -> Tensor:
    """Warp every image by an affine map of its own, close to the identity.

    Each of the six numbers of θ is moved by a normally distributed amount. As augmentation it shows a net every image a
    little differently each time.

    Args:
        images: B×C×H×W, floating, outside of which there is black (0).
        strength: standard deviation of the six numbers; 0.05 moves the edge of an image by about a twentieth of its half
            width.

    Returns:
        B×C×H×W. Draws from torch's random numbers.
    """
    noise = strength * torch.randn(len(images), 6, dtype=images.dtype, device=images.device)
    theta = Affine().identity().to(noise) + noise
    return sample(images, Affine().grid(theta, tuple(images.shape[-2:])))


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn what is in every image by an angle of its own, about the centre.

    Args:
        images: B×C×H×W, floating, outside of which there is black (0).
        degrees: B angles; a positive one turns clockwise as one sees it, since y points down.

    Returns:
        B×C×H×W.

    Raises:
        ValueError: ``degrees`` is not one number for each image.
    """
    if degrees.shape != images.shape[:1]:
        raise ValueError(f"degrees: wanted {len(images)} angles, got shape {tuple(degrees.shape)}")
    height, width = images.shape[-2:]
    # θ maps target to source: to turn the picture by an angle, look along the opposite one.
    theta = affine_theta(rotation=-torch.deg2rad(degrees).to(images), aspect=width / height)
    return sample(images, Affine().grid(theta, (height, width)))


def rotate_at_random(images: Tensor, most: float = 60.0) -> Tensor:
    """`rotate` by angles drawn evenly between minus ``most`` and ``most`` degrees, with torch's random numbers."""
    return rotate(images, most * (2 * torch.rand(len(images), device=images.device) - 1))


def rotated(images: Tensor) -> Tensor:
    """R: `rotate` by angles drawn evenly from −90 to 90 degrees.

    Args:
        images: B×C×H×W, floating, outside of which there is black (0).

    Returns:
        B×C×H×W.
    """
    return rotate_at_random(images, most=90.0)


def rotated_scaled_translated(images: Tensor, canvas: int = 42, by_ink: bool = True) -> Tensor:
    """RTS: turn by −45 to 45 degrees, scale by 0.7 to 1.2, place anywhere on a larger black canvas.

    All are drawn evenly. What is too large for the canvas sticks out on both sides.

    Args:
        images: B×C×H×W, floating, black (0) around the digit, which covers the image's centre.
        canvas: pixels of the canvas's side, at least those of the image.
        by_ink: the place is one of those where every pixel that is not black stays on the canvas. Otherwise it is one of
            those where the image does, scaled but not turned yet: digits then seldom come near to the edge.

    Returns:
        B×C×canvas×canvas.

    Raises:
        ValueError: ``images`` is no such batch; ``canvas`` is too small.
    """
    _check(images, canvas)
    angle, scale = torch.deg2rad(evenly(images, -45, 45)), evenly(images, 0.7, 1.2)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    forth = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)  # pixels of the image to pixels of the canvas

    half = _half(images)
    if by_ink:
        points = target_points(tuple(images.shape[-2:]), dtype=images.dtype, device=images.device)[..., :2].flatten(0, 1)
        ink = (images > 0).any(1).flatten(1)[:, None]
        lands = (forth @ (points * half).T) * ink  # B×2×(H·W), from the centre; black pixels land there
        spread = (cos.abs() + sin.abs())[:, None]  # bilinear reading smears a pixel so far to each side
        lowest = spread - lands.amin(2) - canvas / 2
        highest = canvas / 2 - lands.amax(2) - spread
    else:
        highest = canvas / 2 - scale[:, None] * half
        lowest = -highest
    shift = lowest + torch.rand_like(lowest) * (highest - lowest)

    back = forth.transpose(1, 2) / scale[:, None, None].square()
    matrix = torch.cat([canvas / 2 * back, -back @ shift[..., None]], dim=2) / half[:, None]
    return sample(images, Affine().grid(matrix.flatten(1), (canvas, canvas)))


def projective(images: Tensor, pull: float = 5.0) -> Tensor:
    """P: scale by 0.75 to 1.0 about the centre, then pull every corner of the image to another place.

    The scale is drawn evenly. Each corner goes any way, normally distributed, and the picture with it, by the homography
    through the four corners. Corners that would fold the picture over are drawn anew, all four.

    Args:
        images: B×C×H×W, floating, outside of which there is black (0).
        pull: how far a corner goes, root mean square, in pixels; across and down it is ``pull`` / √2 each.

    Returns:
        B×C×H×W.

    Raises:
        ValueError: ``images`` is no such batch; ``pull`` is below 0 or not finite.
    """
    _check(images)
    if not 0 <= pull < math.inf:
        raise ValueError(f"pull: wanted 0 pixels or more, and finite, got {pull}")
    corners = images.new_tensor(OUTPUT_CORNERS)[:, :2].repeat(len(images), 1, 1)
    move = pull / math.sqrt(2) / _half(images)
    pulled = corners + move * torch.randn_like(corners)
    while (folded := _folded(pulled)).any():
        again = corners[folded]
        pulled[folded] = again + move * torch.randn_like(again)
    # The picture follows its corners from source to target; the grid wants the way back. The inverse matrix as it is has
    # the picture in front of its horizon, wherever the middle of the output may lie.
    back = torch.linalg.inv(Projective().matrix(corners_to_theta(pulled)))
    back[:, :2] /= evenly(images, 0.75, 1.0)[:, None, None]
    return sample(images, projective_grid(back, tuple(images.shape[-2:])))


def elastic(images: Tensor) -> Tensor:
    """E: scale by 0.75 to 1.0 about the centre, then bend by a thin plate spline.

    The scale is drawn evenly. The spline has 4×4 control points on a regular grid from edge to edge of the output; where
    each looks in the scaled image is moved by N(0, 1.5 pixels) across and as much down.

    Args:
        images: B×C×H×W, floating, outside of which there is black (0).

    Returns:
        B×C×H×W.

    Raises:
        ValueError: ``images`` is no such batch.
    """
    _check(images)
    control = SPLINE.control.to(images).expand(len(images), -1, -1)
    looks = control + 1.5 / _half(images) * torch.randn_like(control)
    theta = looks / evenly(images, 0.75, 1.0)[:, None, None]  # a spline times a number is a spline
    return sample(images, SPLINE.grid(theta.flatten(1), tuple(images.shape[-2:])))


def cluttered(images: Tensor, canvas: int = 60, patches: int = 6) -> Tensor:
    """TC: put every image anywhere on a larger black canvas, and scraps of other images around it.

    A scrap is a square of 6×6 pixels from anywhere in another image of the batch (in a batch of one, from the image
    itself), put anywhere on the canvas. All places are whole pixels and drawn evenly; image and scraps lie wholly on the
    canvas, and where they overlap they are added, up to 1.

    Args:
        images: B×C×H×W, floating, in [0, 1], sides of at least 6 pixels.
        canvas: pixels of the canvas's side, at least those of the image.
        patches: scraps for each image; 0 leaves it alone on its canvas.

    Returns:
        B×C×canvas×canvas in [0, 1].

    Raises:
        ValueError: ``images`` is no such batch; ``canvas`` is too small; ``patches`` is below 0.
    """
    _check(images, canvas, SCRAP)
    if patches < 0:
        raise ValueError(f"patches: wanted 0 or more, got {patches}")
    batch = len(images)
    other = torch.randint(1, max(batch, 2), (batch, patches), device=images.device)
    other = (torch.arange(batch, device=images.device)[:, None] + other) % batch
    return place_among(images, cut_scraps(images, other), canvas)[0]


def cut_scraps(images: Tensor, chosen: Tensor) -> Tensor:
    """Squares of 6×6 pixels, each from anywhere in an image; places are whole pixels and drawn evenly.

    Args:
        images: N×C×H×W, floating, sides of at least 6 pixels.
        chosen: B×P int64, of which image each scrap is to be.

    Returns:
        B×P×C×6×6. Draws from torch's random numbers, on the device of the images.

    Raises:
        ValueError: ``images`` is no such batch.
    """
    _check(images, smallest=SCRAP)
    cut = _pixels((chosen.numel(),), tuple(images.shape[-2:]), (SCRAP, SCRAP), images.device)
    scraps = images.flatten(2)[chosen.flatten()].gather(2, cut[:, None].expand(-1, images.shape[1], -1))
    return scraps.view(*chosen.shape, images.shape[1], SCRAP, SCRAP)


def place_among(images: Tensor, scraps: Tensor, canvas: int) -> tuple[Tensor, Tensor]:
    """Put every image anywhere on a larger black canvas, and its scraps around it.

    All places are whole pixels and drawn evenly; image and scraps lie wholly on the canvas, and where they overlap they
    are added, up to 1.

    Args:
        images: B×C×H×W, floating, in [0, 1].
        scraps: B×P×C×h×w, of the dtype of the images, in [0, 1]; P may be 0.
        canvas: pixels of the canvas's side, at least those of the image and of the scraps.

    Returns:
        B×C×canvas×canvas in [0, 1], and where each image's upper left corner came to lie: B×2 int64, (x, y) in whole
        pixels from the canvas's. Draws from torch's random numbers, on the device of the images.

    Raises:
        ValueError: ``images`` is no such batch; ``canvas`` is too small.
    """
    _check(images, canvas)
    (batch, channels), patches = images.shape[:2], scraps.shape[1]
    if max(scraps.shape[-2:]) > canvas:
        raise ValueError(f"canvas: wanted at least {max(scraps.shape[-2:])} pixels, the scraps' side, got {canvas}")
    size, device = (canvas, canvas), images.device
    image_at = _pixels((batch,), size, tuple(images.shape[-2:]), device)
    scraps_at = _pixels((batch, patches), size, tuple(scraps.shape[-2:]), device).flatten(1)
    everything = torch.cat([images.flatten(2), scraps.transpose(1, 2).flatten(2)], dim=2)
    at = torch.cat([image_at, scraps_at], dim=1)
    field = images.new_zeros(batch, channels, canvas * canvas)
    field.scatter_add_(2, at[:, None].expand(-1, channels, -1), everything)
    corner = torch.stack([image_at[:, 0] % canvas, image_at[:, 0] // canvas], dim=1)
    return field.clamp_(max=1).view(batch, channels, *size), corner


def distort_fixed(images: Tensor, distortion: Callable[[Tensor], Tensor], seed: int) -> Tensor:
    """Distort a whole set of images, always in the same way: a test set.

    Args:
        images: N×C×H×W; on the CPU, as another device would draw other numbers.
        distortion: from a batch to a batch; takes its random numbers from torch alone.
        seed: the same one gives the same images. Torch's random numbers are left as they were.

    Returns:
        N images, distorted a thousand at a time.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.cat([distortion(part) for part in images.split(1000)])


def evenly(like: Tensor, lowest: float, highest: float, *shape: int) -> Tensor:
    """Random numbers B×shape, all between the two alike likely; B is the length of ``like``, whose dtype and device they have."""
    return lowest + (highest - lowest) * torch.rand(len(like), *shape, dtype=like.dtype, device=like.device)


def _half(images: Tensor) -> Tensor:
    """Half the width and half the height in pixels: (2,), what [0, 1] measures."""
    return images.new_tensor([images.shape[3] / 2, images.shape[2] / 2])


def _folded(corners: Tensor) -> Tensor:
    """B bool: whether corners B×4×2 that began as the square are `FLATTENED`, folded or crossed."""
    edge = corners.roll(-1, 1) - corners
    following = edge.roll(-1, 1)
    turn = edge[..., 0] * following[..., 1] - edge[..., 1] * following[..., 0]  # 4 in the square, below 0 in a fold
    return (turn < 4 * FLATTENED).any(1)


def _pixels(shape: tuple[int, ...], size: tuple[int, int], part: tuple[int, int], device: torch.device) -> Tensor:
    """Windows of ``part`` (h, w) pixels anywhere in images of ``size`` (H, W): their pixels, counted row by row.

    Returns:
        shape×(h·w) int64.
    """
    (height, width), (rows, columns) = size, part
    top = torch.randint(height - rows + 1, (*shape, 1), device=device)
    left = torch.randint(width - columns + 1, (*shape, 1), device=device)
    within = torch.arange(rows, device=device)[:, None] * width + torch.arange(columns, device=device)
    return top * width + left + within.flatten()


def _check(images: Tensor, canvas: int | None = None, smallest: int = 1) -> None:
    if images.dim() != 4 or images.numel() == 0 or not images.is_floating_point():
        wanted = "wanted a non-empty floating B×C×H×W"
        raise ValueError(f"images: {wanted}, got {images.dtype} {tuple(images.shape)}")
    height, width = images.shape[-2:]
    if min(height, width) < smallest:
        raise ValueError(f"images: wanted sides of at least {smallest} pixels, got {height}×{width}")
    if canvas is not None and canvas < max(height, width):
        raise ValueError(f"canvas: wanted at least {max(height, width)} pixels, the image's side, got {canvas}")
