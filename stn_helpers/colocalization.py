"""Finding what many images have in common, without being told where it is: co-localisation.

Jaderberg et al. 2015, appendix A.2: a hundred images of 84×84 pixels all show the same digit somewhere, each in another
hand. An attention transformer cuts a window out of each. What it learns from is a comparison: two windows, as a net trained
on plain digits sees them, should be more alike than a window is like a random crop of its own image. Nobody tells it where
a digit is, nor which digit it is; the true boxes are there to count with, afterwards.
"""

from __future__ import annotations

import math
import time
import zlib
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from stn_helpers.checkpoint import Checkpoint
from stn_helpers.data import Digits
from stn_helpers.distortions import cut_scraps, distort_fixed, jitter, place_among
from stn_helpers.localization import PeakLocalization
from stn_helpers.networks import Standardize, tutorial_classifier
from stn_helpers.sampling import sample
from stn_helpers.spatial_transformer import Glimpse, ParallelSpatialTransformer, sample_windows
from stn_helpers.training import History, Recipe, choose_device, fit
from stn_helpers.transforms import Attention

__all__ = [
    "CANVAS",
    "IMAGES",
    "LARGEST",
    "MISSED",
    "PATCHES",
    "SEARCHES",
    "SMALLEST",
    "DigitCode",
    "InsideImage",
    "KnownSize",
    "Scenes",
    "Search",
    "Tries",
    "best_try",
    "box_overlap",
    "code_digits",
    "colocalization_net",
    "digit_scenes",
    "find_common",
    "missed",
    "paper_localization",
    "random_crops",
    "triplet_hinge",
    "window_boxes",
    "with_misses",
]

CANVAS = 84
"""Pixels of the side of the images."""
IMAGES = 100
"""Images of each digit."""
PATCHES = {"T": 0, "TC": 16}
"""Scraps of other digits in each kind of image. T is translated, the digit alone somewhere on black; TC is cluttered too."""
SEEN = 28
"""Side of what the window shows, in pixels: that of the digits the code was trained on."""
SMALLEST, LARGEST = 5 / 18, 7 / 18
"""Between these shares of the image's side lies the side of the window. It starts in the middle, at a digit's third, so the
size of what is to be found is known to within a sixth. With wider limits the window of a net that is not sure of the place
grows, which keeps the digit somewhere inside; and one that has found a 1 shrinks to the stroke, which looks the same in all
images."""
CODE_JITTER = 0.1
"""How much the digits are warped from which the code is learnt: 0.1 moves them by 1.4 pixels, standard deviation."""
MISSED = 10
"""So many pixels across or down, or more, lie the windows from their digits that the code learns to call missed. At 10 of a
digit's 28 pixels intersection over union falls below one half."""
CROPS = 2
"""Random crops of each image in every step."""
JUDGING_CROPS = 16
"""Random crops of each image when tries are compared."""


@dataclass(frozen=True)
class Search:
    """How localization networks are trained by `find_common`.

    Attributes:
        recipe: one epoch is one step, which takes all images; ``batch_size`` and ``label_smoothing`` have no meaning here.
        tries: how many networks `colocalization_net` makes, which differ in their first weights; the one with the lowest
            loss is taken.
        alone: share of the steps in which likeness between windows counts nothing ...
        rise: ... and in which it then rises to the full loss, see `together`.
        shake: how far the windows are moved at random in the first step, see `shaken`.

    Raises:
        ValueError: a value is out of its range; the message names it.
    """

    recipe: Recipe
    tries: int = 1
    alone: float = 0.4
    rise: float = 0.3
    shake: float = 0.25

    def __post_init__(self) -> None:
        for name, lowest in (("steps", 1), ("tries", 1), ("alone", 0), ("rise", 0), ("shake", 0)):
            if not getattr(self, name) >= lowest:
                raise ValueError(f"Search: {name} must be {lowest} or more, got {getattr(self, name)!r}")

    @property
    def steps(self) -> int:
        """Number of steps."""
        return round(self.recipe.epochs)

    def together(self, step: int) -> float:
        """What likeness between windows counts in a step, numbered from 0: nothing at first, then more, then all (1).

        Black is more alike than any two digits. A net that is to make windows alike before they have met a digit moves
        them where nothing is; one that first makes each window differ from the rest of its image finds what is unusual
        there.
        """
        risen = step / self.steps - self.alone
        if risen <= 0:
            return float(self.alone == 0 == self.rise)
        return min(1.0, risen / self.rise) if self.rise else 1.0

    def shaken(self, step: int) -> float:
        """How far every window is moved at random in a step: the standard deviation of t_x and t_y.

        A digit beyond the rim of a window gives it no gradient. A window that is shaken meets the digit now and then, and
        is drawn towards it. The shaking dies down evenly, and is over when the loss is the full one.
        """
        over = (self.alone + self.rise) * self.steps
        return self.shake * max(0.0, 1 - step / over) if over else 0.0


