"""Training: one recipe (AdamW, one-cycle schedule, label smoothing), one `fit` that survives a kill, `evaluate`."""

import math
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from stn_helpers.checkpoint import Checkpoint, random_state, set_random_state
from stn_helpers.data import Digits
from stn_helpers.spatial_transformer import SpatialTransformer

__all__ = ["SEEDS", "History", "Recipe", "choose_device", "evaluate", "fit", "predict"]

SEEDS = 2**32
"""A seed of a training is below this."""
LOOK_EVERY = 50  # steps between two looks at the losses: each makes a GPU finish all it was given to do


@dataclass(frozen=True)
class Recipe:
    """How to train: AdamW, with a learning rate that goes up and down once.

    AdamW: Loshchilov and Hutter (2019); one cycle: Smith and Topin (2018).

    Attributes:
        epochs: passes over the images; 0.5 shows half of them once.
        batch_size: images a step.
        lr: the highest learning rate, reached after ``pct_start`` of the steps.
        pct_start: share of the steps in which the learning rate goes up.
        div_factor: the learning rate starts at ``lr / div_factor`` ...
        final_div_factor: ... and ends at ``lr / div_factor / final_div_factor``.
        weight_decay: of AdamW, times the learning rate off every weight a step.
        betas: memory of AdamW's running means, of the gradient and of its square.
        label_smoothing: share of the target that is spread evenly over the classes.
        localization_lr: learning rate of the localization networks, as a share of ``lr``.
        clip: longest gradient, all parameters in one vector; a longer one is shortened to it. None: any length.
        bfloat16: whether the model multiplies in bfloat16 (`torch.autocast`), which many modern processors do faster,
            and others ten times more slowly (`suited_to`); its weights and their updates stay as they are, and the
            loss is computed in float32.

    Raises:
        ValueError: a value is out of its range; the message names it.
    """

    epochs: float = 1.0
    batch_size: int = 64
    lr: float = 0.008
    pct_start: float = 0.25
    div_factor: float = 10.0
    final_div_factor: float = 100.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    label_smoothing: float = 0.1
    localization_lr: float = 1.0
    clip: float | None = None
    bfloat16: bool = False

    def __post_init__(self) -> None:
        def need(name: str, good: bool, wanted: str) -> None:
            if not good:
                raise ValueError(f"Recipe: {name} must be {wanted}, got {getattr(self, name)!r}")

        for field in fields(self):
            if field.type is float:
                need(field.name, isinstance(getattr(self, field.name), int | float), "a number")
        need("epochs", 0 < self.epochs < math.inf, "above 0 and finite")
        need("batch_size", isinstance(self.batch_size, int) and self.batch_size > 0, "a whole number above 0")
        need("lr", 0 < self.lr < math.inf, "above 0 and finite")
        need("pct_start", 0 < self.pct_start < 1, "between 0 and 1")
        need("div_factor", 1 <= self.div_factor < math.inf, "1 or more and finite")
        need("final_div_factor", 1 <= self.final_div_factor < math.inf, "1 or more and finite")
        need("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more and finite")
        need("betas", len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)")
        need("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)")
        need("localization_lr", 0 < self.localization_lr < math.inf, "above 0 and finite")
        need("clip", self.clip is None or self.clip > 0, "above 0, or None")

    def steps_per_epoch(self, images: int) -> int:
        """Full batches in ``images`` images. What is left over, other images in each epoch, is not shown."""
        return max(1, images // self.batch_size)

    def steps(self, images: int) -> int:
        """Steps of a whole training on ``images`` images."""
        return max(1, round(self.epochs * self.steps_per_epoch(images)))

    def suited_to(self, device: str | torch.device) -> "Recipe":
        """The same recipe; without ``bfloat16`` where the device has no instructions for it.

        A processor that has none must imitate them: convolutions then take ten times as long as in float32.

        Args:
            device: "cpu", "cuda" or "mps"; on "mps" the recipe stays as it is.
        """
        return replace(self, bfloat16=self.bfloat16 and _multiplies_bfloat16(torch.device(device)))

    def rate(self, step: int, steps: int) -> float:
        """Learning rate in step number ``step`` (from 0) of ``steps``: half a cosine up, half a cosine down.

        Equal to torch's ``OneCycleLR``; being a function of the step, it has no state that a checkpoint must hold.
        """
        peak = self.pct_start * steps - 1
        start, end = self.lr / self.div_factor, self.lr / self.div_factor / self.final_div_factor
        if step < peak:
            return start + (self.lr - start) * (1 - math.cos(math.pi * step / peak)) / 2
        return end + (self.lr - end) * (1 + math.cos(math.pi * (step - peak) / (steps - 1 - peak))) / 2


@dataclass(frozen=True)
class History:
    """What a training went through, one entry a step, on the CPU.

    Attributes:
        losses: float32, the loss of each batch.
        clock: float64, seconds of training when the step was done; the time that ``watch`` took is not in it.
    """

    losses: Tensor
    clock: Tensor

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.losses)

    @property
    def seconds(self) -> float:
        """Seconds of training in all."""
        return float(self.clock[-1])

    def curve(self, points: int = 200) -> list[float]:
        """The losses in short, for a record: at most ``points`` means of as many steps in a row."""
        return [round(float(part.mean()), 4) for part in self.losses.split(math.ceil(self.steps / points))]


