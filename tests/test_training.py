"""Training: equal to a plain torch loop, the same twice, and after a kill the same as if nothing had happened."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.datasets
import sklearn.linear_model
import sklearn.metrics
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stn_helpers import files, results, training
from stn_helpers.checkpoint import Checkpoint
from stn_helpers.data import Digits
from stn_helpers.files import read_tensors
from stn_helpers.localization import theta_head
from stn_helpers.spatial_transformer import SpatialTransformer
from stn_helpers.training import History, Recipe, choose_device, evaluate, fit, predict
from stn_helpers.transforms import Affine


def net(seed: int = 0, dropout: float = 0.3) -> nn.Sequential:
    """Two convolutions (4-D weights change their memory order), batch norm (buffers), dropout (random numbers)."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Dropout(dropout), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip


def transforming_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    localization = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), theta_head(8, Affine()))
    return nn.Sequential(SpatialTransformer(localization, Affine()), nn.Flatten(), nn.Linear(64, 3))


def digits(count: int = 50, seed: int = 1) -> Digits:
    numbers = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=numbers)
    images = torch.rand(count, 1, 8, 8, generator=numbers) * (labels + 1).view(-1, 1, 1, 1) / 3
    return Digits(images, labels)


def reader(positions: int = 4) -> nn.Sequential:
    """A net that names one of five classes at each of some positions."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5 * positions), nn.Unflatten(1, (5, positions)))


def sequences(count: int = 50) -> Digits:
    """Four labels an image, each that of one quarter of the image: how bright it is."""
    numbers = torch.Generator().manual_seed(2)
    labels = torch.randint(0, 5, (count, 4), generator=numbers)
    quarters = F.interpolate(labels.view(-1, 1, 2, 2) / 4, scale_factor=4)
    return Digits(0.9 * quarters + 0.1 * torch.rand(count, 1, 8, 8, generator=numbers), labels)


def noisy(image: torch.Tensor) -> torch.Tensor:
    return image + 0.1 * torch.randn_like(image)


def quiet_fit(model, train, recipe, **kwargs):
    return fit(model, train, recipe, **({"seed": 0, "device": "cpu", "progress": False} | kwargs))


def assert_same(model: nn.Module, other: nn.Module) -> None:
    for (name, value), twin in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, twin), name


RECIPE = Recipe(epochs=5, batch_size=8)  # 50 images: 6 steps an epoch, 30 in all


# The recipe


@given(
    steps=st.integers(2, 60),
    lr=st.floats(1e-5, 10),
    pct_start=st.floats(0.01, 0.99),
    div_factor=st.floats(1, 100),
    final_div_factor=st.floats(1, 1e4),
)
def test_the_learning_rate_is_that_of_torch(steps, lr, pct_start, div_factor, final_div_factor):
    recipe = Recipe(lr=lr, pct_start=pct_start, div_factor=div_factor, final_div_factor=final_div_factor)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    kwargs = {"pct_start": pct_start, "div_factor": div_factor, "final_div_factor": final_div_factor}
    try:
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, cycle_momentum=False, **kwargs)
    except ZeroDivisionError:  # torch's, where the way up is one step long
        assert recipe.rate(0, steps) == pytest.approx(lr)
        return
    for step in range(steps):
        assert recipe.rate(step, steps) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("epochs", float("inf")), ("epochs", float("nan")), ("batch_size", 0), ("batch_size", 2.5),
     ("lr", -1.0), ("lr", float("nan")), ("pct_start", 0.0), ("pct_start", 1.0), ("div_factor", 0.5),
     ("final_div_factor", 0.0), ("weight_decay", -0.1), ("betas", (0.9,)), ("betas", (0.9, 1.0)),
     ("label_smoothing", 1.0), ("localization_lr", 0.0), ("clip", 0.0), ("lr", "1"), ("epochs", None)],
)  # fmt: skip
def test_a_recipe_names_the_value_that_is_out_of_range(field, value):
    with pytest.raises(ValueError, match=f"{field} must be"):
        Recipe(**{field: value})


@given(images=st.integers(1, 10_000), batch_size=st.integers(1, 300), epochs=st.floats(0.01, 20))
def test_steps(images, batch_size, epochs):
    recipe = Recipe(epochs=epochs, batch_size=batch_size)
    assert recipe.steps(images) >= 1
    if images >= batch_size:  # whole batches only, to within the one step that rounding decides
        assert recipe.steps_per_epoch(images) == len(torch.zeros(images).split(batch_size)) - bool(images % batch_size)
        assert abs(recipe.steps(images) - epochs * recipe.steps_per_epoch(images)) <= max(0.5, 1 - epochs * 1e-9)


def test_half_an_epoch_of_mnist_is_half_its_batches():
    assert Recipe(epochs=0.5, batch_size=64).steps(60_000) == 468
    assert Recipe(epochs=2, batch_size=64).steps(10) == 2  # fewer images than a batch: one batch of all


# The loop


def test_fit_is_a_plain_torch_loop():
    """Torch's own optimizer, schedule and loss; in float64, and one batch an epoch, so that the order plays no part."""
    train = Digits(digits(40).images.double(), digits(40).labels)
    model, plain = net(dropout=0.0).double(), net(dropout=0.0).double()
    recipe = Recipe(epochs=25, batch_size=40, lr=0.02, weight_decay=0.1, betas=(0.8, 0.95), label_smoothing=0.2)
    history = quiet_fit(model, train, recipe)

    optimizer = torch.optim.AdamW(plain.parameters(), betas=(0.8, 0.95), weight_decay=0.1, fused=False, foreach=False)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.02, 25, pct_start=0.25, div_factor=10, final_div_factor=100, cycle_momentum=False
    )
    losses = []
    for _ in range(25):
        loss = F.cross_entropy(plain(train.images), train.labels, label_smoothing=0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert history.losses.numpy() == pytest.approx(np.array(losses), abs=1e-6)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=1e-7, rtol=1e-7, check_stride=False)