SEARCHES = {
    "attention": Search(Recipe(epochs=600, lr=0.005, clip=1.0), tries=4),
    "blind": Search(Recipe(epochs=60, lr=0.004, clip=1.0), tries=2),
}
"""How each net is trained. "attention" has the paper's localization network; "blind" a
`stn_helpers.localization.PeakLocalization`, which treats all places alike. Without its saliency it looks anywhere before it
has learnt anything: what it finds in the end it has learnt."""


class Scenes(NamedTuple):
    """Images that all hold the same digit, each in another hand and at another place."""

    images: Tensor
    """N×1×84×84 float32 in [0, 1]."""
    boxes: Tensor
    """N×4 float32: left, top, right, bottom of each digit's 28×28 pixels, in pixels from the image's upper left corner.
    To measure with; no training sees them."""


def digit_scenes(digits: Digits, digit: int, data: str, seed: int, count: int = IMAGES) -> Scenes:
    """Put some digits of one class anywhere on a black canvas, alone or among scraps of the other classes.

    Scraps are 6×6 pixels from anywhere in any digit of another class, put anywhere; where they meet each other or the
    digit they are added, up to 1.

    Args:
        digits: to take from.
        digit: the class that all images hold.
        data: "T" (translated) or "TC" (translated, cluttered), see `PATCHES`.
        seed: of the digits taken, their places and the scraps. Torch's random numbers are left as they were.
        count: how many images; every one is of another digit.

    Returns:
        The images and the true boxes.

    Raises:
        ValueError: ``data`` is none of those, or there are fewer than ``count`` of the digit, or none of the others.
    """
    if data not in PATCHES:
        raise ValueError(f"data: wanted one of {', '.join(PATCHES)}, got {data!r}")
    own, others = digits.images[digits.labels == digit], digits.images[digits.labels != digit]
    if not 1 <= count <= len(own):
        raise ValueError(f"count: wanted 1 to {len(own)} images, as many as there are of the digit {digit}, got {count}")
    if not len(others):
        raise ValueError("digits: wanted some of other classes, to take scraps from")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        chosen = own[torch.randperm(len(own))[:count]]
        scraps = cut_scraps(others, torch.randint(len(others), (count, PATCHES[data])))
        images, corner = place_among(chosen, scraps, CANVAS)
    side = torch.tensor([chosen.shape[3], chosen.shape[2]])
    return Scenes(images, torch.cat([corner, corner + side], dim=1).float())


class DigitCode(nn.Module):
    """What a digit classifier makes of an image before it decides on a class: 370 numbers, as a vector of length 1.

    This is the code e of the paper, "activations" of a digit CNN; which of them is our choice. The 320 of the last maps say
    where in the window a stroke lies, the 50 of the hidden layer what the strokes make together; each part counts a half.
    The hidden layer alone tells a digit from none, but hardly a window that has met the digit's rim from one that has not;
    the maps change little by little as a window moves, and say from farther off which way is better.

    The length is 1 so that the margin means something: the activations of a ReLU are not negative, so squared distances lie
    between 0 and 2, and a margin of 1 is half of that. In the units that a net happens to choose for its activations it
    could be next to nothing, or out of reach.

    Args:
        classifier: as `stn_helpers.networks.tutorial_classifier` makes it; its last layer is left out.
    """

    def __init__(self, classifier: nn.Sequential) -> None:
        super().__init__()
        layers = list(classifier)
        flat = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.Flatten))
        self.maps = nn.Sequential(Standardize(), *layers[: flat + 1])
        self.hidden = nn.Sequential(*layers[flat + 1 : -1])

    def forward(self, image: Tensor) -> Tensor:
        """B×1×28×28 in [0, 1] → B×370, each of length 1."""
        maps = self.maps(image)
        parts = [F.normalize(part, dim=1) for part in (maps, self.hidden(maps))]
        return torch.cat(parts, dim=1) / math.sqrt(2)