def fit(
    model: nn.Module,
    train: Digits,
    recipe: Recipe,
    *,
    seed: int,
    augment: Callable[[Tensor], Tensor] | None = None,
    checkpoint: str | Path | None = None,
    save_every: float = 10.0,
    device: str | torch.device | None = None,
    watch: Callable[[int, nn.Module], None] | None = None,
    watch_every: int = 100,
    progress: bool = True,
) -> History:
    """Train ``model`` to name the class of an image, or the classes of several things in it.

    The same seed gives the same weights, bit for bit, on one machine with one number of threads (not on a GPU, where
    the backward pass of `torch.nn.functional.grid_sample` adds in no fixed order). It rules the order of the images,
    dropout and ``augment``. The model has its first weights already: call `torch.manual_seed` before building it.

    Killed at any moment and called again with the same ``checkpoint``, a training goes on from there, and ends with
    the weights of one that was left alone. The file stays: after the end, a further call only reads it.

    Args:
        model: from images B×C×H×W to logits B×K, or B×K×L where an image has L labels. It is moved to the device,
            its weights put in channels_last order (a ``view`` in its forward must be a ``reshape``), and it is left
            there in evaluation mode.
        train: images N×C×H×W, floating, or of any dtype that ``augment`` takes; labels N, or N×L, int64 in [0, K).
        recipe: how to train.
        seed: sets torch's random numbers, and the order of the images; 0 to 2³² − 1.
        augment: makes of each batch of images another one, of whatever size; takes its random numbers from torch
            alone. Called once with a single image before the first step, to see whether the model can take it.
        checkpoint: the file that holds the state of the training; gone on from, where it is there.
        save_every: seconds between two savings of that state.
        device: "cpu", "cuda" or "mps"; without it CUDA where there is one, else MPS, else the CPU.
        watch: called with (steps done, model) before the first step, after every ``watch_every`` steps, and after
            the last, the model in training mode. After a kill, only the steps done anew are watched.
        watch_every: steps between two calls of ``watch``.
        progress: whether to show a progress bar, on stderr.

    Returns:
        The loss and the training time of every step.

    Raises:
        ValueError: bad data, a seed or ``watch_every`` out of range, a device that is not there, a checkpoint that is
            damaged or of another training.
        FloatingPointError: a loss is not finite; the message names the step and its learning rate.
        OSError: the checkpoint cannot be written.
    """
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed: wanted 0 to {SEEDS - 1}, got {seed}")
    if watch_every < 1:
        raise ValueError(f"watch_every: wanted at least 1 step, got {watch_every}")
    device = choose_device(device)
    model.to(device, memory_format=torch.channels_last)  # on the CPU a fifth less time a step
    _check_training(model, train, augment)
    optimizer = torch.optim.AdamW(
        _groups(model), betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
    )  # fused: one kernel for all parameters
    started = time.perf_counter()  # only now: the first optimizer of a process imports a second's worth of torch
    images, labels = train.images.to(device), train.labels.to(device)  # once: each batch is then an index_select
    per_epoch, steps = recipe.steps_per_epoch(len(images)), recipe.steps(len(images))
    losses, clock = torch.zeros(steps, device=device), torch.zeros(steps, dtype=torch.float64)
    torch.manual_seed(seed)
    model.train()

    step, saved = 0, -math.inf  # the first step is saved at once: a place that cannot be written shows early
    if checkpoint is not None:
        run = {
            "recipe": asdict(recipe),
            "seed": seed,
            "image shape": list(images.shape),
            "labels": zlib.crc32(train.labels.cpu().contiguous().numpy()),
            "augment": _name_of(augment),
            "device": device.type,
        }
        state = Checkpoint(checkpoint, run, model, optimizer, {"losses": losses, "clock": clock}, device)
        step = state.restore()
        started -= float(clock[step - 1]) if step else 0.0

    def watched() -> float:
        """Let the watcher look. Its random numbers are taken back, its seconds returned."""
        before, numbers = time.perf_counter(), random_state(device)
        watch(step, model)
        set_random_state(device, numbers)
        model.train()
        return time.perf_counter() - before

    if watch and step == 0:
        started += watched()
    order = None
    with tqdm(total=steps, initial=step, disable=not progress, leave=False, unit="step") as bar:
        while step < steps:
            epoch, batch = divmod(step, per_epoch)
            if order is None or batch == 0:
                order = _order(len(images), seed, epoch).to(device)
            chosen = order[batch * recipe.batch_size : (batch + 1) * recipe.batch_size]
            image, label = images.index_select(0, chosen), labels.index_select(0, chosen)
            image = image if augment is None else augment(image)
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16):
                logits = model(image)
            logits = logits.float() if recipe.bfloat16 else logits
            loss = F.cross_entropy(logits, label, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            rest, localization = optimizer.param_groups
            rest["lr"] = recipe.rate(step, steps)
            localization["lr"] = recipe.localization_lr * rest["lr"]
            optimizer.step()
            losses[step] = loss.detach()  # not .item(): a GPU goes on with the next step
            clock[step] = now = time.perf_counter() - started
            step += 1
            bar.update()

            saving = checkpoint is not None and (now - saved >= save_every or step == steps)
            watching = watch is not None and (step % watch_every == 0 or step == steps)
            if saving or watching or step % LOOK_EVERY == 0 or step == steps:
                _need_finite(losses[:step], recipe, steps)
                clock[step - 1] = now = time.perf_counter() - started
            if saving:
                state.save(step)
                saved = now
            if watching:
                started += watched()
    model.eval()
    return History(losses.cpu(), clock)


def predict(model: nn.Module, images: Tensor, batch_size: int = 1000) -> Tensor:
    """Logits N×K (or N×K×L) of ``model`` for images N×C×H×W, on the device of ``images``.

    Computed where the model is, in evaluation mode, without gradients; then every part of the model is back in the
    mode it was in.

    Raises:
        ValueError: ``images`` is no floating tensor N×C×H×W with N above 0; ``batch_size`` is below 1.
    """
    _check_images(images, "images")
    if batch_size < 1:
        raise ValueError(f"batch_size: wanted at least 1 image, got {batch_size}")
    device = next(model.parameters(), images).device
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            return torch.cat([model(batch.to(device)).to(images.device) for batch in images.split(batch_size)])
    finally:
        for part, mode in modes:
            part.training = mode


def evaluate(model: nn.Module, digits: Digits, batch_size: int = 1000) -> float:
    """Accuracy, in [0, 1]: the share of ``digits`` whose greatest logit is that of their label.

    Where an image has several labels, it counts as right if all of them are.

    Raises:
        ValueError: ``digits`` are not as `fit` wants them.
    """
    _check_digits(digits, "digits")
    logits = predict(model, digits.images, batch_size)
    _check_logits(logits, digits, "digits")
    right = logits.argmax(1) == digits.labels
    return float(right.view(len(right), -1).all(1).double().mean())


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for; without one CUDA where there is one, else MPS, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [name for name, available in here.items() if available]
    if device is not None and str(device) not in usable:
        raise ValueError(f"device {str(device)!r} is not to be had here; usable: {', '.join(usable)}")
    return torch.device(device or usable[0])


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device itself multiplies numbers in bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":  # torch asks its CPU library in this way before it compiles a net for bfloat16
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return True


def _groups(model: nn.Module) -> list[dict]:
    """The parameters in two groups: those of the localization networks come second."""
    own = [part.localization for part in model.modules() if isinstance(part, SpatialTransformer)]
    locating = {parameter: None for part in own for parameter in part.parameters()}  # a set that keeps the order
    rest = [parameter for parameter in model.parameters() if parameter not in locating]
    return [{"params": rest}, {"params": list(locating)}]


def _order(images: int, seed: int, epoch: int) -> Tensor:
    """The permutation of an epoch. It follows from seed and epoch, so that a checkpoint need not hold it."""
    return torch.randperm(images, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))