def test_bfloat16_is_a_plain_loop_under_autocast():
    """Torch's own loop again, and the rounding is there: the losses are not those of float32, but near them."""
    train, model, plain = digits(40), net(dropout=0.0), net(dropout=0.0)
    recipe = Recipe(epochs=10, batch_size=40, lr=0.02, bfloat16=True)
    losses = quiet_fit(model, train, recipe).losses
    assert all(p.dtype == torch.float32 for p in model.parameters())
    optimizer = torch.optim.AdamW(plain.parameters(), betas=(0.9, 0.99), weight_decay=0.01)
    for step in range(10):
        with torch.autocast("cpu", torch.bfloat16):
            logits = plain(train.images)
        loss = F.cross_entropy(logits.float(), train.labels, label_smoothing=0.1)
        assert float(losses[step]) == pytest.approx(loss.item(), abs=2e-3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = recipe.rate(step, 10)
        optimizer.step()
    exact = quiet_fit(net(dropout=0.0), train, replace(recipe, bfloat16=False)).losses
    assert 1e-4 < (losses - exact).abs().max() < 0.1


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="the kernel's own list of instructions is wanted")
def test_bfloat16_is_left_out_where_the_processor_has_no_instructions_for_it():
    """Judged by the kernel, which lists what the processor can: AVX-512 on Intel and AMD, bf16 on ARM."""
    flags = set(re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)[1].split())
    can = "bf16" in flags or {"avx512bw", "avx512vl", "avx512dq"} <= flags
    if "avx_vnni" in flags and not can:
        pytest.skip("some of these have bfloat16 without AVX-512, and the kernel does not list it")
    recipe = Recipe(epochs=3, lr=0.02, bfloat16=True)
    assert recipe.suited_to("cpu") == replace(recipe, bfloat16=can)
    assert replace(recipe, bfloat16=False).suited_to("cpu") == replace(recipe, bfloat16=False)
    assert recipe.suited_to("mps") == recipe