def missed(images: Tensor) -> Tensor:
    """What windows see that miss their digits: each image moved, across or down, by `MISSED` pixels or more.

    Args:
        images: B×C×28×28, floating, outside of which there is black (0).

    Returns:
        B×C×28×28: a piece of each, or nothing. Draws from torch's random numbers.
    """
    count = len(images)
    far = MISSED + (SEEN - MISSED) * torch.rand(count)
    other = SEEN * (2 * torch.rand(count) - 1)
    pixels = torch.stack([torch.where(torch.rand(count) < 0.5, far, -far), other], dim=1)
    pixels = torch.where(torch.rand(count, 1) < 0.5, pixels, pixels.flip(1))  # far across, or far down
    theta = torch.cat([torch.ones(count, 1), 2 * pixels / SEEN], dim=1).to(images)
    return sample(images, Attention().grid(theta, (SEEN, SEEN)))


def with_misses(train: Digits, seed: int) -> Digits:
    """The digits, and behind them one that was `missed` of each, as an eleventh class.

    Args:
        train: digits with their labels 0 to 9, N×1×28×28, on the CPU.
        seed: of the misses. Torch's random numbers are left as they were.

    Returns:
        2N images and labels; that of a miss is 10.
    """
    beside = Digits(distort_fixed(train.images, missed, seed), torch.full_like(train.labels, 10))
    return Digits(*(torch.cat(parts) for parts in zip(train, beside, strict=True)))


def code_digits(train: Digits, seed: int, device: str | torch.device | None = None, progress: bool = True) -> DigitCode:
    """Train a classifier on digits and on windows that missed them, for one epoch, and keep what it has learnt to see.

    All are warped a little (`stn_helpers.distortions.jitter`, ``CODE_JITTER``): to a net that has seen digits in the middle
    only, one that lies 4 pixels beside it is hardly a digit any more. The misses are an eleventh class, `with_misses`.
    Without it nothing says what the code of half a digit is to be, and with some first weights the loss was lowest
    where all windows lay beside their digits, each as far and on the same side.

    Args:
        train: digits with their labels, N×1×28×28; the images to be searched are not among them.
        seed: of the first weights and of the training.
        device: as for `stn_helpers.training.fit`.
        progress: whether to show a progress bar, on stderr.

    Returns:
        The code, in evaluation mode; its weights take no gradient any more.
    """
    torch.manual_seed(seed)
    classifier = tutorial_classifier(classes=11)
    net = nn.Sequential(Standardize(), classifier)
    augment = partial(jitter, strength=CODE_JITTER)
    fit(net, with_misses(train, seed), Recipe(), seed=seed, augment=augment, device=device, progress=progress)
    return DigitCode(classifier).eval().requires_grad_(False)


class KnownSize(nn.Module):
    """Keeps the size of a window between `SMALLEST` and `LARGEST`; halfway between them it stays nearly as it is."""

    def forward(self, theta: Tensor) -> Tensor:
        """θ of `stn_helpers.transforms.Attention`, B×3 (s, t_x, t_y), floating → B×3."""
        room = LARGEST - SMALLEST
        scale = SMALLEST + room * (4 / room * (theta[:, :1] - (SMALLEST + LARGEST) / 2)).sigmoid()
        return torch.cat([scale, theta[:, 1:]], dim=1)


