"""Jobs of a second, for the tests of the runner: they are carried out in processes that import them from here."""

import os
import resource
import signal
import time
import zlib

import torch
from torch import nn

from stn_helpers.data import DataError, Digits
from stn_helpers.experiments.jobs import Job, checkpoint_path
from stn_helpers.paper_networks import distorted_net
from stn_helpers.results import results_folder
from stn_helpers.training import Recipe, fit

KILLED_AFTER = 7  # of 12 steps


def train(job: Job, device: str) -> dict:
    """A few steps; the model "killed" kills its own process in the middle of them, the first time."""
    torch.manual_seed(job.seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3))
    images = torch.rand(32, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    begun = checkpoint_path(job).exists()
    watched = []

    def watch(step: int, model: nn.Module) -> None:
        watched.append(step)
        if job.model == "killed" and step == KILLED_AFTER and not begun:
            os.kill(os.getpid(), signal.SIGKILL)

    history = fit(
        net,
        Digits(images, torch.arange(32) % 3),
        Recipe(epochs=3, batch_size=8),
        seed=job.seed,
        augment=torch.rand_like,
        checkpoint=checkpoint_path(job),
        save_every=0.0,
        device=device,
        watch=watch,
        watch_every=1,
    )
    weights = torch.cat([value.flatten() for value in net.state_dict().values()])
    return {
        "losses": history.losses.tolist(),
        "weights": zlib.crc32(weights.detach().numpy()),
        "first watched": watched[0] if watched else None,
    }


def threads(job: Job, device: str) -> dict:
    """How many threads the job has."""
    return {"threads": torch.get_num_threads()}


def look(job: Job, device: str) -> dict:
    """Thirty steps of a transformer; how many pages of memory the system had to make for the last twenty, a step."""
    net, images, pages = distorted_net("st_fcn_projective", 42), torch.rand(128, 1, 42, 42), []
    for _ in range(30):
        net(images).sum().backward()
        pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    return {"pages": (pages[-1] - pages[9]) / 20}


def fail(job: Job, device: str) -> dict:
    """Fails."""
    raise ZeroDivisionError("a job that fails")


def find_no_digits(job: Job, device: str) -> dict:
    """Fails as a job does that finds no MNIST."""
    raise DataError("MNIST cannot be had: this is the way out")


def sleep(job: Job, device: str) -> dict:
    """Says that it has begun, then sleeps for ten minutes."""
    results_folder().mkdir(parents=True, exist_ok=True)
    (results_folder() / f"{job.seed}.begun").write_text(str(os.getpid()))
    time.sleep(600)
    return {}


def count(job: Job, device: str) -> dict:
    """Leaves a line for each time that it was carried out; takes long enough to be met at work."""
    results_folder().mkdir(parents=True, exist_ok=True)
    with open(results_folder() / "count.txt", "a") as file:
        file.write(f"{job.name}\n")
    time.sleep(1)
    return {"accuracy": 1.0}