def _need_finite(losses: Tensor, recipe: Recipe, steps: int) -> None:
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        step = int(bad[0])
        raise FloatingPointError(
            f"the loss is {float(losses[step])} in step {step} of {steps} (learning rate "
            f"{recipe.rate(step, steps):.3g}); try a smaller lr, and look for NaN in the images"
        )


def _check_images(images: Tensor, name: str, floating: bool = True) -> None:
    if images.ndim != 4 or len(images) == 0 or (floating and not images.is_floating_point()):
        kind = "floating tensor" if floating else "tensor"
        raise ValueError(f"{name}: wanted a {kind} N×C×H×W with N above 0, got {_kind(images)}")


def _check_digits(digits: Digits, name: str, floating: bool = True) -> None:
    _check_images(digits.images, f"{name}.images", floating)
    images, labels = digits
    if labels.ndim not in (1, 2) or len(labels) != len(images) or labels.dtype != torch.int64:
        wanted = f"int64 of shape ({len(images)},), one for each image, or ({len(images)}, L)"
        raise ValueError(f"{name}.labels: wanted {wanted}, got {_kind(labels)}")


def _check_logits(logits: Tensor, digits: Digits, name: str) -> None:
    """Class first, as torch's cross entropy has it: K logits for each label."""
    if logits.ndim not in (2, 3):
        raise ValueError(f"model: wanted logits B×K or B×K×L, got {_kind(logits)} for {len(logits)} images")
    if logits.shape[2:] != digits.labels.shape[1:]:
        wanted = (len(digits.labels), *logits.shape[2:])
        raise ValueError(f"{name}.labels: wanted shape {wanted}, as the model's logits are, got {_kind(digits.labels)}")


def _name_of(augment: Callable[[Tensor], Tensor] | None) -> str | None:
    """What a checkpoint knows an ``augment`` by: its function or class, and the arguments that a partial has fixed."""
    if augment is None:
        return None
    if isinstance(augment, partial):
        return f"{_name_of(augment.func)}{augment.args}{augment.keywords}"
    return getattr(augment, "__qualname__", type(augment).__qualname__)


def _check_training(model: nn.Module, train: Digits, augment: Callable[[Tensor], Tensor] | None) -> None:
    _check_digits(train, "train", floating=augment is None)
    first = train.images[:1] if augment is None else augment(train.images[:1])
    try:
        logits = predict(model, first)
    except RuntimeError as error:
        raise ValueError(f"train.images: the model cannot take {_kind(first)}: {error}") from error
    _check_logits(logits, train, "train")
    low, high = int(train.labels.min()), int(train.labels.max())
    if low < 0 or high >= logits.shape[1]:
        wanted = f"0 to {logits.shape[1] - 1}, as the model has {logits.shape[1]} classes"
        raise ValueError(f"train.labels: wanted {wanted}, got {low} to {high}")


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"