class InsideImage(nn.Module):
    """Turns any three numbers into θ of a window that lies wholly inside the image.

    (a, b, c) → s between `SMALLEST` and `LARGEST`, t_x and t_y between −(1 − s) and 1 − s. Without this, training soon finds
    that windows outside the image are all alike: black. Three zeros are a window in the middle.
    """

    def forward(self, raw: Tensor) -> Tensor:
        """B×3, floating → θ of `stn_helpers.transforms.Attention`, B×3 (s, t_x, t_y)."""
        scale = SMALLEST + (LARGEST - SMALLEST) * raw[:, :1].sigmoid()
        # Detached: to move a window, its place is changed, not its size.
        return torch.cat([scale, (1 - scale.detach()) * raw[:, 1:].tanh()], dim=1)


def paper_localization(mean: float, std: float) -> nn.Sequential:
    """The paper's localization network: 8 filters of 9×9, stride 4, max-pooled by 2, twice 8 units, three numbers.

    Args:
        mean: subtracted from every pixel.
        std: divides every pixel.

    Returns:
        A module from B×1×84×84 to B×3, through `InsideImage`. At first it looks at the middle of every image.
    """
    maps = ((CANVAS - 9) // 4 + 1) // 2
    head = nn.Linear(8, 3)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(
        Standardize(mean, std),
        nn.Conv2d(1, 8, kernel_size=9, stride=4),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * maps * maps, 8),
        nn.ReLU(),
        nn.Linear(8, 8),
        nn.ReLU(),
        head,
        InsideImage(),
    )