@pytest.mark.parametrize("can", [True, False])
def test_a_gpu_says_itself_whether_it_has_bfloat16(monkeypatch, can):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: can)
    assert Recipe(bfloat16=True).suited_to(torch.device("cuda")).bfloat16 is can


def test_several_labels_an_image_are_that_many_plain_losses():
    """The mean of torch's own loss at each position."""
    train, model, plain = sequences(40), reader(), reader()
    history = quiet_fit(model, train, Recipe(epochs=10, batch_size=40, lr=0.02))
    optimizer = torch.optim.AdamW(plain.parameters(), betas=(0.9, 0.99), weight_decay=0.01)
    for step in range(10):
        logits = plain(train.images)
        each = [F.cross_entropy(logits[:, :, i], train.labels[:, i], label_smoothing=0.1) for i in range(4)]
        loss = torch.stack(each).mean()
        assert float(history.losses[step]) == pytest.approx(loss.item(), abs=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = Recipe(lr=0.02).rate(step, 10)
        optimizer.step()


def test_several_labels_an_image_can_be_learnt_and_gone_on_with(tmp_path):
    train = Digits(sequences(400).images, sequences(400).labels.T.contiguous().T)  # in another memory order
    model = reader()
    quiet_fit(model, train, Recipe(epochs=40, batch_size=40, lr=0.1), checkpoint=tmp_path / "c")
    assert evaluate(model, train) > 0.7  # by chance 1 in 625
    again = reader()
    quiet_fit(again, train, Recipe(epochs=40, batch_size=40, lr=0.1), checkpoint=tmp_path / "c")
    assert_same(model, again)


def test_images_may_be_stored_as_bytes_where_augment_makes_them_floating():
    train = Digits((digits().images * 255).byte(), digits().labels)
    floats = Digits(train.images.float() / 255, train.labels)
    stored, plain = net(), net()
    quiet_fit(stored, train, RECIPE, augment=lambda image: image.float() / 255)
    quiet_fit(plain, floats, RECIPE)
    assert_same(stored, plain)
    with pytest.raises(ValueError, match="images: wanted a floating tensor.*uint8"):
        quiet_fit(net(), train, RECIPE, augment=torch.clone)


def test_a_linear_net_learns_the_real_digits_as_well_as_sklearn_does():
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    images = images.astype("float32") / 16
    regression = sklearn.linear_model.LogisticRegression(max_iter=1000).fit(images[:1200], labels[:1200])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    tensors = Digits(torch.from_numpy(images).view(-1, 1, 8, 8), torch.from_numpy(labels))
    quiet_fit(model, Digits(*(part[:1200] for part in tensors)), Recipe(epochs=20, lr=0.02))
    accuracy = evaluate(model, Digits(*(part[1200:] for part in tensors)))
    assert accuracy > regression.score(images[1200:], labels[1200:]) - 0.02


def test_every_epoch_shows_every_image_at_most_once_in_full_batches_and_another_order():
    count, seen = 50, []
    train = Digits(torch.arange(count).float().view(-1, 1, 1, 1), torch.zeros(count, dtype=torch.int64))

    def see(image):
        if len(image) > 1:  # one alone is the check before the first step
            seen.append(image.flatten().long().tolist())
        return image

    recipe = Recipe(epochs=3, batch_size=8)
    for seed in (0, 1):
        quiet_fit(nn.Sequential(nn.Flatten(), nn.Linear(1, 2)), train, recipe, seed=seed, augment=see)
    assert [len(batch) for batch in seen] == [8] * 36
    epochs = [tuple(sum(seen[start : start + 6], [])) for start in range(0, 36, 6)]
    assert all(len(set(epoch)) == 48 for epoch in epochs) and len(set(epochs)) == 6


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    runs = []
    for seed in (0, 0, 1):
        runs.append(net())
        runs.append(quiet_fit(runs[-1], digits(), RECIPE, seed=seed, augment=noisy).losses)
    assert_same(runs[0], runs[2])
    assert torch.equal(runs[1], runs[3]) and not torch.equal(runs[1], runs[5])


def test_watching_changes_nothing():
    seen, model, unwatched = [], net(), net()

    def watch(step, watched):
        assert watched is model and model.training
        seen.append(step)
        evaluate(model, digits())
        model.eval()
        torch.manual_seed(step)

    quiet_fit(model, digits(), RECIPE, augment=noisy, watch=watch, watch_every=7)
    assert seen == [0, 7, 14, 21, 28, 30]
    quiet_fit(unwatched, digits(), RECIPE, augment=noisy)
    assert_same(model, unwatched)


@pytest.mark.parametrize("steps, points", [(1, 1), (199, 199), (200, 200), (201, 101), (1000, 200), (1001, 167)])
def test_a_curve_is_the_means_of_equal_stretches(steps, points):
    losses = np.random.default_rng(steps).random(steps, dtype=np.float32)
    curve = History(torch.from_numpy(losses), torch.arange(steps, dtype=torch.float64)).curve()
    stretch = -(-steps // 200)
    wanted = [losses[i : i + stretch].mean() for i in range(0, steps, stretch)]
    assert len(curve) == points and curve == pytest.approx(wanted, abs=6e-5)


def test_history_and_mode():
    model = net()
    history = quiet_fit(model, digits(), RECIPE)
    assert history.steps == 30 == len(history.losses) == len(history.clock) and history.losses.isfinite().all()
    assert (history.clock.diff() > 0).all() and history.seconds == history.clock[-1]
    assert not model.training


def test_progress_goes_to_stderr_or_nowhere(capsys):
    quiet_fit(net(), digits(), RECIPE)
    assert capsys.readouterr() == ("", "")
    quiet_fit(net(), digits(), RECIPE, progress=True)
    shown = capsys.readouterr()
    assert shown.out == "" and "/30" in shown.err


@pytest.mark.parametrize("bad_step", [0, 3, 29])
def test_a_loss_that_is_not_finite_stops_and_is_not_saved(tmp_path, bad_step):
    calls = iter(range(1000))

    def poison(image):
        if len(image) == 1:  # the check before the first step
            return image
        return image * float("nan") if next(calls) == bad_step else image

    rate = f"{RECIPE.rate(bad_step, 30):.3g}"
    with pytest.raises(FloatingPointError, match=rf"nan in step {bad_step} of 30.*{rate}"):
        quiet_fit(net(), digits(), RECIPE, augment=poison, checkpoint=tmp_path / "c", save_every=0)
    if bad_step:
        tensors, header = read_tensors(tmp_path / "c")
        assert header["step"] == str(bad_step)
        assert all(value.isfinite().all() for value in tensors.values() if value.is_floating_point())
    else:
        assert not (tmp_path / "c").exists()


def test_the_localization_network_learns_at_a_rate_of_its_own():
    """Torch's AdamW with two groups, and the gradient shortened by hand, in a loop of its own."""
    recipe = Recipe(epochs=4, batch_size=8, lr=0.02, localization_lr=0.1, clip=0.5)
    train = digits()
    model, plain = transforming_net(), transforming_net()
    losses = quiet_fit(model, train, recipe, seed=3).losses

    locating = list(plain[0].localization.parameters())
    others = list(plain[2].parameters())
    optimizer = torch.optim.AdamW([{"params": others}, {"params": locating}], betas=(0.9, 0.99), weight_decay=0.01)
    steps = recipe.steps(len(train.labels))
    order = torch.cat([training._order(len(train.labels), 3, epoch)[: steps // 4 * 8] for epoch in range(4)])
    for step in range(steps):
        batch = order[8 * step : 8 * step + 8]
        loss = F.cross_entropy(plain(train.images[batch]), train.labels[batch], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in plain.parameters()]).norm()
        for p in plain.parameters():
            p.grad *= min(1.0, 0.5 / (float(norm) + 1e-6))
        optimizer.param_groups[0]["lr"] = recipe.rate(step, steps)
        optimizer.param_groups[1]["lr"] = 0.1 * recipe.rate(step, steps)
        optimizer.step()
        torch.testing.assert_close(losses[step], loss.detach(), rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


# Checkpoint and resume


class Interrupt(Exception):
    pass


def interrupted(model, at: int, path, **kwargs):
    """Train, and stop after step ``at``, which is the last one saved."""

    def stop(step, _):
        if step == at:
            raise Interrupt

    with pytest.raises(Interrupt):
        quiet_fit(model, digits(), RECIPE, augment=noisy, checkpoint=path, save_every=0, watch=stop, watch_every=1, **kwargs)


@pytest.fixture(scope="module")
def uninterrupted():
    model = net()
    return model, quiet_fit(model, digits(), RECIPE, augment=noisy)


@pytest.mark.parametrize("at", [1, 5, 6, 7, 29])  # around the end of the first epoch, and one step before the end
def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, uninterrupted, at):
    interrupted(net(), at, tmp_path / "c")
    seen, model = [], net(seed=5)  # other first weights: all that counts is in the file
    history = quiet_fit(model, digits(), RECIPE, augment=noisy, checkpoint=tmp_path / "c",
                        watch=lambda step, _: seen.append(step), watch_every=1)  # fmt: skip
    assert seen == list(range(at + 1, 31))
    assert_same(model, uninterrupted[0])
    assert torch.equal(history.losses, uninterrupted[1].losses)
    assert (history.clock.diff() > 0).all()


def test_a_finished_training_is_only_read(tmp_path, uninterrupted):
    history = quiet_fit(net(), digits(), RECIPE, augment=noisy, checkpoint=tmp_path / "c")
    model, seen = net(seed=5), []
    again = quiet_fit(model, digits(), RECIPE, augment=noisy, checkpoint=tmp_path / "c",
                      watch=lambda step, _: seen.append(step), watch_every=1)  # fmt: skip
    assert_same(model, uninterrupted[0])
    assert torch.equal(again.clock, history.clock) and torch.equal(again.losses, history.losses)
    assert not seen and not model.training


def test_a_checkpoint_of_another_training_is_refused_by_name(tmp_path):
    path = tmp_path / "here.safetensors"
    interrupted(net(), 3, path)
    before = path.read_bytes()
    wider = nn.Sequential(net(), nn.Linear(3, 3))
    shuffled = Digits(digits().images, digits().labels.flip(0))
    others = {
        "recipe": (net(), digits(), Recipe(epochs=5, batch_size=8, lr=0.01), {}),
        "seed": (net(), digits(), RECIPE, {"seed": 1}),
        "image shape": (net(), digits(51), RECIPE, {}),
        "labels": (net(), shuffled, RECIPE, {}),
        "parameters": (wider, digits(), RECIPE, {}),
        "augment": (net(), digits(), RECIPE, {"augment": None}),
    }
    for what, (model, train, recipe, kwargs) in others.items():
        with pytest.raises(ValueError, match=rf"here\.safetensors is of another training.*{what}.*delete it"):
            quiet_fit(model, train, recipe, **({"augment": noisy, "checkpoint": path} | kwargs))
        assert path.read_bytes() == before


class Shift:
    """An ``augment`` that is an object."""

    def __call__(self, image):
        return image + 0.1


def scaled(image, by=1.0):
    return image * by


def test_a_checkpoint_knows_what_a_partial_has_fixed_and_the_class_of_an_object(tmp_path):
    path = tmp_path / "here.safetensors"
    kinds = [partial(scaled, by=2.0), partial(scaled, by=3.0), scaled, Shift()]
    for mine in kinds:
        path.unlink(missing_ok=True)
        quiet_fit(net(), digits(), RECIPE, augment=mine, checkpoint=path)
        for other in kinds:
            if other is not mine:
                with pytest.raises(ValueError, match="with other augment; delete it"):
                    quiet_fit(net(), digits(), RECIPE, augment=other, checkpoint=path)
    quiet_fit(net(), digits(), RECIPE, augment=Shift(), checkpoint=path)  # another object, of the same class


def test_damaged_checkpoints_and_other_files_are_refused_by_name(tmp_path, monkeypatch):
    path = tmp_path / "here.safetensors"
    interrupted(net(), 3, path)
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], whole[:3], b"", whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"here\.safetensors is (truncated|damaged).*delete it"):
            quiet_fit(net(), digits(), RECIPE, augment=noisy, checkpoint=path)
        assert path.read_bytes() == damaged
    monkeypatch.setattr(results, "results_folder", lambda: tmp_path)
    results.save_weights("here", net())
    with pytest.raises(ValueError, match=r"here\.safetensors holds no state of a training"):
        quiet_fit(net(), digits(), RECIPE, augment=noisy, checkpoint=path)


def test_a_place_that_cannot_be_written_shows_after_the_first_step(tmp_path):
    (tmp_path / "plain").write_text("")
    seen = []
    with pytest.raises(OSError, match="cannot write .*plain/c; free some space"):
        quiet_fit(net(), digits(), RECIPE, checkpoint=tmp_path / "plain" / "c", watch=lambda *_: seen.append(1), watch_every=1)
    assert len(seen) == 1


def test_seconds_of_training_with_a_clock_that_only_steps_and_watching_move(tmp_path, monkeypatch):
    now, saved, save = [100.0], [], Checkpoint.save
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(Checkpoint, "save", lambda self, step: (saved.append(step), save(self, step)))

    def second(image):
        now[0] += 1
        return image

    def watch(step, _):
        now[0] += 1000
        if step == stop:
            raise Interrupt

    kwargs = {"augment": second, "watch": watch, "watch_every": 4, "checkpoint": tmp_path / "c", "save_every": 7}
    stop = 16
    with pytest.raises(Interrupt):
        quiet_fit(net(), digits(), RECIPE, **kwargs)
    assert saved == [1, 8, 15]
    stop = None
    history = quiet_fit(net(), digits(), RECIPE, **kwargs)  # step 16 is done again, and counted once
    assert saved == [1, 8, 15, 16, 23, 30]
    assert history.clock.tolist() == list(range(1, 31)) and history.seconds == 30


def train_in_child(path, die_in_write=0, kill_after=None, wait=0.0) -> tuple[int, list[int]]:
    """Train in a forked process and kill it there; its exit code, and the steps that it did."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        writes = iter(range(1, 1000))

        def cut_and_die(number):  # in place of fsync: the file beside is written, not yet moved
            if next(writes) == die_in_write:
                os.ftruncate(number, os.fstat(number).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        files.os.fsync = cut_and_die
        try:
            quiet_fit(net(), digits(), RECIPE, augment=noisy, checkpoint=path, save_every=0,
                      watch=lambda step, _: os.write(sink, b"%d\n" % step), watch_every=1)  # fmt: skip
        finally:
            os._exit(1 if sys.exc_info()[0] else 0)
    os.close(sink)
    steps = []
    with os.fdopen(source) as lines:
        for line in lines:
            steps.append(int(line))
            if steps[-1] == kill_after:
                time.sleep(wait)
                os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), steps


def kill_and_resume(folder) -> None:
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # the first optimizer imports much: once here, not in every child
    code, steps = train_in_child(f"{folder}/alone")
    assert (code, steps) == (0, list(range(31)))

    path, moments, reached = f"{folder}/killed", np.random.default_rng(0), 0
    kills = [{"die_in_write": 4}, {"kill_after": 9}, {"kill_after": 14}, {"die_in_write": 5}, {"kill_after": 22}]
    for kill in kills:
        code, steps = train_in_child(path, wait=moments.uniform(0, 0.004), **kill)
        step = int(read_tensors(path)[1]["step"])
        assert code == -signal.SIGKILL and reached < step < 30
        assert steps[0] == (reached + 1 if reached else 0), "it did not go on from the file"
        reached = step
    code, steps = train_in_child(path)
    assert (code, steps) == (0, list(range(reached + 1, 31)))

    (alone, _), (killed, header) = read_tensors(f"{folder}/alone"), read_tensors(path)
    assert header["step"] == "30" and killed.keys() == alone.keys()
    for name, value in alone.items():
        assert name == "clock" or torch.equal(value, killed[name]), name


def test_killed_at_any_moment_it_ends_with_the_same_weights(tmp_path):
    """By SIGKILL, in the middle of writing and at random moments; in a process that may fork, having one thread."""
    program = "import sys; sys.path.insert(0, sys.argv[1]); import test_training as t; t.kill_and_resume(sys.argv[2])"
    command = [sys.executable, "-c", program, os.path.dirname(__file__), str(tmp_path)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr


# What is asked of the data, the model, the device


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.rand(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64), r"train\.images.*N above 0"),
        (torch.rand(4, 8, 8), torch.zeros(4, dtype=torch.int64), r"train\.images.*\(4, 8, 8\)"),
        (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), r"train\.images.*uint8"),
        (torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64), r"train\.images: the model cannot take.*3, 8, 8"),
        (torch.rand(4, 1, 8, 8), torch.zeros(3, dtype=torch.int64), r"train\.labels.*\(4,\).*\(3,\)"),
        (torch.rand(4, 1, 8, 8), torch.zeros(4, 1, dtype=torch.int64), r"train\.labels: wanted shape \(4,\).*\(4, 1\)"),
        (torch.rand(4, 1, 8, 8), torch.zeros(4, 1, 1, dtype=torch.int64), r"train\.labels: wanted int64.*\(4, 1, 1\)"),
        (torch.rand(4, 1, 8, 8), torch.tensor(0), r"train\.labels: wanted int64 of shape \(4,\)"),
        (torch.rand(4, 1, 8, 8), torch.zeros(4), r"train\.labels.*int64.*float32"),
        (torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]), r"train\.labels: wanted 0 to 2.*got 0 to 3"),
        (torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, -1]), r"train\.labels: wanted 0 to 2.*got -1 to 2"),
    ],
)
def test_bad_data_is_named_before_anything_is_trained(images, labels, message):
    model = net()
    with pytest.raises(ValueError, match=message):
        quiet_fit(model, Digits(images, labels), RECIPE)
    assert_same(model, net())


def test_a_model_without_logits_is_named():
    with pytest.raises(ValueError, match="model: wanted logits"):
        quiet_fit(nn.Conv2d(1, 3, 3), digits(), RECIPE)


def test_several_labels_an_image_want_a_model_that_has_them():
    three = Digits(digits().images, sequences().labels[:, :3])
    for labels, model, message in (
        (sequences().labels[:, 0], reader(), r"train\.labels: wanted shape \(50, 4\).*\(50,\)"),
        (three.labels, reader(), r"train\.labels: wanted shape \(50, 4\).*\(50, 3\)"),
        (three.labels + 3, reader(positions=3), r"train\.labels: wanted 0 to 4.*5 classes.*got 3 to 7"),
    ):
        with pytest.raises(ValueError, match=message):
            quiet_fit(model, Digits(digits().images, labels), RECIPE)
    with pytest.raises(ValueError, match=r"digits\.labels: wanted shape \(50, 4\)"):
        evaluate(reader(), three)


def test_devices():
    with pytest.raises(ValueError, match="'quantum' is not to be had here; usable: .*cpu"):
        choose_device("quantum")
    with pytest.raises(ValueError, match="'cuda:7'"):  # which GPU: CUDA_VISIBLE_DEVICES says
        choose_device("cuda:7")
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")
    for name, here in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())):
        if here:
            assert choose_device(name).type == name
        else:
            with pytest.raises(ValueError, match=name):
                quiet_fit(net(), digits(), RECIPE, device=name)
    if torch.cuda.is_available():
        assert choose_device().type == "cuda"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_too_a_resumed_training_is_as_good_as_new(tmp_path):
    """Held against the CPU without random numbers; against an uninterrupted run with them, up to rounding."""
    here, there = net(dropout=0.0), net(dropout=0.0)
    here_history, there_history = (quiet_fit(model, digits(), RECIPE, device=device)
                                   for model, device in ((here, "cpu"), (there, "cuda")))  # fmt: skip
    torch.testing.assert_close(here_history.losses, there_history.losses, atol=2e-3, rtol=0)
    assert next(there.parameters()).is_cuda and there_history.losses.device.type == "cpu"
    assert evaluate(here, digits()) == pytest.approx(evaluate(there, digits()), abs=0.05)

    interrupted(net(), 8, tmp_path / "c", device="cuda")
    resumed, alone = net(seed=5), net()
    resumed_history = quiet_fit(resumed, digits(), RECIPE, augment=noisy, checkpoint=tmp_path / "c", device="cuda")
    alone_history = quiet_fit(alone, digits(), RECIPE, augment=noisy, device="cuda")
    torch.testing.assert_close(resumed_history.losses, alone_history.losses, atol=1e-4, rtol=0)


# Evaluating


@given(count=st.integers(1, 40), batch_size=st.integers(1, 50))
def test_predict_and_evaluate_do_not_depend_on_the_batches(count, batch_size):
    model, data = net(), digits(count)
    logits = predict(model, data.images, batch_size)
    model.eval()
    torch.testing.assert_close(logits, model(data.images).detach(), atol=1e-6, rtol=1e-5)
    expected = sklearn.metrics.accuracy_score(data.labels.numpy(), logits.argmax(1).numpy())
    assert evaluate(model, data, batch_size) == pytest.approx(expected, abs=1e-12)


@given(count=st.integers(1, 40), batch_size=st.integers(1, 50))
def test_an_image_with_several_labels_counts_if_all_are_right(count, batch_size):
    logits = torch.randn(count, 5, 4, generator=torch.Generator().manual_seed(count))
    labels = torch.where(torch.rand(count, 4, generator=torch.Generator().manual_seed(count)) < 0.9, logits.argmax(1), 0)
    model = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (5, 4)))  # hands the logits on
    expected = np.mean([(logits[i].argmax(0) == labels[i]).all().item() for i in range(count)])
    assert evaluate(model, Digits(logits[:, None], labels), batch_size) == pytest.approx(expected, abs=1e-12)


def test_numbers_out_of_range_are_named():
    for name, value in (("seed", -1), ("seed", 2**32), ("watch_every", 0)):
        with pytest.raises(ValueError, match=f"{name}: wanted .*got {value}"):
            quiet_fit(net(), digits(), RECIPE, **{"seed": 0, name: value})
    with pytest.raises(ValueError, match="batch_size: wanted at least 1 image, got 0"):
        predict(net(), digits().images, batch_size=0)


def test_predict_restores_the_mode_of_every_part():
    model = net().train()
    model[1].eval()
    modes = [part.training for part in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predict(model, digits().images)
    with pytest.raises(RuntimeError):
        predict(model, torch.rand(2, 5, 8, 8))
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_evaluate_names_bad_data():
    with pytest.raises(ValueError, match=r"digits\.images"):
        evaluate(net(), Digits(torch.rand(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"digits\.labels"):
        evaluate(net(), Digits(torch.rand(2, 1, 8, 8), torch.zeros(2)))
    with pytest.raises(ValueError, match="images: wanted"):
        predict(net(), torch.rand(8, 8))
