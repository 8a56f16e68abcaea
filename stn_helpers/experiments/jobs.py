"""Jobs: one training, one record. What is done is skipped, what was killed goes on from its checkpoint."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from stn_helpers.results import has_result, results_folder, save_result

__all__ = ["Job", "checkpoint_path", "run_jobs"]


@dataclass(frozen=True)
class Job:
    """One training with one seed.

    Attributes:
        experiment: folder of its record under ``results/``.
        model: what is trained, one of the experiment's names.
        seed: of weights, order and images.
        measure: the function that does it: takes the job and a device, returns the figures; it can be imported by name.
    """

    experiment: str
    model: str
    seed: int
    measure: Callable[[Job, str], dict]

    @property
    def name(self) -> str:
        """Name of its record, as `load_result` takes it."""
        return f"{self.experiment}/{self.model}_{self.seed}"


def checkpoint_path(job: Job) -> Path:
    """Where the job's training keeps its state: in the folder ``checkpoints`` beside ``results``."""
    return results_folder().parent / "checkpoints" / f"{job.name}.safetensors"


def run_jobs(jobs: list[Job], processes: int, device: str) -> None:
    """Do what is not done yet, ``processes`` jobs at a time, and write one record for each.

    The processor's cores are shared evenly among the processes.
    """
    waiting = [job for job in jobs if not has_result(job.name)]
    print(f"{len(jobs)} jobs, {len(jobs) - len(waiting)} done", flush=True)
    if not waiting:
        return
    threads = max(1, torch.get_num_threads() // processes)
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's locked threads
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,))
    with pool, tqdm(total=len(waiting), unit="job") as bar:
        done = {pool.submit(_run, job, device): job for job in waiting}
        for future in as_completed(done):
            future.result()
            bar.write(f"done: {done[future].name}")
            bar.update()


def _run(job: Job, device: str) -> None:
    figures = job.measure(job, device)
    command = f"python -m stn_helpers.experiments {job.experiment} --models {job.model} --seeds {job.seed}"
    save_result(job.name, figures, seeds=[job.seed], command=command, device=device)
    checkpoint_path(job).unlink(missing_ok=True)