class Tries(nn.Module):
    """Several localization networks side by side, which differ in their first weights: some tries fail.

    Args:
        localizations: modules from B×C×H×W to B×num_params.
    """

    def __init__(self, localizations: list[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(localizations)

    def forward(self, image: Tensor) -> Tensor:
        """B×C×H×W → B×K×num_params, θ of every try."""
        return torch.stack([localization(image) for localization in self.each], dim=1)


def colocalization_net(images: Tensor, model: str, seed: int) -> ParallelSpatialTransformer:
    """An attention transformer that looks at each image with several localization networks of one kind.

    Args:
        images: N×1×84×84 in [0, 1], those to be searched: they are standardised by their own mean and standard deviation.
        model: "attention" (`paper_localization`) or "blind"; `SEARCHES` says how many networks.
        seed: of the first weights.

    Returns:
        A module from B×1×84×84 to B×tries×1×28×28.

    Raises:
        ValueError: ``model`` is none of those.
    """
    if model not in SEARCHES:
        raise ValueError(f"model: wanted one of {', '.join(SEARCHES)}, got {model!r}")
    torch.manual_seed(seed)
    mean, std, tries = float(images.mean()), float(images.std()), SEARCHES[model].tries
    if model == "attention":
        each = [paper_localization(mean, std) for _ in range(tries)]
    else:
        options = {"saliency": 0.0, "scale": (SMALLEST + LARGEST) / 2, "mean": mean, "std": std}
        each = [nn.Sequential(PeakLocalization(Attention(), **options), KnownSize()) for _ in range(tries)]
    return ParallelSpatialTransformer(Tries(each), Attention(), tries, out_size=(SEEN, SEEN))


def random_crops(images: Tensor, scale: Tensor, count: int) -> Tensor:
    """Windows of a given size anywhere inside the image, all places alike.

    Args:
        images: B×C×H×W, floating.
        scale: B×K, the size of K windows of each image: s of `stn_helpers.transforms.Attention`, in (0, 1].
        count: crops for each of them.

    Returns:
        B×K×count×C×28×28. Draws from torch's random numbers on the CPU, whatever the device.
    """
    s = scale.unsqueeze(2).expand(-1, -1, count)
    place = (1 - s[..., None]) * (2 * torch.rand(*s.shape, 2).to(s) - 1)
    theta = torch.cat([s[..., None], place], dim=3)
    grid = Attention().grid(theta.reshape(-1, 3), (SEEN, SEEN)).unflatten(0, (len(images), -1))
    return sample_windows(images, grid).unflatten(1, s.shape[1:])


def triplet_hinge(windows: Tensor, crops: Tensor, together: float = 1.0, margin: float = 1.0) -> Tensor:
    """Two windows should be closer to each other than one of them is to a random crop of its image, by a margin.

    The mean, over all pairs n ≠ m and all crops r of image n, of max(0, ‖eₙ − eₘ‖² − ‖eₙ − r‖² + α); the paper takes the
    sum (appendix A.2).

    Args:
        windows: K×N×D, the codes e of the windows of K tries in N images, floating, each of length 1; N at least 2.
        crops: K×N×R×D, the codes r of R random crops of every image, each of length 1.
        together: what the first distance counts. 1 is the paper's loss. At 0 a window is only to differ from the rest of its
            own image.
        margin: α.

    Returns:
        The loss of every try: K.
    """
    apart = 2 - 2 * windows @ windows.mT  # K×N×N: ‖a − b‖² = 2 − 2ab where both have length 1
    from_crops = 2 - 2 * torch.einsum("knd,knrd->knr", windows, crops)
    hinge = (together * apart[..., None] - from_crops[:, :, None] + margin).clamp(min=0).mean(3)
    pairs = ~torch.eye(windows.shape[1], dtype=torch.bool, device=windows.device)
    return hinge[:, pairs].mean(1)


def find_common(
    net: ParallelSpatialTransformer,
    code: nn.Module,
    images: Tensor,
    search: Search,
    *,
    seed: int,
    checkpoint: str | Path | None = None,
    save_every: float = 10.0,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> History:
    """Train a transformer to cut out of all images what they have in common.

    Every step takes all the images, and all pairs of them. As with `stn_helpers.training.fit`, the same seed gives the same
    weights, and a training that was killed goes on from its checkpoint.

    Args:
        net: as `colocalization_net` makes it; left on the device, in evaluation mode.
        code: from B×1×28×28 to vectors of length 1, such as a `DigitCode`; it does not learn.
        images: N×1×84×84 in [0, 1], N at least 2.
        search: how to train.
        seed: of the random crops.
        checkpoint: the file that holds the state of the training; gone on from, where it is there.
        save_every: seconds between two savings of that state.
        device: "cpu", "cuda" or "mps"; without it CUDA where there is one, else MPS, else the CPU.
        progress: whether to show a progress bar, on stderr.

    Returns:
        The time of every step, and its losses: steps×K, one for each try. They compare only where `Search.together` is the
        same, as weight and margin change with it.

    Raises:
        ValueError: there are fewer than 2 images; the checkpoint is damaged or of another training.
        FloatingPointError: a loss is not finite; the message names the step.
        OSError: the checkpoint cannot be written.
    """
    if len(images) < 2:
        raise ValueError(f"images: wanted at least 2, to find what they have in common, got {len(images)}")
    device, recipe, steps = choose_device(device), search.recipe, search.steps
    net.to(device).train()
    code, images = code.to(device), images.to(device)
    optimizer = torch.optim.AdamW(net.parameters(), betas=recipe.betas, weight_decay=recipe.weight_decay)
    started = time.perf_counter()
    losses, clock = torch.zeros(steps, net.count, device=device), torch.zeros(steps, dtype=torch.float64)
    torch.manual_seed(seed)
    step, saved = 0, -math.inf
    if checkpoint is not None:
        run = {
            "search": asdict(search),
            "seed": seed,
            "images": zlib.crc32(images.cpu().contiguous().numpy()),
            "code": [zlib.crc32(value.cpu().contiguous().numpy()) for value in code.state_dict().values()],
            "device": device.type,
        }
        state = Checkpoint(checkpoint, run, net, optimizer, {"losses": losses, "clock": clock}, device)
        step = state.restore()
        started -= float(clock[step - 1]) if step else 0.0
    with tqdm(total=steps, initial=step, disable=not progress, leave=False, unit="step") as bar:
        while step < steps:
            glimpse, together = _shaken_glimpse(net, images, search.shaken(step)), search.together(step)
            # A larger window meets something with less trouble: until the whole loss counts, none may grow.
            glimpse.theta.register_hook(partial(torch.mul, torch.tensor([together == 1, True, True], device=device)))
            loss = _losses(glimpse, code, images, CROPS, together)
            if not loss.isfinite().all():
                way_out = f"try a smaller lr than {recipe.lr}, look for NaN in the images"
                raise FloatingPointError(f"a loss is not finite in step {step} of {steps}; {way_out}")
            optimizer.zero_grad()
            loss.sum().backward()
            for one in net.localization.each:  # the tries have nothing to do with each other
                nn.utils.clip_grad_norm_(one.parameters(), recipe.clip or math.inf)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step, steps)
            optimizer.step()
            losses[step] = loss.detach()
            clock[step] = now = time.perf_counter() - started
            step += 1
            bar.update()
            if checkpoint is not None and (now - saved >= save_every or step == steps):
                state.save(step)
                saved = now
    net.eval()
    return History(losses.cpu(), clock)


@torch.no_grad()
def best_try(net: ParallelSpatialTransformer, code: nn.Module, images: Tensor, seed: int) -> tuple[int, Tensor]:
    """Which try has the lowest loss, over more random crops than a step takes; the true boxes are not asked.

    Args:
        net: trained by `find_common`, in evaluation mode.
        code: the one it was trained with.
        images: the images it was trained on.
        seed: of the random crops. Torch's random numbers are left as they were.

    Returns:
        Its number, and the loss of every try, K on the CPU.
    """
    images = images.to(next(net.parameters()).device)
    with torch.random.fork_rng(devices=[]):  # the crops are drawn on the CPU
        torch.manual_seed(seed)
        loss = _losses(net.glimpse(images), code, images, JUDGING_CROPS, 1.0).cpu()
    return int(loss.argmin()), loss


def _shaken_glimpse(net: ParallelSpatialTransformer, images: Tensor, shake: float) -> Glimpse:
    """What the net looks at, but every window moved at random: θ is that of the net, grid and output are of where it came."""
    theta = net.localization(images)
    away = F.pad(shake * torch.randn(*theta.shape[:2], 2), (1, 0)).to(theta)  # the size stays
    grid = net.transform.grid((theta + away).flatten(0, 1), net.out_size).unflatten(0, theta.shape[:2])
    return Glimpse(theta, grid, sample_windows(images, grid))


def _losses(glimpse: Glimpse, code: nn.Module, images: Tensor, crops: int, together: float) -> Tensor:
    """`triplet_hinge` of every try, with fresh random crops as large as its windows.

    The margin is the paper's 1 once the loss is the full one, and 2 at first. No squared distance is larger than 2, so at
    first no window is ever far enough from its crops, and one that holds half a digit goes on to the whole.
    """
    windows = code(glimpse.output.flatten(0, 1)).unflatten(0, glimpse.output.shape[:2])  # N×K×D
    with torch.no_grad():
        chance = random_crops(images, glimpse.theta[..., 0].clamp(SMALLEST, 1), crops)
        elsewhere = code(chance.flatten(0, 2)).unflatten(0, chance.shape[:3])  # N×K×R×D
    return triplet_hinge(windows.transpose(0, 1), elsewhere.transpose(0, 1), together, margin=2 - together)


def window_boxes(theta: Tensor, side: int = CANVAS) -> Tensor:
    """The square that a window of `stn_helpers.transforms.Attention` covers, in pixels.

    Args:
        theta: …×3 (s, t_x, t_y), floating, s above 0.
        side: pixels of the image's side.

    Returns:
        …×4: left, top, right, bottom, in pixels from the upper left corner of the image.
    """
    scale, middle = theta[..., :1], theta[..., 1:]
    return (torch.cat([middle - scale, middle + scale], dim=-1) + 1) * side / 2


def box_overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of each box with the one at the same place: the area of both over the area of either.

    Args:
        boxes: …×4 left, top, right, bottom, floating; right > left and bottom > top.
        others: …×4, likewise.

    Returns:
        The shape without its last dimension, in [0, 1].
    """
    common = torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])
    common = common.clamp(min=0).prod(-1)
    areas = [(one[..., 2:] - one[..., :2]).prod(-1) for one in (boxes, others)]
    return common / (areas[0] + areas[1] - common)
