"""The same jobs on a Dask cluster: same records, same locks, same checkpoints, on a file system that all share."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from stn_helpers.data import DataError
from stn_helpers.experiments.jobs import Job, do_job
from stn_helpers.experiments.runs import Event
from stn_helpers.results import results_folder
from stn_helpers.training import choose_device

if TYPE_CHECKING:
    from distributed import Client, Future, Worker

__all__ = ["on_cluster"]

PATIENCE = 60.0
"""Seconds that a job waits for a worker that is lost, but has not let go of the job's lock yet."""


def on_cluster(jobs: list[Job], address: str, device: str | None = None) -> Iterator[Event | None]:
    """Do jobs on the workers of a Dask cluster, as many at a time as there are workers.

    A worker that is lost (killed, cut off) leaves its job to another, which goes on from the checkpoint. Workers may
    come and go. They should be of one kind: what a GPU began no processor goes on with, nor what one with instructions
    for bfloat16 began one without. A worker does one job at a time, as torch's random numbers belong to the whole
    process. Where this process is stopped, the workers still finish the jobs that they have begun.

    Args:
        jobs: what to do.
        address: of the scheduler, such as "tcp://10.0.0.1:8786".
        device: "cpu", "cuda" or "mps"; None: the best that each worker has.

    Raises:
        RuntimeError: the package ``distributed`` is missing, nobody answers at the address, or a worker is not fit for the
            jobs; the message says which.
    """
    try:
        from distributed import Client
    except ImportError:
        raise RuntimeError("--scheduler needs the package distributed: pip install distributed") from None
    try:
        client = Client(address, timeout=5, set_as_default=False)
    except (OSError, TypeError, ValueError) as error:  # TypeError: tls:// without certificates
        way_out = "start one with `dask scheduler`, which says its address"
        raise RuntimeError(f"--scheduler: nobody answers at {address} ({error}); {way_out}") from None
    with client:
        _need_fit_workers(client, device)
        news, topic = SimpleQueue(), f"jobs of {client.id}"
        client.subscribe_topic(topic, lambda event: news.put(event[1]))
        folder = results_folder().resolve()
        tasks = {client.submit(_work, job, device, folder, topic, pure=False): job for job in jobs}
        names = {job.name: job for job in jobs}
        for task in tasks:
            task.add_done_callback(news.put)
        left = len(tasks)
        while left:
            try:
                new = news.get(timeout=1.0)
            except Empty:
                yield None
                continue
            if isinstance(new, str):
                yield Event(names[new], "begun")
            else:
                left -= 1
                yield _ending(tasks[new], new)


def _need_fit_workers(client: Client, device: str | None) -> None:
    answers = client.run(_unfit, device, results_folder().resolve(), on_error="return")
    wrong = [f"{worker}: {answer}" for worker, answer in answers.items() if answer]
    if wrong:
        raise RuntimeError("not fit for the jobs:\n" + "\n".join(wrong))
    if not answers:
        print("no workers yet; start some with `dask worker ADDRESS --nthreads 1`", flush=True)


def _unfit(device: str | None, folder: Path, dask_worker: Worker) -> str:
    """Why a worker cannot do jobs; "" where it can."""
    if dask_worker.state.nthreads > 1:
        return f"has {dask_worker.state.nthreads} threads; start it with --nthreads 1, so that a job has it to itself"
    if (own := results_folder().resolve()) != folder:
        return f"keeps its results in {own}, this command in {folder}; start it with STN_RESULTS={folder}"
    try:
        choose_device(device)
    except ValueError as error:
        return str(error)
    return ""


def _work(job: Job, device: str | None, folder: Path, topic: str) -> None:
    """What a worker does."""
    from distributed import get_worker

    worker = get_worker()
    if wrong := _unfit(device, folder, worker):  # it may have come after the others were asked
        raise RuntimeError(f"{worker.address}: {wrong}")
    worker.log_event(topic, job.name)
    do_job(job, choose_device(device).type, PATIENCE)


def _ending(job: Job, task: Future) -> Event:
    """What became of a task; where it failed its message is printed."""
    if task.status == "finished":
        return Event(job, "done")
    if task.cancelled():
        return Event(job, "not done", "the scheduler is gone")
    if isinstance(error := task.exception(), BlockingIOError | DataError):  # as in processes, no traceback
        print(error, file=sys.stderr)
    else:
        traceback.print_exception(None, error, task.traceback(), file=sys.stderr)
    return Event(job, "not done", "see its message above")
