"""Jobs: one training, one record. What is done is skipped, what was killed goes on from its checkpoint."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stn_helpers.results import has_result, results_folder, save_result

try:
    import fcntl
except ImportError:  # Windows; there nothing keeps two runs of one job apart
    fcntl = None

__all__ = ["Experiment", "Job", "checkpoint_path", "do_job", "state", "stored_seeds"]


@dataclass(frozen=True)
class Job:
    """One training with one seed.

    Attributes:
        experiment: folder of its record under ``results/``.
        model: what is trained, one of the experiment's names.
        data: what it is trained on, one of the experiment's names; "" where there is one kind only.
        seed: of weights, order and images.
        measure: the function that does it: takes the job and a device, returns the figures; it can be imported by name.
    """

    experiment: str
    model: str
    data: str
    seed: int
    measure: Callable[[Job, str], dict]

    @property
    def name(self) -> str:
        """Name of its record, as `load_result` takes it."""
        return f"{self.experiment}/{_cell_name(self.model, self.data)}_{self.seed}"


@dataclass(frozen=True)
class Experiment:
    """One table to be measured: a record for every cell and seed.

    Attributes:
        name: folder of its records under ``results/``.
        words: one line on what it is.
        cells: the pairs (model, data) of its table; data is "" where there is one kind only.
        seeds: those to take where none are asked for.
        measure: does one job, see `Job`.
        table: what the records say that are there, as plain text.
    """

    name: str
    words: str
    cells: tuple[tuple[str, str], ...]
    seeds: tuple[int, ...]
    measure: Callable[[Job, str], dict]
    table: Callable[[], str]

    def jobs(self, seeds: Sequence[int] | None = None) -> list[Job]:
        """A job for every cell and seed; one seed of every cell comes before two of any."""
        seeds = self.seeds if seeds is None else seeds
        return [Job(self.name, model, data, seed, self.measure) for seed in seeds for model, data in self.cells]


def stored_seeds(experiment: str, model: str, data: str = "") -> list[int]:
    """Seeds of which there is a record, in order."""
    names = (path.stem for path in (results_folder() / experiment).glob("*.json"))
    found = (re.fullmatch(rf"{re.escape(_cell_name(model, data))}_(\d+)", name) for name in names)
    return sorted(int(match[1]) for match in found if match)


def state(job: Job) -> str:
    """How far a job is: "done", "begun" (killed or at work: a checkpoint is there) or "waiting"."""
    if has_result(job.name):
        return "done"
    return "begun" if checkpoint_path(job).exists() else "waiting"


def checkpoint_path(job: Job) -> Path:
    """Where the job's training keeps its state: under ``STN_RESULTS`` where that is set, else beside ``results``."""
    folder = results_folder() if os.environ.get("STN_RESULTS") else results_folder().parent
    return folder / "checkpoints" / f"{job.name}.safetensors"


def do_job(job: Job, device: str, patience: float = 0.0) -> None:
    """Measure, write the record, and remove the checkpoint. Nothing is done where the record is there.

    Args:
        job: what to do.
        device: "cpu", "cuda" or "mps".
        patience: seconds to wait for another process that is at work on the job.

    Raises:
        BlockingIOError: another process is at work on it, and stayed so.
    """
    with _alone(job, patience):
        if has_result(job.name):  # another process was faster
            return
        figures = job.measure(job, device)
        save_result(job.name, figures, seeds=[job.seed], command=_command(job), device=device)
        checkpoint_path(job).unlink(missing_ok=True)


@contextmanager
def _alone(job: Job, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes off the job; however this one ends, the system then lets them in again."""
    if fcntl is None:
        yield
        return
    path = checkpoint_path(job).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    with open(path, "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise BlockingIOError(f"{job.name}: another process is at work on it") from None
                time.sleep(0.2)
        yield
        path.unlink(missing_ok=True)  # the record is there: nobody needs this file any more


def _cell_name(model: str, data: str) -> str:
    return f"{model}_{data}" if data else model


def _command(job: Job) -> str:
    """What to type to do this job alone."""
    data = f" --data {job.data}" if job.data else ""
    return f"python -m stn_helpers.experiments run {job.experiment} --models {job.model}{data} --seeds {job.seed}"
